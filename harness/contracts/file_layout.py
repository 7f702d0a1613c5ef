"""Find out what a file is: its format, the names of its columns, and how a CSV file is written."""

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import pyarrow as pa

from feeds.contract import OWN_COLUMNS, Column, Csv, Format
from feeds.lines import Dialect
from feeds.source import open_source
from feeds.uri import shown
from harness.contracts.column_guess import JSON_TYPES, TYPES, ColumnGuess
from harness.errors import UsageError

FORMATS = {"csv": "CSV", "jsonl": "JSON Lines", "parquet": "Parquet"}
DELIMITERS = ",;\t|"
LOOKED_AT_BLOCKS = 40  # of 256 KiB
MOST_COLUMNS = 1_500  # PostgreSQL's limit is 1,600
_REGULAR_CHARACTERS = 1 << 18  # in which the delimiter is looked for
CODECS = {"windows-1252": "cp1252"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_VALUE = re.compile(r"-?[0-9]+([.,:/ -][0-9]+)*|\s*|(?i:null|na)")  # as no header looks
# PostgreSQL's keywords that cannot name a column or a table without quotes.
_KEYWORDS = """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate
    collation column concurrently constraint create cross current_catalog current_date current_role
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end
    except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into
    is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on
    only or order outer overlaps placing primary references returning right select session_user similar some
    symmetric system_user table tablesample then to trailing true union unique user using variadic verbose when
    where window with
"""
RESERVED = frozenset(_KEYWORDS.split())


@dataclass
class Layout:
    """What a file is.

    Attributes:
        uri: where it is.
        format: of the file.
        columns: of which nothing but the names is known, or of Parquet the types.
        csv: how a CSV file is written, as far as its first lines show.
        header: the line with the names of a CSV file, as it is there.
        left_out: the columns of a Parquet file for which a feed has no type.
    """

    uri: str
    format: Format = "csv"
    columns: list[ColumnGuess] = field(default_factory=list)
    csv: Csv = field(default_factory=Csv)
    header: bytes = b""
    left_out: list[str] = field(default_factory=list)

    @property
    def codec(self) -> str:
        """Python's name of a CSV file's encoding."""
        return CODECS.get(self.csv.encoding, self.csv.encoding)

    def add_json_columns(self, headers: Sequence[str]) -> None:
        """Add columns with HEADERS, keys of objects; raise UsageError if they are too many."""
        known = [column.header for column in self.columns]
        _refuse_headers([*known, *headers], self.uri)
        names = column_names([*known, *headers])[len(known) :]
        for name, header in zip(names, headers, strict=True):
            self.columns.append(ColumnGuess(name, header, list(JSON_TYPES), is_json=True))


def layout_of(uri: str) -> Layout:
    """Return what the file at URI is.

    Raises:
        UsageError: it is of no known format, or its columns cannot be those of a feed.
        FeedError: it cannot be read.
    """
    layout = Layout(uri)
    with open_source(uri) as source:
        first = next(source.blocks, b"")
        text = b"".join([first, *islice(source.blocks, LOOKED_AT_BLOCKS - 1)])
    if first.startswith(b"PAR1"):
        layout.format = "parquet"
        _find_parquet_columns(layout)
        return layout
    text = text.removeprefix(_BYTE_ORDER_MARK)
    _refuse_unknown(text, uri)
    if text.lstrip().startswith(b"{"):
        layout.format = "jsonl"
        objects = [row for line in text.splitlines() if (row := object_in(line)) is not None]
        layout.add_json_columns(list(dict.fromkeys(key for row in objects for key in row)))
    else:
        _find_csv_columns(layout, text)
    return layout


def _refuse_unknown(text: bytes, uri: str) -> None:
    what = None
    if not text.strip():
        what, next_step = "is empty", "Name a file with rows."
    elif text.startswith(b"PK\x03\x04"):
        what, next_step = "is a zip archive or a spreadsheet", "Unpack it, or save the sheet as CSV."
    elif text.startswith((b"\xff\xfe", b"\xfe\xff")):
        what, next_step = "is UTF-16", "Write it in UTF-8: iconv -f utf-16 -t utf-8 FILE > NEW_FILE"
    elif b"\0" in text[:4096]:
        what, next_step = (
            "is no text",
            "Export it as CSV, JSON Lines or Parquet, perhaps compressed by gzip or zstd.",
        )
    elif text.lstrip()[:1] == b"[" and text.lstrip()[1:].lstrip()[:1] in (b"{", b"["):
        what, next_step = "is one JSON array", "Write an object on each line: jq -c '.[]' FILE > NEW_FILE"
    elif text.lstrip()[:1] == b"{" and not object_in(text.lstrip().partition(b"\n")[0]):
        what, next_step = (
            "has a JSON object over several lines",
            "Write an object on each line: jq -c . FILE > NEW_FILE",
        )
    elif text.lstrip()[:1] == b"<":
        what, next_step = "is XML or HTML", "Export it as CSV, JSON Lines or Parquet."
    if what:
        why = "A feed's files are CSV with a header line, JSON Lines or Parquet."
        raise UsageError(f"{shown(uri)} {what}.", why, next_step)


def _find_parquet_columns(layout: Layout) -> None:
    import pyarrow.parquet as pq

    with open_source(layout.uri) as source:
        try:
            schema = pq.ParquetFile(source.whole()).schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise UsageError(
                f"{shown(layout.uri)} cannot be read: {str(error).splitlines()[0]}",
                "It is a damaged Parquet file, or is still being written.",
                "Export it again.",
            ) from None
    _refuse_headers(schema.names, layout.uri)
    fields = [(header, _of_parquet(schema.field(header).type)) for header in schema.names]
    layout.left_out = [f"{header} ({schema.field(header).type})" for header, column in fields if not column]
    kept = [(header, column) for header, column in fields if column]
    names = column_names([header for header, _ in kept])
    for name, (header, column) in zip(names, kept, strict=True):
        types: list[Any] = ["uuid", "json", "string"] if column.type == "string" else [column.type]
        fixed = None if column.type == "string" else column
        has_zone = bool(getattr(schema.field(header).type, "tz", None))
        layout.columns.append(ColumnGuess(name, header, types, fixed=fixed, is_parquet=True, has_zone=has_zone))


def _find_csv_columns(layout: Layout, text: bytes) -> None:
    text = text.lstrip(b"\r\n")
    layout.csv = Csv(encoding=_encoding(text))
    decoded = text.decode(layout.codec, errors="replace")
    delimiter = max(DELIMITERS, key=lambda one: _regularity(decoded, one))
    layout.csv = layout.csv.model_copy(update={"delimiter": delimiter})
    layout.header = text.partition(b"\n")[0].removesuffix(b"\r")
    fields = Dialect(delimiter, layout.csv.quote, "").split(layout.header.decode(layout.codec, errors="replace"))
    headers = [header or "" for header in fields or []]
    _refuse_headers(headers, layout.uri)
    if 2 * sum(bool(_VALUE.fullmatch(header)) for header in headers) > len(headers):
        raise UsageError(
            f"{shown(layout.uri)} has no header line: it begins with {', '.join(headers)[:60]}",
            "The first line of a CSV file names its columns, and these look like values.",
            "Export it with a header, or put one before it: sed -i '1i id,name' FILE",
        )
    for name, header in zip(column_names(headers), headers, strict=True):
        layout.columns.append(ColumnGuess(name, header, list(TYPES)))


def _refuse_headers(headers: Sequence[str], uri: str) -> None:
    twice = [header for header, count in Counter(headers).items() if count > 1]
    if twice:
        raise UsageError(
            f"{shown(uri)} has two columns with the name {twice[0]!r}.",
            "A contract names each column of a file once.",
            "Rename one of them in the export.",
        )
    if not 0 < len(headers) <= MOST_COLUMNS:
        raise UsageError(
            f"{shown(uri)} has {len(headers):,} columns.",
            f"A table of PostgreSQL has at least one, and a feed at most {MOST_COLUMNS:,}.",
            "Export fewer; objects whose keys are data, such as ids, belong below one key.",
        )


def object_in(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in LINE; None if it has none."""
    try:
        row = json.loads(line.removeprefix(_BYTE_ORDER_MARK))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _of_parquet(kind: pa.DataType) -> Column | None:
    """Return the column for values of KIND; None if a feed has no type for them."""
    if pa.types.is_dictionary(kind):
        return _of_parquet(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _of_parquet(kind.storage_type)
    types = pa.types
    if types.is_uint64(kind):
        return Column("", "", "number", "numeric(20,0)", digits=(20, 0))
    if types.is_integer(kind):
        return Column("", "", "integer", "bigint")
    if types.is_decimal(kind):
        return Column(
            "",
            "",
            "number",
            f"numeric({kind.precision},{kind.scale})",
            digits=(kind.precision - kind.scale, kind.scale),
        )
    simple: tuple[tuple[Any, Any, str], ...] = (
        (types.is_floating, "number", "numeric"),
        (types.is_boolean, "boolean", "boolean"),
        (types.is_date, "date", "date"),
        (types.is_timestamp, "timestamp", "timestamp with time zone"),
        (lambda of: types.is_string(of) or types.is_large_string(of) or types.is_string_view(of), "string", "text"),
        (lambda of: types.is_fixed_size_binary(of) and of.byte_width == 16, "uuid", "uuid"),
        (types.is_nested, "json", "jsonb"),
        (types.is_null, "string", "text"),
    )
    return next((Column("", "", type_, sql_type) for is_it, type_, sql_type in simple if is_it(kind)), None)


def _encoding(text: bytes) -> Literal["utf-8", "latin-1", "windows-1252"]:
    """Return the encoding of TEXT: UTF-8 if more of its lines that are not ASCII are that than are not."""
    balance = 0
    for line in text.split(b"\n"):
        if not line.isascii():
            balance += 1 if is_utf8(line) else -1
    if balance >= 0:
        return "utf-8"
    return "latin-1" if re.search(rb"[\x81\x8d\x8f\x90\x9d]", text) else "windows-1252"


def is_utf8(text: bytes) -> bool:
    """Return whether TEXT is UTF-8."""
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _regularity(text: str, delimiter: str) -> tuple[int, int]:
    """Return how many of the first lines have as many fields as the first, if that is above one, and the number."""
    rows = csv.reader(io.StringIO(text[:_REGULAR_CHARACTERS], newline=""), delimiter=delimiter)
    try:
        counts = [len(row) for row in islice(rows, 100) if row]
    except csv.Error:  # a field is longer than csv allows
        return 0, 0
    fields = counts[0] if counts else 0
    return (counts.count(fields), fields) if fields > 1 else (0, 0)


def column_names(headers: Sequence[str]) -> list[str]:
    """Return a column's name for each of HEADERS, in snake case, once each, and no keyword of SQL."""
    names: list[str] = []
    for number, header in enumerate(headers, 1):
        text = unicodedata.normalize("NFKD", header.strip().replace("ß", "ss")).encode("ascii", "ignore").decode()
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
        name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:50].strip("_") or f"column_{number}"
        if name[0].isdigit() or name in OWN_COLUMNS:
            name = f"column_{name}"
        if name in RESERVED:
            name = f"{name}_"
        while name in names:
            name = f"{name}_{number}"
        names.append(name)
    return names
