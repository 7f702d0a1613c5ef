"""Loads that end early: the tables are as before or as after, row by row, and nothing else remains."""

import contextlib
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feeds import load as load_module
from feeds.errors import SourceChanged, WarehouseFull, WarehouseGone
from feeds.load import load as load_feed
from feeds.source import _StoredBytes
from feeds.swap import swap
from feeds.tables import create_tables
from harness.warehouse.roles import Warehouse, copy_warehouse, drop_warehouse
from tests.events_feed import load
from tests.feeds import common, killed
from tests.feeds.common import DAY, HEADER, Rows, account, other_tables, query, wait_until
from tests.feeds.conftest import OwnServer

DAYS, ROWS_PER_DAY = 6, 2_000
SEED = int(os.environ.get("EVENTS_SEED", random.SystemRandom().randrange(2**32)))
VISITS_TABLES = "select relname from pg_partition_tree('raw.visits') join pg_class on oid = relid"
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def chance() -> random.Random:
    """Give this test's random numbers; when it fails, pytest shows the seed with which it fails again."""
    print(f"EVENTS_SEED={SEED}")
    return random.Random(SEED)  # noqa: S311 - not for security


def write(path: Path, professional: int) -> str:
    """Write events of DAYS days, all of one PROFESSIONAL, with some invalid rows."""
    with path.open("w") as file:
        file.write(f"{HEADER}\n")
        for number in range(DAYS * ROWS_PER_DAY):
            day, second = divmod(number, ROWS_PER_DAY)
            moment = f"2020-01-{day + 1:02} {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
            if number % 400 == 399:
                file.write(f"{number};unheard_of;{professional};{moment};\n")
            else:
                file.write(f"{number};proposed;{professional};{moment};3_é_b_{number % 7}.5\n")
    return str(path)


def content(dsn: str) -> tuple[Rows, Rows, set[str]]:
    """Return the events, the rejected rows and the names of the tables."""
    with psycopg.connect(dsn) as db:
        tables = {name for (name,) in query(dsn, "select tablename from pg_tables where schemaname = 'raw'")}
        return common.events(db), common.rejects(db), tables


def statuses(dsn: str) -> list[str]:
    return [status for (status,) in query(dsn, "select status from raw.loads order by load_id")]


class Before:
    """A warehouse with a first load of a file, of professional 1, and the path of that file."""

    def __init__(self, warehouse: Warehouse, file: Path) -> None:
        self.warehouse, self.file, self.uri = warehouse, file, str(file)
        self.dsn = warehouse.loader_dsn
        self.events, self.rejects, self.tables = content(self.dsn)
        assert len(self.events) == DAYS * (ROWS_PER_DAY - 5)
        assert len(self.rejects) == DAYS * 5

    def after(self, professional: int) -> tuple[Rows, Rows]:
        """Return the events and rejected rows after a load of the same file of PROFESSIONAL."""
        events = [(*row[:2], professional, *row[3:]) for row in self.events]
        return events, [(line, text.replace(";1;", f";{professional};"), why) for line, text, why in self.rejects]

    def assert_unchanged(self) -> None:
        others = "select 1 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        wait_until(lambda: not query(self.warehouse.admin_dsn, others))
        assert content(self.dsn) == (self.events, self.rejects, self.tables)

    def assert_the_next_load_succeeds(self, failure: str | None = "Its process was killed.") -> None:
        assert load(self.uri, self.dsn).loaded == len(self.events)
        assert content(self.dsn)[:2] == self.after(22)
        with psycopg.connect(self.dsn) as db:
            assert other_tables(db) == set()
        assert set(statuses(self.dsn)) <= {"succeeded", "failed"}
        if failure:
            failures = query(self.dsn, "select distinct failure from raw.loads where status = 'failed'")
            assert [text.splitlines()[0] for (text,) in failures] == [failure]


