"""Parquet files, read in batches of rows, which become lines without a loop in Python."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feeds import errors
from feeds.contract import Column, Feed
from feeds.formats.rows import PREPARED, Block, Rows
from feeds.source import Source
from feeds.uri import shown, without_secrets

_ROWS = 16_384  # of a batch
_BUFFER_BYTES = 1 << 20
_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\x02", "\\\x02"))
_SPECIAL = r"[\\\n\r\t\x02]"


def read(source: Source, feed: Feed) -> Rows:
    """Return the rows of SOURCE; its columns may have any order.

    Raises:
        WrongHeader: a column is missing, unknown, or of a type that does not become the contract's.
        SourceUnreadable: it is no Parquet file, or is damaged.
    """
    try:
        file = pq.ParquetFile(source.file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(source, error) from None
    headers = [column.header for column in feed.columns]
    present, problem = file.schema_arrow.names, None
    if len(set(present)) < len(present):
        problem = "has two columns of one name"
    elif missing := [header for header in headers if header not in present]:
        problem = f"has no column {missing[0]!r}"
    elif feed.properties.drift.new_column == "refuse" and (new := [name for name in present if name not in headers]):
        problem = f"has an unknown column {new[0]!r}"
    else:
        for column in feed.columns:
            if not _fits(kind := file.schema_arrow.field(column.header).type, column):
                problem = f"has {kind} in the column {column.header!r}, and the contract says {column.type}"
                break
    if problem:
        raise errors.WrongHeader(
            f"{shown(source.uri)} {problem}.",
            "It is most likely another file, or its export has changed.",
            f"Correct the export, or the contract: airflow/feeds/{feed.name}.yaml",
        )
    return Rows(feed.columns, PREPARED, _blocks(file, source, feed))


def _fits(kind: pa.DataType, column: Column) -> bool:
    """Return whether values of KIND become values of COLUMN."""
    if pa.types.is_null(kind):
        return True
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    number = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    return {
        "integer": pa.types.is_integer(kind),
        "number": number or pa.types.is_floating(kind),
        "boolean": pa.types.is_boolean(kind),
        "date": pa.types.is_date(kind),
        "timestamp": pa.types.is_timestamp(kind),
    }.get(column.type, text)


def _blocks(file: pq.ParquetFile, source: Source, feed: Feed) -> Iterator[Block]:
    number = 1
    headers = [column.header for column in feed.columns]
    batches = file.iter_batches(_ROWS, columns=headers)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(source, error) from None
        if batch is None:
            return
        texts = [_texts(batch.column(header), column) for header, column in zip(headers, feed.columns, strict=True)]
        texts[-1] = pc.binary_join_element_wise(texts[-1], "\n", "")
        lines = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "\t")
        yield Block(_bytes(lines), number, RawRows(batch))
        number += batch.num_rows


class RawRows:
    """The rows of a batch as JSON, each made when it is asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __getitem__(self, position: int) -> bytes:
        [row] = self._batch.slice(position, 1).to_pylist()
        return json.dumps(row, ensure_ascii=False, default=str).encode(errors="replace")


def _texts(values: pa.Array, column: Column) -> pa.Array:
    """Return VALUES as fields of the dialect PREPARED."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_timestamp(values.type) and values.type.unit == "ns":
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    if pa.types.is_floating(values.type):
        texts = pa.array([None if v is None else _plain(v) for v in values.to_pylist()], pa.string())
    else:
        texts = values.cast(pa.string())
    if column.type in ("string", "json") and pc.any(pc.match_substring_regex(texts, _SPECIAL)).as_py():
        for special, escaped in _ESCAPES:
            texts = pc.replace_substring(texts, special, escaped)
    return pc.fill_null(texts, "\x02")


def _plain(number: float) -> str:
    text = repr(number)
    return format(Decimal(text), "f") if "e" in text else text


def _bytes(lines: pa.Array) -> bytes:
    """Return LINES, a text for each row, one after another."""
    _, offsets, data = lines.buffers()
    ends = memoryview(offsets).cast("i")
    return memoryview(data)[ends[lines.offset] : ends[lines.offset + len(lines)]].tobytes() if len(lines) else b""


def _unreadable(source: Source, error: Exception) -> errors.SourceUnreadable:
    return errors.SourceUnreadable(
        f"{shown(source.uri)} cannot be read: {without_secrets(str(error), source.uri)}",
        "It is no Parquet file, is damaged, or was still being written.",
        "Export it again, and run the load again; nothing was changed.",
    )
