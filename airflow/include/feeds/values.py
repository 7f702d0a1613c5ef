"""A column's values: read one from the text of a file, and match many that PostgreSQL reads as they are. Pure.

| reason     | the value |
| ---------- | --------- |
| `required` | is missing |
| `type`     | is not of the column's type, or has more digits than it takes |
| `length`   | is a string that is too short or too long |
| `pattern`  | is a string that the pattern does not match |
| `value`    | is none of the valid values |
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import re2

from feeds import patterns
from feeds.contract import Column

Reader = Callable[[str], str]
# Any number of leading zeros is valid; int() gets at most the 19 digits of a bigint.
_INTEGER = re.compile(r"(-?)0*([1-9][0-9]{0,18}|0)")
_NUMBER = re.compile(r"([+-]?)0*([0-9]*)(?:\.([0-9]*))?")
_MOST_DIGITS = 1000  # of a number without a precision
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# fromisoformat() accepts more than the format allows, some of it (24:00) only in some versions of Python.
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BOOLEANS = {"true": "true", "t": "true", "1": "true", "yes": "true", "false": "false", "f": "false", "0": "false"}
_BOOLEANS["no"] = "false"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # after an even number of backslashes, so it is one
_EXPONENT = re.compile(r"[eE]([+-]?[0-9]+)")
_MOST_LEVELS = 200  # of objects and arrays within one another: each takes some of Python's stack

# For speed, alternatives begin with different bytes where possible.
_CLEAN_INTEGER = "(?:[1-9][0-9]{0,17}|-[1-9][0-9]{0,17}|0)"
_LEAP_YEAR = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
CLEAN_DATE = (
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_CLEAN = {
    "integer": _CLEAN_INTEGER,
    "boolean": "(?:true|false)",
    "date": CLEAN_DATE,
    "uuid": _UUID.pattern,
}
_NOTHING = r"[^\x{0}-\x{10ffff}]"
_ANY = r"[^\x00]"


class Flaw(ValueError):  # noqa: N818 - it is of the data, no error of the program
    """The reason why a value is not valid, its only argument."""


def reader(column: Column, decimal: str = ".", time_zone: str = "UTC") -> Reader:
    """Return the function that reads a value of COLUMN, which is not null, and returns it as PostgreSQL reads it.

    DECIMAL is the character before a number's fraction, and TIME_ZONE that of times without one. The function raises
    `Flaw` if the value is not valid. Equal values have equal texts, except json.
    """
    if column.type == "string":
        return _string_reader(column)
    if column.type == "number":
        read = _number_reader(column, decimal)
    elif column.type == "timestamp":
        read = _timestamp_reader(time_zone)
    else:
        read = {"integer": _integer, "boolean": _boolean, "date": _date, "uuid": _uuid, "json": _json}[column.type]
    if not column.values:
        return read
    valid = {read(value) for value in column.values}

    def read_valid(text: str) -> str:
        if (value := read(text)) not in valid:
            raise Flaw("value")
        return value

    return read_valid


def clean(column: Column, excluded: str, null: str, decimal: str = ".", time_zone: str = "UTC") -> str | None:
    """Return an expression of RE2 for fields of COLUMN that PostgreSQL reads as they are, without EXCLUDED characters.

    The field NULL is null. What the expression matches is valid, but it need not match all that is. None: the column's
    fields must be read one by one.
    """
    pattern = _clean_value(column, excluded, null, decimal, time_zone)
    if not column.is_required:
        missing = re2.escape(null)
        return f"(?:{pattern or _NOTHING}|{missing})" if null else f"(?:{pattern or _NOTHING})?"
    if pattern is None or not re2.fullmatch(pattern, null):
        return pattern
    return _other_text(column, excluded, null)


def clean_time(time_zone: str) -> str:
    """Return the expression for the time after a clean date; one of another zone than UTC must say that it is UTC."""
    return (
        rf"[ T](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{{1,6}})?)?Z{'?' if time_zone == 'UTC' else ''}"
    )


def moment_of(text: str) -> datetime:
    """Return the moment of TEXT, a date or timestamp as a `reader` returns it."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _clean_value(column: Column, excluded: str, null: str, decimal: str, time_zone: str) -> str | None:
    if column.type == "string":
        return _clean_string(column, excluded, null)
    if column.values or column.type == "json":
        return None
    if column.type == "timestamp":
        return CLEAN_DATE + clean_time(time_zone)
    if column.type == "number":
        if decimal != ".":
            return None
        whole, fraction = column.digits or (_MOST_DIGITS, _MOST_DIGITS)
        digits = f"[0-9]{{1,{whole}}}" if whole else "0"
        return f"-?{digits}" + (rf"(?:\.[0-9]{{1,{fraction}}})?" if fraction else "")
    return _CLEAN[column.type]


