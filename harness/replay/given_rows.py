"""The rows of a user's files, or of a feed's sample, that a script is made of."""

from collections.abc import Iterator
from datetime import date
from itertools import islice
from typing import Any

import psycopg

from feeds.contract import Feed
from feeds.interval import ALWAYS
from feeds.uri import shown
from harness.errors import UsageError
from harness.oracle.file_rows import rows as rows_of_file
from harness.oracle.raw_rows import checked, moment_of
from harness.oracle.row_values import RejectedError, Row, written
from harness.pipeline.feed_files import check_files
from harness.replay.delivered_file import row_of
from harness.replay.script import Script, Texts
from harness.reporting.console import say

MOST_ROWS = 20_000  # of a user's file: each run reads all of them


def user_rows(feed: Feed, uri: str) -> list[tuple[date, Texts]]:
    """Return the first valid rows of FEED in the files at URI, each with its day, one for each key.

    Raises:
        UsageError: there is none.
        FeedError: the files cannot be read.
    """
    check_files(feed, uri, ALWAYS)
    rows = valid_rows(feed, uri)
    found = {tuple(row[name] for name in feed.key): row for row in islice(rows, MOST_ROWS)}
    if not found:
        raise UsageError(
            f"{shown(uri)} has no valid row of {feed.name}.",
            "It is most likely a file of another feed.",
            "See what a valid row is: docs/contracts.md",
        )
    days = [day_of(feed, row) for row in found.values()]
    are_first = "the first " if next(rows, None) else ""
    say(f"  {are_first}{len(found):,} rows of {shown(uri)}, {min(days)} to {max(days)}")
    names = [column.name for column in feed.columns]
    texts = [(day_of(feed, row), tuple(text_of(row[name]) for name in names)) for row in found.values()]
    return sorted(texts, key=lambda item: item[0])


def without_refused(script: Script, feed: Feed, connection: psycopg.Connection[Any]) -> Script:
    """Return SCRIPT without the rows that a rule of FEED refuses, which the server of CONNECTION evaluates.

    A corrected row has values of two rows, which a rule may not allow together.
    """
    texts = [row for delivery in script.deliveries for row in delivery.rows]
    typed: Iterator[Row | RejectedError] = (row_of(feed, row) for row in texts)
    results = zip(texts, checked(feed, typed, connection), strict=True)
    valid = {row for row, result in results if not isinstance(result, RejectedError)}
    deliveries = (
        delivery.model_copy(update={"rows": tuple(row for row in delivery.rows if row in valid)})
        for delivery in script.deliveries
    )
    return script.model_copy(update={"deliveries": tuple(deliveries)})


def valid_rows(feed: Feed, uri: str) -> Iterator[Row]:
    """Yield the rows of the files at URI that are valid, rules aside."""
    for row in rows_of_file(feed, uri):
        if not isinstance(row, RejectedError):
            yield row


def day_of(feed: Feed, row: Row) -> date:
    """Return the day of ROW, in UTC."""
    return moment_of(row[str(feed.time_column)]).date()


def text_of(value: Any) -> str | None:
    """Return VALUE as a CSV file has it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return written(value)
    return str(value)
