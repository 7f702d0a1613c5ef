"""The rows of a feed's files by its contract, read with Python's own types, one row at a time.

It shares no code with the load but the contract and how files are found, so that a mistake has to be made twice, in
different ways, to go unseen. What is a valid row is in docs/contracts.md.
"""

import gzip
import io
import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import fsspec
import re2

from feeds.contract import OTHER_COLUMNS, Column, Feed
from feeds.files import find_files
from feeds.interval import ALWAYS, Interval
from feeds.source import http_options

LINE_LIMIT_BYTES = 1 << 20
MOST_DIGITS = 1000
CODECS = {"utf-8": "utf-8", "latin-1": "latin-1", "windows-1252": "cp1252"}
INTEGER = re.compile(r"-?[0-9]+")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
MOMENT = re.compile(
    rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})[ T]({CLOCK})(?:(:[0-5][0-9])(\.[0-9]{{1,6}})?)?(Z|[+-]{CLOCK})?"
)
TRUE, FALSE = {"true", "t", "1", "yes"}, {"false", "f", "0", "no"}
OTHER = OTHER_COLUMNS.name

Row = dict[str, Any]


class RejectedError(Exception):
    """A row that the contract does not allow: the reason, and the column."""

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason, column)


def rows(feed: Feed, uri: str, interval: Interval = ALWAYS) -> Iterator[Row | RejectedError]:
    """Yield each row of the files at URI for INTERVAL, by the columns' names, or why it is rejected.

    Raises:
        FeedError: a file cannot be found or opened.
    """
    for path in find_files(uri, interval, is_latest=feed.time_column is None):
        options: dict[str, Any] = {"block_size": 0, **http_options(path)} if path.startswith("http") else {}
        with fsspec.open(path, "rb", **options) as file:
            yield from READERS[feed.format](feed, unpacked(file))


def unpacked(file: Any) -> Any:
    """Return FILE decompressed."""
    buffered = io.BufferedReader(cast(io.RawIOBase, file), 1 << 20)
    start = buffered.peek(4)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=buffered)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa  # Python has no zstd before 3.14

        return io.BytesIO(pa.CompressedInputStream(pa.PythonFile(buffered, "r"), "zstd").read())
    return buffered


def each(read: Callable[..., Row], *arguments: Any) -> Row | RejectedError:
    """Return what READ makes of ARGUMENTS, or why there is none."""
    try:
        return read(*arguments)
    except RejectedError as error:
        return error


# --- CSV ------------------------------------------------------------------------------------------------------------


def csv_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a CSV file."""
    csv = feed.properties.csv
    lines = [line.removesuffix(b"\n").removesuffix(b"\r") for line in file]
    while lines and not lines[0].removeprefix(b"\xef\xbb\xbf").strip():
        del lines[0]
    header = lines.pop(0).decode(CODECS[csv.encoding]).removeprefix("\ufeff")
    headers = fields(header, csv.delimiter, csv.quote)
    position = 0
    while position < len(lines):
        record, taken = lines[position], 1
        if record.count(csv.quote.encode()) % 2:
            record, taken = whole_record(lines, position, len(headers), csv.delimiter, csv.quote)
        position += taken
        row = each(csv_row, feed, headers, record)
        if record.strip() or len(record) > LINE_LIMIT_BYTES or not isinstance(row, RejectedError):
            yield row


def whole_record(lines: Sequence[bytes], position: int, count: int, delimiter: str, quote: str) -> tuple[bytes, int]:
    """Return the record that begins at POSITION and has line ends in quotes, with its number of lines."""
    record = lines[position]
    for taken, line in enumerate(lines[position + 1 :], 2):
        record += b"\n" + line
        if len(record) > LINE_LIMIT_BYTES:
            break
        if record.count(quote.encode()) % 2 == 0:
            with suppress(RejectedError):
                if len(fields(record.decode(errors="replace"), delimiter, quote)) == count:
                    return record, taken
            break
    return lines[position], 1


def csv_row(feed: Feed, headers: Sequence[str], record: bytes) -> Row:
    """Return the row in RECORD; raise RejectedError with the first reason against it."""
    csv = feed.properties.csv
    if len(record.decode(CODECS[csv.encoding], errors="surrogateescape").encode(errors="replace")) > LINE_LIMIT_BYTES:
        raise RejectedError("too_long")
    try:
        text = record.decode(CODECS[csv.encoding])
    except UnicodeDecodeError:
        raise RejectedError("encoding") from None
    if "\0" in text:
        raise RejectedError("nul_byte")
    texts = [None if field == csv.null_text else field for field in fields(text, csv.delimiter, csv.quote)]
    if len(texts) != len(headers):
        raise RejectedError("field_count")
    given = dict(zip(headers, texts, strict=True))
    row = {column.name: value(column, given.get(column.header), feed) for column in feed.columns}
    return with_others(feed, row, given)


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


# --- JSON Lines -----------------------------------------------------------------------------------------------------


class KeyTwiceError(ValueError):
    """An object has a key twice."""


class Number(str):
    """A number as it is written."""

    __slots__ = ()


def json_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a file with a JSON object on each line."""
    for number, line in enumerate(file):
        text = line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").removesuffix(b"\n").removesuffix(b"\r")
        if text.strip() or len(text) > LINE_LIMIT_BYTES:
            yield each(json_row, feed, text)


