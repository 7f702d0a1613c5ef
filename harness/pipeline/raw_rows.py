"""What a feed's raw table must hold after a load, computed from its files and its contract alone.

It shares no code with the load but the contract and how to open a URI: values are read with Python's own types, one row
at a time, and rules are asked of PostgreSQL.
"""

import gzip
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import fsspec
import psycopg
import re2
from psycopg import sql

from feeds.contract import Column, Feed
from feeds.interval import Interval
from feeds.source import find_files, http_options

LINE_LIMIT_BYTES = 1 << 20
INTEGER = re.compile(r"-?[0-9]+")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
MOMENT = re.compile(rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})[ T]({CLOCK}:[0-5][0-9])(\.[0-9]{{1,6}})?(Z|[+-]{CLOCK})?")
TRUE, FALSE = {"true", "t", "1", "yes"}, {"false", "f", "0", "no"}

Row = dict[str, Any]
Reason = tuple[str, str | None]  # the reason and the column


class RejectedError(Exception):
    """A row that the contract does not allow."""

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason, column)


@dataclass
class RawRows:
    """The rows of a load.

    Attributes:
        read: in the files.
        rows: the valid ones of the interval, a digest of each by its key.
        outside: the number of valid ones outside the interval.
        rejected: the others by reason and column.
        sums, smallest, largest: of the columns that are numbers or times.
    """

    read: int = 0
    rows: dict[tuple[Any, ...], bytes] = field(default_factory=dict)
    outside: int = 0
    rejected: Counter[Reason] = field(default_factory=Counter)
    sums: dict[str, Decimal] = field(default_factory=dict)
    smallest: dict[str, Any] = field(default_factory=dict)
    largest: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A digest of all rows, whatever their order."""
        return hashlib.sha256(b"".join(sorted(self.rows.values()))).hexdigest()

    def add(self, key: tuple[Any, ...], row: Row) -> None:
        """Add a valid row of the interval."""
        self.rows[key] = hashlib.sha256(repr([_plain(value) for value in row.values()]).encode()).digest()
        for name, value in row.items():
            if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
                self.sums[name] = self.sums.get(name, Decimal(0)) + value
            if isinstance(value, (int, Decimal, date, datetime)) and not isinstance(value, bool):
                self.smallest[name] = min(value, self.smallest.get(name, value))
                self.largest[name] = max(value, self.largest.get(name, value))


def expected(
    feed: Feed,
    uri: str,
    interval: Interval,
    connection: psycopg.Connection[Any],
    each: Callable[[Row], None] | None = None,
) -> RawRows:
    """Return what a load of the files at URI must leave in FEED's raw table for INTERVAL; CONNECTION checks rules.

    EACH is called with each row.
    """
    found = RawRows()
    seen: set[tuple[Any, ...]] = set()
    for row in rows(feed, uri):
        found.read += 1
        if isinstance(row, RejectedError):
            found.rejected[row.args] += 1
            continue
        if rule := broken_rule(feed, row, connection):
            found.rejected["rule", rule] += 1
            continue
        key = tuple(row[name] for name in feed.key)
        if key in seen:
            found.rejected["duplicate_key", None] += 1
            continue
        seen.add(key)
        if feed.time_column and moment_of(row[feed.time_column]) not in interval:
            found.outside += 1
        else:
            found.add(key, row)
            if each:
                each(row)
    return found


def actual(feed: Feed, connection: psycopg.Connection[Any]) -> RawRows:
    """Return what is in FEED's raw table and in the quarantine of its last load."""
    found = RawRows()
    names = [column.name for column in feed.columns]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    with connection.cursor(name="raw_rows") as cursor:
        for values in cursor.execute(sql.SQL("select {} from {}").format(columns, sql.Identifier("raw", feed.name))):
            row = dict(zip(names, values, strict=True))
            found.add(tuple(row[name] for name in feed.key), row)
    for reason, column, count in connection.execute(
        "select reason, column_name, count(*) from raw.rejected_rows where feed = %s group by 1, 2", (feed.name,)
    ):
        found.rejected[reason, column] = count
    return found


