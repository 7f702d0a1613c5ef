"""What the tests of the dbt project write, read and load."""

import shutil
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from harness.oracle.checks import select
from harness.oracle.expected_numbers import COLUMNS, AllMarts, Event
from harness.processes.dbt_process import PROJECT
from harness.warehouse.roles import Warehouse
from tests.dbt.random_events import NOON

LOCK_KEY = 0x6576656E7473  # spelled out: the load and dbt/run.py must agree on it
# The staging models exist already, and files that nobody reads would take half of the time.
MARTS = "run --quiet --exclude staging --no-write-json --log-level-file none"
Rows = list[tuple[Any, ...]]


def expected(events: list[Event]) -> dict[str, Rows]:
    """Return the rows of each mart for EVENTS, computed without the models."""
    marts = AllMarts()
    for event in events:
        marts.add(event)
    return {mart: in_order(list(rows)) for mart, rows in marts.rows().items()}


def in_order(rows: Rows) -> Rows:
    """Return ROWS in the order of their key, which is the first column, or the first two."""
    return sorted(rows, key=lambda row: row[:2])


def read(warehouse: Warehouse, prefix: str = "test_") -> dict[str, Rows]:
    """Return the rows of each mart."""
    with psycopg.connect(warehouse.reader_dsn) as connection:
        return read_by(connection, prefix)


def read_by(
    connection: psycopg.Connection[Any], prefix: str = "test_", marts: Iterable[str] = COLUMNS
) -> dict[str, Rows]:
    """Return the rows of each of MARTS as CONNECTION sees them."""
    return {mart: in_order(select(connection, mart, prefix)) for mart in marts}


def insert(connection: psycopg.Connection[Any], events: list[Event]) -> None:
    """Insert EVENTS into raw.events."""
    with connection.cursor() as cursor:
        cursor.executemany("insert into raw.events values (%s, %s, %s, %s, %s, 1)", events)


def empty(warehouse: Warehouse) -> None:
    """Empty the raw tables."""
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute("truncate raw.events, raw.loads restart identity cascade")


def write(warehouse: Warehouse, events: list[Event]) -> None:
    """Make EVENTS all that raw.events holds; with such a load every build is one of all time."""
    empty(warehouse)
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute("insert into raw.loads (feed, source_uri, status) values ('events', 'test', 'succeeded')")
        insert(connection, events)


def write_file(path: Path, events: list[Event]) -> Path:
    """Write EVENTS as a log to PATH, which is returned."""
    lines = ["event_id;event_type;professional_id_anonymized;created_at;meta_data"]
    for event in events:
        at = event.created_at.strftime("%Y-%m-%d %H:%M:%S.%f")
        lines.append(f"{event.event_id};{event.event_type};{event.professional_id};{at};{event.meta_data or ''}")
    path.write_text("\n".join([*lines, ""]))
    return path


def loaded(warehouse: Warehouse) -> list[Event]:
    """Return what raw.events holds."""
    columns = "event_id, event_type, professional_id_anonymized, created_at, meta_data"
    with psycopg.connect(warehouse.loader_dsn) as connection:
        return [Event(*row) for row in connection.execute(f"select {columns} from raw.events")]  # noqa: S608


def day(number: int) -> datetime:
    """Return noon of day NUMBER, from 1."""
    return NOON + timedelta(number - 1)


def midnight(number: int) -> datetime:
    """Return when day NUMBER, from 1, begins."""
    return day(number) - timedelta(hours=12)


def five_days() -> list[Event]:
    """Return an event of each kind on each of five days."""
    return [
        event
        for number in range(1, 6)
        for event in (
            Event(10 * number, "became_able_to_propose", number, day(number)),
            Event(10 * number + 1, "proposed", number, day(number), "7_tuin_garden_1.5"),
        )
    ]


def corrected(log: list[Event]) -> list[Event]:
    """Return LOG with day 3 corrected, an event moved from day 4 to day 2, and one gone."""
    moved = {31: 5, 41: -2}
    return [
        event._replace(created_at=event.created_at - timedelta(hours=moved.get(event.event_id, 0)), professional_id=9)
        for event in log
        if event.event_id != 50
    ]


def copy_of_the_project(tmp_path: Path) -> Path:
    """Return a copy of the dbt project to change."""
    return shutil.copytree(PROJECT, tmp_path / "dbt", ignore=shutil.ignore_patterns("target", "logs", "__pycache__"))


def replace(file: Path, old: str, new: str) -> None:
    """Replace the one OLD in FILE by NEW."""
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