def json_row(feed: Feed, line: bytes) -> Row:
    """Return the row in LINE; raise RejectedError with the first reason against it."""
    if len(line) > LINE_LIMIT_BYTES:
        raise RejectedError("too_long")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise RejectedError("encoding") from None
    try:
        given = json.loads(text, object_pairs_hook=once, parse_int=Number, parse_float=Number, parse_constant=refused)
    except KeyTwiceError:
        raise RejectedError("key_twice") from None
    except (ValueError, RecursionError):
        raise RejectedError("json") from None
    if not isinstance(given, dict):
        raise RejectedError("json")
    if feed.properties.drift.new_column == "refuse" and (
        new := sorted(given.keys() - {column.header for column in feed.columns})
    ):
        raise RejectedError("unknown_column", new[0])
    own = {column.header: column.type for column in feed.columns}
    is_kept = feed.properties.drift.new_column == "keep"
    plain = [item for key, item in given.items() if own.get(key) in ("string", "date", "timestamp", "uuid")]
    plain = [item for item in plain if isinstance(item, str) and not isinstance(item, Number)]
    if any("\0" in item for item in plain):
        raise RejectedError("nul_byte")
    stored = [{key: item} for key, item in given.items() if own.get(key, is_kept and "json") == "json"]
    if any(re.search("[\ud800-\udfff]", text) for text in (*plain, *strings(stored))):
        raise RejectedError("encoding")
    row = {column.name: json_value(column, given.get(column.header), feed) for column in feed.columns}
    return with_others(feed, row, given)


def strings(given: Any) -> Iterator[str]:
    """Yield the texts in GIVEN, a value of JSON."""
    if isinstance(given, str):
        yield given
    for item in given.items() if isinstance(given, dict) else enumerate(given) if isinstance(given, list) else ():
        yield from (str(item[0]), *strings(item[1]))


def json_value(column: Column, given: Any, feed: Feed) -> Any:
    """Return the column's value in GIVEN; raise RejectedError if it is of another type, or not valid."""
    is_number, is_text = isinstance(given, Number), isinstance(given, str) and not isinstance(given, Number)
    if given is None:
        return value(column, None, feed)
    if column.type == "json":
        return value(column, written(given), feed)
    if isinstance(given, bool) and column.type == "boolean":
        return given
    if is_number and column.type in ("integer", "number") and abs(exponent(given)) <= MOST_DIGITS:
        return value(column, format(Decimal(given), "f"), feed)
    if is_text and column.type not in ("integer", "number", "boolean"):
        return value(column, given, feed)
    raise RejectedError("type", column.name)


