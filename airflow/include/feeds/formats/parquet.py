"""Parquet files, read in batches of rows, which become lines without a loop in Python."""

import os
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own keeps 40 MB of what it has freed

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feeds import errors
from feeds.contract import OTHER_COLUMNS, Column, Feed
from feeds.formats import drift
from feeds.formats.rows import PREPARED, Block, Number, Rows, to_json
from feeds.lines import MAX_LINE_BYTES, UNFIT, Reject
from feeds.source import Source
from feeds.uri import shown, without_secrets

_MOST_ROWS = 4_096  # of a batch
_BATCH_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 20
_MAGIC = b"PAR1"
_UUID_BYTES = 16
_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\x02", "\\\x02"))
_SPECIAL = r"[\\\n\r\t\x02]"
_NOT_JSON = ("NaN", "Infinity", "-Infinity", "nan", "inf", "-inf")


def read(source: Source, feed: Feed) -> Rows:
    """Return the rows of SOURCE; its columns may have any order.

    Raises:
        SourceEmpty: it has no byte.
        WrongHeader: it is of another format, or its columns or their types are not those of the contract.
        SourceUnreadable: it is damaged, or cut off.
    """
    stored = source.whole()
    begins = stored.read(len(_MAGIC))
    if not begins:
        raise errors.SourceEmpty(
            f"{shown(source.uri)} is empty.",
            "Its export most likely failed or has not finished.",
            "Export it again; a file without rows still has its columns.",
        )
    if begins != _MAGIC:
        raise drift.refusal(feed, source.uri, "is no Parquet file")
    stored.seek(0)
    try:
        # A nanosecond of INT96 would overflow in the year 2262.
        file = pq.ParquetFile(stored, buffer_size=_BUFFER_BYTES, pre_buffer=False, coerce_int96_timestamp_unit="us")
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(source, error) from None
    schema = file.schema_arrow
    columns = drift.columns_of(schema.names, feed, source.uri)
    kinds = {column.name: _kind(schema.field(column.header).type) for column in columns}
    unfit = [column for column in columns if not _fits(kinds[column.name], column)]
    if unfit and feed.properties.drift.changed_type == "refuse":
        header = unfit[0].header
        raise drift.refusal(
            feed,
            source.uri,
            f"has {schema.field(header).type} in the column {header!r}, and the contract says {unfit[0].type}",
            drift.allow(feed, "changed_type: reject, which rejects rows with such a value"),
        )
    if feed.properties.drift.new_column == "keep" and len(columns) < len(schema.names):
        columns = (*columns, OTHER_COLUMNS)
    others = ", ".join(f"{column.header} {schema.field(column.header).type}" for column in unfit)
    blocks = _blocks(file, source, feed, columns, unfit)
    return Rows(columns, PREPARED, blocks, others.encode() or None, most_rows=file.metadata.num_rows)


