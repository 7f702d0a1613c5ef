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
from feeds.contract import OTHER_COLUMNS, Column, Feed
from feeds.formats import drift
from feeds.formats.rows import PREPARED, Block, Number, RawRecords, Rows, prepared, to_json
from feeds.lines import MAX_LINE_BYTES, UNFIT, Reject
from feeds.source import Source
from feeds.uri import shown

_STRING = r'(?:"[^"\\\x00-\x1f]*"|\x02)'
_SIMPLE = {"integer": r"(?:-?(?:0|[1-9][0-9]*)|\x02)", "number": r"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\x02)"}
_SIMPLE["boolean"] = r"(?:true|false|\x02)"
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s",:{}\[\]]+')
_SIMPLE_KEY = re.compile(r'[^"\\,:{}\[\]\x00-\x1f]+')
_MOST_NAMES = 100  # of unknown keys that rejected rows are counted by


class _Twice(ValueError):  # noqa: N818 - it is of the data
    """An object has a key twice."""


@dataclass(frozen=True)
class _Form:
    """How a program writes simple objects: a text before each value, and one after the last."""

    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    pattern: Any
    texts: tuple[bytes, ...]
    missing: bytes

    def rewrite(self, lines: bytes) -> bytes:
        """Return LINES, which the pattern matches, as lines of the dialect PREPARED.

        No value has a quote in it, and each text but the last has one: so all that is found are these texts.
        """
        first, *others, last = self.texts
        end = self.missing + b"\n"
        lines = lines[len(first) : -len(last) - 1].replace(last + b"\n" + first, end) + end
        for text in others:
            lines = lines.replace(text, b"\t")
        return lines.translate(None, b'"')


def read(source: Source, feed: Feed) -> Rows:
    """Return the rows of SOURCE, which has a JSON object on each line; their keys may have any order.

    Raises:
        SourceEmpty: it has no line.
        WrongHeader: it is of another format, or, at its end, no object has a key that the contract says they have.
    """
    blocks = source.blocks
    number, first = 1, b""
    for block in blocks:
        first = block.removeprefix(b"\xef\xbb\xbf") if number == 1 else block
        if first.strip():
            break
        number += first.count(b"\n")
    if not first.strip():
        raise errors.SourceEmpty(
            f"{shown(source.uri)} is empty.",
            "Its export most likely failed or has not finished.",
            "Export it again: a file without rows looks like one that was cut off.",
        )
    if not re.search(rb"^[ \t]*\{", first, re.MULTILINE):
        raise drift.refusal(
            feed,
            source.uri,
            "has no JSON object on its first lines",
            f"Export it with one object on each line, or correct the format in airflow/feeds/{feed.name}.yaml",
        )
    lines = _Lines(feed, first)

    def rows() -> Iterator[Block]:
        line_number = number
        for block in chain([first], blocks):
            yield lines.block(block.replace(b"\r\n", b"\n"), line_number)
            line_number += block.count(b"\n")
        if lines.seen:  # else all rows are rejected, and say why
            drift.columns_of(lines.seen, feed, source.uri)

    return Rows(lines.columns, PREPARED, rows())


def objects(text: bytes, feed: Feed) -> Rows:
    """Return the rows in TEXT, some objects of a file."""
    lines = _Lines(feed, text)
    return Rows(lines.columns, PREPARED, iter([lines.block(text, 1)]))


