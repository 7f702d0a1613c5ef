"""JSON Lines: an object on each line, whose numbers are kept as they are written.

Programs write the keys of all objects in one order, and perhaps leave out those of nulls. So lines with the same keys
are rewritten many at once, if they have the order of the file's first line and values without escapes; any other line
is parsed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import re2

from feeds import errors
from feeds.contract import OTHER_COLUMNS, Column, Feed
from feeds.formats import drift
from feeds.formats.rows import PREPARED, Block, Number, RawRecords, Rows, prepared, to_json
from feeds.lines import MAX_LINE_BYTES, UNFIT, Reject, has_long_line
from feeds.source import Source
from feeds.uri import shown
from feeds.values import is_too_deep

_STRING = r'(?:"[^"\\\x00-\x1f]*"|\x02)'
_SIMPLE = {"integer": r"(?:-?(?:0|[1-9][0-9]*)|\x02)", "number": r"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\x02)"}
_SIMPLE["boolean"] = r"(?:true|false|\x02)"
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s",:{}\[\]]+')
_SIMPLE_KEY = re.compile(r'[^"\\,:{}\[\]\x00-\x1f]+')
_MOST_FORMS = 20
_MOST_NAMES = 100  # of unknown keys that rejected rows are counted by


class _Twice(ValueError):  # noqa: N818 - it is of the data
    """An object has a key twice."""


@dataclass(frozen=True)
class _Form:
    """How a program writes simple objects with the same keys.

    Attributes:
        keys: in their order.
        pattern: of some lines.
        texts: before each value, and after the last, each with what it becomes.
    """

    keys: tuple[str, ...]
    pattern: Any
    texts: tuple[tuple[bytes, bytes], ...]

    def rewrite(self, lines: bytes) -> bytes:
        """Return LINES, which the pattern matches, as lines of the dialect PREPARED.

        No value has a quote in it, and each text but the last has one: so all that is found are these texts.
        """
        (first, start), *others, (last, end) = self.texts
        lines = start + lines[len(first) : -len(last)].replace(last + first, end + start) + end
        for text, field in others:
            lines = lines.replace(text, field)
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
        self.columns = feed.table_columns
        self.seen: list[str] = []
        self._unknown: set[str] = set()
        self._forms: list[_Form] = []
        self._tried: set[tuple[str, ...]] = set()  # keys of objects
        self._keys: tuple[str, ...] = ()  # of the object that was parsed last
        self._try(first.lstrip().partition(b"\n")[0], is_first=True)

    def _try(self, line: bytes, *, is_first: bool = False) -> None:
        """Know the form of LINE from now on, if it is a simple object with known keys in the same order as before."""
        try:
            text = line.decode().rstrip("\r")
            row = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(row, dict):
            return
        keys = tuple(row)
        self._tried.add(keys)
        by_header = {column.header: column for column in self._feed.columns}
        columns = [by_header[key] for key in keys if key in by_header and _SIMPLE_KEY.fullmatch(key)]
        values = [found.span() for found in _VALUE.finditer(text)][1::2]
        is_nested = any(isinstance(value, (dict, list)) for value in row.values())
        if is_nested or any(column.type == "json" for column in columns):
            return
        if not 0 < len(keys) == len(columns) == len(values):
            return
        if is_first:
            self.columns = (*columns, *(column for column in self._feed.table_columns if column not in columns))
        positions = [-1, *(self.columns.index(column) for column in columns), len(self.columns)]
        if positions != sorted(positions):
            return
        ends = [0, *(end for _, end in values)]
        starts = [*(start for start, _ in values), len(text)]
        texts = [text[end:start] for end, start in zip(ends, starts, strict=True)]
        nulls = [b"\x02\t" * (after - before - 1) for before, after in pairwise(positions)]
        fields = [nulls[0], *(b"\t" + null for null in nulls[1:-1]), (b"\t" + nulls[-1])[:-1] + b"\n"]
        texts[-1] += "\n"
        pattern = "".join(
            re2.escape(before) + _SIMPLE.get(column.type, _STRING)
            for before, column in zip(texts, columns, strict=False)
        )
        self._forms.append(
            _Form(
                keys,
                re2.compile(f"(?:{pattern}{re2.escape(texts[-1])})+"),
                tuple((text.encode(), field) for text, field in zip(texts, fields, strict=True)),
            )
        )

    def block(self, lines: bytes, line_number: int) -> Block:
        """Return the block of LINES, the first of which is LINE_NUMBER of the file."""
        prepared_lines, flaws, position, number = [], {}, 0, 0
        # In a string this makes a control code, so no pattern matches it.
        marked = lines.replace(b":null", b":\x02").replace(b": null", b": \x02")
        raw = RawRecords(Block(lines, line_number))
        forms = [] if b"\x02" in lines else self._forms  # which take it for null, and it is no JSON
        while position < len(marked):
            for form in forms:
                if (run := form.pattern.match(marked, position)) and not has_long_line(run[0]):
                    break
            else:
                line, flaw = self._line(raw[number])
                if self._keys not in self._tried and len(self._tried) < _MOST_FORMS:
                    self._try(raw[number])
                prepared_lines.append(line + b"\n")
                if flaw:
                    flaws[number] = flaw
                position, number = marked.index(b"\n", position) + 1, number + 1
                continue
            prepared_lines.append(form.rewrite(marked[position : run.end()]))
            number += marked.count(b"\n", position, run.end())
            position = run.end()
            self._see(form.keys)
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
            row = _DECODER.decode(text)
        except _Twice:
            return b"\0", Reject("key_twice")
        except (ValueError, RecursionError):
            return b"\0", Reject("json")
        if not isinstance(row, dict) or is_too_deep(text, row):
            return b"\0", Reject("json")
        self._keys = tuple(row)
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
            text = _text(value, column, is_parquet=self._feed.format == "parquet")
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


def _text(value: Any, column: Column, *, is_parquet: bool) -> str | None:
    """Return VALUE as the text that a file of another format has for it; None if it is of another type.

    In a rejected row of Parquet a text in a column of json is JSON, since the file has no other json but nested values.
    """
    if column.type == "json" and is_parquet and not isinstance(value, (dict, list)):
        return None if isinstance(value, (bool, Number)) else str(value)
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


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=Number, parse_float=Number, parse_constant=_refused)
