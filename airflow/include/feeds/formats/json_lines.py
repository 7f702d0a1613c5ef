"""JSON Lines: an object on each line, whose numbers are kept as they are written.

Programs write the keys of all objects in one order. So lines are rewritten many at once, as long as their keys have the
order of the file's first line and their values need no escapes; any other line is parsed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from feeds import errors
from feeds.contract import Column, Feed
from feeds.formats.rows import PREPARED, Block, Rows, prepared
from feeds.lines import MAX_LINE_BYTES, Reject
from feeds.source import Source
from feeds.uri import shown

# Each has one group, and one more for null.
_STRING = rb'(?:"([^"\\\x00-\x1f]*)"|(\x02))'
_NUMBER = rb"(?:(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?)|(\x02))"
_BOOLEAN = rb"(?:(true|false)|(\x02))"
_SIMPLE = {"integer": _NUMBER, "number": _NUMBER, "boolean": _BOOLEAN}


class _Number(str):
    """A number as it is written: a double cannot hold every one."""

    __slots__ = ()


class _Twice(ValueError):
    """An object has a key twice."""


def read(source: Source, feed: Feed) -> Rows:
    """Return the rows of SOURCE, which has a JSON object on each line.

    Raises:
        SourceEmpty: it has no line.
    """
    return Rows(feed.columns, PREPARED, _blocks(source, feed))


def _blocks(source: Source, feed: Feed) -> Iterator[Block]:
    line_number, simple = 1, None
    for block in source.blocks:
        lines = block.removeprefix(b"\xef\xbb\xbf") if line_number == 1 else block
        if simple is None and lines.strip():
            simple = _simple(lines.lstrip().partition(b"\n")[0], feed)
        yield _block(lines, line_number, feed, simple)
        line_number += lines.count(b"\n")
    if simple is None:
        raise errors.SourceEmpty(
            f"{shown(source.uri)} is empty.",
            "Its export most likely failed or has not finished.",
            "Export it again; a file without rows is not told from one that has failed.",
        )


def _simple(line: bytes, feed: Feed) -> tuple[re.Pattern[bytes], bytes] | None:
    """Return the expression for lines with the keys of LINE in its order, and what replaces them; None if it has none."""
    try:
        keys = list(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    by_header = {column.header: column for column in feed.columns}
    if sorted(keys) != sorted(by_header) or any(column.type == "json" for column in feed.columns):
        return None
    fields = [
        re.escape(json.dumps(key, ensure_ascii=False).encode()) + b" ?: ?" + _SIMPLE.get(by_header[key].type, _STRING)
        for key in keys
    ]
    groups = [2 * keys.index(column.header) + 1 for column in feed.columns]
    pattern = rb"(?m)^\{ ?" + b" ?, ?".join(fields) + rb" ?\}\r?$"
    return re.compile(pattern), b"\t".join(b"\\g<%d>\\g<%d>" % (group, group + 1) for group in groups)


def _block(lines: bytes, line_number: int, feed: Feed, simple: tuple[re.Pattern[bytes], bytes] | None) -> Block:
    raw = lines.split(b"\n")[:-1]
    each = [b"{"] * len(raw)
    if simple:
        # In a string this gives a control code, so the line does not match.
        marked = lines.replace(b":null", b":\x02").replace(b": null", b": \x02")
        each = simple[0].sub(simple[1], marked).split(b"\n")[:-1]
    flaws: dict[int, Reject] = {}
    for position, line in enumerate(each):
        if b"{" in line or b"\t" not in line:
            each[position], flaw = _line(raw[position], feed)
            if flaw:
                flaws[position] = flaw
    return Block(b"\n".join(each) + b"\n", line_number, raw, flaws)


def _line(line: bytes, feed: Feed) -> tuple[bytes, Reject | None]:
    """Return the object in LINE as a line of the dialect PREPARED, or a NUL and why it is none."""
    if not line.strip():
        return b"", None
    if len(line) > MAX_LINE_BYTES:
        return b"\0", Reject("too_long")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return b"\0", Reject("encoding")
    try:
        row = json.loads(
            text, object_pairs_hook=_unique, parse_int=_Number, parse_float=_Number, parse_constant=_refused
        )
    except _Twice:
        return b"\0", Reject("key_twice")
    except (ValueError, RecursionError):
        return b"\0", Reject("json")
    if not isinstance(row, dict):
        return b"\0", Reject("json")
    known = {column.header for column in feed.columns}
    if feed.properties.drift.new_column == "refuse" and (new := sorted(row.keys() - known)):
        return b"\0", Reject("unknown_column", new[0][:100])
    fields = []
    for column in feed.columns:
        value = row.get(column.header)
        if value is None:
            fields.append(None)
            continue
        if (text := _text(value, column)) is None:
            return b"\0", Reject("type", column.name)
        if "\0" in text:
            return b"\0", Reject("nul_byte")
        fields.append(text)
    try:
        return prepared(fields), None
    except UnicodeEncodeError:
        return b"\0", Reject("encoding")


def _text(value: Any, column: Column) -> str | None:
    """Return VALUE as the text that a file of another format has for it; None if it is of another type."""
    if column.type == "json":
        return _dumps(value)
    if isinstance(value, bool):
        return json.dumps(value) if column.type == "boolean" else None
    if isinstance(value, _Number):
        return _plain(value) if column.type in ("integer", "number") else None
    return value if isinstance(value, str) and column.type not in ("integer", "number", "boolean") else None


def _plain(number: str) -> str | None:
    """Return NUMBER without an exponent."""
    if "e" not in number and "E" not in number:
        return number
    digits, _, exponent = number.lower().partition("e")
    whole, _, fraction = digits.lstrip("-").partition(".")
    if len(exponent) > 4 or abs(int(exponent)) > 1000:
        return None
    shift = int(exponent)
    all_digits, point = whole + fraction, len(whole) + shift
    all_digits = all_digits.rjust(len(all_digits) - min(point - 1, 0), "0").ljust(point, "0")
    point = max(point, 1)
    sign = "-" if digits.startswith("-") else ""
    fraction = all_digits[point:]
    return sign + all_digits[:point] + (f".{fraction}" if fraction else "")


def _dumps(value: Any) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dumps, value)) + "]"
    return json.dumps(value)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise _Twice
    return unique


def _refused(text: str) -> None:
    raise ValueError(text)
