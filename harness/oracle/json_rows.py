"""The rows of a file with a JSON object on each line."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from feeds.contract import Column, Feed
from harness.oracle.row_values import (
    LINE_LIMIT_BYTES,
    MOST_DIGITS,
    MOST_LEVELS,
    KeyTwiceError,
    Number,
    RejectedError,
    Row,
    depth,
    each,
    exponent,
    once,
    refused,
    strings,
    value,
    with_others,
    written,
)


def json_rows(feed: Feed, file: Any) -> Iterator[Row | RejectedError]:
    """Yield the rows of a file with a JSON object on each line."""
    for number, line in enumerate(file):
        text = line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").removesuffix(b"\n").removesuffix(b"\r")
        if text.strip() or len(text) > LINE_LIMIT_BYTES:
            yield each(json_row, feed, text)


def json_row(feed: Feed, line: bytes) -> Row:
    """Return the row in LINE; raise RejectedError with the first reason against it."""
    if len(line) > LINE_LIMIT_BYTES:
        raise RejectedError("too_long")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise RejectedError("encoding") from None
    try:
        given = json.loads(text, object_pairs_hook=once, parse_int=Number, parse_float=Number, parse_constant=refused)
    except KeyTwiceError:
        raise RejectedError("key_twice") from None
    except (ValueError, RecursionError):
        raise RejectedError("json") from None
    if not isinstance(given, dict) or depth(text) > MOST_LEVELS:
        raise RejectedError("json")
    if feed.properties.drift.new_column == "refuse" and (
        new := sorted(given.keys() - {column.header for column in feed.columns})
    ):
        raise RejectedError("unknown_column", new[0])
    own = {column.header: column.type for column in feed.columns}
    is_kept = feed.properties.drift.new_column == "keep"
    plain = [item for key, item in given.items() if own.get(key) in ("string", "date", "timestamp", "uuid")]
    plain = [item for item in plain if isinstance(item, str) and not isinstance(item, Number)]
    if any("\0" in item for item in plain):
        raise RejectedError("nul_byte")
    stored = [{key: item} for key, item in given.items() if own.get(key, is_kept and "json") == "json"]
    if any(re.search("[\ud800-\udfff]", text) for text in (*plain, *strings(stored))):
        raise RejectedError("encoding")
    row = {column.name: json_value(column, given.get(column.header), feed) for column in feed.columns}
    return with_others(feed, row, given)


def json_value(column: Column, given: Any, feed: Feed) -> Any:
    """Return the column's value in GIVEN; raise RejectedError if it is of another type, or not valid."""
    is_number, is_text = isinstance(given, Number), isinstance(given, str) and not isinstance(given, Number)
    if given is None:
        return value(column, None, feed)
    if column.type == "json":
        return value(column, written(given), feed)
    if isinstance(given, bool) and column.type == "boolean":
        return given
    if is_number and column.type in ("integer", "number") and abs(exponent(given)) <= MOST_DIGITS:
        return value(column, format(Decimal(given), "f"), feed)
    if is_text and column.type not in ("integer", "number", "boolean"):
        return value(column, given, feed)
    raise RejectedError("type", column.name)
