"""A row's values by its contract, with Python's own types."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import re2

from feeds.contract import OTHER_COLUMNS, Column, Feed

LINE_LIMIT_BYTES = 1 << 20
MOST_DIGITS = 1000
MOST_LEVELS = 200
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


class KeyTwiceError(ValueError):
    """An object has a key twice."""


class Number(str):
    """A number as it is written."""

    __slots__ = ()


def each(read: Callable[..., Row], *arguments: Any) -> Row | RejectedError:
    """Return what READ makes of ARGUMENTS, or why there is none."""
    try:
        return read(*arguments)
    except RejectedError as error:
        return error


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
            if depth(text) > MOST_LEVELS or any(re.search("[\0\ud800-\udfff]", each) for each in strings(found)):
                return refused(text)
            return found
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


def depth(text: str) -> int:
    """Return how many objects and arrays of the JSON in TEXT are within one another."""
    deepest = now = 0
    for bracket in re.findall(r"[\[{}\]]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)):
        now += 1 if bracket in "[{" else -1
        deepest = max(deepest, now)
    return deepest


def strings(given: Any) -> Iterator[str]:
    """Yield the texts in GIVEN, a value of JSON."""
    if isinstance(given, str):
        yield given
    for item in given.items() if isinstance(given, dict) else enumerate(given) if isinstance(given, list) else ():
        yield from (str(item[0]), *strings(item[1]))


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
