"""CSV files: their header, records of several lines, and columns that the contract does not have."""

import re
from collections.abc import Iterator, Sequence

from feeds import errors
from feeds.contract import OTHER_COLUMNS, Column, Feed
from feeds.formats import drift
from feeds.formats.rows import Block, RawRecords, Rows, to_json
from feeds.lines import Dialect, Reject, has_long_line, raw_text
from feeds.source import Source
from feeds.uri import shown, without_secrets

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CODECS = {"latin-1": "latin-1", "windows-1252": "cp1252"}


def read(source: Source, feed: Feed) -> Rows:
    """Return the rows of SOURCE after its header.

    Raises:
        SourceEmpty, WrongHeader: see there.
    """
    csv = feed.properties.csv
    blocks = _text(source.blocks, csv.encoding)
    line_number, header, rest = 1, b"", b""
    for block in blocks:
        lines = block.removeprefix(_BYTE_ORDER_MARK) if line_number == 1 else block
        blank = len(lines) - len(lines.lstrip(b"\r\n \t"))
        begin = lines.rfind(b"\n", 0, blank) + 1
        line_number += lines.count(b"\n", 0, begin)
        if blank < len(lines):
            header, _, rest = lines[begin:].partition(b"\n")
            header = header.removesuffix(b"\r")
            line_number += 1
            break
    else:
        expected = csv.delimiter.join(column.header for column in feed.columns)
        raise errors.SourceEmpty(
            f"{shown(source.uri)} is empty.",
            "Its export most likely failed or has not finished.",
            f"Export it again; a file without rows has one line: {expected}",
        )
    dialect = Dialect(csv.delimiter, csv.quote, csv.null_text)
    names, columns = _columns(header, dialect, source.uri, feed)
    cut = _Cut(names, columns, dialect, feed) if len(columns) < len(names) else None

    def rows() -> Iterator[Block]:
        number, quote = line_number, csv.quote.encode()
        for lines, text in _records(rest, blocks, dialect, len(names)):
            has_returns = len(lines) < len(text) and quote in text
            block = Block(lines, number, original=text if has_returns else None)
            yield cut.block(block) if cut else block
            number += lines.count(b"\n")

    return Rows(cut.columns if cut else columns, dialect, rows(), header)


