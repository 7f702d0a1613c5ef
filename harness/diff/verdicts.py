"""Which side is right: the rows of the marts that can be computed without the models, beside those of each side."""

from collections.abc import Mapping
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
from harness.oracle.expected_numbers import COLUMNS, EVENT, Event, Marts, Rows, proposal

Expected = dict[str, Rows]  # by mart, in the order of COLUMNS
NAMES = {name.partition(".")[2]: name for name in COLUMNS}  # `dim_date` is `dim.dim_date` there
EVENTS_AT_ONCE = 50_000


class Computed:
    """The rows of the marketplace's marts, of the events that are added."""

    def __init__(self) -> None:
        self.marts, self.facts = Marts(), set[tuple[Any, ...]]()

    def add(self, event: Event) -> None:
        """Add EVENT."""
        self.marts.add(event)
        if event.event_type == "proposed":
            self.facts.add(proposal(event))

    def rows(self) -> Expected:
        """Return the rows of each mart."""
        contents = self.marts.rows() | {"fact.fct_events": self.facts}
        return {name: contents[full] for name, full in NAMES.items()}


def of_raw_table(connection: psycopg.Connection[Any]) -> Expected:
    """Return what the marts must hold, computed from the rows of raw.events."""
    computed = Computed()
    with connection.transaction(), connection.cursor(name="events") as cursor:
        cursor.itersize = EVENTS_AT_ONCE
        columns = sql.SQL(", ").join(map(sql.Identifier, EVENT))
        for row in cursor.execute(sql.SQL("select {} from raw.events").format(columns)):
            computed.add(Event(*row))
    return computed.rows()


def of_files(feed: Feed, uri: str, connection: psycopg.Connection[Any]) -> Expected:
    """Return what the marts must hold, computed from the files of FEED, the marketplace's events, at URI.

    That is nothing if its contract does not have the columns that it is computed from.
    """
    if not set(EVENT) <= {column.name for column in feed.columns}:
        return {}
    computed = Computed()
    raw_rows.expected(feed, uri, ALWAYS, connection, lambda row: computed.add(Event(*(row[name] for name in EVENT))))
    return computed.rows()


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
    if table.name not in expected:
        return None
    columns = [renamed.get(name, name) for name in COLUMNS[NAMES[table.name]]]
    if missing := [name for name in columns if name not in table.columns]:
        return Verdict(False, f"it has no column {', '.join(missing)}")
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    found = connection.execute(sql.SQL("select {} from {}").format(names, table.identifier)).fetchall()
    rows, distinct = expected[table.name], set(found)
    lacking, others, repeated = len(rows - distinct), len(distinct - rows), len(found) - len(distinct)
    wrong = [f"it lacks {lacking:,} of the expected rows, and has {others:,} others"] if lacking or others else []
    if repeated:
        wrong.append(f"{repeated:,} of its rows repeat others")
    return Verdict(not wrong, "; ".join(wrong))
