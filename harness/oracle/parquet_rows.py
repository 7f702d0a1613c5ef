"""The rows of a Parquet file."""

import re
import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from feeds.contract import Column, Feed
from harness.oracle.row_values import Number, RejectedError, Row, each, value, with_others, written

# In microseconds.
UNITS = {"s": Fraction(1_000_000), "ms": Fraction(1_000), "us": Fraction(1), "ns": Fraction(1, 1_000)}
DAY = Fraction(86_400_000_000)


def parquet_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet as pq  # only this format needs it

    stored = pq.ParquetFile(file, coerce_int96_timestamp_unit="us")
    kinds = {field.name: str(field.type) for field in stored.schema_arrow}
    for batch in stored.iter_batches(1000):
        names, columns = batch.schema.names, [values(column) for column in batch.columns]
        for number in range(batch.num_rows):
            given = {name: column[number] for name, column in zip(names, columns, strict=True)}
            yield each(parquet_row, feed, given, kinds)


def values(column: Any) -> list[Any]:
    """Return the values of COLUMN, of Arrow; a day or time that Python does not have is a text."""
    found = re.fullmatch(r"timestamp\[(s|ms|us|ns)(, tz=.*)?\]", str(column.type))
    if not found and str(column.type) != "date32[day]":
        return list(column.to_pylist(maps_as_pydicts="strict"))
    zone = UTC if found and found[2] else None
    unit, start = DAY if not found else UNITS[found[1]], datetime(1970, 1, 1, tzinfo=zone)
    moments: list[Any] = []
    for number in column.cast("int64" if found else "int32").to_pylist():
        try:
            moment = None if number is None else start + timedelta(microseconds=int(number * unit // 1))
            moments.append(moment.date() if moment and not found else moment)
        except OverflowError:
            moments.append(f"out of range: {number}")
    return moments


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
        text = f"{given.astimezone(UTC) if given.tzinfo else given:%Y-%m-%d %H:%M:%S.%f}"
        return f"{text[:-3] if kind.startswith('timestamp[ms') else text}{'Z' if given.tzinfo else ''}"
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
