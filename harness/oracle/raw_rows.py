"""What a feed's raw table must hold after a load, computed from its files and its contract, and what it does hold.

It shares no code with the load but the contract and how files are found: see `harness.oracle.file_rows`. Rules, which
are SQL, are asked of PostgreSQL.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb, set_json_loads

from feeds.contract import Column, Feed
from feeds.interval import Interval
from harness.oracle.file_rows import rows
from harness.oracle.row_values import RejectedError, Row, written

EXACT = Context(prec=4_000)  # digits; a number has at most 1000 before and after the point
AT_ONCE = 5_000  # rows whose rules are asked of PostgreSQL

Reason = tuple[str, str | None]  # the reason and the column


@dataclass
class RawRows:
    """The rows of a load.

    Attributes:
        read: in the files.
        rows: the valid ones of the interval, a digest of each by its key.
        outside: the number of valid ones outside the interval.
        rejected: the others by reason and column.
        sums, smallest, largest: of the columns that are numbers or times.
    """

    read: int = 0
    rows: dict[tuple[Any, ...], bytes] = field(default_factory=dict)
    outside: int = 0
    rejected: Counter[Reason] = field(default_factory=Counter)
    sums: dict[str, Decimal] = field(default_factory=dict)
    smallest: dict[str, Any] = field(default_factory=dict)
    largest: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A digest of all rows, whatever their order."""
        return hashlib.sha256(b"".join(sorted(self.rows.values()))).hexdigest()

    def add(self, key: tuple[Any, ...], row: Row) -> None:
        """Add a valid row of the interval."""
        self.rows[key] = hashlib.sha256(repr([canonical(value) for value in row.values()]).encode()).digest()
        for name, value in row.items():
            if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
                self.sums[name] = EXACT.add(self.sums.get(name, Decimal(0)), Decimal(value))
            if isinstance(value, (int, Decimal, date)) and not isinstance(value, bool):
                self.smallest[name] = min(value, self.smallest.get(name, value))
                self.largest[name] = max(value, self.largest.get(name, value))


def expected(
    feed: Feed,
    uri: str,
    interval: Interval,
    connection: psycopg.Connection[Any],
    each: Callable[[Row], None] | None = None,
) -> RawRows:
    """Return what a load of the files at URI must leave in FEED's raw table for INTERVAL.

    CONNECTION evaluates rules, and EACH is called with every row that the table must have.

    Raises:
        FeedError: a file cannot be found or opened.
    """
    found = RawRows()
    seen: set[tuple[Any, ...]] = set()
    for row in checked(feed, rows(feed, uri, interval), connection):
        found.read += 1
        if isinstance(row, RejectedError):
            found.rejected[row.args] += 1
            continue
        key = tuple(row[name] for name in feed.key)
        if key in seen:
            found.rejected["duplicate_key", None] += 1
            continue
        seen.add(key)
        if feed.time_column and moment_of(row[feed.time_column]) not in interval:
            found.outside += 1
            continue
        found.add(key, row)
        if each:
            each(row)
    return found


def actual(feed: Feed, connection: psycopg.Connection[Any]) -> RawRows:
    """Return what is in FEED's raw table and in its quarantine."""
    found = RawRows()
    names = [column.name for column in feed.table_columns]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    with connection.cursor(name="raw_rows") as cursor:
        set_json_loads(partial(json.loads, parse_float=Decimal, parse_int=Decimal), cursor)
        for values in cursor.execute(sql.SQL("select {} from {}").format(columns, sql.Identifier("raw", feed.name))):
            row = dict(zip(names, values, strict=True))
            found.add(tuple(row[name] for name in feed.key), row)
    for reason, column, count in connection.execute(
        "select reason, column_name, count(*) from raw.rejected_rows where feed = %s group by 1, 2", (feed.name,)
    ):
        found.rejected[reason, column] = count
    return found


def checked(
    feed: Feed, found: Iterator[Row | RejectedError], connection: psycopg.Connection[Any]
) -> Iterator[Row | RejectedError]:
    """Yield the rows FOUND, or the first rule that one breaks."""
    if not feed.rules:
        yield from found
        return
    cases = sql.SQL(" ").join(
        sql.SQL("when not ({}) then {}").format(sql.SQL(r.sql.replace("%", "%%")), r.name) for r in feed.rules
    )
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in feed.table_columns)
    types = sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(column.sql_type)) for column in feed.table_columns)
    query = sql.SQL("select case {} end from (select {}) as row ({})").format(cases, types, names)
    while some := list(islice(found, AT_ONCE)):
        valid = [
            [stored(column, row[column.name]) for column in feed.table_columns]
            for row in some
            if not isinstance(row, RejectedError)
        ]
        broken = []
        if valid:
            cursor = connection.cursor()
            cursor.executemany(query, valid, returning=True)
            broken = [rule for result in cursor.results() for (rule,) in result]
        results = iter(broken)
        for row in some:
            rule = None if isinstance(row, RejectedError) else next(results)
            yield RejectedError("rule", rule) if rule else row


def moment_of(found: date | datetime) -> datetime:
    """Return the moment that a time column's value is in an interval of time, for a date its first one."""
    return found if isinstance(found, datetime) else datetime(found.year, found.month, found.day, tzinfo=UTC)


def stored(column: Column, found: Any) -> Any:
    """Return FOUND, a value of COLUMN, as psycopg writes it."""
    return Jsonb(found, dumps=written) if column.type == "json" and found is not None else found


def canonical(found: Any) -> Any:
    """Return FOUND so that equal values look equal."""
    if isinstance(found, Decimal):
        text = format(found, "f")
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text == "-0" else text
    if isinstance(found, datetime):
        return found.astimezone(UTC).isoformat()
    if isinstance(found, dict):
        return {key: canonical(found[key]) for key in sorted(found)}
    if isinstance(found, list):
        return [canonical(item) for item in found]
    return str(found) if isinstance(found, (UUID, date)) else found