def _kind(kind: pa.DataType) -> pa.DataType:
    """Return the type of values that are stored as KIND."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_uuid(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES)


def _fits(kind: pa.DataType, column: Column) -> bool:
    """Return whether values of KIND become values of COLUMN."""
    types = pa.types
    whole = types.is_integer(kind)
    fitting = {
        "integer": whole,
        "number": whole or types.is_decimal(kind) or types.is_floating(kind),
        "string": _is_text(kind),
        "boolean": types.is_boolean(kind),
        "date": types.is_date(kind),
        "timestamp": types.is_timestamp(kind),
        "uuid": _is_text(kind) or _is_uuid(kind),
        "json": _is_text(kind) or types.is_nested(kind),
    }
    return bool(fitting[column.type] or types.is_null(kind))


def _blocks(
    file: pq.ParquetFile, source: Source, feed: Feed, columns: Sequence[Column], unfit: Sequence[Column]
) -> Iterator[Block]:
    number = 1
    known = {column.header for column in feed.columns}
    headers = None if OTHER_COLUMNS in columns else [column.header for column in columns]
    for batch in _batches(file, source, headers):
        flaws: dict[int, Reject] = {}
        texts = []
        for column in columns:
            if column is OTHER_COLUMNS:
                rows = _Rows(batch.select([name for name in batch.schema.names if name not in known]))
                texts.append(_escaped(pa.array([rows.text(position) for position in range(batch.num_rows)])))
            elif column in unfit:
                values = batch.column(column.header)
                texts.append(pc.if_else(pc.is_valid(values), UNFIT, PREPARED.null))
            else:
                texts.append(_texts(batch.column(column.header), column, flaws))
        texts[-1] = pc.binary_join_element_wise(texts[-1], "\n", "")
        lines = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "\t")
        too_long = pc.greater(pc.binary_length(lines), MAX_LINE_BYTES + 1)
        flaws |= {row.as_py(): Reject("too_long") for row in pc.indices_nonzero(too_long)}
        number += batch.num_rows
        source.use(number / (file.metadata.num_rows + 1))
        yield Block(_bytes(lines), number - batch.num_rows, _Rows(batch), flaws)
    source.verify()


def _batches(file: pq.ParquetFile, source: Source, headers: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of FILE with the columns HEADERS, or all, in batches that take little memory."""
    size = sum(file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups))
    at_once = min(max(_BATCH_BYTES * file.metadata.num_rows // max(size, 1), 1), _MOST_ROWS)
    batches = file.iter_batches(at_once, columns=headers)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            source.verify()  # it may have been replaced meanwhile
            raise _unreadable(source, error) from None
        if batch is None:
            return
        pieces = -(-batch.nbytes // (4 * _BATCH_BYTES)) or 1  # repeated texts are large only once they are read
        rows = -(-batch.num_rows // pieces) or 1
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _texts(values: pa.Array, column: Column, flaws: dict[int, Reject]) -> pa.Array:
    """Return VALUES as fields of the dialect PREPARED; those that have a NUL get into FLAWS."""
    texts = _plain(values)
    if not (_is_text(_kind(values.type)) or column.type in ("string", "json")):  # has no special characters
        return pc.fill_null(texts, PREPARED.null)
    if column.type in ("string", "json") and pc.any(pc.match_substring(texts, "\0")).as_py():
        flaws |= {row.as_py(): Reject("nul_byte") for row in pc.indices_nonzero(pc.match_substring(texts, "\0"))}
    return _escaped(texts)


def _escaped(texts: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, _SPECIAL)).as_py():
        for special, escaped in _ESCAPES:
            texts = pc.replace_substring(texts, special, escaped)
    return pc.fill_null(texts, PREPARED.null)


def _plain(values: pa.Array) -> pa.Array:
    """Return VALUES as texts, null for null."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind = values.type
    if pa.types.is_timestamp(kind):
        # Of times with a zone Arrow would look each one up; as what they are in UTC they take a tenth of the time.
        moments = values.cast(pa.timestamp(kind.unit, kind.tz and "UTC")).cast(pa.timestamp(kind.unit))
        if kind.unit == "ns":
            moments = pc.floor_temporal(moments, unit="microsecond").cast(pa.timestamp("us"), safe=False)
        texts = moments.cast(pa.string())
        texts = pc.binary_join_element_wise(texts, "Z", "") if kind.tz else texts
    elif pa.types.is_date64(kind):
        texts = values.cast(pa.date32()).cast(pa.string())
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        texts = (values.cast(pa.float32()) if pa.types.is_float16(kind) else values).cast(pa.string())
        if pc.any(pc.match_substring_regex(texts, "[eE]")).as_py():
            texts = _mapped(texts, lambda text: format(Decimal(text), "f") if "e" in text.lower() else text)
    elif _is_uuid(kind):
        texts = _mapped(values, lambda value: str(UUID(bytes=value)))
    elif pa.types.is_nested(kind):
        texts = pa.array([_nested(value) for value in values], pa.string())
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        texts = _mapped(values, bytes.hex)
    elif pa.types.is_duration(kind) or pa.types.is_interval(kind):
        texts = _mapped(values, str)
    else:
        texts = values.cast(pa.string())
    return texts


def _mapped(values: pa.Array, function: Callable[[Any], str]) -> pa.Array:
    return pa.array([None if value is None else function(value) for value in values.to_pylist()], pa.string())


def _nested(value: pa.Scalar) -> str | None:
    """Return VALUE as JSON; what JSON or Python cannot have, a key twice or a time of the year 10000, is none."""
    try:
        return to_json(value.as_py(maps_as_pydicts="strict")) if value.is_valid else None
    except (KeyError, ValueError, OverflowError, pa.ArrowException) as error:
        return f"? {type(error).__name__}"


class _Rows:
    """The rows of a batch as JSON, each made when it is asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __getitem__(self, position: int) -> bytes:
        return self.text(position).encode(errors="replace")

    def text(self, position: int) -> str:
        """Return the row at POSITION."""
        row = self._batch.slice(position, 1)
        return to_json({name: _value(row.column(number)) for number, name in enumerate(row.schema.names)})


def _value(values: pa.Array) -> Any:
    """Return the one value in VALUES as `to_json` takes it: numbers and times as other formats have them."""
    kind = _kind(values.type)
    try:
        if pa.types.is_boolean(kind) or pa.types.is_null(kind):
            return values[0].as_py()
        [text] = _plain(values).to_pylist()
    except UnicodeDecodeError:
        return values.cast(pa.binary())[0].as_py().decode(errors="backslashreplace")
    types = pa.types
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if text is None or not (is_number or types.is_nested(kind)) or text in _NOT_JSON or text.startswith("?"):
        return text
    return Number(text)


def _bytes(lines: pa.Array) -> bytes:
    """Return LINES, a text for each row, one after another."""
    _, offsets, data = lines.buffers()
    ends = memoryview(offsets).cast("i")
    return memoryview(data)[ends[lines.offset] : ends[lines.offset + len(lines)]].tobytes() if len(lines) else b""


def _unreadable(source: Source, error: Exception) -> errors.SourceUnreadable:
    return errors.SourceUnreadable(
        f"{shown(source.uri)} cannot be read: {without_secrets(str(error), source.uri)}",
        "It is a damaged Parquet file, or was still being written.",
        "Export it again, and run the load again; nothing was changed.",
    )