def broken_rule(feed: Feed, row: Row, connection: psycopg.Connection[Any]) -> str | None:
    """Return the first rule that ROW breaks."""
    if not feed.rules:
        return None
    values = sql.SQL(", ").join(
        sql.SQL("{}::{}").format(_literal(row[column.name]), sql.SQL(column.sql_type)) for column in feed.columns
    )
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in feed.columns)
    cases = sql.SQL(" ").join(sql.SQL("when not ({}) then {}").format(sql.SQL(r.sql), r.name) for r in feed.rules)
    query = sql.SQL("select case {} end from (select {}) as row ({})").format(cases, values, names)
    [(rule,)] = connection.execute(query)
    return cast("str | None", rule)


def rows(feed: Feed, uri: str) -> Iterator[Row | RejectedError]:
    """Yield each row of the files at URI, or why it is rejected."""
    for path in find_files(uri):
        options: dict[str, Any] = {"block_size": 0, **http_options(path)} if path.startswith("http") else {}
        with fsspec.open(path, "rb", **options) as file:
            yield from {"csv": csv_rows, "jsonl": json_rows, "parquet": parquet_rows}[feed.format](feed, file)


def csv_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a CSV file."""
    csv = feed.properties.csv
    encoding = {"latin-1": "latin-1", "windows-1252": "cp1252"}.get(csv.encoding, "utf-8")
    lines = list(text_lines(file))
    while lines and not lines[0].strip():
        del lines[0]
    headers = fields(lines.pop(0).decode(encoding).removeprefix("\ufeff"), csv.delimiter, csv.quote)
    by_header = {column.header: column for column in feed.columns}
    columns = [by_header[str(header)] for header in headers]
    position = 0
    while position < len(lines):
        record, taken = lines[position], 1
        if record.count(csv.quote.encode()) % 2:
            record, taken = joined(lines, position, len(columns), csv.delimiter, csv.quote)
        position += taken
        if not record.strip() and len(record) <= LINE_LIMIT_BYTES:
            continue
        try:
            yield read_row(feed, columns, record, encoding)
        except RejectedError as error:
            yield error


def joined(lines: Sequence[bytes], position: int, count: int, delimiter: str, quote: str) -> tuple[bytes, int]:
    """Return the record that begins at POSITION and has line ends in quotes, with its number of lines."""
    record = lines[position]
    for taken, line in enumerate(lines[position + 1 :], 2):
        record += b"\n" + line
        if len(record) > LINE_LIMIT_BYTES:
            break
        if record.count(quote.encode()) % 2 == 0:
            try:
                if len(fields(record.decode(errors="replace"), delimiter, quote)) == count:
                    return record, taken
            except RejectedError:
                pass
            break
    return lines[position], 1


def read_row(feed: Feed, columns: Sequence[Column], record: bytes, encoding: str) -> Row:
    """Return the row in RECORD; raise RejectedError with the first reason against it."""
    csv = feed.properties.csv
    if len(record) > LINE_LIMIT_BYTES:
        raise RejectedError("too_long")
    try:
        text = record.decode(encoding)
    except UnicodeDecodeError:
        raise RejectedError("encoding") from None
    if "\0" in text:
        raise RejectedError("nul_byte")
    texts = fields(text, csv.delimiter, csv.quote)
    if len(texts) != len(columns):
        raise RejectedError("field_count")
    of = dict(zip((column.name for column in columns), texts, strict=True))
    return {
        column.name: value(column, None if of[column.name] == csv.null_text else of[column.name], feed)
        for column in feed.columns
    }


def fields(text: str, delimiter: str, quote: str) -> list[str]:
    """Return the fields of TEXT; raise RejectedError if its quotes do not pair."""
    found: list[str] = []
    position = 0
    while True:
        if text[position : position + 1] == quote:
            content, position = "", position + 1
            while True:
                end = text.find(quote, position)
                if end < 0:
                    raise RejectedError("quoting")
                content += text[position:end]
                position = end + 1
                if text[position : position + 1] != quote:
                    break
                content, position = content + quote, position + 1
        else:
            end = text.find(delimiter, position)
            end = len(text) if end < 0 else end
            content, position = text[position:end], end
            if quote in content:
                raise RejectedError("quoting")
        found.append(content)
        if position == len(text):
            return found
        if text[position] != delimiter:
            raise RejectedError("quoting")
        position += 1


def value(column: Column, text: str | None, feed: Feed) -> Any:
    """Return the value in TEXT; raise RejectedError if it is not valid."""
    if text is None:
        if column.is_required:
            raise RejectedError("required", column.name)
        return None
    try:
        found = converted(column, text, feed)
    except (ValueError, InvalidOperation, OverflowError, RecursionError):
        raise RejectedError("type", column.name) from None
    if column.type == "string":
        shortest, longest = column.lengths
        if len(text) < shortest or (longest is not None and len(text) > longest):
            raise RejectedError("length", column.name)
        if column.pattern is not None and not re2.fullmatch(column.pattern, text):
            raise RejectedError("pattern", column.name)
    if column.values and found not in {converted(column, each, feed) for each in column.values}:
        raise RejectedError("value", column.name)
    return found


def converted(column: Column, text: str, feed: Feed) -> Any:
    """Return TEXT as Python's type for COLUMN; raise ValueError or another error if it is none."""
    match column.type:
        case "integer":
            digits = text.removeprefix("-").lstrip("0") or "0"  # int() refuses thousands of zeros
            number = int(text[: text.startswith("-")] + digits) if INTEGER.fullmatch(text) else 1 << 63
            if not -(1 << 63) <= number < 1 << 63:
                raise ValueError(text)
            return number
        case "number":
            decimal = feed.properties.csv.decimal
            point = text.replace(decimal, ".", 1) if decimal not in text or "." not in text or decimal == "." else "x"
            point = point if decimal == "." or "." not in text else "x"
            if not NUMBER.fullmatch(point):
                raise ValueError(text)
            whole, _, fraction = point.lstrip("+-").partition(".")
            most = column.digits or (1000, 1000)
            if len(whole.lstrip("0")) > most[0] or len(fraction) > most[1]:
                raise ValueError(text)
            return Decimal(point)
        case "boolean":
            if text.lower() not in TRUE | FALSE:
                raise ValueError(text)
            return text.lower() in TRUE
        case "date":
            if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
                raise ValueError(text)
            return date.fromisoformat(text)
        case "timestamp":
            return parsed_moment(text, feed.properties.time_zone)
        case "uuid":
            if not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
                raise ValueError(text)
            return UUID(text)
        case "json":
            return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refused)
    return text


