"""Guess a feed's contract from one of its files: names, types, what is required, key and time column."""

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from feeds.contract import OWN_COLUMNS, Column, Type
from feeds.source import Source, open_source
from feeds.uri import shown
from feeds.values import Flaw, reader
from harness.errors import UsageError

ROWS = 100_000  # that are looked at
DELIMITERS = ",;\t|"
# In this order: the first type that fits all values is taken.
TYPES: tuple[Type, ...] = ("integer", "number", "boolean", "date", "timestamp", "uuid", "json")
TIME_NAMES = ("event_time", "created_at", "created", "occurred_at", "timestamp", "time", "date", "updated_at")
MOST_DIGITS = 38
FORMATS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
FORMATS |= {".parquet": "parquet", ".pq": "parquet"}

Values = list[str | None]


@dataclass
class Guess:
    """A contract as guessed.

    Attributes:
        format: csv, jsonl or parquet.
        csv: the custom property `csv`, as far as it is not the default.
        columns: the columns.
        key: the primary key's columns.
        time_column: None for a snapshot.
        notes: by a column's name or `key`, `time`, `format`: what was guessed, and why.
        rows: that were looked at.
    """

    format: str
    csv: dict[str, str]
    columns: list[Column]
    key: tuple[str, ...] = ()
    time_column: str | None = None
    notes: dict[str, str] = field(default_factory=dict)
    rows: int = 0


def guess(uri: str) -> Guess:
    """Return the contract that fits the file at URI; raise UsageError or EventsError if there is none."""
    name = uri.partition("?")[0].rpartition("/")[2].lower()
    suffixes = [suffix for suffix in Path(name).suffixes if suffix not in (".gz", ".zst")]
    format_ = FORMATS.get(suffixes[-1] if suffixes else "", "csv")
    with open_source(uri) as source:
        if format_ == "parquet":
            headers, rows, options = _parquet(source)
        else:
            sample = b"".join(islice(source.blocks, 40))
            if format_ == "csv" and sample.lstrip()[:1] == b"{":
                format_ = "jsonl"
            headers, rows, options = _json_lines(sample) if format_ == "jsonl" else _csv(sample, uri)
    if not headers:
        raise UsageError(
            f"{shown(uri)} has no columns.",
            "A contract names the columns of a file, and this one is empty.",
            "Name a file with rows.",
        )
    found = Guess(format_, options, [], rows=len(rows))
    names = _column_names(headers)
    values = {name: [row[position] for row in rows] for position, name in enumerate(names)}
    for name, header in zip(names, headers, strict=True):
        found.columns.append(_column(name, header, values[name], found))
    _guess_key(found, values)
    _guess_time(found)
    return found


def _csv(sample: bytes, uri: str) -> tuple[list[str], list[Values], dict[str, str]]:
    options: dict[str, str] = {}
    try:
        text = sample.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        text = sample.decode("cp1252", errors="replace")
        options["encoding"] = "windows-1252"
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=lambda one: _regularity(text, one))
    if delimiter not in first:
        delimiter = ","
    if delimiter != ",":
        options["delimiter"] = delimiter
    table = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), ROWS + 1))
    table = [row for row in table if row]
    if not table:
        return [], [], options
    headers, rows = table[0], [row for row in table[1:] if len(row) == len(table[0])]
    return headers, [[value or None for value in row] for row in rows], options


def _regularity(text: str, delimiter: str) -> tuple[int, int]:
    """Return how many of the first lines have the most common number of fields, if that is above one, and the number."""
    rows = islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), 100)
    counts = Counter(len(row) for row in rows if row)
    fields, lines = counts.most_common(1)[0] if counts else (0, 0)
    return (lines, fields) if fields > 1 else (0, 0)


def _json_lines(sample: bytes) -> tuple[list[str], list[Values], dict[str, str]]:
    objects: list[dict[str, Any]] = []
    for line in islice(sample.decode(errors="replace").splitlines(), ROWS):
        try:
            row = json.loads(line, parse_float=_Text, parse_int=_Text)
        except ValueError:
            continue
        if isinstance(row, dict):
            objects.append(row)
    headers = list(dict.fromkeys(key for row in objects for key in row))
    return headers, [[_json_text(row.get(header)) for header in headers] for row in objects], {}


class _Text(str):
    """A number as it is written."""

    __slots__ = ()


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str)