def exponent(number: str) -> int:
    """Return the power of ten that NUMBER is written with."""
    return int(number.lower().partition("e")[2] or 0)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return PAIRS as an object; raise KeyTwiceError if a key is there twice."""
    if len(dict(pairs)) < len(pairs):
        raise KeyTwiceError
    return dict(pairs)


def written(given: Any) -> str:
    """Return GIVEN, a value of JSON with exact numbers, as it can be written."""
    if isinstance(given, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in given.items()) + "}"
    if isinstance(given, list):
        return "[" + ",".join(map(written, given)) + "]"
    if isinstance(given, (Number, Decimal)):
        return str(given)
    return json.dumps(given, default=str)


# --- Parquet --------------------------------------------------------------------------------------------------------


def parquet_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet as pq  # only this format needs it

    stored = pq.ParquetFile(file)
    kinds = {field.name: str(field.type) for field in stored.schema_arrow}
    for batch in stored.iter_batches(1000):
        for given in batch.to_pylist(maps_as_pydicts="strict"):
            yield each(parquet_row, feed, given, kinds)


def parquet_row(feed: Feed, given: Row, kinds: dict[str, str]) -> Row:
    """Return the row in GIVEN; raise RejectedError with the first reason against it."""
    texts = [given.get(column.header) for column in feed.columns if column.type in ("string", "json")]
    if any(isinstance(text, str) and "\0" in text for text in texts):
        raise RejectedError("nul_byte")
    row = {
        column.name: parquet_value(column, given.get(column.header), kinds.get(column.header, ""), feed)
        for column in feed.columns
    }
    known = {column.header for column in feed.columns}
    others = {key: other_text(item, kinds[key]) for key, item in given.items() if key not in known}
    return with_others(feed, row, others)


def other_text(given: Any, kind: str) -> Any:
    """Return GIVEN, a value that no column has, as JSON has it."""
    if isinstance(given, float):
        text = float_text(given, kind)
        return Number(text) if given - given == 0 else text
    if isinstance(given, datetime):
        return f"{given.astimezone(UTC) if given.tzinfo else given:%Y-%m-%d %H:%M:%S.%f}{'Z' if given.tzinfo else ''}"
    if isinstance(given, bytes):
        return str(UUID(bytes=given)) if kind == "fixed_size_binary[16]" else given.hex()
    return given


def parquet_value(column: Column, given: Any, kind: str, feed: Feed) -> Any:
    """Return the column's value in GIVEN, which is stored as KIND; raise RejectedError if it is not valid."""
    fitting: dict[str, tuple[type, ...]] = {
        "integer": (int,),
        "number": (int, float, Decimal),
        "string": (str,),
        "boolean": (bool,),
        "date": (date,),
        "timestamp": (datetime,),
        "uuid": (str, UUID, bytes),
        "json": (str, dict, list),
    }
    is_of = isinstance(given, fitting[column.type])
    if isinstance(given, bool) != (column.type == "boolean") or (column.type == "date" and isinstance(given, datetime)):
        is_of = False
    if given is not None and not is_of:
        raise RejectedError("type", column.name)
    return value(column, None if given is None else parquet_text(given, kind), feed)


def parquet_text(given: Any, kind: str) -> str:
    """Return GIVEN as another format has it."""
    if isinstance(given, float):
        return float_text(given, kind)
    if isinstance(given, Decimal):
        return format(given, "f")
    if isinstance(given, datetime):
        return given.astimezone(UTC).isoformat("T", "microseconds") if given.tzinfo else given.isoformat(" ")
    if isinstance(given, bytes):
        return str(UUID(bytes=given))
    return written(given) if isinstance(given, (dict, list, bool)) else str(given)


def float_text(given: float, kind: str) -> str:
    """Return the shortest decimal number that is GIVEN as it is stored."""
    text = repr(given)
    if kind == "float":
        digits = (f"{given:.{count}g}" for count in range(1, 10))
        text = next((each for each in digits if struct.pack("f", float(each)) == struct.pack("f", given)), text)
    return format(Decimal(text), "f").lower()