class _Lines:
    """The lines of a file of FEED that begins with the block FIRST.

    Attributes:
        columns: in their order in prepared lines.
        seen: the keys of columns that an object had so far.
    """

    def __init__(self, feed: Feed, first: bytes) -> None:
        self._feed = feed
        self._known = {column.header for column in feed.columns}
        self._new = feed.properties.drift.new_column
        self._form = self._form_of(first.lstrip().partition(b"\n")[0])
        self.columns = self._form.columns if self._form else feed.table_columns
        self.seen: list[str] = []
        self._unknown: set[str] = set()

    def _form_of(self, line: bytes) -> _Form | None:
        """Return the form of LINE, a simple object with known keys; None if it is none."""
        try:
            text = line.decode().rstrip("\r")
            row = json.loads(text)
        except (ValueError, RecursionError):
            return None
        by_header = {column.header: column for column in self._feed.columns}
        if not isinstance(row, dict) or not all(key in by_header and _SIMPLE_KEY.fullmatch(key) for key in row):
            return None
        if any(isinstance(value, (dict, list)) for value in row.values()):
            return None
        columns = [by_header[key] for key in row]
        missing = [column for column in self._feed.table_columns if column not in columns]
        if any(column.type == "json" for column in columns) or any(column.is_required for column in missing):
            return None
        values = [found.span() for found in _VALUE.finditer(text)][1::2]
        if len(values) != len(columns) or not columns:
            return None
        ends = [0, *(end for _, end in values)]
        starts = [*(start for start, _ in values), len(text)]
        texts = [text[end:start] for end, start in zip(ends, starts, strict=True)]
        pattern = "".join(
            re2.escape(before) + _SIMPLE.get(column.type, _STRING)
            for before, column in zip(texts, columns, strict=False)
        )
        return _Form(
            tuple(row),
            (*columns, *missing),
            re2.compile(f"(?:{pattern}{re2.escape(texts[-1])}\n)+"),
            tuple(text.encode() for text in texts),
            b"\t\x02" * len(missing),
        )

    def block(self, lines: bytes, line_number: int) -> Block:
        """Return the block of LINES, the first of which is LINE_NUMBER of the file."""
        form = self._form
        prepared_lines, flaws, position, number = [], {}, 0, 0
        # In a string this makes a control code, so the pattern does not match it.
        marked = lines.replace(b":null", b":\x02").replace(b": null", b": \x02") if form else lines
        raw = RawRecords(lines)
        while position < len(marked):
            if form and (run := form.pattern.match(marked, position)):
                prepared_lines.append(form.rewrite(marked[position : run.end()]))
                number += marked.count(b"\n", position, run.end())
                position = run.end()
                self._see(form.keys)
                continue
            line, flaw = self._line(raw[number])
            prepared_lines.append(line + b"\n")
            if flaw:
                flaws[number] = flaw
            position, number = marked.index(b"\n", position) + 1, number + 1
        return Block(b"".join(prepared_lines), line_number, raw, flaws)

    def _line(self, line: bytes) -> tuple[bytes, Reject | None]:  # noqa: PLR0911 - a return per reason, in their order
        """Return the object in LINE as a line of the dialect PREPARED, or a NUL and why it is none."""
        if len(line) > MAX_LINE_BYTES:
            return b"\0", Reject("too_long")
        if not line.strip():
            return b"\r", Reject("json")  # the load takes it for no row
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return b"\0", Reject("encoding")
        try:
            row = json.loads(
                text, object_pairs_hook=_unique, parse_int=Number, parse_float=Number, parse_constant=_refused
            )
        except _Twice:
            return b"\0", Reject("key_twice")
        except (ValueError, RecursionError):
            return b"\0", Reject("json")
        if not isinstance(row, dict):
            return b"\0", Reject("json")
        self._see(row)
        if self._new == "refuse" and (new := sorted(row.keys() - self._known)):
            return b"\0", Reject("unknown_column", self._name(new[0]))
        return self._prepared(row)

    def _prepared(self, row: dict[str, Any]) -> tuple[bytes, Reject | None]:
        fields: dict[str, str | None] = {}
        for column in self.columns:
            if column is OTHER_COLUMNS:
                new = {key: value for key, value in row.items() if key not in self._known}
                fields[column.name] = to_json(new) if new else None
                continue
            if (value := row.get(column.header)) is None:
                fields[column.name] = None
                continue
            text = _text(value, column)
            if text and "\0" in text:
                return b"\0", Reject("nul_byte")
            fields[column.name] = UNFIT if text is None else text
        try:
            return prepared([fields[column.name] for column in self.columns]), None
        except UnicodeEncodeError:  # half of a surrogate pair
            return b"\0", Reject("encoding")

    def _see(self, keys: Any) -> None:
        if len(self.seen) < len(self._known):
            self.seen += [key for key in keys if key in self._known and key not in self.seen]

    def _name(self, key: str) -> str | None:
        """Return KEY for the quarantine, where it must be printable; None for one of too many different ones."""
        name = "".join(character if character.isprintable() and character != "\\" else "?" for character in key[:100])
        if name not in self._unknown and len(self._unknown) >= _MOST_NAMES:
            return None
        self._unknown.add(name)
        return name


def _text(value: Any, column: Column) -> str | None:
    """Return VALUE as the text that a file of another format has for it; None if it is of another type."""
    if column.type == "json":
        return to_json(value)
    if isinstance(value, bool):
        return json.dumps(value) if column.type == "boolean" else None
    if isinstance(value, Number):
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


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise _Twice
    return unique


def _refused(text: str) -> None:
    raise ValueError(text)