def _text(blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield BLOCKS, whose lines have ENCODING, in UTF-8."""
    codec = _CODECS.get(encoding)
    for block in blocks:
        # A byte that the encoding does not have becomes one that is not UTF-8: its line is rejected.
        yield block.decode(codec, errors="surrogateescape").encode(errors="surrogateescape") if codec else block


def _records(rest: bytes, blocks: Iterator[bytes], dialect: Dialect, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield REST and BLOCKS so that each record of COUNT fields, which may have several lines, is in one of them.

    Each comes twice: without carriage returns before line ends, and as it is.
    """
    for block in blocks:
        text = rest + block if rest else block
        lines, rest = _lines(text), b""
        end = _end_of_records(lines, dialect, count)
        if end < len(lines):  # TEXT has as many lines from there on
            at = len(text.rsplit(b"\n", lines.count(b"\n", end) + 1)[0]) + 1 if end else 0
            text, rest = text[:at], text[at:]
        if end:
            yield lines[:end], text
    if rest:
        yield _lines(rest), rest


def _lines(text: bytes) -> bytes:
    """Return TEXT without carriage returns before line ends."""
    return text.replace(b"\r\n", b"\n") if b"\r" in text else text


def _end_of_records(block: bytes, dialect: Dialect, count: int) -> int:
    """Return where the last record begins if it may end after BLOCK; else the end of BLOCK."""
    quote, position = str(dialect.quote).encode(), 0
    while (at := block.find(quote, position)) >= 0:
        start = max(block.rfind(b"\n", position, at) + 1, position)
        end = dialect.end_of_record(block, start, count, has_more=True)
        if end < 0:
            return start
        position = end + 1
    return len(block)


def _columns(header: bytes, dialect: Dialect, uri: str, feed: Feed) -> tuple[list[str], tuple[Column, ...]]:
    """Return the names in HEADER, and the columns that they are of, in its order."""
    found = dialect.split(header.decode(errors="replace")) or []
    names = [dialect.null if name is None else name for name in found]
    expected = [column.header for column in feed.columns]
    if not set(names) & set(expected):
        begins = without_secrets(raw_text(header[:1000]), uri)[:100]  # a web server's error page may quote the URL
        raise errors.WrongHeader(
            f"{shown(uri)} does not begin with the header of {feed.name}: {begins!r}",
            "It is most likely another file, or was exported in another format, with another separator or encoding.",
            f"Export it with the first line {dialect.delimiter.join(expected)}",
        )
    return names, drift.columns_of(names, feed, uri, is_ordered=True)


class _Cut:
    """Takes the fields of columns that the contract does not have out of lines, and keeps them if it says so.

    Lines without quotes are cut many at once.
    """

    def __init__(self, names: Sequence[str], columns: Sequence[Column], dialect: Dialect, feed: Feed) -> None:
        self._is_kept = feed.properties.drift.new_column == "keep"
        self.columns = (*columns, OTHER_COLUMNS) if self._is_kept else tuple(columns)
        self._names = names
        self._dialect = dialect
        self._quote = str(dialect.quote).encode()
        headers = {column.header for column in columns}
        self._taken = [position for position, name in enumerate(names) if name in headers]
        self._others = [position for position, name in enumerate(names) if name not in headers]
        self._line = re.compile(self._expression().encode(), re.MULTILINE)

    def block(self, whole: Block) -> Block:
        """Return the records of WHOLE cut; each line stays where it is."""
        text = whole.lines
        pieces: list[bytes] = []
        flaws: dict[int, Reject] = {}
        empty: set[int] = set()
        one_by_one = self._is_kept or has_long_line(text)
        position = number = 0  # bytes and lines
        while position < len(text):
            quote = text.find(self._quote, position)
            end = len(text) if quote < 0 else text.rfind(b"\n", position, quote) + 1
            if end > position and not one_by_one:
                found = self._line.split(text[position:end])
                groups = self._line.groups + 1
                if any(found[::groups]):  # lines between those that were cut
                    at = number
                    for start in range(0, len(found), groups):
                        lines = found[start].split(b"\n")[:-1]
                        cut = (self._cut(line + b"\n", n, flaws, empty) for n, line in enumerate(lines, at))
                        found[start] = b"".join(cut)
                        at += len(lines) + 1
                pieces += found
            else:
                end = self._dialect.end_of_record(text, position, len(self._names)) + 1
                pieces.append(self._cut(whole.record(position, end - 1) + b"\n", number, flaws, empty))
            number += text.count(b"\n", position, end)
            position = end
        raw = RawRecords(whole, self._dialect, len(self._names), empty)
        return Block(b"".join(pieces), whole.line_number, raw, flaws)

    def _expression(self) -> str:
        """Return the expression of a line without quotes, whose groups are what is left of it."""
        delimiter = re.escape(self._dialect.delimiter)
        field = f"[^{delimiter}\n\0]*"
        parts = []
        for position in range(len(self._names)):
            after = delimiter if position < len(self._names) - 1 else ""
            if position not in self._taken:
                parts.append(field + after)
            elif position == self._taken[-1]:
                parts.append(f"({field}){after}")
            else:
                parts.append(f"({field}{after})")
        return "^" + "".join(parts).replace(")(", "") + "(\n)"

    def _cut(self, record: bytes, number: int, flaws: dict[int, Reject], empty: set[int]) -> bytes:
        """Return RECORD, with its line end, cut, and with as many line ends as before; its first line has NUMBER."""
        fields = self._dialect.fields(record[:-1])
        text = b"\0\n"
        if isinstance(fields, Reject):
            flaws[number] = fields
        elif len(fields) != len(self._names):
            flaws[number] = Reject("field_count")
        else:
            left = [fields[position] for position in self._taken]
            if self._is_kept:
                left.append(to_json({self._names[position]: fields[position] for position in self._others}))
            text = self._dialect.joined(left).encode() + b"\n"
        lines, lines_before = text.count(b"\n"), record.count(b"\n")
        added = range(number + lines, number + lines_before)
        empty.update(added)
        flaws.update(dict.fromkeys(added, Reject("field_count")))  # else it may be a row of one empty field
        return text + b"\0\n" * len(added)
