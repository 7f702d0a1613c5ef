"""Eight loads of overlapping intervals at once, and readers beside them: who sees what, and who waits for whom.

How long readers wait is measured by `nox -s bench`.
"""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest

from events.load import load
from harness.warehouse.roles import Warehouse
from tests.events.conftest import OwnServer

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data\n"
FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
DAYS, ROWS_PER_DAY = 20, 500
pytestmark = pytest.mark.usefixtures("small_partitions")
INTERVALS = [(None, None), (0, 15), (5, 20), (10, 12), (3, 4), (12, None), (None, 6), (9, 17)]
DEADLINE_S = 120.0

State = tuple[int, ...]  # whose events each day has


def write(path: Path, professional: int) -> str:
    """Write all days' events, all of one PROFESSIONAL."""
    with path.open("w") as file:
        file.write(HEADER)
        for day in range(DAYS):
            for number in range(ROWS_PER_DAY):
                moment = FIRST_DAY + timedelta(days=day, seconds=number)
                file.write(
                    f"{day * ROWS_PER_DAY + number};created_account;{professional};{moment:%Y-%m-%d %H:%M:%S};\n"
                )
    return str(path)


def bound(day: int | None) -> datetime | None:
    return None if day is None else FIRST_DAY + timedelta(days=day)


@dataclass
class Reader:
    """Reads the table over and over, and keeps what it saw."""

    dsn: str
    isolation: psycopg.IsolationLevel
    stop: threading.Event
    pid: int = 0

    def run(self) -> list[list[tuple[Any, ...]]]:
        seen: list[list[tuple[Any, ...]]] = []
        with psycopg.connect(self.dsn) as connection:
            self.pid = connection.info.backend_pid
            connection.isolation_level = self.isolation
            while not self.stop.is_set():
                with connection.transaction():
                    first = self.read(connection)
                    if self.isolation is psycopg.IsolationLevel.REPEATABLE_READ:
                        assert self.read(connection) == first
                if not seen or seen[-1] != first:
                    seen.append(first)
        return seen

    def read(self, connection: psycopg.Connection) -> list[tuple[Any, ...]]:
        return connection.execute(
            "select created_at::date - '2020-01-01', count(*), count(distinct event_id),"
            " min(professional_id_anonymized), max(professional_id_anonymized) from raw.events group by 1 order by 1"
        ).fetchall()


def have_waited(log: Path, pids: set[int]) -> bool:
    """Say whether one of PIDS has waited for a table, by the server's log."""
    acquired = re.compile(r"process (\d+) acquired AccessShareLock on relation \d+ of database \d+ after")
    return not pids.isdisjoint(map(int, acquired.findall(log.read_text())))


def states_after_each_load(dsn: str) -> list[State]:
    """Return what the table held after each load, by the ledger alone."""
    states = [(0,) * DAYS]
    with psycopg.connect(dsn) as connection:
        loads = connection.execute(
            "select run_id, interval_start, interval_end from raw.loads where status = 'succeeded'"
            " order by transaction_id is null, ended_at"
        ).fetchall()
    for professional, start, end in loads:
        days = [FIRST_DAY + timedelta(days=day) for day in range(DAYS)]
        states.append(
            tuple(
                int(professional) if (start is None or day >= start) and (end is None or day < end) else was
                for day, was in zip(days, states[-1], strict=True)
            )
        )
    return states


def test_eight_loads_at_once_and_readers_beside_them(own: Warehouse, own_server: OwnServer, tmp_path: Path) -> None:
    dsn = own.loader_dsn
    with psycopg.connect(own.server.dsn, autocommit=True) as connection:
        for setting in ("log_lock_waits = on", "deadlock_timeout = '1ms'"):  # a wait that is longer is logged
            connection.execute(f"alter database {own.database} set {setting}".encode())
    assert load(write(tmp_path / "0.csv", 100), dsn, run_id="100").loaded == DAYS * ROWS_PER_DAY
    uris = [write(tmp_path / f"{number}.csv", 101 + number) for number in range(len(INTERVALS))]
    barrier, stop = Barrier(len(INTERVALS)), threading.Event()

    def load_one(number: int) -> int:
        start, end = INTERVALS[number]
        barrier.wait(DEADLINE_S)
        loaded = 0
        for _ in range(3):
            result = load(uris[number], dsn, start=bound(start), end=bound(end), run_id=str(101 + number))
            loaded = result.loaded
        return loaded

    committed, repeatable = psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ
    readers = [Reader(dsn, level, stop) for level in (committed, committed, repeatable)]
    with ThreadPoolExecutor(len(INTERVALS) + len(readers)) as pool:
        reading = [pool.submit(reader.run) for reader in readers]
        loads = [pool.submit(load_one, number) for number in range(len(INTERVALS))]
        try:
            loaded = [load.result(DEADLINE_S) for load in loads]
        finally:
            stop.set()
        seen = [reader.result(DEADLINE_S) for reader in reading]

    days = [(20, 0), (15, 0), (15, 0), (2, 0), (1, 0), (8, 0), (6, 0), (8, 0)]
    assert loaded == [count * ROWS_PER_DAY for count, _ in days]
    states = states_after_each_load(dsn)
    assert len(states) == 1 + 1 + 3 * len(INTERVALS)
    for views in seen:
        assert len(views) > 1
        at = 1
        for view in views:
            assert [row[:3] for row in view] == [(day, ROWS_PER_DAY, ROWS_PER_DAY) for day in range(DAYS)]
            assert all(low == high for *_, low, high in view)
            at = states.index(tuple(low for *_, low, _ in view), at)  # a whole state, and never an older one
    assert have_waited(own_server.directory / "log", {reader.pid for reader in readers})  # they have met
    with psycopg.connect(dsn) as connection:
        now = connection.execute("select professional_id_anonymized, count(*) from raw.events group by 1").fetchall()
        assert dict(now) == {who: ROWS_PER_DAY * states[-1].count(who) for who in set(states[-1])}


def test_a_reader_that_stays_holds_up_the_load_and_nobody_else(dsn: str, tmp_path: Path) -> None:
    load(write(tmp_path / "0.csv", 100), dsn)
    uri = write(tmp_path / "1.csv", 101)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(dsn) as staying, psycopg.connect(dsn, autocommit=True) as other:
        staying.execute("select 1 from raw.events limit 1")
        waiting = pool.submit(load, uri, dsn)
        other.execute(f"set lock_timeout = '{DEADLINE_S / 2:g}s'")  # the load itself would wait for half an hour
        until = time.monotonic() + 2
        while time.monotonic() < until:
            [(low, high)] = other.execute(
                "select min(professional_id_anonymized), max(professional_id_anonymized) from raw.events"
            )
            assert (low, high) == (100, 100)
        assert not waiting.done()
        staying.rollback()
        assert waiting.result(DEADLINE_S).loaded == DAYS * ROWS_PER_DAY
        assert other.execute("select distinct professional_id_anonymized from raw.events").fetchall() == [(101,)]
