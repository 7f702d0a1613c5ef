"""Which side is right: the rows of the marts that can be computed without the models, beside those of each side."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import sql

from feeds.contract import Feed
from feeds.interval import ALWAYS
from harness.diff.pairing import Table
from harness.diff.results import Verdict
from harness.oracle import raw_rows
from harness.oracle.checks import EXPECTED, compare_file
from harness.oracle.expected_numbers import COLUMNS, EVENT, AllMarts, Event, Rows, add_event

MARTS = {mart.partition(".")[2]: mart for mart in COLUMNS}  # `dim_date` is `dim.dim_date` there, whatever its schema
EVENTS_AT_ONCE = 50_000


def of_raw_table(connection: psycopg.Connection[Any]) -> dict[str, Rows]:
    """Return the rows that each mart must have, computed from the rows of raw.events."""
    marts = AllMarts()
    with connection.transaction(), connection.cursor(name="events") as cursor:
        cursor.itersize = EVENTS_AT_ONCE
        columns = sql.SQL(", ").join(map(sql.Identifier, EVENT))
        for row in cursor.execute(sql.SQL("select {} from raw.events").format(columns)):
            marts.add(Event(*row))
    return marts.rows()


def of_files(feed: Feed, uri: str, connection: psycopg.Connection[Any]) -> dict[str, Rows]:
    """Return the rows that each mart must have, computed from the files of FEED, the marketplace's events, at URI.

    There are none if its contract does not have the columns that they are computed from.
    """
    if not set(EVENT) <= {column.name for column in feed.columns}:
        return {}
    marts = AllMarts()
    raw_rows.expected(feed, uri, ALWAYS, connection, partial(add_event, marts))
    return marts.rows()


def verdict(
    connection: psycopg.Connection[Any],
    table: Table,
    expected: Mapping[str, Rows],
    *,
    are_samples: bool,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> Verdict | None:
    """Return whether TABLE has the rows EXPECTED of it; None if these are not known.

    If the files ARE_SAMPLES, those in `dbt/tests/expected` are known, too. RENAMED are the present names of columns, by
    the names that are expected.
    """
    path = EXPECTED / f"{table.name}.csv"
    if are_samples and path.exists():
        check = compare_file(connection, path)
        return Verdict(check.passed, "" if check.passed else f"expected {check.expected}; found {check.actual}")
    mart = MARTS.get(table.name, "")
    if mart not in expected:
        return None
    columns = [renamed.get(name, name) for name in COLUMNS[mart]]
    if missing := [name for name in columns if name not in table.columns]:
        return Verdict(False, f"it has no column {', '.join(missing)}")
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    found = connection.execute(sql.SQL("select {} from {}").format(names, table.identifier)).fetchall()
    rows, distinct = expected[mart], set(found)
    lacking, others, repeated = len(rows - distinct), len(distinct - rows), len(found) - len(distinct)
    wrong = [f"it lacks {lacking:,} of the expected rows, and has {others:,} others"] if lacking or others else []
    if repeated:
        wrong.append(f"{repeated:,} of its rows repeat others")
    return Verdict(not wrong, "; ".join(wrong))