READERS = {"csv": csv_rows, "jsonl": json_rows, "parquet": parquet_rows}


# --- values ---------------------------------------------------------------------------------------------------------


def with_others(feed: Feed, row: Row, given: Row) -> Row:
    """Return ROW with what GIVEN has beside the contract's columns, if the contract keeps that."""
    if feed.properties.drift.new_column != "keep":
        return row
    known = {column.header for column in feed.columns}
    others = {key: item for key, item in given.items() if key not in known}
    return row | {OTHER: value(OTHER_COLUMNS, written(others), feed) if others else None}


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
    if column.values and found not in {converted(column, valid, feed) for valid in column.values}:
        raise RejectedError("value", column.name)
    return found


def converted(column: Column, text: str, feed: Feed) -> Any:  # noqa: PLR0911 - a return per type
    """Return TEXT as Python's type for COLUMN; raise ValueError or another error if it is none."""
    match column.type:
        case "integer":
            digits = text.removeprefix("-").lstrip("0") or "0"  # int() refuses thousands of zeros
            number = int(text[: text.startswith("-")] + digits) if INTEGER.fullmatch(text) else 1 << 63
            return number if -(1 << 63) <= number < 1 << 63 else refused(text)
        case "number":
            return exact_number(column, text, feed.properties.csv.decimal)
        case "boolean":
            return text.lower() in TRUE if text.lower() in TRUE | FALSE else refused(text)
        case "date":
            return date.fromisoformat(text) if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else refused(text)
        case "timestamp":
            return moment(text, feed.properties.time_zone)
        case "uuid":
            return (
                UUID(text)
                if re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text)
                else refused(text)
            )
        case "json":
            found = json.loads(text, object_pairs_hook=once, parse_float=small, parse_int=small, parse_constant=refused)
            return refused(text) if any(re.search("[\0\ud800-\udfff]", each) for each in strings(found)) else found
    return text


def exact_number(column: Column, text: str, decimal: str) -> Decimal:
    """Return the number in TEXT; raise ValueError if it is none, or has too many digits."""
    if decimal != ".":
        text = "x" if "." in text else text.replace(decimal, ".", 1)
    if not NUMBER.fullmatch(text):
        raise ValueError(text)
    whole, _, fraction = text.lstrip("+-").partition(".")
    most = column.digits or (MOST_DIGITS, MOST_DIGITS)
    if len(whole.lstrip("0")) > most[0] or len(fraction) > most[1]:
        raise ValueError(text)
    return Decimal(text)


def small(text: str) -> Decimal:
    """Return the number in TEXT, of JSON; raise ValueError if PostgreSQL has none so large or long."""
    if len(text) > MOST_DIGITS or abs(exponent(text)) > MOST_DIGITS:
        raise ValueError(text)
    return Decimal(text)


def moment(text: str, time_zone: str) -> datetime:
    """Return the moment in TEXT, in UTC; raise ValueError if it is none."""
    if not (found := MOMENT.fullmatch(text)):
        raise ValueError(text)
    day, clock, seconds, fraction, offset = found.groups()
    local = datetime.strptime(f"{day} {clock}{seconds or ':00'}", "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the zone comes next
    if fraction:
        local += timedelta(microseconds=int(fraction[1:].ljust(6, "0")))
    if offset is None:
        zone = ZoneInfo(time_zone)
        for fold in (0, 1):  # a time that the clock shows twice is the earlier one
            found_moment = local.replace(tzinfo=zone, fold=fold).astimezone(UTC)
            if found_moment.astimezone(zone).replace(tzinfo=None, fold=0) == local:
                return found_moment
        raise ValueError(text)  # the clock skips it
    if offset != "Z":
        ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[4:6]))
        local += -ahead if offset[0] == "+" else ahead
    return local.replace(tzinfo=UTC)


def refused(text: str) -> Any:
    """Raise ValueError: TEXT is no value of the type."""
    raise ValueError(text)