def parsed_moment(text: str, time_zone: str) -> datetime:
    """Return the moment in TEXT, in UTC; raise ValueError if it is none."""
    if not (found := MOMENT.fullmatch(text)):
        raise ValueError(text)
    day, time, fraction, offset = found.groups()
    moment = datetime.strptime(f"{day} {time}", "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the zone comes next
    if fraction:
        moment += timedelta(microseconds=int(fraction[1:].ljust(6, "0")))
    if offset is None and time_zone != "UTC":
        return moment.replace(tzinfo=ZoneInfo(time_zone)).astimezone(UTC)
    if offset and offset != "Z":
        ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[4:6]))
        moment += -ahead if offset[0] == "+" else ahead
    return moment.replace(tzinfo=UTC)


def json_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a file with a JSON object on each line."""
    for line in text_lines(file):
        if len(line) <= LINE_LIMIT_BYTES and not line.strip():
            continue
        try:
            yield json_row(feed, line.removeprefix(b"\xef\xbb\xbf"))
        except RejectedError as error:
            yield error


class Number(str):
    """A number as it is written."""

    __slots__ = ()


def json_row(feed: Feed, line: bytes) -> Row:
    """Return the row in LINE; raise RejectedError with the first reason against it."""
    if len(line) > LINE_LIMIT_BYTES:
        raise RejectedError("too_long")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise RejectedError("encoding") from None
    try:
        found = json.loads(text, object_pairs_hook=once, parse_int=Number, parse_float=Number, parse_constant=_refused)
    except (ValueError, RecursionError):
        raise RejectedError("json") from None
    if not isinstance(found, dict):
        raise RejectedError("json")
    known = {column.header for column in feed.columns}
    if feed.properties.drift.new_column == "refuse" and (new := sorted(found.keys() - known)):
        raise RejectedError("unknown_column", new[0][:100])
    row: Row = {}
    for column in feed.columns:
        given = found.get(column.header)
        is_number = isinstance(given, Number)
        if given is None:
            row[column.name] = value(column, None, feed)
        elif column.type == "json":
            row[column.name] = exact(given)
        elif isinstance(given, bool) and column.type == "boolean":
            row[column.name] = given
        elif is_number and column.type in ("integer", "number"):
            row[column.name] = value(column, format(Decimal(given), "f"), feed)
        elif isinstance(given, str) and not is_number and column.type not in ("integer", "number", "boolean"):
            row[column.name] = value(column, given, feed)
        else:
            raise RejectedError("type", column.name)
    return row


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return PAIRS as an object; raise RejectedError if a key is there twice."""
    if len(dict(pairs)) < len(pairs):
        raise RejectedError("key_twice")
    return dict(pairs)