def _parquet(source: Source) -> tuple[list[str], list[Values], dict[str, str]]:
    import pyarrow.parquet as pq  # only this format needs it

    file = pq.ParquetFile(source.file)
    batch = next(file.iter_batches(ROWS), None)
    names = file.schema_arrow.names
    if batch is None:
        return names, [], {}
    columns = [[None if value is None else _parquet_text(value) for value in column.to_pylist()] for column in batch]
    return names, [list(row) for row in zip(*columns, strict=True)], {}


def _parquet_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _column_names(headers: Sequence[str]) -> list[str]:
    """Return a column's name for each of HEADERS, in snake case and once each."""
    names: list[str] = []
    for number, header in enumerate(headers, 1):
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", header.strip())
        name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:50] or f"column_{number}"
        if name[0].isdigit() or name in OWN_COLUMNS:
            name = f"column_{name}"
        while name in names:
            name = f"{name}_{number}"
        names.append(name)
    return names


def _column(name: str, header: str, values: Values, found: Guess) -> Column:
    present = [value for value in values if value is not None]
    is_required = bool(present) and len(present) == len(values)
    if not present:
        found.notes[name] = "no row has a value, so its type is a guess"
        return Column(name, header, "string", "text")
    if found.format == "csv" and all(re.fullmatch(r"[+-]?[0-9]+(,[0-9]+)?", value) for value in present) and any(
        "," in value for value in present
    ):
        found.csv["decimal"] = ","
    decimal = found.csv.get("decimal", ".")
    for type_ in TYPES:
        if all(_fits(type_, decimal, present)):
            break
    else:
        return Column(name, header, "string", "text", is_required)
    if type_ == "integer" and any(re.fullmatch("-?0[0-9]+", value) for value in present):
        found.notes[name] = "numbers with leading zeros, such as postal codes, are text"
        return Column(name, header, "string", "text", is_required)
    if type_ == "boolean" and set(present) <= {"0", "1"}:
        type_ = "integer"
    if type_ == "number":
        parts = [value.lstrip("+-").partition(decimal) for value in present]
        scale = max(len(part[2]) for part in parts)
        whole = max(max(len(part[0].lstrip("0")) for part in parts), 1)
        whole = min(whole + 3, MOST_DIGITS - scale)
        found.notes[name] = "the number of digits is a guess: three more than seen before the point"
        return Column(name, header, "number", f"numeric({whole + scale},{scale})", is_required, digits=(whole, scale))
    return Column(name, header, type_, {"integer": "bigint"}.get(type_, type_), is_required)


def _fits(type_: Type, decimal: str, values: Sequence[str]) -> Iterator[bool]:
    read = reader(Column("value", "value", type_, ""), decimal)
    for value in values:
        try:
            if type_ == "json" and value[:1] not in "[{":
                yield False
            read(value)
        except Flaw:
            yield False
        yield True


def _guess_key(found: Guess, values: dict[str, Values]) -> None:
    """Choose the fewest required columns that together are unique, first those whose name says so."""
    candidates = [column.name for column in found.columns if column.is_required and column.type not in ("json", "number")]
    candidates.sort(key=lambda name: not re.search(r"(^|_)(id|key|uuid|code|number|nr)$", name))
    for size in (1, 2, 3):
        for names in itertools.combinations(candidates[:8], size):
            rows = list(zip(*(values[name] for name in names), strict=True))
            if rows and len(set(rows)) == len(rows):
                found.key = names
                found.notes["key"] = f"unique in the {found.rows:,} rows that were looked at"
                return
    found.key = tuple(column.name for column in found.columns if column.is_required)
    found.notes["key"] = "no few columns are unique: name those that are; a row with the key of an earlier one is rejected"


def _guess_time(found: Guess) -> None:
    """Choose the time column by its name, else the first required one; without one the feed is a snapshot."""
    times = [column for column in found.columns if column.is_required and column.type in ("timestamp", "date")]
    if not times:
        found.notes["time"] = "no column is a time in every row, so each load replaces the whole table (a snapshot)"
        return

    def rank(column: Column) -> tuple[int, bool]:
        known = next((n for n, name in enumerate(TIME_NAMES) if name in column.name), len(TIME_NAMES))
        return known, column.type == "date"

    found.time_column = min(times, key=rank).name
    others = [column.name for column in times if column.name != found.time_column]
    also = f"; others: {', '.join(others)}" if others else ""
    found.notes["time"] = f"a load replaces the rows whose {found.time_column} is in its interval{also}"
