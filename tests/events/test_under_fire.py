"""Loads that end in the middle: the tables are as before or as after, row by row, and nothing is left."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from events import load as load_module
from events import swap as swap_module
from events.errors import SourceChanged, WarehouseFull, WarehouseGone
from events.load import load
from events.source import _StoredBytes
from harness.warehouse.roles import Warehouse
from tests.events.conftest import DEADLINE_S, OwnServer

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data\n"
DAYS, ROWS_PER_DAY = 6, 5_000
SEED = int(os.environ.get("EVENTS_SEED", random.SystemRandom().randrange(2**32)))

Rows = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def chance() -> random.Random:
    """Give the chance of this test; when it fails, pytest shows the seed with which it does so again."""
    print(f"EVENTS_SEED={SEED}")
    return random.Random(SEED)  # noqa: S311 - it guards nothing


def write(path: Path, professional: int) -> str:
    """Write DAYS days of events, all of one PROFESSIONAL, with some rows that are none."""
    with path.open("w") as file:
        file.write(HEADER)
        for number in range(DAYS * ROWS_PER_DAY):
            day, second = divmod(number, ROWS_PER_DAY)
            moment = f"2020-01-{day + 1:02} {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
            if number % 1000 == 999:
                file.write(f"{number};unheard_of;{professional};{moment};\n")
            else:
                file.write(f"{number};proposed;{professional};{moment};3_é_b_{number % 7}.5\n")
    return str(path)


def query(dsn: str, statement: str) -> Rows:
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement.encode()).fetchall()


def events(warehouse: Warehouse) -> Rows:
    columns = "event_id, event_type, professional_id_anonymized, created_at, meta_data"
    return query(warehouse.loader_dsn, f"select {columns} from raw.events order by 1")  # noqa: S608


def rejects(warehouse: Warehouse) -> Rows:
    return query(warehouse.loader_dsn, "select line_number, raw_text, reason from raw.rejected_events order by 1")


def statuses(warehouse: Warehouse) -> list[str]:
    return [status for (status,) in query(warehouse.loader_dsn, "select status from raw.loads order by load_id")]


def tables(warehouse: Warehouse) -> set[str]:
    return {name for (name,) in query(warehouse.loader_dsn, "select tablename from pg_tables where schemaname = 'raw'")}


def loose_tables(warehouse: Warehouse) -> set[str]:
    """Return the tables of `raw` that are neither known nor partitions of raw.events."""
    attached = query(warehouse.loader_dsn, "select relid::regclass::text from pg_partition_tree('raw.events')")
    known = {"events", "events_partitions", "loads", "rejected_events"}
    return tables(warehouse) - {name.removeprefix("raw.") for (name,) in attached} - known


def wait_until_nobody_is_connected(warehouse: Warehouse) -> None:
    deadline = time.monotonic() + DEADLINE_S
    others = "select 1 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    while query(warehouse.admin_dsn, others):
        assert time.monotonic() < deadline, "a connection stays"
        time.sleep(0.02)


class Before:
    """A warehouse with a first load in it, and the file of a second one."""

    def __init__(self, warehouse: Warehouse, directory: Path) -> None:
        self.warehouse = warehouse
        load(write(directory / "events.csv", professional=1), warehouse.loader_dsn)
        self.events, self.rejects, self.tables = events(warehouse), rejects(warehouse), tables(warehouse)
        self.uri = write(directory / "events.csv", professional=22)
        self.after = [(*row[:2], 22, *row[3:]) for row in self.events]
        self.rejects_after = [(line, text.replace(";1;", ";22;"), reason) for line, text, reason in self.rejects]
        assert len(self.events) == DAYS * (ROWS_PER_DAY - 5)
        assert len(self.rejects) == DAYS * 5

    def assert_unchanged(self) -> None:
        wait_until_nobody_is_connected(self.warehouse)
        assert events(self.warehouse) == self.events
        assert rejects(self.warehouse) == self.rejects
        assert tables(self.warehouse) == self.tables

    def assert_the_next_load_does_it_all(self, failure: str | None = "Its process was killed.") -> None:
        assert load(self.uri, self.warehouse.loader_dsn).loaded == len(self.after)
        assert events(self.warehouse) == self.after
        assert rejects(self.warehouse) == self.rejects_after
        assert loose_tables(self.warehouse) == set()
        assert set(statuses(self.warehouse)) <= {"succeeded", "failed"}
        if failure:
            said = query(self.warehouse.loader_dsn, "select distinct failure from raw.loads where status = 'failed'")
            assert [text.splitlines()[0] for (text,) in said] == [failure]


@pytest.fixture
def before(own: Warehouse, tmp_path: Path) -> Before:
    return Before(own, tmp_path)


# --- the loader is killed -------------------------------------------------------------------------------------------

KILLED_AT_BYTE = """
import os, signal, sys
from events import source
read = source._StoredBytes.readinto
def readinto(self, buffer):
    if (left := int(sys.argv[2]) - self.size_bytes) <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, memoryview(buffer)[:left])
