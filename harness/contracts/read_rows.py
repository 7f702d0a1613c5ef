"""Rows of a file, read as a load reads them, but without a warehouse."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from feeds import formats
from feeds.contract import Feed
from feeds.lines import Lines, Reject, Row
from feeds.source import Source
from harness.contracts.file_layout import is_utf8


class Valid(NamedTuple):
    """A valid row that is not clean, and its fields as they are written."""

    row: Row
    fields: list[str | None]


class Invalid(NamedTuple):
    """A raw record, and why it is rejected."""

    raw: bytes
    reject: Reject


Found = bytes | Valid | Invalid  # bytes are a run of clean lines


def each_row(source: Source, feed: Feed) -> Iterator[tuple[int, bytes, Row | Reject]]:
    """Yield the line number, the raw record and the row of each record of SOURCE."""
    rows = formats.read(source, feed)
    lines = Lines(feed, rows.columns, rows.dialect)
    for block in rows.blocks:
        position, number = 0, block.line_number
        while position < len(block.lines):
            end = lines.end_of_record(block.lines, position)
            record = block.record(position, end)
            if record.strip() or block.raw is not None:
                place = number - block.line_number
                # Rows of Parquet take long to write as JSON.
                raw = record if block.raw is None or feed.format == "parquet" else block.raw[place]
                if raw.strip():
                    yield number, raw, block.flaws.get(place) or lines.parse(record)
            number += block.lines.count(b"\n", position, end + 1)
            position = end + 1


def runs_of_rows(source: Source, feed: Feed) -> Iterator[tuple[int, Found, Lines]]:
    """Yield all rows of SOURCE in their order, each run with the number of its first line."""
    rows = formats.read(source, feed)
    lines = Lines(feed, rows.columns, rows.dialect)
    decimal = feed.properties.csv.decimal
    rewritten = re.compile(rf"[+]|(?<![0-9{decimal}])0[0-9]")
    for block in rows.blocks:
        text, position, number = block.lines, 0, block.line_number
        pattern = lines.clean_of_day(None) if lines.has_clean and is_utf8(text) else None
        while position < len(text):
            if pattern and (run := pattern.match(text, position)):
                clean = text[position : run.end()]
                yield number, clean, lines
                number += clean.count(b"\n")
                position = run.end()
                continue
            end = lines.end_of_record(text, position)
            record, place = block.record(position, end), number - block.line_number
            row = block.flaws.get(place) or lines.parse(record)
            if isinstance(row, Row) and block.raw is None and rewritten.search(record.decode()):
                row = _rewritten(record, lines) or row
            if isinstance(row, Row):
                yield number, Valid(row, lines.dialect.split(record.decode()) or []), lines
            elif (raw := record if block.raw is None else block.raw[place]).strip():
                yield number, Invalid(raw, row), lines
            number += text.count(b"\n", position, end + 1)
            position = end + 1


def _rewritten(record: bytes, lines: Lines) -> Reject | None:
    """Return a reason against RECORD if a number in it has zeros or a plus sign before it: it is most likely a code."""
    for column, text in zip(lines.columns, lines.dialect.split(record.decode()) or (), strict=True):
        if column.type in ("integer", "number") and text and re.match(r"\+|-?0[0-9]", text):
            return Reject("type", column.name)
    return None
