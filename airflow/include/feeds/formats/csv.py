"""CSV files: their header, and records of several lines."""

import re
from collections.abc import Iterator, Sequence

from feeds import errors
from feeds.contract import Column, Feed
from feeds.formats.rows import Block, Rows
from feeds.lines import MAX_LINE_BYTES, Dialect, raw_text
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
    blocks = _utf8(source.blocks, csv.encoding)
    line_number, header, rest = 1, b"", b""
    for block in blocks:
        lines = block.removeprefix(_BYTE_ORDER_MARK) if line_number == 1 else block
        blank = len(lines) - len(lines.lstrip(b"\r\n \t"))
        begin = lines.rfind(b"\n", 0, blank) + 1
        line_number += lines.count(b"\n", 0, begin)
        if blank < len(lines):
            header, _, rest = lines[begin:].partition(b"\n")
            line_number += 1
            break
    else:
        expected = csv.delimiter.join(column.header for column in feed.columns)
        raise errors.SourceEmpty(
            f"{shown(source.uri)} is empty.",
            "Its export most likely failed or has not finished.",
            f"Export it again; a file without rows has one line: {expected}",
        )
    columns = _columns(header.removesuffix(b"\r"), source.uri, feed)

    def rows() -> Iterator[Block]:
        number = line_number
        for lines in _records(rest, blocks, csv.quote.encode()):
            text = lines.replace(b"\r\n", b"\n") if b"\r" in lines else lines
            yield Block(text, number)
            number += text.count(b"\n")

    return Rows(columns, Dialect(csv.delimiter, csv.quote, csv.null), rows(), header)


def _utf8(blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    if encoding == "utf-8":
        yield from blocks
        return
    codec = _CODECS[encoding]
    for block in blocks:
        # A byte that the encoding does not have becomes one that is not UTF-8: its line is rejected.
        yield block.decode(codec, errors="surrogateescape").encode(errors="surrogateescape")


def _records(rest: bytes, blocks: Iterator[bytes], quote: bytes) -> Iterator[bytes]:
    """Yield REST and BLOCKS so that a record of several lines is in one of them, unless it is too long."""
    begun = rest
    for block in blocks:
        if begun and (begun.count(quote) % 2 == 0 or len(begun) > MAX_LINE_BYTES):
            yield begun
            begun = b""
        begun = begun + block if begun else block
    if begun:
        yield begun


def _columns(header: bytes, uri: str, feed: Feed) -> Sequence[Column]:
    """Return the columns that HEADER names, in its order, or raise WrongHeader."""
    csv = feed.properties.csv
    quote, delimiter = re.escape(csv.quote), re.escape(csv.delimiter)
    field = re.compile(
        f"(?:{quote}([^{quote}]*(?:{quote}{quote}[^{quote}]*)*){quote}|([^{quote}{delimiter}]*))({delimiter}|\\Z)"
    )
    text, names, position = header.decode(errors="replace"), [], 0
    while found := field.match(text, position):
        names.append(found[2] if found[1] is None else found[1].replace(csv.quote * 2, csv.quote))
        if not found[3]:
            break
        position = found.end()
    expected = [column.header for column in feed.columns]
    if names == expected:
        return feed.columns
    by_header = {column.header: column for column in feed.columns}
    if feed.properties.drift.column_order == "accept" and sorted(names) == sorted(expected):
        return [by_header[name] for name in names]
    begins = without_secrets(raw_text(header[:1000]), uri)[:100]  # a web server's error page may quote the URL
    raise errors.WrongHeader(
        f"{shown(uri)} does not begin with the header of {feed.name}: {begins!r}",
        "It is most likely another file, or was exported with other columns or another separator.",
        f"Export it with the first line {csv.delimiter.join(expected)}",
    )
