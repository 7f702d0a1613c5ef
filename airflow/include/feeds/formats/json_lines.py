"""JSON Lines: an object on each line, whose numbers are kept as they are written.

Programs write the keys of all objects in one order. So lines are rewritten many at once, as long as their keys have the
order of the file's first line and their values need no escapes; any other line is parsed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import re2

from feeds import errors
from feeds.contract import Column, Feed
from feeds.formats.rows import PREPARED, Block, Rows, prepared
from feeds.lines import MAX_LINE_BYTES, Reject
from feeds.source import Source
from feeds.uri import shown

_STRING = r'(?:"[^"\\\x00-\x1f]*"|\x02)'
_SIMPLE = {"integer": r"(?:-?(?:0|[1-9][0-9]*)|\x02)", "number": r"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\x02)"}
_SIMPLE["boolean"] = r"(?:true|false|\x02)"
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s",:{}\[\]]+')


class _Number(str):
    """A number as it is written: a double cannot hold every one."""

    __slots__ = ()


class _Twice(ValueError):
    """An object has a key twice."""


@dataclass(frozen=True)
class _Form:
    """How a program writes simple objects: a text before each value, and one after the last."""

    columns: tuple[Column, ...]
    pattern: Any
    texts: tuple[bytes, ...]

    def rewrite(self, lines: bytes) -> bytes:
        """Return LINES, which the pattern matches, as lines of the dialect PREPARED.

        No value has a quote in it, and each text but the last has one: so all that is found are these texts.
        """
        first, *others, last = self.texts
        lines = lines.replace(last + b"\n", b"\n").replace(first, b"")
        for text in others:
            lines = lines.replace(text, b"\t")
        return lines.replace(b'"', b"")


def read(source: Source, feed: Feed) -> Rows:
    """Return the rows of SOURCE, which has a JSON object on each line.

    Raises:
        SourceEmpty: it has no line.
    """
    blocks = source.blocks
    first = b""
    for first in blocks:
        first = first.removeprefix(b"\xef\xbb\xbf")
        break
    if not first.strip():
        raise errors.SourceEmpty(
            f"{shown(source.uri)} is empty.",
            "Its export most likely failed or has not finished.",
            "Export it again: a file without rows looks like one that was cut off.",
        )
    form = _form(first.lstrip().partition(b"\n")[0], feed)
    columns = form.columns if form else feed.columns

    def rows() -> Iterator[Block]:
        line_number = 1
        for lines in chain([first], blocks):
            yield _block(lines.replace(b"\r\n", b"\n"), line_number, columns, feed, form)
            line_number += lines.count(b"\n")

    return Rows(columns, PREPARED, rows())


def _form(line: bytes, feed: Feed) -> _Form | None:
    """Return the form of LINE, an object that has all columns; None if it has not, or has values that are not simple."""
    try:
        text = line.decode().rstrip("\r")
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    by_header = {column.header: column for column in feed.columns}
    if not isinstance(row, dict) or sorted(row) != sorted(by_header):
        return None
    columns = tuple(by_header[key] for key in row)
    if any(column.type == "json" for column in columns):
        return None
    values = [found.span() for found in _VALUE.finditer(text)][1::2]
    if len(values) != len(columns):
        return None
    ends = [0, *(end for _, end in values)]
    starts = [*(start for start, _ in values), len(text)]
    texts = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    pattern = "".join(
        re2.escape(before) + _SIMPLE.get(column.type, _STRING) for before, column in zip(texts, columns, strict=False)
    )
    return _Form(columns, re2.compile(f"(?:{pattern}{re2.escape(texts[-1])}\n)+"), tuple(t.encode() for t in texts))


def _block(lines: bytes, line_number: int, columns: Sequence[Column], feed: Feed, form: _Form | None) -> Block:
    prepared_lines, flaws, position, number = [], {}, 0, 0
    # In a string this makes a control code, so the pattern does not match it.
    marked = lines.replace(b":null", b":\x02").replace(b": null", b": \x02") if form else lines
    is_same = len(marked) == len(lines)
    while position < len(marked):
        if form and (run := form.pattern.match(marked, position)):
            prepared_lines.append(form.rewrite(marked[position : run.end()]))
            number += marked.count(b"\n", position, run.end())
            position = run.end()
            continue
        end = marked.index(b"\n", position)
        raw = lines.split(b"\n", number + 1)[number] if not is_same else lines[position:end]
        line, flaw = _line(raw, columns, feed)
        prepared_lines.append(line + b"\n")
        if flaw:
            flaws[number] = flaw
        position, number = end + 1, number + 1
    return Block(b"".join(prepared_lines), line_number, RawLines(lines), flaws)


class RawLines:
    """The lines of a block, split when one is asked for."""

    def __init__(self, block: bytes) -> None:
        self._block = block

    def __getitem__(self, position: int) -> bytes:
        return self._block.split(b"\n", position + 1)[position]


def _line(line: bytes, columns: Sequence[Column], feed: Feed) -> tuple[bytes, Reject | None]:
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
    known = {column.header for column in columns}
    if feed.properties.drift.new_column == "refuse" and (new := sorted(row.keys() - known)):
        return b"\0", Reject("unknown_column", new[0][:100])
    fields = []
    for column in columns:
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
