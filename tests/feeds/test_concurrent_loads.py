"""Loads at the same time as other loads and dbt builds, and loads that are cancelled, interrupted or killed."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.errors import InvalidSavepointSpecification, LockNotAvailable

from feeds import partitions
from feeds.errors import LoadCancelled, WarehouseBusy, WarehouseGone
from feeds.load import load as load_feed
from feeds.locks import SWAP_LOCK
from feeds.swap import swap
from feeds.table import RawTable
from feeds.tables import create_tables as create_visits_tables
from harness.warehouse.roles import Warehouse
from tests.events_feed import EVENTS, create_tables, load
from tests.feeds.common import DAY, DEADLINE_S, TABLES, Rows, contract, query, wait_until, write_days
from tests.poolers import pgbouncer

STATUSES = "select status from raw.loads order by load_id"
COUNT = "select count(*) from raw.events"


@contextmanager
def swap_locked(dsn: str) -> Iterator[None]:
    """Hold the lock of loads and dbt builds."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (SWAP_LOCK,))
        yield


def advisory_locks(dsn: str, *, granted: bool) -> Rows:
    """Return the process ids that hold advisory locks of this database, or wait for them."""
    here = "locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"
    return query(dsn, f"select pid from pg_locks where {here} and granted = {granted}")  # noqa: S608


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return write_days(tmp_path / "events.csv", 0)


def test_tables_are_created_once_by_concurrent_calls(bare_warehouse: Warehouse) -> None:
    barrier = Barrier(4)

    def create(_: int) -> None:
        barrier.wait(DEADLINE_S)
        create_tables(bare_warehouse.loader_dsn)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, range(4)))
    found = query(bare_warehouse.loader_dsn, "select tablename from pg_tables where schemaname = 'raw' order by 1")
    names = [re.sub("(?<=events_0_)[0-9a-f]{12}$", "…", name) for (name,) in found]
    assert names == sorted(["events", "events_0_…", "events_0_…", *TABLES])


def test_creating_existing_tables_keeps_them_and_waits_for_nobody(dsn: str, uri: str) -> None:
    load(uri, dsn)
    with psycopg.connect(dsn) as writer:
        writer.execute("delete from raw.events where event_id < 5")
        started = time.monotonic()
        create_tables(dsn)
        assert time.monotonic() - started < 5
    assert query(dsn, COUNT) == [(5,)]


def load_days(uri: str, dsn: str, days: tuple[int | None, int | None]) -> int:
    start, end = (None if day is None else DAY + timedelta(days=day) for day in days)
    return load(uri, dsn, start=start, end=end).loaded


