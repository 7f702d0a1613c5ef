"""The rows of a CSV file, read one character after another."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from feeds.contract import Feed
from harness.oracle.row_values import LINE_LIMIT_BYTES, RejectedError, Row, each, value, with_others

CODECS = {"utf-8": "utf-8", "latin-1": "latin-1", "windows-1252": "cp1252"}


def csv_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a CSV file."""
    csv = feed.properties.csv
    lines = [line.removesuffix(b"\n") for line in file]
    while lines and not lines[0].removeprefix(b"\xef\xbb\xbf").strip():
        del lines[0]
    header = lines.pop(0).removesuffix(b"\r").decode(CODECS[csv.encoding]).removeprefix("\ufeff")
    headers = fields(header, csv.delimiter, csv.quote)
    position = 0
    while position < len(lines):
        record, taken = lines[position].removesuffix(b"\r"), 1
        if record.count(csv.quote.encode()) % 2:
            record, taken = whole_record(lines, position, len(headers), csv.delimiter, csv.quote)
        position += taken
        row = each(csv_row, feed, headers, record)
        if record.strip() or len(record) > LINE_LIMIT_BYTES or not isinstance(row, RejectedError):
            yield row


def whole_record(lines: Sequence[bytes], position: int, count: int, delimiter: str, quote: str) -> tuple[bytes, int]:
    """Return the record that begins at POSITION and has line ends in quotes, with its number of lines.

    LINES have the carriage returns of their ends; only those in quotes are part of the record.
    """
    text = lines[position]
    size = len(text.removesuffix(b"\r"))
    for taken, line in enumerate(lines[position + 1 :], 2):
        text += b"\n" + line
        size += 1 + len(line.removesuffix(b"\r"))
        if size > LINE_LIMIT_BYTES:
            break
        if text.count(quote.encode()) % 2 == 0:
            record = text.removesuffix(b"\r")
            with suppress(RejectedError):
                if len(fields(record.decode(errors="replace"), delimiter, quote)) == count:
                    return record, taken
            break
    return lines[position].removesuffix(b"\r"), 1


def csv_row(feed: Feed, headers: Sequence[str], record: bytes) -> Row:
    """Return the row in RECORD; raise RejectedError with the first reason against it."""
    csv = feed.properties.csv
    if len(record.decode(CODECS[csv.encoding], errors="surrogateescape").encode(errors="replace")) > LINE_LIMIT_BYTES:
        raise RejectedError("too_long")
    try:
        text = record.decode(CODECS[csv.encoding])
    except UnicodeDecodeError:
        raise RejectedError("encoding") from None
    if "\0" in text:
        raise RejectedError("nul_byte")
    texts = [None if field == csv.null_text else field for field in fields(text, csv.delimiter, csv.quote)]
    if len(texts) != len(headers):
        raise RejectedError("field_count")
    given = dict(zip(headers, texts, strict=True))
    row = {column.name: value(column, given.get(column.header), feed) for column in feed.columns}
    return with_others(feed, row, given)


def fields(text: str, delimiter: str, quote: str) -> list[str]:
    """Return the fields of TEXT; raise RejectedError if its quotes do not pair."""
    found: list[str] = []
    position = 0
    while True:
        if text[position : position + 1] == quote:
            content, position = "", position + 1
            while True:
                end = text.find(quote, position)
                if end < 0:
                    raise RejectedError("quoting")
                content += text[position:end]
                position = end + 1
                if text[position : position + 1] != quote:
                    break
                content, position = content + quote, position + 1
        else:
            end = text.find(delimiter, position)
            end = len(text) if end < 0 else end
            content, position = text[position:end], end
            if quote in content:
                raise RejectedError("quoting")
        found.append(content)
        if position == len(text):
            return found
        if text[position] != delimiter:
            raise RejectedError("quoting")
        position += 1
