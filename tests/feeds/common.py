"""Events files, the rows of the tables of `raw`, and waiting: for the tests of loads."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from feeds.contract import Feed, read_feed
from feeds.formats import read
from feeds.ledger import LoadResult
from feeds.partitions import partitions as partitions_of
from feeds.ranges import Partition
from feeds.source import open_source
from feeds.table import RawTable
from tests.events_feed import COLUMNS, EVENTS, load

HEADER = ";".join(COLUMNS)
DAY = datetime(2020, 1, 1, tzinfo=UTC)
DEADLINE_S = 60.0
NINE = timedelta(hours=9)
TABLES = {"loaded_days", "loaded_files", "loads", "partitions", "rejected_rows", "snapshot_days"}  # of all feeds

Rows = list[tuple[Any, ...]]


def account(event_id: int, moment: datetime = DAY, professional: int = 8) -> str:
    return f"{event_id};created_account;{professional};{moment:%Y-%m-%d %H:%M:%S};"


def write(path: Path, lines: Iterable[str]) -> str:
    path.write_text("\n".join([HEADER, *lines]))
    return str(path)


def write_days(path: Path, *days: int, professional: int = 8, rows: int = 10, more: Iterable[str] = ()) -> str:
    """Write an events file with ROWS events per day, one a minute from 9:00, and MORE lines; return its path.

    The event ids of day 2 are 2000, 2001 and so on.
    """
    events = [
        account(day * 1000 + number, DAY + timedelta(days=day, minutes=number) + NINE, professional)
        for day in days
        for number in range(rows)
    ]
    return write(path, [*events, *more])


def load_day(uri: str, dsn: str, day: int, **options: Any) -> LoadResult:
    return load(uri, dsn, start=DAY + timedelta(days=day), end=DAY + timedelta(days=day + 1), **options)


def query(dsn: str, statement: str) -> Rows:
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement.encode()).fetchall()


def events(db: psycopg.Connection) -> Rows:
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    return db.execute(sql.SQL("select {} from raw.events order by event_id, created_at").format(columns)).fetchall()


def ids(db: psycopg.Connection) -> list[int]:
    return [event_id for (event_id,) in db.execute("select event_id from raw.events order by 1")]


def ids_of(*days: int, rows: int = 10) -> list[int]:
    """Return the event ids that `write_days` writes."""
    return [day * 1000 + number for day in days for number in range(rows)]


def rejects(db: psycopg.Connection) -> Rows:
    """Return line number, raw text, and reason (with its column, as a load counts it) of the rejected rows."""
    return db.execute(
        "select line_number, raw_text, concat_ws(': ', column_name, reason)"
        " from raw.rejected_rows order by load_id, file_number, line_number"
    ).fetchall()


def ledger(db: psycopg.Connection) -> list[dict[str, Any]]:
    return db.cursor(row_factory=dict_row).execute("select * from raw.loads order by load_id").fetchall()


def loaded_days(db: psycopg.Connection) -> dict[int, dict[date, tuple[int | None, ...]]]:
    """Return rows loaded, added, changed, removed, absent and present, by day, by load."""
    found: dict[int, dict[date, tuple[int | None, ...]]] = {}
    for load_id, day, *counts in db.execute(
        "select load_id, day, rows_loaded, rows_added, rows_changed, rows_removed, rows_absent, rows_present"
        " from raw.loaded_days"
    ):
        found.setdefault(load_id, {})[day] = tuple(counts)
    return found


def rows(db: psycopg.Connection, feed: Feed) -> Rows:
    """Return the rows of FEED's raw table."""
    table = RawTable(feed)
    return db.execute(sql.SQL("select {} from {}").format(table.names, table.identifier)).fetchall()


def empty(db: psycopg.Connection, feed: Feed = EVENTS) -> None:
    """Delete all rows of FEED, rejected rows and loads: faster than truncate for a few rows."""
    for table in (feed.name, "rejected_rows", "loaded_days", "loaded_files", "loads"):
        db.execute(sql.SQL("delete from {}").format(sql.Identifier("raw", table)))


def contract(folder: Path, name: str, columns: str, properties: str = "", rule: str = "") -> Feed:
    """Return the feed NAME with COLUMNS and PROPERTIES, both the inside of lists in YAML, and a RULE in SQL."""
    rules = f"{{property: rules, value: [{{name: a_rule, sql: {rule}}}]}}" if rule else ""
    path = folder / f"{name}.yaml"
    path.write_text(
        f"{{apiVersion: v3.1.0, kind: DataContract, id: {name}, name: {name}, version: 1.0.0, status: active,"
        f" servers: [{{server: files, type: local, path: {name}.csv, format: csv}}],"
        f" customProperties: [{properties}],"
        f" schema: [{{name: {name}, properties: [{columns}], customProperties: [{rules}]}}]}}"
    )
    return read_feed(path)


def partitions(db: psycopg.Connection) -> list[Partition]:
    return partitions_of(db, RawTable(EVENTS))


def names(db: psycopg.Connection) -> list[str]:
    """Return the names of the partitions, in the order of their times."""
    return [partition.table.as_string(db).replace('"', "") for partition in partitions(db)]


def generation(db: psycopg.Connection) -> str:
    """Return the name of the one partition of raw.events, to which the others belong."""
    [(name,)] = db.execute("select inhrelid::regclass::text from pg_inherits where inhparent = 'raw.events'::regclass")
    return str(name)


def other_tables(db: psycopg.Connection) -> set[str]:
    """Return the tables of `raw` that are neither raw.events, its partitions nor those of all feeds."""
    found = db.execute(
        "select relname from pg_class where relnamespace = 'raw'::regnamespace and relkind in ('r', 'p')"
        " and oid not in (select relid from pg_partition_tree('raw.events'))"
    )
    return {name for (name,) in found} - TABLES


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


def check_source(uri: str) -> None:
    """Open URI, and read what is before its rows."""
    with open_source(uri) as source:
        read(source, EVENTS)
