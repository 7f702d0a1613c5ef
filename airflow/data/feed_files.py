"""Write rows as a file of a feed: CSV, JSON Lines or Parquet; a share of them unreadable, if asked for."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any, BinaryIO

from feed_rows import MOST_FRACTION, Row, is_turn

from feeds.contract import Column, Feed

BATCH_ROWS = 1 << 16
_CODECS = {"windows-1252": "cp1252"}


def write_rows(feed: Feed, rows: Iterable[Row], file: BinaryIO, bad: Fraction = Fraction(0)) -> None:
    """Write ROWS to FILE in the format of FEED; the share BAD of them is made unreadable, each in another way."""
    if feed.format == "parquet":
        _write_parquet(feed, _without_required(feed, rows, bad), file)
        return
    lines = _csv_lines(feed, rows, bad) if feed.format == "csv" else _json_lines(feed, rows, bad)
    file.writelines(lines)
    file.flush()


def _csv_lines(feed: Feed, rows: Iterable[Row], bad: Fraction) -> Iterator[bytes]:
    options = feed.properties.csv
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=options.delimiter, quotechar=options.quote, lineterminator="\n")
    codec = _CODECS.get(options.encoding, options.encoding)
    numbers = [place for place, column in enumerate(feed.columns) if column.type == "number"]

    def line(fields: Sequence[str]) -> bytes:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(fields)
        return buffer.getvalue().encode(codec, errors="replace")

    yield line([column.header for column in feed.columns])
    turn = 0
    for number, row in enumerate(rows):
        fields = [options.null_text if text is None else text for text in row]
        for place in numbers:
            fields[place] = fields[place].replace(".", options.decimal)
        if not is_turn(bad, number):
            yield line(fields)
            continue
        broken = (
            line(_replaced(feed, fields, options.null_text)),
            line([*fields, "more"]),
            line(fields)[:-1] + f"{options.delimiter}{options.quote}open\n".encode(),
            line(_replaced(feed, fields, "\0")),
        )
        yield broken[turn % len(broken)]
        turn += 1


def _json_lines(feed: Feed, rows: Iterable[Row], bad: Fraction) -> Iterator[bytes]:
    headers = [json.dumps(column.header, ensure_ascii=False) for column in feed.columns]
    is_text = [column.type not in ("integer", "number", "boolean", "json") for column in feed.columns]
    turn = 0
    for number, row in enumerate(rows):
        texts = [
            "null" if text is None else json.dumps(text, ensure_ascii=False) if quoted else text
            for text, quoted in zip(row, is_text, strict=True)
        ]
        line = "{" + ", ".join(map(": ".join, zip(headers, texts, strict=True))) + "}"
        if is_turn(bad, number):
            missing = ", ".join(map(": ".join, zip(headers, _replaced(feed, texts, "null"), strict=True)))
            line = (line[:-1], "{" + missing + "}", line[:-1] + ', "unknown column": 1}')[turn % 3]
            turn += 1
        yield f"{line}\n".encode()


def _without_required(feed: Feed, rows: Iterable[Row], bad: Fraction) -> Iterator[Row]:
    """Yield ROWS, the share BAD of them without the value of a required column: Parquet has no other bad rows."""
    for number, row in enumerate(rows):
        yield _replaced(feed, row, None) if is_turn(bad, number) else row


def _replaced(feed: Feed, row: Sequence[Any], text: str | None) -> list[Any]:
    """Return ROW with TEXT as the value of the first column of the key."""
    replaced = list(row)
    replaced[[column.name for column in feed.columns].index(feed.key[0])] = text
    return replaced


def _write_parquet(feed: Feed, rows: Iterator[Row], file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(column: Column) -> Any:
        kinds = {
            "integer": pa.int64(),
            "number": pa.decimal128(38, min(column.digits[1], MOST_FRACTION) if column.digits else MOST_FRACTION),
            "boolean": pa.bool_(),
            "date": pa.date32(),
            "timestamp": pa.timestamp("us", "UTC"),
        }
        return kinds.get(column.type, pa.string())

    def array(texts: Sequence[str | None], column: Column) -> Any:
        if column.type == "number":
            return pa.array([None if text is None else Decimal(text) for text in texts], kind(column))
        if column.type == "timestamp":
            texts = [None if text is None else text.removesuffix("Z") for text in texts]
            return pa.array(texts).cast(pa.timestamp("us")).cast(kind(column))
        return pa.array(texts, pa.string()).cast(kind(column))

    schema = pa.schema([(column.header, kind(column)) for column in feed.columns])
    with pq.ParquetWriter(file, schema) as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            columns = [
                array(texts, column) for texts, column in zip(zip(*batch, strict=True), feed.columns, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
