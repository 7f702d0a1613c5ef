"""Parse one line of a file into a row, or return the reason why it is not valid. Pure: no I/O.

`Lines.parse` defines what is valid, one line at a time. `Lines.clean` returns the pattern of many lines at once that
PostgreSQL's COPY reads as `parse` does: nearly all lines of most files.

| reason        | the line |
| ------------- | -------- |
| `too_long`    | is longer than 1 MiB |
| `encoding`    | has bytes that are not of the file's encoding |
| `nul_byte`    | has a NUL, which PostgreSQL cannot store |
| `quoting`     | has an unclosed quote, text after a closing quote, or a quote in an unquoted field |
| `field_count` | does not have as many fields as the header |
| others        | has a column whose value is not valid: see `feeds.values` |

They are checked in this order, and columns in the order of the contract; the first that applies is the line's reason.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import re2

from feeds import values
from feeds.contract import Column, Feed
from feeds.values import Flaw, moment_of

MAX_LINE_BYTES = 1 << 20
UNFIT = "\0"  # in a dialect without quotes, the field of a value of another type
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_DAYS_KEPT = 64  # compiled patterns; rows of a file in any order have many days
_CLEAN_OPTIONS = re2.Options()
_CLEAN_OPTIONS.max_mem = 64 << 20  # bytes, for its automaton
_CLEAN_OPTIONS.log_errors = False


class Row(NamedTuple):
    """A valid row: its values as PostgreSQL reads them, None for null, and its time, if the feed has a time column."""

    values: tuple[str | None, ...]
    moment: datetime | None


class Reject(NamedTuple):
    """The reason why a line is not valid, and the column that it is about, if it is about one."""

    reason: str
    column: str | None = None

    def __str__(self) -> str:
        return f"{self.column}: {self.reason}" if self.column else self.reason


@dataclass(frozen=True)
class Dialect:
    """How lines are written: as PostgreSQL's COPY reads them, but perhaps with quotes, which only clean lines lack.

    Attributes:
        delimiter: between fields.
        quote: around fields; None if fields have no quotes, but the escapes of COPY's text format.
        null: the text of a missing value.
    """

    delimiter: str
    quote: str | None
    null: str

    def fields(self, line: bytes) -> list[str | None] | Reject:
        """Return the fields of LINE (UTF-8, no line end), None for null; or why it has none."""
        if len(line) > MAX_LINE_BYTES and self.quote:  # else it is longer than in the file, and the format has checked
            return Reject("too_long")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return Reject("encoding")
        if "\0" in text and self.quote:
            return Reject("nul_byte")
        fields = self.split(text)
        return Reject("quoting") if fields is None else fields

    def split(self, text: str) -> list[str | None] | None:
        """Return the fields of TEXT, None for null; or None if its quoting is invalid."""
        if self.quote is None:
            return [None if field == self.null else _unescaped(field) for field in text.split(self.delimiter)]
        if self.quote not in text:
            return [None if field == self.null else field for field in text.split(self.delimiter)]
        fields: list[str | None] = []
        position = 0
        while found := self._field.match(text, position):
            field = found[2] if found[1] is None else found[1].replace(self.quote * 2, self.quote)
            fields.append(None if field == self.null else field)
            if not found[3]:
                return fields
            position = found.end()
        return None

    def joined(self, fields: Sequence[str | None]) -> str:
        """Return the line of FIELDS, None for null, in a dialect with quotes."""
        return self.delimiter.join(self.null if field is None else self._quoted(field) for field in fields)

    def end_of_record(self, block: bytes, position: int, count: int, *, has_more: bool = False) -> int:
        """Return the line end that ends the record of COUNT fields at POSITION: a quoted field may have line ends.

        HAS_MORE: whether the file has more than BLOCK; the result is then -1 if the record may end there.
        """
        first = end = block.find(b"\n", position)
        if self.quote is None:
            return end
        quote = self.quote.encode()
        if block.count(quote, position, end) % 2 == 0:
            return end
        # A line end is within quotes as long as their number is odd: only a line with another quote can end the record.
        while (at := block.find(quote, end, position + MAX_LINE_BYTES)) >= 0:
            start, end = end, block.find(b"\n", at)
            if block.count(quote, start, end) % 2:
                if end - position > MAX_LINE_BYTES:
                    return first
                fields = self.split(block[position:end].decode(errors="replace"))
                return end if fields and len(fields) == count else first
        return -1 if has_more and len(block) - position <= MAX_LINE_BYTES else first

    def _quoted(self, field: str) -> str:
        assert self.quote is not None
        is_plain = field.isalnum() or not {self.delimiter, self.quote, "\n", "\r"} & set(field)
        return field if is_plain else self.quote + field.replace(self.quote, self.quote * 2) + self.quote

    @cached_property
    def _field(self) -> re.Pattern[str]:
        quote, delimiter = re.escape(self.quote or ""), re.escape(self.delimiter)
        return re.compile(
            f"(?:{quote}([^{quote}]*(?:{quote}{quote}[^{quote}]*)*){quote}|([^{quote}{delimiter}]*))({delimiter}|\\Z)"
        )


class Lines:
    """The lines of a file of FEED with COLUMNS, in their order there, written in DIALECT.

    Attributes:
        columns: the columns, as given.
        key_positions: where the primary key's columns are.
        time: the position of the time column, or None.
    """

    def __init__(self, feed: Feed, columns: Sequence[Column], dialect: Dialect) -> None:
        self.columns = tuple(columns)
        self.dialect = dialect
        names = [column.name for column in columns]
        self.key_positions = tuple(names.index(name) for name in feed.key)
        self.time = names.index(feed.time_column) if feed.time_column else None
        decimal, zone = feed.properties.csv.decimal, feed.properties.time_zone
        self._readers = [values.reader(column, decimal, zone) for column in columns]
        order = [column.name for column in feed.table_columns]
        self._order = sorted(range(len(names)), key=lambda position: order.index(names[position]))
        excluded = f"{dialect.delimiter}{dialect.quote or ''}\\\r\n\0"
        self._clean = [values.clean(column, excluded, dialect.null, decimal, zone) for column in columns]
        self._clean_time = values.clean_time(zone)
        delimiter = re.escape(dialect.delimiter)
        self._copied_field = re.compile(rf"((?:\\.|[^\\{delimiter}])*)(?:{delimiter}|\Z)", re.DOTALL)
        self._escapes = str.maketrans(_ESCAPES | {dialect.delimiter: f"\\{dialect.delimiter}"})
        separator = re.escape(dialect.delimiter)
        fields = [
            f"([^{separator}\n]*)" if n in self.key_positions else f"[^{separator}\n]*" for n in range(len(names))
        ]
        self._key_fields = re.compile((separator.join(fields) + "\n").encode())
        self._after_key = re.compile((f"{separator}[^\n]*\n" if len(names) > 1 else "\n").encode())
        self._canonical = {name: values.reader(feed.column(name)) for name in feed.key}
        self._null_as_text = "".join(f"\\x{byte:02x}" for byte in dialect.null.encode())
        self._day = re2.compile(self._day_pattern(), _CLEAN_OPTIONS) if self.time is not None else None
        self._days = re.compile((f"[^{separator}\n]*{separator}" * (self.time or 0) + "(.{10}).*\n").encode())
        self.clean_of_day = lru_cache(_DAYS_KEPT)(self._compiled)
        self.has_clean = all(self._clean)
        if self.has_clean:
            try:
                self._compiled(b"2000-01-01")
            except re2.error:  # too many columns with long patterns
                self.has_clean = False

    def parse(self, line: bytes) -> Row | Reject:
        """Return the row in LINE (UTF-8, no line end), or the reason why it is not valid."""
        fields = self.dialect.fields(line)
        if isinstance(fields, Reject):
            return fields
        if len(fields) != len(self.columns):
            return Reject("field_count")
        row: list[str | None] = [None] * len(fields)
        for position in self._order:
            column = self.columns[position]
            if (field := fields[position]) is None:
                if column.is_required:
                    return Reject("required", column.name)
                continue
            if field == UNFIT:
                return Reject("type", column.name)
            try:
                row[position] = self._readers[position](field)
            except Flaw as flaw:
                return Reject(flaw.args[0], column.name)
        moment = None if self.time is None else moment_of(row[self.time] or "")
        return Row(tuple(row), moment)

    def copied(self, row: Row) -> bytes:
        """Return ROW as a line that COPY reads in this dialect."""
        return (self.dialect.delimiter.join(map(self._field, row.values)) + "\n").encode()

    def copied_fields(self, line: bytes) -> list[str]:
        """Return the texts of the fields of LINE, a clean one or one that `copied` has returned."""
        fields = self._copied_field.findall(line.removesuffix(b"\n").decode())[: len(self.columns)]
        return [_unescaped(field) for field in fields]

    def copied_key(self, row: Row) -> bytes:
        """Return the key of ROW as the start of a line that COPY reads in this dialect."""
        return self.dialect.delimiter.join(map(self._field, self.key(row))).encode()

    def day_end(self, day: bytes) -> bytes:
        """Return DAY, `YYYY-MM-DD`, as the end of a line after a key, without a character that may be the delimiter."""
        return b"%b%b\n" % (self.dialect.delimiter.encode(), day.replace(b"-", b""))

    def _field(self, value: str | None) -> str:
        """Return VALUE as COPY reads it in this dialect; one that looks like the null token is written in escapes."""
        if value is None:
            return self.dialect.null
        return self._null_as_text if value == self.dialect.null else value.translate(self._escapes)

    def key(self, row: Row) -> tuple[str, ...]:
        """Return the primary key of ROW."""
        return tuple(str(row.values[position]) for position in self.key_positions)

    def key_of(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return the primary key whose columns' TEXTS PostgreSQL or a clean line has, as `key` returns it."""
        return tuple(
            moment_of(text).astimezone(UTC).isoformat()
            if column.type == "timestamp"
            else self._canonical[column.name](text)
            for column, text in zip((self.columns[position] for position in self.key_positions), texts, strict=True)
        )

    def keys(self, lines: bytes) -> list[tuple[str, ...]]:
        """Return the texts of the primary key's columns in each of LINES, which are clean."""
        delimiter = self.dialect.delimiter
        fields = (line.split(delimiter) for line in lines.decode().split("\n")[:-1])
        return [tuple(line[position] for position in self.key_positions) for line in fields]

    def key_lines(self, lines: bytes) -> list[bytes]:
        """Return the primary key of each of LINES, which are clean, with the delimiter between its columns."""
        delimiter = self.dialect.delimiter.encode()
        if self.key_positions == (0,):
            return self._after_key.split(lines)[:-1]
        found = self._key_fields.findall(lines)
        if len(self.key_positions) == 1:
            return found
        in_key = [sorted(self.key_positions).index(position) for position in self.key_positions]
        return [delimiter.join([fields[n] for n in in_key]) for fields in found]

    def end_of_record(self, block: bytes, position: int) -> int:
        """Return the line end that ends the record at POSITION of BLOCK."""
        return self.dialect.end_of_record(block, position, len(self.columns))

    def day(self, block: bytes, position: int) -> bytes | None:
        """Return the day, `YYYY-MM-DD`, of the line at POSITION of BLOCK, if it may be clean."""
        found = self._day.match(block, position) if self._day else None
        return found[1] if found else None

    def days(self, lines: bytes) -> list[bytes]:
        """Return the day of each of LINES, which are clean."""
        return self._days.findall(lines)

    def _compiled(self, day: bytes | None) -> Any:
        """Return the pattern of a run of clean lines; all of DAY, unless it is None."""
        fields = []
        for position, (column, pattern) in enumerate(zip(self.columns, self._clean, strict=True)):
            if position == self.time and day is not None:
                fields.append(day.decode() + (self._clean_time if column.type == "timestamp" else ""))
            else:
                fields.append(str(pattern))
        line = re2.escape(self.dialect.delimiter).join(fields)
        return re2.compile(f"(?:{line}\n)+", _CLEAN_OPTIONS)

    def _day_pattern(self) -> str:
        delimiter = re2.escape(self.dialect.delimiter)
        before = f"[^{delimiter}\n]*{delimiter}" * (self.time or 0)
        return f"{before}({values.CLEAN_DATE})"


_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_UNESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda found: _UNESCAPES.get(found[1], found[1]), field) if "\\" in field else field


def has_long_line(lines: bytes) -> bool:
    """Return whether one of LINES is `too_long`; the pattern of clean lines does not say, and a source has cut it."""
    return len(lines) > MAX_LINE_BYTES and max(map(len, lines.split(b"\n"))) > MAX_LINE_BYTES


def raw_text(line: bytes) -> str:
    r"""Return LINE as text that PostgreSQL can store.

    Bytes that are not UTF-8, and NULs, become `\xNN`; a line that is too long is cut.
    """
    if len(line) > MAX_LINE_BYTES:
        return raw_text(line[:1000]) + "…"
    return line.decode(errors="backslashreplace").replace("\0", "\\x00")
