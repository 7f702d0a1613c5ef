"""What users who read or write `raw.events` see of loads, and who waits for whom.

How long readers wait is measured by `nox -s bench`.
"""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.errors import UndefinedTable

from feeds import load as load_module
from feeds.replacement import Replacement
from feeds.swap import swap
from harness.warehouse.roles import Warehouse
from tests.events_feed import load
from tests.feeds.common import DAY, NINE, Rows, account, ids, ids_of, load_day, names, query, wait_until, write_days
from tests.feeds.conftest import OwnServer

ROWS_PER_DAY = 10
TUESDAY = DAY + timedelta(days=1)
DEADLINE_S = 120.0
pytestmark = pytest.mark.usefixtures("small_partitions")


def is_waited_for(db: psycopg.Connection, table: str) -> bool:
    waits = "select 1 from pg_locks where not granted and relation = to_regclass(%s)"
    return db.execute(waits, (table,)).fetchone() is not None


def test_indexes_are_made_before_readers_have_to_wait(
    dsn: str, db: psycopg.Connection, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(uri, dsn)
    db.execute("create index on raw.events (professional_id_anonymized)")
    look = (
        "select oid from pg_class where relkind = 'i' and relnamespace = 'raw'::regnamespace"
        " and relname ~ 'professional' order by 1"
    )
    seen: list[Rows] = []

    def swap_and_compare(connection: psycopg.Connection, *arguments: Any) -> None:
        seen.append(connection.execute(look).fetchall())
        swap(connection, *arguments)
        seen.append(connection.execute(look).fetchall())

    monkeypatch.setattr(load_module, "swap", swap_and_compare)
    load(uri, dsn, force=True)
    assert len(seen[0]) == 2 * 3
    assert seen[0] == seen[1]


@pytest.mark.parametrize("by_name", [False, True], ids=["to the table", "to the partition"])
def test_a_write_during_a_load_is_kept(dsn: str, db: psycopg.Connection, uri: str, *, by_name: bool) -> None:
    """To rows that the load copies since they are outside its interval."""
    load(uri, dsn)
    db.execute("alter table raw.events add column note text")
    table = names(db)[1] if by_name else "raw.events"
    start, end = TUESDAY + timedelta(hours=10), TUESDAY + timedelta(hours=11)
    with psycopg.connect(dsn) as writer, ThreadPoolExecutor(1) as pool:
        writer.execute(f"update {table} set note = 'written' where event_id = 1005".encode())  # noqa: S608 - ours
        loading = pool.submit(load, uri, dsn, start=start, end=end, lock_timeout_s=10)
        wait_until(lambda: is_waited_for(db, table))
        writer.commit()
        assert loading.result().loaded == 0
    assert db.execute("select event_id from raw.events where note = 'written'").fetchall() == [(1005,)]


@pytest.mark.parametrize(
    "wanted", ["vacuum full {}", "insert into {} values (1500, 'created_account', 8, '2020-01-02', null, 1)"]
)
def test_a_user_who_waits_for_a_copied_partition_blocks_nobody_and_gets_an_error(
    dsn: str, db: psycopg.Connection, uri: str, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    load(uri, dsn)
    table = names(db)[1]
    make_partitions = Replacement.make_partitions
    start, end = TUESDAY + timedelta(hours=10), TUESDAY + timedelta(hours=10, minutes=1)
    with psycopg.connect(dsn, autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        waiting: list[Any] = []

        def make_later(*arguments: Any) -> None:
            waiting.append(pool.submit(other.execute, wanted.format(table).encode()))
            wait_until(lambda: is_waited_for(db, table))
            make_partitions(*arguments)

        monkeypatch.setattr(Replacement, "make_partitions", make_later)
        assert load(uri, dsn, start=start, end=end, lock_timeout_s=20).loaded == 0
        if wanted.startswith("insert"):  # instead of losing the row
            with pytest.raises(UndefinedTable):
                waiting[0].result()
    assert ids(db) == ids_of(0, 1, 2)


READ = "select event_id, professional_id_anonymized, created_at::date - '2020-01-01' from raw.events order by 1, 2"
LEVELS = list(psycopg.IsolationLevel)[1:]


def test_each_reader_sees_the_table_before_or_after(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each isolation level, with snapshots from before, during and after loads with duplicates and moves."""
    load(write_days(tmp_path / "events.csv", 0, 1, 2), dsn)
    readers: list[tuple[str, psycopg.Connection]] = []

    def begin(when: str) -> None:
        for level in LEVELS:
            reader = psycopg.connect(dsn)
            reader.isolation_level = level
            reader.execute("select count(*) from raw.loads")  # takes its snapshot
            readers.append((f"{when}, {level.name}", reader))

    stage: Callable[..., Any] = load_module._Load._stage

    def staged(*arguments: Any) -> Any:
        begin("while it stages")
        return stage(*arguments)

    def swapped(*arguments: Any) -> None:
        begin("before the swap")
        swap(*arguments)
        begin("after the swap")

    for number, days in enumerate([(1,), (0, 1, 2), (1,)]):
        more = [*(account(id_, TUESDAY, 77) for id_ in (1003, 1004)), account(2003 + number, TUESDAY, 30 + number)]
        uri = write_days(tmp_path / f"{len(days)}.csv", *days, professional=20 + number, more=more)
        before = db.execute(READ).fetchall()
        begin("before")
        with monkeypatch.context() as patch:
            patch.setattr(load_module._Load, "_stage", staged)
            patch.setattr(load_module, "swap", swapped)
            if len(days) == 1:
                load_day(uri, dsn, 1, max_rejected=0.5)
            else:
                load(uri, dsn, max_rejected=0.5)
        begin("after")
        after = db.execute(READ).fetchall()
        assert after != before
        assert len({event_id for event_id, *_ in after}) == len(after) == 3 * ROWS_PER_DAY
        assert len(readers) == 5 * len(LEVELS)
        while readers:
            name, reader = readers.pop()
            assert reader.execute(READ).fetchall() in (before, after), (number, name)
            reader.close()


def test_a_long_reader_delays_the_load_and_no_other_reader(dsn: str, tmp_path: Path, uri: str) -> None:
    load(uri, dsn)
    new = write_days(tmp_path / "new.csv", 0, 1, 2, professional=9)
    read = "select min(professional_id_anonymized), max(professional_id_anonymized) from raw.events"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(dsn) as long, psycopg.connect(dsn, autocommit=True) as other:
        long.execute("select 1 from raw.events limit 1")
        loading = pool.submit(load, new, dsn)
        other.execute(f"set lock_timeout = '{DEADLINE_S / 2:g}s'")  # the load itself would wait for half an hour
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert other.execute(read).fetchall() == [(8, 8)]
            time.sleep(0.01)
        assert not loading.done()
        long.rollback()
        assert loading.result(DEADLINE_S).loaded == 3 * ROWS_PER_DAY
        assert other.execute(read).fetchall() == [(9, 9)]


DAYS = 20
INTERVALS = [(None, None), (0, 15), (5, 20), (10, 12), (3, 4), (12, None), (None, 6), (9, 17)]
REPETITIONS = 3

State = tuple[int, ...]  # the professional of each day's events


@dataclass
class Reader:
    """Reads the table again and again, and returns what it saw."""

    dsn: str
    isolation: psycopg.IsolationLevel
    stop: threading.Event
    pid: int = 0

    def run(self) -> list[Rows]:
        seen: list[Rows] = []
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

    def read(self, connection: psycopg.Connection) -> Rows:
        return connection.execute(
            "select created_at::date - '2020-01-01', count(*), count(distinct event_id),"
            " min(professional_id_anonymized), max(professional_id_anonymized) from raw.events group by 1 order by 1"
        ).fetchall()


def have_waited(log: Path, pids: set[int]) -> bool:
    """Return whether one of PIDS has waited for a table, by the server's log."""
    acquired = re.compile(r"process (\d+) acquired AccessShareLock on relation \d+ of database \d+ after")
    return not pids.isdisjoint(map(int, acquired.findall(log.read_text())))


def states_after_each_load(dsn: str) -> list[State]:
    """Return what the table contained after each load, by the ledger."""
    loads = query(
        dsn,
        "select run_id, interval_start, interval_end from raw.loads where status = 'succeeded'"
        " order by transaction_id is null, ended_at",
    )
    states = [(0,) * DAYS]
    for professional, start, end in loads:
        days = [DAY + timedelta(days=day) + NINE for day in range(DAYS)]
        states.append(
            tuple(
                int(professional) if (start is None or day >= start) and (end is None or day < end) else was
                for day, was in zip(days, states[-1], strict=True)
            )
        )
    return states


@pytest.mark.slow
def test_each_reader_sees_a_state_between_eight_concurrent_loads(
    own: Warehouse, own_server: OwnServer, tmp_path: Path
) -> None:
    dsn = own.loader_dsn
    with psycopg.connect(own.server.dsn, autocommit=True) as connection:
        for setting in ("log_lock_waits = on", "deadlock_timeout = '1ms'"):  # a longer wait is logged
            connection.execute(f"alter database {own.database} set {setting}".encode())
    rows = 100
    loads = range(len(INTERVALS))
    first = write_days(tmp_path / "0.csv", *range(DAYS), professional=100, rows=rows)
    assert load(first, dsn, run_id="100").loaded == DAYS * rows
    uris = [
        write_days(tmp_path / f"{number}.csv", *range(DAYS), professional=101 + number, rows=rows) for number in loads
    ]
    barrier, stop = Barrier(len(INTERVALS)), threading.Event()

    def load_again(number: int) -> int:
        start, end = (None if day is None else DAY + timedelta(days=day) for day in INTERVALS[number])
        barrier.wait(DEADLINE_S)
        results = [load(uris[number], dsn, start=start, end=end, run_id=str(101 + number)) for _ in range(REPETITIONS)]
        return results[-1].loaded

    committed, repeatable = psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ
    readers = [Reader(dsn, level, stop) for level in (committed, committed, repeatable)]
    with ThreadPoolExecutor(len(INTERVALS) + len(readers)) as pool:
        reading = [pool.submit(reader.run) for reader in readers]
        loading = [pool.submit(load_again, number) for number in loads]
        try:
            loaded = [load.result(DEADLINE_S) for load in loading]
        finally:
            stop.set()
        seen = [reader.result(DEADLINE_S) for reader in reading]

    assert loaded == [days * rows for days in (20, 15, 15, 2, 1, 8, 6, 8)]
    states = states_after_each_load(dsn)
    assert len(states) == 1 + 1 + REPETITIONS * len(INTERVALS)
    for views in seen:
        assert len(views) > 1
        at = 1
        for view in views:
            assert [row[:3] for row in view] == [(day, rows, rows) for day in range(DAYS)]
            assert all(low == high for *_, low, high in view)
            at = states.index(tuple(low for *_, low, _ in view), at)  # a whole state, and never an older one
    assert have_waited(own_server.directory / "log", {reader.pid for reader in readers})
    now = query(dsn, "select professional_id_anonymized, count(*) from raw.events group by 1")
    assert dict(now) == {who: rows * states[-1].count(who) for who in set(states[-1])}