def _clean_string(column: Column, excluded: str, null: str) -> str | None:
    if column.values:
        values = [value for value in column.values if not set(value) & set(excluded)]
        return "(?:" + "|".join(map(re2.escape, values)) + ")" if values and not column.pattern else None
    shortest, longest = column.lengths
    if column.pattern is not None:
        return None if shortest or longest is not None else patterns.without(column.pattern, excluded)
    if (longest or shortest) > patterns.MOST_REPEATS:
        return None
    return f"{patterns.without(_ANY, excluded)}" + _times(shortest if null else max(shortest, 1), longest)


def _other_text(column: Column, excluded: str, text: str) -> str | None:
    """Return an expression for the values of COLUMN, any strings, except TEXT; None if it has a pattern or bounds."""
    if column.type != "string" or column.pattern or column.values or column.lengths != (0, None):
        return None
    any_ = patterns.without(_ANY, excluded)
    others = [""]
    for position, character in enumerate(text):
        before = re2.escape(text[:position])
        others += [before, f"{before}{patterns.without(_ANY, excluded + character)}{any_}*"]
    return "(?:" + "|".join([*others, f"{re2.escape(text)}{any_}+"]) + ")"


def _times(fewest: int, most: int | None) -> str:
    return f"{{{fewest},{'' if most is None else most}}}"


def _string_reader(column: Column) -> Reader:
    shortest, longest = column.lengths
    pattern = re2.compile(column.pattern) if column.pattern is not None else None
    values = frozenset(column.values)

    def read(text: str) -> str:
        if len(text) < shortest or (longest is not None and len(text) > longest):
            raise Flaw("length")
        if pattern is not None and not pattern.fullmatch(text):
            raise Flaw("pattern")
        if values and text not in values:
            raise Flaw("value")
        return text

    return read


def _number_reader(column: Column, decimal: str) -> Reader:
    most_whole, most_fraction = column.digits or (_MOST_DIGITS, _MOST_DIGITS)

    def read(text: str) -> str:
        if decimal != ".":
            if "." in text:
                raise Flaw("type")
            text = text.replace(decimal, ".", 1)
        found = _NUMBER.fullmatch(text)
        if not found or not text[-1:].isdigit() or not any(map(str.isdigit, text.partition(".")[0])):
            raise Flaw("type")
        sign, whole, fraction = found[1].replace("+", ""), found[2], (found[3] or "").rstrip("0")
        if len(whole) > most_whole or len(found[3] or "") > most_fraction:
            raise Flaw("type")
        number = (whole or "0") + (f".{fraction}" if fraction else "")
        return number if number == "0" else sign + number

    return read


def _timestamp_reader(time_zone: str) -> Reader:
    zone: Any = UTC if time_zone == "UTC" else ZoneInfo(time_zone)

    def read(text: str) -> str:
        if not _TIMESTAMP.fullmatch(text):
            raise Flaw("type")
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo:
                return moment.astimezone(UTC).isoformat()
            # Of a time that the clock shows twice, the earlier one is taken; one that it skips does not exist.
            in_utc = moment.replace(tzinfo=zone).astimezone(UTC)
            if in_utc.astimezone(zone).replace(tzinfo=None) != moment:
                raise Flaw("type")
            return in_utc.isoformat()
        except (ValueError, OverflowError):  # no such day, or in UTC outside the years 1 to 9999
            raise Flaw("type") from None

    return read


def _integer(text: str) -> str:
    if not (found := _INTEGER.fullmatch(text)):
        raise Flaw("type")
    number = int(found[1] + found[2])
    if not -(2**63) <= number < 2**63:
        raise Flaw("type")
    return str(number)


def _boolean(text: str) -> str:
    if (value := _BOOLEANS.get(text.lower())) is None:
        raise Flaw("type")
    return value


def _date(text: str) -> str:
    try:
        if not _DATE.fullmatch(text):
            raise Flaw("type")
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise Flaw("type") from None


def _uuid(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise Flaw("type")
    return text.lower()


def _json(text: str) -> str:
    """Return TEXT if PostgreSQL takes it as jsonb, and no object in it has a key twice."""
    try:
        found = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise Flaw("type") from None
    if is_too_deep(text, found):
        raise Flaw("type")
    if "\\u" in text and (
        _NUL.search(text) or any(0xD800 <= ord(c) < 0xE000 for c in json.dumps(json.loads(text), ensure_ascii=False))
    ):
        raise Flaw("type")
    return text


def is_too_deep(text: str, found: Any) -> bool:
    """Return whether FOUND, which the JSON TEXT says, has more levels of objects and arrays than a load reads."""
    if text.count("[") + text.count("{") <= _MOST_LEVELS:
        return False
    level, levels = [found], 0
    while level := [each for each in level if isinstance(each, (dict, list))]:
        levels += 1
        level = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
    return levels > _MOST_LEVELS


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise Flaw("type")
    return unique


def _refused(_text: str) -> None:
    raise Flaw("type")


def _number(text: str) -> None:
    exponent = _EXPONENT.search(text)
    if len(text) > _MOST_DIGITS or (exponent and abs(int(exponent[1])) > _MOST_DIGITS):
        raise Flaw("type")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refused, parse_float=_number, parse_int=_number)