@pytest.fixture(scope="module")
def loaded(own_template: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Before:
    warehouse = copy_warehouse(own_template, "loaded")
    file = tmp_path_factory.mktemp("killed") / "events.csv"
    load(write(file, professional=1), warehouse.loader_dsn)
    return Before(warehouse, file)


@pytest.fixture
def before(loaded: Before) -> Iterator[Before]:
    """Give the warehouse after the first load, where the file is now of professional 22."""
    warehouse = copy_warehouse(loaded.warehouse, "before")
    loaded.file.unlink()
    write(loaded.file, professional=22)
    yield Before(warehouse, loaded.file)
    drop_warehouse(warehouse)


def test_the_load_is_killed_at_random_bytes(before: Before, chance: random.Random) -> None:
    size = before.file.stat().st_size
    for at in [0, size, *(chance.randrange(size) for _ in range(6))]:
        assert killed.run(killed.kill_at_byte, at, before.uri, before.dsn) == -signal.SIGKILL
        before.assert_unchanged()
    assert statuses(before.dsn)[-1] == "running"
    before.assert_the_next_load_succeeds()


def test_the_load_is_killed_before_any_of_its_statements(before: Before, chance: random.Random) -> None:
    """The last one of them before it drops the replaced tables is the swap."""
    statement = 0
    while killed.run(killed.kill_before_statement, statement, before.uri, before.dsn) == -signal.SIGKILL:
        if content(before.dsn)[:2] == before.after(22):
            break  # after the swap
        before.assert_unchanged()
        statement += chance.randrange(1, 6)
    assert statement > 20
    assert content(before.dsn)[:2] == before.after(22)
    before.assert_the_next_load_succeeds()


def test_a_load_that_reads_its_file_twice_is_killed(
    dsn: str, db: psycopg.Connection, tmp_path: Path, chance: random.Random
) -> None:
    """As one does whose key is not one integer, and which has duplicates."""
    columns = ", ".join(
        f"{{name: {name}, logicalType: {kind}, required: true, primaryKey: {key}}}"
        for name, kind, key in (("site", "string", "true"), ("day", "date", "true"), ("visitors", "integer", "false"))
    )
    feed = common.contract(tmp_path, "visits", columns, "{property: timeColumn, value: day}")
    create_tables(dsn, feed)
    file = tmp_path / "visits.csv"
    present, wanted = [[(f"s{n % 300}", DAY.date(), visitors) for n in range(310)] for visitors in (1, 2)]
    for version in (present, wanted):
        lines = ["site,day,visitors", *(",".join(map(str, row)) for row in version)]
        file.write_text("\n".join(lines))
        if version is present:
            assert load_feed(feed, dsn, source_uri=str(file), max_rejected=0.1).rejected == 10
    feed = dataclasses.replace(feed, properties=feed.properties.model_copy(update={"max_rejected": 0.1}))
    for statement in chance.sample(range(5, 40), 3):
        assert killed.run(killed.kill_before_statement, statement, str(file), dsn, feed) == -signal.SIGKILL
        assert sorted(common.rows(db, feed)) == sorted(set(present))
        assert len(common.rejects(db)) == 10
    assert load_feed(feed, dsn, source_uri=str(file)).rejected == 10
    assert sorted(common.rows(db, feed)) == sorted(set(wanted))
    assert other_tables(db) == {table for (table,) in query(dsn, VISITS_TABLES)}


@contextlib.contextmanager
def at_byte(monkeypatch: pytest.MonkeyPatch, when: int, act: Callable[[], None]) -> Iterator[None]:
    """Call ACT once, when the byte WHEN of a file has been read."""
    read = _StoredBytes.readinto
    acted = False

    def readinto(stored: _StoredBytes, buffer: Any) -> int:
        nonlocal acted
        if not acted and stored.size_bytes >= when:
            acted = True
            act()
        return read(stored, memoryview(buffer)[: max(1, when - stored.size_bytes)] if not acted else buffer)

    with monkeypatch.context() as patch:
        patch.setattr(_StoredBytes, "readinto", readinto)
        yield
    assert acted


def test_the_server_is_killed_before_the_swap(
    before: Before, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch, chance: random.Random
) -> None:
    when = chance.randrange(before.file.stat().st_size)
    with at_byte(monkeypatch, when, own_server.kill), pytest.raises(WarehouseGone):
        load(before.uri, before.dsn)
    own_server.start()
    before.assert_unchanged()
    assert statuses(before.dsn) == ["succeeded", "running"]
    before.assert_the_next_load_succeeds()


def test_the_server_is_killed_during_the_swap(
    before: Before, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch, chance: random.Random
) -> None:
    present = 1
    for professional in (22, 333, 4444, 55555):
        write(before.file, professional)
        delay_s = chance.uniform(0, 0.03)

        def swap_and_kill(*arguments: Any, delay_s: float = delay_s) -> None:
            killer = threading.Timer(delay_s, own_server.kill)
            killer.start()
            try:
                swap(*arguments)
            finally:
                killer.join()

        monkeypatch.setattr(load_module, "swap", swap_and_kill)
        with contextlib.suppress(WarehouseGone):
            load(before.uri, before.dsn)
        own_server.start()
        if statuses(before.dsn)[-1] == "succeeded":
            present = professional
        assert content(before.dsn)[:2] == before.after(present)
    monkeypatch.undo()
    write(before.file, 22)
    before.assert_the_next_load_succeeds(failure=None)


def test_the_server_is_killed_after_the_swap(
    before: Before, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap_then_kill(*arguments: Any) -> None:
        swap(*arguments)
        own_server.kill()

    monkeypatch.setattr(load_module, "swap", swap_then_kill)
    load(before.uri, before.dsn)
    own_server.start()
    assert content(before.dsn)[:2] == before.after(22)
    assert statuses(before.dsn) == ["succeeded", "succeeded"]
    with psycopg.connect(before.dsn) as db:
        assert len(other_tables(db)) == 2  # the replaced partition and generation
    before.assert_the_next_load_succeeds(failure=None)


def test_the_connection_is_terminated(before: Before, monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> None:
    loader = before.warehouse.role("loader")

    def terminate() -> None:
        statement = f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{loader}'"  # noqa: S608
        query(before.warehouse.admin_dsn, statement)

    when = chance.randrange(before.file.stat().st_size)
    with at_byte(monkeypatch, when, terminate), pytest.raises(WarehouseGone):
        load(before.uri, before.dsn)
    before.assert_unchanged()
    [(failure,)] = query(before.dsn, "select failure from raw.loads where load_id = 2")
    assert re.search("terminating connection due to administrator command|server closed the connection", failure)
    before.assert_the_next_load_succeeds(failure=None)


@pytest.fixture
def small_disk(own_server: OwnServer) -> Iterator[Path]:
    directory = own_server.directory / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", directory], check=True)
    own_server.give(directory)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.needs("mount")
def test_the_disk_is_full(own: Warehouse, small_disk: Path, tmp_path: Path) -> None:
    dsn = own.loader_dsn
    small = common.write(tmp_path / "small.csv", map(account, range(1000)))
    large = common.write(tmp_path / "large.csv", map(account, range(200_000)))
    with psycopg.connect(own.server.dsn, autocommit=True) as admin:
        admin.execute(f"create tablespace small location '{small_disk}'".encode())
        admin.execute(f"alter database {own.database} set tablespace small".encode())
    try:
        assert load(small, dsn).loaded == 1000
        before = content(dsn)
        with pytest.raises(WarehouseFull):
            load(large, dsn)
        others = "select 1 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        wait_until(lambda: not query(own.admin_dsn, others))
        assert content(dsn) == before
        assert statuses(dsn) == ["succeeded", "failed"]
        [(failure,)] = query(dsn, "select failure from raw.loads where load_id = 2")
        assert failure.startswith("The warehouse's disk is full: could not extend file")
        assert load(small, dsn, force=True).replaced == 1000
    finally:
        drop_warehouse(own)
        with psycopg.connect(own.server.dsn, autocommit=True) as admin:
            admin.execute("drop tablespace small")


def append(file: Path) -> None:
    with file.open("a") as more:
        more.write("999999;created_account;7;2020-01-01 00:00:00;\n")


def overwrite_in_place(file: Path) -> None:
    with file.open("r+") as other:
        other.seek(len(HEADER) + 1)
        other.write("7")


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def replace(file: Path) -> None:
    other = file.with_suffix(".new")
    shutil.copy2(file, other)
    other.rename(file)


@pytest.mark.parametrize("change", [append, overwrite_in_place, truncate, replace])
def test_the_file_changes_while_it_is_read(
    before: Before, monkeypatch: pytest.MonkeyPatch, chance: random.Random, change: Callable[[Path], None]
) -> None:
    when = chance.randrange(before.file.stat().st_size)
    with at_byte(monkeypatch, when, lambda: change(before.file)), pytest.raises(SourceChanged) as caught:
        load(before.uri, before.dsn)
    assert caught.value.exit_code == 22
    assert caught.value.what == f"{before.uri} changed while it was read."
    before.assert_unchanged()
    assert statuses(before.dsn) == ["succeeded", "failed"]
    before.file.unlink()
    write(before.file, professional=22)
    before.assert_the_next_load_succeeds(failure=caught.value.what)
