"""Loads beside loads, beside a dbt build, and loads that end in the middle."""

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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.errors import InvalidSavepointSpecification, LockNotAvailable

from events import partitions
from events.errors import LoadCancelled, WarehouseBusy, WarehouseGone
from events.load import load
from events.locks import SWAP_LOCK
from events.swap import swap
from events.tables import create_tables
from harness.warehouse.roles import Warehouse
from tests.poolers import pgbouncer

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
DAY = datetime(2020, 1, 1, tzinfo=UTC)
DEADLINE_S = 20.0


def query(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement).fetchall()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def write(path: Path, days: int, professional_id: int = 8) -> str:
    """Write 100 events a day."""
    moments = [DAY + timedelta(days=i // 100, minutes=i % 100) for i in range(days * 100)]
    rows = [f"{i};created_account;{professional_id};{moment:%Y-%m-%d %H:%M:%S};" for i, moment in enumerate(moments)]
    path.write_text("\n".join([HEADER, *rows]))
    return str(path)


@contextmanager
def publishing_locked(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (SWAP_LOCK,))
        yield


def advisory_locks(dsn: str, *, granted: bool) -> list[tuple[Any, ...]]:
    """Return the process ids that hold advisory locks of this database, or wait for them."""
    here = "locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"
    return query(dsn, f"select pid from pg_locks where {here} and granted = {granted}")  # noqa: S608


def test_two_create_the_tables_at_once(warehouse: Warehouse) -> None:
    barrier = Barrier(4)

    def create(_: int) -> None:
        barrier.wait(DEADLINE_S)
        create_tables(warehouse.loader_dsn)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, range(4)))
    found = query(warehouse.loader_dsn, "select tablename from pg_tables where schemaname = 'raw' order by 1")
    names = [re.sub("(?<=events_0_)[0-9a-f]{12}$", "…", name) for (name,) in found]
    assert names == ["events", "events_0_…", "events_0_…", "events_partitions", "loads", "rejected_events"]


def test_creating_the_tables_again_keeps_them_and_waits_for_nobody(dsn: str, tmp_path: Path) -> None:
    load(write(tmp_path / "events.csv", days=1), dsn)
    with psycopg.connect(dsn) as publishing:
        publishing.execute("delete from raw.events where event_id < 50")
        began = time.monotonic()
        create_tables(dsn)
        assert time.monotonic() - began < 5
    assert query(dsn, "select count(*) from raw.events") == [(50,)]


def test_overlapping_loads_at_once_all_end_well(dsn: str, tmp_path: Path) -> None:
    uri = write(tmp_path / "events.csv", days=20)
    load(uri, dsn)
    before = query(dsn, "select event_id, created_at from raw.events order by 1")
    days = [(None, None), (0, 15), (5, 20), (10, 12)]
    barrier = Barrier(len(days))

    def load_days(bounds: tuple[int | None, int | None]) -> int:
        start, end = (None if day is None else DAY + timedelta(days=day) for day in bounds)
        barrier.wait(DEADLINE_S)
        return load(uri, dsn, start=start, end=end).loaded

    with ThreadPoolExecutor(len(days)) as pool:
        assert list(pool.map(load_days, days)) == [2000, 1500, 1500, 200]
    assert query(dsn, "select event_id, created_at from raw.events order by 1") == before
    assert query(dsn, "select status, count(*) from raw.loads group by status") == [("succeeded", 5)]


def test_loads_of_different_contents_at_once_leave_one_of_them_whole(dsn: str, tmp_path: Path) -> None:
    uris = [write(tmp_path / f"{i}.csv", days=10, professional_id=i) for i in range(4)]
    with ThreadPoolExecutor(len(uris)) as pool:
        assert [result.loaded for result in pool.map(lambda uri: load(uri, dsn), uris)] == [1000] * 4
    [(professionals, rows)] = query(dsn, "select count(distinct professional_id_anonymized), count(*) from raw.events")
    assert (professionals, rows) == (1, 1000)


