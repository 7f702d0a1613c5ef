"""Measure how two tables are compared, beside PostgreSQL's own hash of both: `nox -s bench -- diff`.

The tables are like `fact.fct_events`, in two databases of one server. PostgreSQL hashes one after the other, each as
fast as it can with its default settings, in parallel too; that tells whether they differ, but not where.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

from harness.commands.bench.common import Bench, Figure, at_most, checkpoint, seconds
from harness.diff.pairing import Table, prepare
from harness.diff.results import Rows
from harness.diff.rows import compare_rows
from harness.diff.values import columns_of
from harness.errors import ChecksFailedError
from harness.reporting.console import Phases
from harness.warehouse.roles import Warehouse, copy_warehouse, create_warehouse, drop_warehouse, make_passwords

# {events} is the number of rows.
PROPOSALS = """
    create table public.proposals (
        event_id bigint primary key,
        professional_id bigint not null,
        service_id bigint not null,
        created_at timestamp with time zone not null,
        service_lead_fee numeric(18, 6) not null
    );
    insert into public.proposals
    select
        number as event_id,
        number * 7919 % ({events} / 12 + 1) as professional_id,
        number % 60 as service_id,
        timestamp with time zone '2020-01-01 00:00+00' + number::float8 / {events} * interval '1096 days' as created_at,
        number % 2000 / 100.0 as service_lead_fee
    from generate_series(1::bigint, {events}) as number;
"""
HASH = """
    select
        count(*),
        sum(hash_record_extended(row(event_id, professional_id, service_id, created_at, service_lead_fee), 0))
    from public.proposals
"""
MOST = 3.0  # times what PostgreSQL takes to hash both
Connections = tuple[psycopg.Connection[Any], psycopg.Connection[Any]]


class DiffBench(Bench):
    """Two warehouses with the same table."""

    @contextmanager
    def warehouses(self, events: int) -> Iterator[tuple[Warehouse, Warehouse]]:
        """Give a warehouse with a table of EVENTS rows, and its copy."""
        base = create_warehouse(self.server, "bench", make_passwords())
        try:
            with psycopg.connect(base.admin_dsn, autocommit=True) as connection:
                connection.execute(PROPOSALS.format(events=events).encode())
                connection.execute("vacuum analyze public.proposals")
            branch = copy_warehouse(base, "bench_branch")
            try:
                yield base, branch
            finally:
                drop_warehouse(branch)
        finally:
            drop_warehouse(base)

    @contextmanager
    def connections(self, base: Warehouse, branch: Warehouse) -> Iterator[Connections]:
        """Give new connections to both, which have nothing to write."""
        for warehouse in (base, branch):
            checkpoint(warehouse)
        with (
            psycopg.connect(base.admin_dsn, autocommit=True) as base_connection,
            psycopg.connect(branch.admin_dsn, autocommit=True) as branch_connection,
        ):
            yield base_connection, branch_connection


def compare(connections: Connections, key: Sequence[str], *, is_unique: bool) -> Rows:
    """Return how the tables differ by KEY; IS_UNIQUE if PostgreSQL enforces it."""
    base, branch = (
        Table("public", "proposals", columns_of(connection, "public", "proposals"), tuple(key), is_unique)
        for connection in connections
    )
    return compare_rows(prepare(base, branch, *connections))


def measure(bench: DiffBench, events: int, rounds: int) -> list[Figure]:
    """Return all figures of tables of EVENTS rows."""
    phases = Phases()
    with contextlib.ExitStack() as stack:
        with phases.phase("tables") as phase:
            base, branch = stack.enter_context(bench.warehouses(events))
            phase.text = f"two tables of {events:,} rows"
        with phases.phase("hash") as phase, bench.connections(base, branch) as connections:
            hash_s = min(
                sum(seconds(partial(connection.execute, HASH)) for connection in connections) for _ in range(rounds)
            )
            phase.text = f"both hashed by PostgreSQL: {hash_s:.2f} s"
        change = "update public.proposals set service_lead_fee = service_lead_fee + 1"
        with psycopg.connect(branch.admin_dsn, autocommit=True) as connection:
            connection.execute(f"{change} where event_id = {events // 2}".encode())
        took = {}
        for key, is_unique in ((("event_id",), True), (("service_id", "event_id"), False)):
            with phases.phase(str(key)) as phase:
                took[key] = min(
                    measured(bench, base, branch, key, is_unique=is_unique, changed=1) for _ in range(rounds)
                )
                phase.text = f"one value changed, by {' and '.join(key)}: {took[key]:.2f} s"
        with psycopg.connect(branch.admin_dsn, autocommit=True) as connection:
            connection.execute(f"{change} where event_id <> {events // 2}".encode())
            connection.execute("vacuum public.proposals")
        with phases.phase("all") as phase:
            all_s = measured(bench, base, branch, ("event_id",), is_unique=True, changed=events)
            phase.text = f"all rows changed: {all_s:.2f} s"
    one_s, two_s = took.values()
    return [
        Figure(f"both tables of {events:,} rows hashed by PostgreSQL", round(hash_s, 2), "s"),
        Figure("one value changed: found", round(one_s, 2), "s"),
        at_most("against that hash", one_s / hash_s, MOST),
        Figure("by a key of two columns that nothing enforces, against that hash", round(two_s / hash_s, 2), "x"),
        Figure("all rows changed: found and described", round(all_s, 2), "s"),
    ]


def measured(
    bench: DiffBench, base: Warehouse, branch: Warehouse, key: Sequence[str], *, is_unique: bool, changed: int
) -> float:
    """Return the seconds of a comparison that must find CHANGED rows."""
    with bench.connections(base, branch) as connections:
        found: list[Rows] = []
        took = seconds(lambda: found.append(compare(connections, key, is_unique=is_unique)))
    [rows] = found
    columns = [(column.name, column.rows) for column in rows.columns]
    if (rows.added, rows.removed, rows.changed) != (0, 0, changed) or columns != [("service_lead_fee", changed)]:
        raise ChecksFailedError(
            f"A comparison finds {rows.changed:,} changed rows, {rows.added:,} added and {rows.removed:,} removed,"
            f" where {changed:,} have changed.",
            "The comparison is wrong.",
            "Run its tests: nox -s tests -- tests/harness/diff",
        )
    return took
