"""Compare a warehouse with what the runs of a script must have left, and note how the numbers of each day settle."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from feeds.contract import Feed
from harness.oracle.checks import select
from harness.oracle.expected_numbers import MARKETPLACE, AllMarts, Rows, add_event
from harness.oracle.raw_rows import canonical
from harness.oracle.row_values import Row
from harness.replay.expected_table import ExpectedLoad, ExpectedTable
from harness.warehouse.roles import Warehouse

SHOWN = 5  # rows of a difference
LOAD = """
    select status, rows_read, rows_loaded, rows_rejected, rows_outside, rows_absent, same_as_load_id
    from raw.loads where run_id = %s order by load_id desc limit 1
"""
DAYS_OF_LOAD = """
    select day, rows_loaded, rows_added, rows_changed, rows_removed, rows_absent
    from raw.loaded_days where load_id = (select max(load_id) from raw.loads where run_id = %s)
"""
FEED_DAYS = """
    select date, rows_first_loaded, late_rows, corrected_rows, withdrawn_rows
    from analysis.feed_days
    where feed = %s and rows_first_loaded + late_rows + corrected_rows + withdrawn_rows > 0
"""

When = tuple[date, str]  # the simulated day, and the runs' cadence
Settled = dict[date, list[tuple[str, tuple[str, ...]]]]  # by day: after which run it had which numbers


class Difference(Exception):  # noqa: N818 - what a replay looks for; its command makes an error of it
    """A table is not what the script says after a run: of which day and cadence, and the first different rows."""

    def __init__(self, when: When, table: str, lines: Sequence[str]) -> None:
        self.day, self.run = when
        super().__init__(f"{table} is wrong after the {self.run} run of {self.day}: {lines[0]}.")
        self.table, self.lines = table, list(lines)


@dataclass
class Comparison:
    """Compares WAREHOUSE, into which FEED is loaded, after each run.

    Attributes:
        settled: what the numbers of each day were after the runs that have changed them.
        marts: what each mart had to have after the last run; empty if only some of them were built.
    """

    feed: Feed
    warehouse: Warehouse
    settled: Settled = field(default_factory=dict)
    marts: Mapping[str, Rows] = field(default_factory=dict)

    def check_ledger(self, when: When, run_id: str, expected: ExpectedLoad | None) -> None:
        """Check what the ledger says of the latest load of RUN_ID.

        None is EXPECTED where it must have failed before it knew its rows.
        """
        with psycopg.connect(self.warehouse.loader_dsn) as connection:
            found = connection.execute(LOAD, (run_id,)).fetchall()
            days = connection.execute(DAYS_OF_LOAD, (run_id,)).fetchall()
        if expected is None or expected.is_refused:  # it has other counts, or none
            compare(when, "raw.loads", {("failed",)}, [row[:1] for row in found])
            return
        compare(when, "raw.loads", {("succeeded", *expected.counts)}, [row[:-1] for row in found])
        has_loaded = found[0][-1] is None
        expected_days = {(day, *counts) for day, counts in expected.days.items() if has_loaded or any(counts[1:])}
        compare(when, "raw.loaded_days", expected_days, days)

    def check(self, when: When, table: ExpectedTable, built: Mapping[Any, Row] | None) -> None:
        """Compare the raw table and how its days have settled with TABLE, and the marts with those of BUILT.

        BUILT are the rows of the raw table when the models were built; None if only some of them were.
        """
        rows = table.rows
        has_marts = self.feed.name == MARKETPLACE
        self.marts = marts_of(built.values()) if has_marts and built else {}
        with psycopg.connect(self.warehouse.admin_dsn) as connection:
            connection.execute("set time zone 'UTC'")
            names = [column.name for column in self.feed.columns]
            columns = sql.SQL(", ").join(map(sql.Identifier, names))
            query = sql.SQL("select {} from {}").format(columns, sql.Identifier("raw", self.feed.name))
            expected = {comparable(tuple(row[name] for name in names)) for row in rows.values()}
            compare(when, f"raw.{self.feed.name}", expected, map(comparable, connection.execute(query)))
            days = {(day, *settled.counts) for day, settled in table.settled.items() if any(settled.counts)}
            compare(when, "analysis.feed_days", days, connection.execute(FEED_DAYS, (self.feed.name,)))
            for mart, content in self.marts.items():
                compare(when, mart, content, select(connection, mart))
        if self.marts or not has_marts:
            self._note_numbers(when, table)

    def _note_numbers(self, when: When, table: ExpectedTable) -> None:
        """Note the numbers of each day that were others before the run."""
        daily = {row[0]: row for row in self.marts.get("analysis.professional_productivity_daily", ())}
        for day, count in Counter(map(table.day, table.rows.values())).items():
            numbers = [f"{count:,}"]
            if day in daily:
                _, active, proposals, fees, *_ = daily[day]
                numbers += [f"{proposals:,}", f"{fees:,.2f}", str(active)]
            noted = self.settled.setdefault(day, [])
            if not noted or noted[-1][1] != tuple(numbers):
                noted.append((f"{when[1]} {when[0]}", tuple(numbers)))


def marts_of(rows: Iterable[Row]) -> dict[str, Rows]:
    """Return the content of each mart of the marketplace, computed from ROWS of raw.events."""
    marts = AllMarts()
    for row in rows:
        add_event(marts, row)
    return marts.rows()


def compare(when: When, table: str, expected: Rows, found: Iterable[tuple[Any, ...]]) -> None:
    """Raise Difference unless TABLE has the rows EXPECTED, each once."""
    rows = list(found)
    if len(rows) == len(expected) and set(rows) == expected:
        return
    missing = sorted(expected - set(rows), key=str)
    others = sorted(set(rows) - expected, key=str)
    lines = [f"{len(expected)} rows expected, {len(rows)} found"]
    lines += [f"  missing     {shown(row)}" for row in missing[:SHOWN]]
    lines += [f"  unexpected  {shown(row)}" for row in others[:SHOWN]]
    raise Difference(when, table, lines)


def comparable(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return ROW so that it can be in a set."""
    return tuple(str(canonical(value)) if isinstance(value, (dict, list)) else value for value in row)


def shown(row: Sequence[Any]) -> str:
    """Return ROW for people."""
    return ", ".join("null" if value is None else str(value) for value in row)