def test_a_load_waits_for_its_turn(dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    uri = write(tmp_path / "events.csv", days=1)
    with ThreadPoolExecutor(1) as pool:
        with publishing_locked(dsn):
            waiting = pool.submit(load, uri, dsn)
            wait_until(lambda: advisory_locks(dsn, granted=False))
            assert query(dsn, "select count(*) from raw.events") == [(0,)]
            assert query(dsn, "select status from raw.loads") == [("running",)]
        assert waiting.result(DEADLINE_S).loaded == 100
    assert "waiting for another load or a dbt build, at most 1800 s" in caplog.messages


def test_a_load_does_not_wait_for_ever(dsn: str, tmp_path: Path) -> None:
    uri = write(tmp_path / "events.csv", days=1)
    with publishing_locked(dsn), pytest.raises(WarehouseBusy) as caught:
        load(uri, dsn, lock_timeout_s=0.1)
    assert caught.value.exit_code == 20
    assert caught.value.what == "The warehouse did not become free within 0.1 s."
    assert query(dsn, "select status, failure, rows_read from raw.loads") == [("failed", str(caught.value), None)]
    assert query(dsn, "select count(*) from raw.events") == [(0,)]
    assert load(uri, dsn).loaded == 100


@pytest.mark.parametrize("table", ["loads", "events", "events_partitions", "rejected_events"])
def test_a_load_does_not_wait_for_ever_for_a_lock_on_a_table(dsn: str, tmp_path: Path, table: str) -> None:
    uri = write(tmp_path / "events.csv", days=1)
    load(uri, dsn)
    with psycopg.connect(dsn) as other, ThreadPoolExecutor(1) as pool:
        other.execute(f"lock table raw.{table} in access exclusive mode".encode())
        waiting = pool.submit(load, uri, dsn, force=True, lock_timeout_s=0.1)
        with pytest.raises(WarehouseBusy):
            waiting.result(DEADLINE_S)
    assert load(uri, dsn, force=True).replaced == 100


@contextmanager
def process_before_publishing(dsn: str, uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process whose load has read its file and waits for its turn, which does not come."""
    code = "import os, sys; from events.load import load; load(sys.argv[1], os.environ['LOADER_DSN'])"
    with publishing_locked(dsn):
        process = subprocess.Popen(
            [sys.executable, "-c", code, uri], env=os.environ | {"LOADER_DSN": dsn}, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: advisory_locks(dsn, granted=False))
            yield process
        finally:
            process.kill()
            process.wait(DEADLINE_S)


def test_an_interrupt_is_in_the_ledger(dsn: str, tmp_path: Path) -> None:
    with process_before_publishing(dsn, write(tmp_path / "events.csv", days=1)) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == -signal.SIGINT
    assert query(dsn, "select status, failure from raw.loads") == [("failed", "KeyboardInterrupt")]
    assert query(dsn, "select count(*) from raw.events") == [(0,)]


def test_a_killed_load_is_found_by_the_next_and_a_living_one_is_let_alone(dsn: str, tmp_path: Path) -> None:
    uri = write(tmp_path / "events.csv", days=1)
    statuses = "select status from raw.loads order by load_id"
    with process_before_publishing(dsn, uri) as process:
        with pytest.raises(WarehouseBusy):
            load(uri, dsn, lock_timeout_s=0.1)
        assert query(dsn, statuses) == [("running",), ("failed",)]
        process.kill()
    wait_until(lambda: not advisory_locks(dsn, granted=True))
    assert query(dsn, statuses) == [("running",), ("failed",)]
    assert query(dsn, "select count(*) from raw.events") == [(0,)]
    load(uri, dsn)
    assert query(dsn, statuses) == [("failed",), ("failed",), ("succeeded",)]
    assert query(dsn, "select failure, rows_read from raw.loads where load_id = 1") == [
        ("Its process was killed.", None)
    ]
    assert query(dsn, "select count(*) from raw.events") == [(100,)]


def cancel_when(dsn: str, condition: Callable[[], object], waiting: Future[Any]) -> None:
    """Cancel what the load does on the server, once CONDITION holds, until it ends."""
    wait_until(condition)
    while not waiting.done():
        query(
            dsn,
            "select pg_cancel_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and state = 'active'",
        )
        time.sleep(0.05)


def test_a_load_that_somebody_cancels_says_so(dsn: str, tmp_path: Path) -> None:
    """While it waits for its turn, and while it waits for readers."""
    uri = write(tmp_path / "events.csv", days=1)
    with ThreadPoolExecutor(1) as pool:
        with publishing_locked(dsn):
            waiting = pool.submit(load, uri, dsn)
            cancel_when(dsn, lambda: advisory_locks(dsn, granted=False), waiting)
        with psycopg.connect(dsn) as reader:
            reader.execute("select 1 from raw.events")
            publishing = pool.submit(load, uri, dsn)
            held = "select 1 from pg_locks where relation = 'raw.events'::regclass and mode = 'ShareRowExclusiveLock'"
            cancel_when(dsn, lambda: query(dsn, held), publishing)
    for load_ in (waiting, publishing):
        with pytest.raises(LoadCancelled) as caught:
            load_.result()
        assert caught.value.what == ("The load was cancelled on the server: canceling statement due to user request")
    assert (
        query(dsn, "select status, split_part(failure, ':', 1) from raw.loads")
        == [("failed", "The load was cancelled on the server")] * 2
    )
    assert load(uri, dsn).loaded == 100


@pytest.mark.needs("pgbouncer")
def test_loads_through_a_pooler_in_transaction_mode(warehouse: Warehouse, tmp_path: Path) -> None:
    """Which gives each transaction another connection, one that another load has set as it needs."""
    uris = [write(tmp_path / f"{number}.csv", days=5, professional_id=number) for number in range(4)]
    with pgbouncer(warehouse, "loader", "transaction") as port, ThreadPoolExecutor(4) as pool:
        server = replace(warehouse.server, host="127.0.0.1", port=port)
        dsn = replace(warehouse, server=server).loader_dsn
        create_tables(dsn)
        days = [(None, None), (0, 3), (2, 5), (1, 2)]

        def load_days(number: int) -> int:
            start, end = (None if day is None else DAY + timedelta(days=day) for day in days[number])
            return load(uris[number], dsn, start=start, end=end).loaded

        assert list(pool.map(load_days, range(4))) == [500, 300, 300, 100]
        assert load(uris[0], dsn).loaded == load(uris[0], dsn, dry_run=True).loaded == 500
    dsn = warehouse.loader_dsn
    assert query(dsn, "select distinct professional_id_anonymized from raw.events") == [(0,)]
    assert query(dsn, "select status, count(*) from raw.loads group by status") == [("succeeded", 5)]
    assert advisory_locks(dsn, granted=True) == []


def test_tries_to_publish_leave_no_savepoint(dsn: str) -> None:
    with psycopg.connect(dsn) as reader, psycopg.connect(dsn, autocommit=True) as connection:
        reader.execute("select 1 from raw.events")
        connection.execute("begin")
        with pytest.raises(LockNotAvailable):
            swap(connection, psycopg.sql.SQL("null"), time.monotonic() + 0.2)
        with pytest.raises(InvalidSavepointSpecification):
            connection.execute("release savepoint swap")


def test_dry_runs_beside_loads(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each load replaces all partitions, and drops those that were there."""
    monkeypatch.setattr(partitions, "MIN_ROWS", 100)
    uris = [write(tmp_path / f"{number}.csv", days=5, professional_id=number) for number in range(2)]
    load(uris[0], dsn)

    def load_and_replace(number: int) -> int:
        return sum(load(uris[number], dsn, force=True).replaced for _ in range(8))

    def try_out(number: int) -> set[int]:
        return {load(uris[number], dsn, dry_run=True).replaced for _ in range(15)}

    with ThreadPoolExecutor(4) as pool:
        loads = pool.map(load_and_replace, range(2))
        dry_runs = pool.map(try_out, range(2))
        assert list(dry_runs) == [{500}, {500}]
        assert list(loads) == [8 * 500] * 2


def test_a_connection_that_is_cut_is_in_the_ledger(warehouse: Warehouse, dsn: str, tmp_path: Path) -> None:
    uri = write(tmp_path / "events.csv", days=1)
    with ThreadPoolExecutor(1) as pool, publishing_locked(dsn):
        waiting = pool.submit(load, uri, dsn)
        wait_until(lambda: advisory_locks(dsn, granted=False))
        [(pid,)] = advisory_locks(dsn, granted=False)
        query(warehouse.admin_dsn, f"select pg_terminate_backend({pid})")
        with pytest.raises(WarehouseGone):
            waiting.result(DEADLINE_S)
    [(status, failure)] = query(dsn, "select status, failure from raw.loads")
    assert status == "failed"
    assert failure.startswith(
        "The warehouse cannot be reached, or the connection broke: terminating connection due to administrator command\n"
    )