def test_a_load_waits_for_its_turn(dsn: str, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ThreadPoolExecutor(1) as pool:
        with swap_locked(dsn):
            waiting = pool.submit(load, uri, dsn)
            wait_until(lambda: advisory_locks(dsn, granted=False))
            assert query(dsn, COUNT) == [(0,)]
            assert query(dsn, STATUSES) == [("running",)]
        assert waiting.result(DEADLINE_S).loaded == 10
    assert "waiting for another load or a dbt build, at most 1800 s" in caplog.messages


def test_a_load_does_not_wait_longer_than_allowed_for_its_turn(dsn: str, uri: str) -> None:
    with swap_locked(dsn), pytest.raises(WarehouseBusy) as caught:
        load(uri, dsn, lock_timeout_s=0.1)
    assert caught.value.exit_code == 20
    assert caught.value.what == "The warehouse did not become free within 0.1 s."
    assert query(dsn, "select status, failure, rows_read from raw.loads") == [("failed", str(caught.value), None)]
    assert query(dsn, COUNT) == [(0,)]
    assert load(uri, dsn).loaded == 10


def test_a_load_does_not_wait_longer_than_allowed_for_a_table(dsn: str, uri: str) -> None:
    for table in ("loads", "events", "partitions", "rejected_rows"):
        load(uri, dsn)
        with psycopg.connect(dsn) as other, ThreadPoolExecutor(1) as pool:
            other.execute(f"lock table raw.{table} in access exclusive mode".encode())
            waiting = pool.submit(load, uri, dsn, force=True, lock_timeout_s=0.1)
            with pytest.raises(WarehouseBusy):
                waiting.result(DEADLINE_S)
        assert load(uri, dsn, force=True).replaced == 10


def test_tries_to_swap_leave_no_savepoint(dsn: str) -> None:
    with psycopg.connect(dsn) as reader, psycopg.connect(dsn, autocommit=True) as connection:
        reader.execute("select 1 from raw.events")
        connection.execute("begin")
        with pytest.raises(LockNotAvailable):
            swap(connection, RawTable(EVENTS), psycopg.sql.SQL("null"), time.monotonic() + 0.2)
        with pytest.raises(InvalidSavepointSpecification):
            connection.execute("release savepoint swap")


def test_dry_runs_during_loads_that_replace_all_partitions(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MIN_ROWS", 10)
    uris = [write_days(tmp_path / f"{number}.csv", *range(5), professional=number) for number in range(2)]
    load(uris[0], dsn)

    def load_again(number: int) -> set[int]:
        return {load(uris[number], dsn, force=True).replaced for _ in range(8)}

    def dry_run(number: int) -> set[int]:
        return {load(uris[number], dsn, dry_run=True).replaced for _ in range(15)}

    with ThreadPoolExecutor(4) as pool:
        loads = pool.map(load_again, range(2))
        dry_runs = pool.map(dry_run, range(2))
        assert [*dry_runs, *loads] == [{50}] * 4


def test_loads_of_two_feeds_and_of_two_intervals_of_one(dsn: str, uri: str, tmp_path: Path) -> None:
    """One of the feeds has a key that is not one integer, and duplicates: its loads read the file twice."""
    key = "required: true, primaryKey: true"
    columns = f"{{name: site, logicalType: string, {key}}}, {{name: day, logicalType: date, {key}}}"
    feed = contract(tmp_path, "visits", columns, "{property: timeColumn, value: day}")
    create_visits_tables(dsn, feed)
    wanted = {(f"s{number}", (DAY + timedelta(days=day)).date()) for number in range(50) for day in range(4)}
    lines = ["site,day", *(f"{site},{day}" for site, day in [*wanted, *wanted])]
    (tmp_path / "visits.csv").write_text("\n".join(lines))

    def load_visits(days: tuple[int, int]) -> int:
        start, end = (DAY + timedelta(days=day) for day in days)
        options: dict[str, Any] = {"start": start, "end": end, "force": True, "max_rejected": 1}
        return load_feed(feed, dsn, source_uri=str(tmp_path / "visits.csv"), **options).rejected

    with ThreadPoolExecutor(4) as pool:
        events = pool.submit(load, uri, dsn)
        rejected = list(pool.map(load_visits, [(0, 2), (1, 4), (0, 4), (2, 3)]))
        assert events.result(DEADLINE_S).loaded == 10
    assert rejected == [200] * 4
    assert sorted(query(dsn, "select site, day from raw.visits")) == sorted(wanted)
    assert query(dsn, "select feed, status, count(*) from raw.loads group by 1, 2 order by 1") == [
        ("events", "succeeded", 1),
        ("visits", "succeeded", 4),
    ]
    assert query(dsn, "select count(*) from raw.rejected_rows") == [(200,)]


@pytest.mark.needs("pgbouncer")
def test_loads_through_a_pooler_in_transaction_mode(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    """It gives each transaction another connection, which has the settings of another load."""
    uris = [write_days(tmp_path / f"{number}.csv", *range(5), professional=number) for number in range(4)]
    with pgbouncer(bare_warehouse, "loader", "transaction") as port, ThreadPoolExecutor(4) as pool:
        server = replace(bare_warehouse.server, host="127.0.0.1", port=port)
        dsn = replace(bare_warehouse, server=server).loader_dsn
        create_tables(dsn)
        intervals = [(None, None), (0, 3), (2, 5), (1, 2)]
        assert list(pool.map(load_days, uris, [dsn] * 4, intervals)) == [50, 30, 30, 10]
        assert load(uris[0], dsn).loaded == load(uris[0], dsn, dry_run=True).loaded == 50
    dsn = bare_warehouse.loader_dsn
    assert query(dsn, "select distinct professional_id_anonymized from raw.events") == [(0,)]
    assert query(dsn, "select status, count(*) from raw.loads group by status") == [("succeeded", 5)]
    assert advisory_locks(dsn, granted=True) == []


@contextmanager
def process_before_its_swap(dsn: str, uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process whose load has read its file and waits for its turn, which does not come."""
    argv = [sys.executable, "-m", "feeds", "load", "events", uri]
    with swap_locked(dsn):
        env = os.environ | {"EVENTS_DSN": dsn}
        with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE) as process:
            try:
                wait_until(lambda: advisory_locks(dsn, granted=False))
                yield process
            finally:
                process.kill()
                process.wait(DEADLINE_S)


def test_an_interrupt_is_recorded(dsn: str, uri: str) -> None:
    with process_before_its_swap(dsn, uri) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
        assert errors.decode().splitlines()[-3] == "✗ Interrupted by SIGINT."
        assert b"Traceback" not in errors
    assert query(dsn, "select status, failure from raw.loads") == [("failed", "KeyboardInterrupt")]
    assert query(dsn, COUNT) == [(0,)]


def test_a_killed_load_is_marked_as_failed_and_a_running_one_is_not(dsn: str, uri: str) -> None:
    with process_before_its_swap(dsn, uri) as process:
        with pytest.raises(WarehouseBusy):
            load(uri, dsn, lock_timeout_s=0.1)
        assert query(dsn, STATUSES) == [("running",), ("failed",)]
        process.kill()
    wait_until(lambda: not advisory_locks(dsn, granted=True))
    assert query(dsn, STATUSES) == [("running",), ("failed",)]
    assert query(dsn, COUNT) == [(0,)]
    load(uri, dsn)
    assert query(dsn, STATUSES) == [("failed",), ("failed",), ("succeeded",)]
    killed = query(dsn, "select failure, rows_read from raw.loads where load_id = 1")
    assert killed == [("Its process was killed.", None)]
    assert query(dsn, COUNT) == [(10,)]


def cancel_when(dsn: str, condition: Callable[[], object], waiting: Future[Any]) -> None:
    """Cancel the load's statements on the server, once CONDITION is true, until the load ends."""
    wait_until(condition)
    while not waiting.done():
        query(
            dsn,
            "select pg_cancel_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and state = 'active'",
        )
        time.sleep(0.05)


def test_a_cancelled_load_says_so(dsn: str, uri: str) -> None:
    """While it waits for its turn, and while it waits for readers."""
    with ThreadPoolExecutor(1) as pool:
        with swap_locked(dsn):
            waiting = pool.submit(load, uri, dsn)
            cancel_when(dsn, lambda: advisory_locks(dsn, granted=False), waiting)
        with psycopg.connect(dsn) as reader:
            reader.execute("select 1 from raw.events")
            swapping = pool.submit(load, uri, dsn)
            held = "select 1 from pg_locks where relation = 'raw.events'::regclass and mode = 'ShareRowExclusiveLock'"
            cancel_when(dsn, lambda: query(dsn, held), swapping)
    message = "The load was cancelled on the server: canceling statement due to user request"
    for load_ in (waiting, swapping):
        with pytest.raises(LoadCancelled) as caught:
            load_.result()
        assert caught.value.what == message
    assert query(dsn, "select status, split_part(failure, E'\\n', 1) from raw.loads") == [("failed", message)] * 2
    assert load(uri, dsn).loaded == 10


def test_a_terminated_connection_is_recorded(warehouse: Warehouse, dsn: str, uri: str) -> None:
    with ThreadPoolExecutor(1) as pool, swap_locked(dsn):
        waiting = pool.submit(load, uri, dsn)
        wait_until(lambda: advisory_locks(dsn, granted=False))
        [(pid,)] = advisory_locks(dsn, granted=False)
        query(warehouse.admin_dsn, f"select pg_terminate_backend({pid})")
        with pytest.raises(WarehouseGone):
            waiting.result(DEADLINE_S)
    [(status, failure)] = query(dsn, "select status, split_part(failure, E'\\n', 1) from raw.loads")
    assert status == "failed"
    cause = "terminating connection due to administrator command"
    assert failure == f"The connection to PostgreSQL broke: {cause}"