def exact(found: Any) -> Any:
    """Return a value of JSON with exact numbers."""
    if isinstance(found, Number):
        return Decimal(found)
    if isinstance(found, dict):
        return {key: exact(item) for key, item in found.items()}
    return [exact(item) for item in found] if isinstance(found, list) else found


def parquet_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches():
        for given in batch.to_pylist():
            try:
                yield {column.name: parquet_value(column, given[column.header], feed) for column in feed.columns}
            except RejectedError as error:
                yield error


def parquet_value(column: Column, given: Any, feed: Feed) -> Any:
    """Return a value of Parquet; raise RejectedError if it is not valid."""
    if given is None or column.type not in ("number", "timestamp", "date", "integer"):
        text = given if given is None or isinstance(given, str) else json.dumps(given)
        return value(column, text, feed)
    if isinstance(given, float):
        return value(column, format(Decimal(repr(given)), "f"), feed)
    if isinstance(given, datetime):
        return value(column, given.isoformat(" ", "microseconds").replace("+00:00", "Z"), feed)
    return value(column, format(given, "f") if isinstance(given, Decimal) else str(given), feed)


def text_lines(file: Any) -> Iterator[bytes]:
    """Yield the lines of FILE, compressed or not, without their ends."""
    buffered = io.BufferedReader(cast(io.RawIOBase, file), 1 << 20)
    stream: Any = gzip.GzipFile(fileobj=buffered) if buffered.peek(2).startswith(b"\x1f\x8b") else buffered
    for line in stream:
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _refused(text: str) -> None:
    raise ValueError(text)


def _literal(found: Any) -> Any:
    return json.dumps(found, default=str) if isinstance(found, (dict, list)) else found


def moment_of(found: date | datetime) -> datetime:
    """Return the moment that a time column's value is in an interval of time, for a date its first one."""
    return found if isinstance(found, datetime) else datetime(found.year, found.month, found.day, tzinfo=UTC)


def _plain(found: Any) -> Any:
    """Return a value so that equal ones look equal."""
    if isinstance(found, Decimal):
        return format(found.normalize(), "f")
    if isinstance(found, datetime):
        return found.astimezone(UTC).isoformat()
    return str(found) if isinstance(found, (UUID, date)) else found