source._StoredBytes.readinto = readinto
"""
KILLED_AT_STATEMENT = """
import os, signal, sys
import psycopg
execute, left = psycopg.Connection.execute, int(sys.argv[2])
def counted(self, *arguments, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return execute(self, *arguments, **options)
psycopg.Connection.execute = counted
"""
LOAD = "from events.load import load; load(sys.argv[1], os.environ['LOADER_DSN'])"


def run_killed(before: Before, how: str, when: int) -> int:
    env = os.environ | {"LOADER_DSN": before.warehouse.loader_dsn}
    process = subprocess.run([sys.executable, "-c", how + LOAD, before.uri, str(when)], env=env, check=False)
    return process.returncode


def test_the_loader_is_killed_at_random_bytes(before: Before, chance: random.Random) -> None:
    size = Path(before.uri).stat().st_size
    for at in [0, size, *(chance.randrange(size) for _ in range(6))]:
        assert run_killed(before, KILLED_AT_BYTE, at) == -signal.SIGKILL
        before.assert_unchanged()
    assert statuses(before.warehouse)[-1] == "running"
    before.assert_the_next_load_does_it_all()


def test_the_loader_is_killed_before_any_of_its_statements(before: Before, chance: random.Random) -> None:
    """The last of them is the one that publishes."""
    statement = 0
    while run_killed(before, KILLED_AT_STATEMENT, statement) == -signal.SIGKILL:
        if events(before.warehouse) == before.after:
            break  # only what was there before remained to be removed
        before.assert_unchanged()
        statement += chance.randrange(1, 6)
    assert statement > 20
    assert events(before.warehouse) == before.after
    assert rejects(before.warehouse) == before.rejects_after
    before.assert_the_next_load_does_it_all()


# --- the server is killed, or the connection ------------------------------------------------------------------------


@contextlib.contextmanager
def at_byte(monkeypatch: pytest.MonkeyPatch, when: int, act: Callable[[], None]) -> Iterator[None]:
    """Have ACT called once, when the byte WHEN of a file has been read."""
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


def test_the_server_is_killed_before_publishing(
    before: Before, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch, chance: random.Random
) -> None:
    when = chance.randrange(Path(before.uri).stat().st_size)
    with at_byte(monkeypatch, when, own_server.kill), pytest.raises(WarehouseGone):
        load(before.uri, before.warehouse.loader_dsn)
    own_server.start()
    before.assert_unchanged()
    assert statuses(before.warehouse) == ["succeeded", "running"]
    before.assert_the_next_load_does_it_all()


def test_the_server_is_killed_while_publishing(
    before: Before, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch, chance: random.Random
) -> None:
    swap = swap_module.swap
    wanted = {1: before.events}
    for professional in (22, 333, 4444, 55555):
        wanted[professional] = [(*row[:2], professional, *row[3:]) for row in before.events]
        write(Path(before.uri), professional)
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
            load(before.uri, before.warehouse.loader_dsn)
        own_server.start()
        published = statuses(before.warehouse)[-1] == "succeeded"
        found = events(before.warehouse)
        assert found == wanted[professional if published else found[0][2]]
        assert published == (found[0][2] == professional)
        assert {text.split(";")[2] for _, text, _ in rejects(before.warehouse)} == {str(found[0][2])}
    monkeypatch.undo()
    write(Path(before.uri), 22)
    before.assert_the_next_load_does_it_all(failure=None)


def test_the_server_is_killed_after_publishing(
    before: Before, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = swap_module.swap

    def swap_then_kill(*arguments: Any) -> None:
        swap(*arguments)
        own_server.kill()

    monkeypatch.setattr(load_module, "swap", swap_then_kill)
    load(before.uri, before.warehouse.loader_dsn)
    own_server.start()
    assert events(before.warehouse) == before.after
    assert rejects(before.warehouse) == before.rejects_after
    assert statuses(before.warehouse) == ["succeeded", "succeeded"]
    assert len(loose_tables(before.warehouse)) == 2  # what the load replaced, with its partition
    before.assert_the_next_load_does_it_all(failure=None)


def test_the_connection_is_cut(before: Before, monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> None:
    loader = before.warehouse.role("loader")

    def cut() -> None:
        query(
            before.warehouse.admin_dsn,
            f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{loader}'",  # noqa: S608
        )

    when = chance.randrange(Path(before.uri).stat().st_size)
    with at_byte(monkeypatch, when, cut), pytest.raises(WarehouseGone):
        load(before.uri, before.warehouse.loader_dsn)
    before.assert_unchanged()
    [(failure,)] = query(before.warehouse.loader_dsn, "select failure from raw.loads where load_id = 2")
    assert re.search("terminating connection due to administrator command|server closed the connection", failure)
    before.assert_the_next_load_does_it_all(failure=None)


@pytest.fixture
def small_disk(own_server: OwnServer) -> Iterator[Path]:
    """Give a directory on a disk of 12 MB."""
    directory = own_server.directory / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", directory], check=True)
    own_server.give(directory)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.needs("mount")
def test_the_disk_is_full(own: Warehouse, small_disk: Path, tmp_path: Path) -> None:
    with psycopg.connect(own.admin_dsn, autocommit=True) as connection:
        connection.execute(f"create tablespace small location '{small_disk}'".encode())
    with psycopg.connect(own.server.dsn, autocommit=True) as connection:
        connection.execute(f"alter database {own.database} set tablespace small".encode())
    try:
        load_of_a_day(own, tmp_path)
        before = events(own), rejects(own), tables(own)
        large = tmp_path / "large.csv"
        large.write_text(HEADER + "".join(f"{i};created_account;7;2020-01-01 00:00:00;\n" for i in range(200_000)))
        with pytest.raises(WarehouseFull):
            load(str(large), own.loader_dsn)
        wait_until_nobody_is_connected(own)
        assert (events(own), rejects(own), tables(own)) == before
        assert statuses(own) == ["succeeded", "failed"]
        [(failure,)] = query(own.loader_dsn, "select failure from raw.loads where load_id = 2")
        assert failure.startswith("The warehouse's disk is full: could not extend file")
        load_of_a_day(own, tmp_path, professional=3)
        assert {row[2] for row in events(own)} == {3}
    finally:
        with psycopg.connect(own.server.dsn, autocommit=True) as connection:
            connection.execute(f"drop database {own.database} with (force)".encode())
            connection.execute("drop tablespace small")


def load_of_a_day(warehouse: Warehouse, directory: Path, professional: int = 1) -> None:
    file = directory / f"day-{professional}.csv"
    file.write_text(HEADER + "".join(f"{i};created_account;{professional};2020-01-01 00:00:00;\n" for i in range(1000)))
    assert load(str(file), warehouse.loader_dsn).loaded == 1000


# --- the file changes -----------------------------------------------------------------------------------------------


def appended(file: Path) -> None:
    with file.open("a") as more:
        more.write("999999;created_account;7;2020-01-01 00:00:00;\n")


def overwritten_in_place(file: Path) -> None:
    with file.open("r+") as other:
        other.seek(len(HEADER))
        other.write("7")


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def put_in_its_place(file: Path) -> None:
    other = file.with_suffix(".new")
    shutil.copy2(file, other)
    other.rename(file)


@pytest.mark.parametrize("change", [appended, overwritten_in_place, cut_short, put_in_its_place])
def test_the_file_changes_while_it_is_read(
    before: Before, monkeypatch: pytest.MonkeyPatch, chance: random.Random, change: Callable[[Path], None]
) -> None:
    file = Path(before.uri)
    when = chance.randrange(file.stat().st_size)
    with at_byte(monkeypatch, when, lambda: change(file)), pytest.raises(SourceChanged) as caught:
        load(before.uri, before.warehouse.loader_dsn)
    assert caught.value.exit_code == 22
    assert caught.value.what == f"{file} changed while it was read."
    before.assert_unchanged()
    assert statuses(before.warehouse) == ["succeeded", "failed"]
    file.unlink()
    write(file, professional=22)
    before.assert_the_next_load_does_it_all(failure=caught.value.what)
