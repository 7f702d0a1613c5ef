"""The rows that both sides are built from: loaded from files, and some of them held back for a second run."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from feeds.contract import Feed
from feeds.load import load
from feeds.table import RawTable
from feeds.tables import create_others, create_tables
from harness.contracts.file_layout import FORMATS
from harness.diff.base import Base, differing_files, python_of_base
from harness.errors import BaseFailedError
from harness.project.paths import DATA, ROOT
from harness.warehouse.roles import Warehouse

HELD_BACK = "held_back"  # the schema, in the copies that only a comparison uses
# The later half; and of some ten days before that every tenth row, as one that arrives late. Each such day is one more
# condition in each incremental model, for each row.
LATER = """
    {time} >= {median}
    or (
        mod(extract(epoch from {time})::bigint / 86400, {every}) = 3
        and mod(hash_record_extended(row({key}), 0), 10) = 0
    )
"""
HALVES = """
    select
        percentile_disc(0.5) within group (order by {time}),
        greatest(7, extract(epoch from max({time})::timestamptz - min({time})::timestamptz)::bigint / 86400 / 20)
    from {table}
"""
MOVED = """
    with moved as (delete from {table} where {condition} returning {columns})
    insert into {held} ({columns}) select * from moved
"""
# The rows that come back are a load of their own, of no file and of all time, whatever columns the ledger has: those
# that are not named here have the values of the feed's last load, as far as there is one. Both sides get the same.
URI = "rows held back"
LOADED = """
    insert into raw.loads ({columns}) overriding system value
    select {columns} from jsonb_populate_record(
        (
            select last from raw.loads as last
            where feed = {feed} and status = 'succeeded' order by load_id desc limit 1
        ),
        (
            select jsonb_build_object(
                'load_id', coalesce(max(load_id), 0) + 1, 'feed', {feed}, 'source_uri', {uri}, 'status', 'succeeded',
                'interval_start', null, 'interval_end', null, 'moved_from', null, 'same_as_load_id', null,
                'started_at', coalesce(max(ended_at) filter (where feed = {feed}), '2000-01-01'),
                'ended_at', coalesce(max(ended_at) filter (where feed = {feed}), '2000-01-01') + interval '1 second',
                'rows_read', {rows}, 'rows_loaded', {rows}, 'rows_rejected', 0, 'rows_outside', 0, 'rows_replaced', 0,
                'rows_absent', 0, 'transaction_id', pg_current_xact_id()
            )
            from raw.loads
        )
    )
    returning load_id
"""
LOADED_DAYS = """
    insert into raw.loaded_days (
        load_id, day, rows_loaded, rows_added, rows_changed, rows_removed, rows_absent, rows_present
    )
    select {load_id}, day, added, added, 0, 0, 0, present
    from (select {day}::date as day, count(*) as added from {held} group by 1) as held
    join (select {day}::date as day, count(*) as present from {table} group by 1) as present using (day)
"""
FORGOTTEN_DAYS = (
    "delete from raw.loaded_days using raw.loads where loads.load_id = loaded_days.load_id and source_uri = {uri}"
)
STORED_COLUMNS = """
    select attname from pg_attribute
    where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
"""
SAME_TIMES = """
    update raw.loads set
        started_at = '2000-01-01'::timestamptz + number * interval '1 hour',
        ended_at = '2000-01-01'::timestamptz + number * interval '1 hour' + interval '1 second'
    from (
        select load_id as id, row_number() over (partition by feed order by load_id) as number from raw.loads
    ) as numbered
    where load_id = id
"""


def load_files(warehouse: Warehouse, feeds: Mapping[str, Feed], files: Mapping[str, str]) -> dict[str, int]:
    """Load FILES, a URI for each of FEEDS, by this tree's code; return the number of rows by feed."""
    create_others(warehouse.loader_dsn, feeds.values())
    loaded = {}
    for name, uri in files.items():
        create_tables(warehouse.loader_dsn, feeds[name])
        loaded[name] = load(feeds[name], warehouse.loader_dsn, source_uri=uri).loaded
    return loaded


def load_files_by_base(base: Base, warehouse: Warehouse, files: Mapping[str, str]) -> dict[str, int]:
    """Load FILES, a URI for each of BASE's feeds, by its code, contracts and locks; return the number of rows by feed.

    Raises BaseFailedError.
    """
    lock = Path("requirements", "feeds.txt")
    # This environment has the packages of the same lock, too.
    is_same = not differing_files(base.folder, ROOT, str(lock))
    python = sys.executable if is_same else python_of_base(base, "feeds")
    env = os.environ | {
        "PYTHONPATH": str(base.folder / "airflow" / "include"),
        "EVENTS_DSN": warehouse.loader_dsn,
    }
    for name, uri in files.items():
        done = subprocess.run(
            [python, "-m", "feeds", "load", name, uri],
            env=env, cwd=base.folder, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode:
            line = next((line for line in done.stderr.splitlines() if line.startswith("✗")), done.stderr.strip()[-300:])
            raise BaseFailedError(
                f"The base's load of {name} failed: {line.removeprefix('✗ ')}",
                "The load's code or the contracts have changed, so each side loads the files by its own.",
                "Choose files that both sides can load: --events, or --feed NAME=URI",
            )
    counts = {}
    with psycopg.connect(warehouse.admin_dsn) as connection:
        for name in files:
            counting = sql.SQL("select count(*) from {}").format(sql.Identifier("raw", name))
            [counts[name]] = connection.execute(counting).fetchone() or (0,)
    return counts


def files_of_base(base: Base, files: Mapping[str, str]) -> dict[str, str]:
    """Return the files of BASE's feeds: those of FILES, and else the sample that BASE has itself.

    Its contracts are not read: they may be of a version that this tree cannot read.
    """
    found = {}
    for contract in sorted((base.folder / "airflow" / "feeds").glob("*.yaml")):
        data = base.folder / DATA.relative_to(ROOT)
        samples = [path for name in FORMATS if (path := data / f"{contract.stem}.{name}").exists()]
        if contract.stem in files:
            found[contract.stem] = files[contract.stem]
        elif samples:
            found[contract.stem] = str(samples[0])
    return found


def set_same_times(warehouse: Warehouse) -> None:
    """Give the loads of the ledger times that are the same on both sides, of which each has loaded by itself."""
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute(SAME_TIMES)


def hold_back(warehouse: Warehouse, feeds: Mapping[str, Feed]) -> int:
    """Take the later half of the rows of each of FEEDS with a time, and some of before, out of its raw table.

    Return how many rows that are.
    """
    rows = 0
    with administrator(warehouse) as connection:
        connection.execute(f"create schema {HELD_BACK}")
        for raw in timed(connection, feeds):
            names = {"time": raw.partition_key, "table": raw.identifier, "held": held_back(raw)}
            key = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in raw.feed.key)
            connection.execute(sql.SQL("create table {held} as table {table} with no data").format(**names))
            [(median, every)] = connection.execute(sql.SQL(HALVES).format(**names))
            condition = sql.SQL(LATER).format(median=median, every=every, key=key, **names)
            columns = stored_columns(connection, str(raw))
            moved = sql.SQL(MOVED).format(columns=columns, condition=condition, **names)
            rows += connection.execute(moved).rowcount
            connection.execute(sql.SQL("analyze {table}").format(**names))
    return rows


def put_back(warehouse: Warehouse, feeds: Mapping[str, Feed]) -> None:
    """Put the rows that were held back into their raw tables again, as a load of each of FEEDS."""
    with administrator(warehouse) as connection:
        columns = stored_columns(connection, "raw.loads")
        for raw in timed(connection, feeds):
            names = {"table": raw.identifier, "held": held_back(raw), "day": raw.day}
            insert = sql.SQL("insert into {table} ({columns}) select {columns} from {held}")
            rows = connection.execute(insert.format(columns=stored_columns(connection, str(raw)), **names)).rowcount
            loaded = sql.SQL(LOADED).format(columns=columns, feed=raw.feed.name, uri=URI, rows=rows)
            [(load_id,)] = connection.execute(loaded)
            if has_days(connection):
                connection.execute(sql.SQL(LOADED_DAYS).format(load_id=load_id, **names))
            connection.execute(sql.SQL("analyze {table}").format(**names))
        connection.execute(f"drop schema {HELD_BACK} cascade")


def forget_loads(warehouse: Warehouse) -> None:
    """Take the loads of the rows that were held back out of the ledger: it is as it was, for a full refresh."""
    with administrator(warehouse) as connection:
        if has_days(connection):
            connection.execute(sql.SQL(FORGOTTEN_DAYS).format(uri=URI))
        connection.execute(sql.SQL("delete from raw.loads where source_uri = {uri}").format(uri=URI))


def has_days(connection: psycopg.Connection) -> bool:
    """Return whether the ledger is of a version that records days."""
    return connection.execute("select to_regclass('raw.loaded_days') is not null").fetchone() == (True,)


def administrator(warehouse: Warehouse) -> psycopg.Connection:
    """Connect to WAREHOUSE; days are those in UTC."""
    return psycopg.connect(warehouse.admin_dsn, options="-c timezone=UTC")


def held_back(raw: RawTable) -> sql.Identifier:
    """Return the table of the rows of RAW that are held back."""
    return sql.Identifier(HELD_BACK, raw.feed.name)


def stored_columns(connection: psycopg.Connection, table: str) -> sql.Composed:
    """Return the names of the columns of TABLE that are not generated."""
    return sql.SQL(", ").join(sql.Identifier(name) for (name,) in connection.execute(STORED_COLUMNS, [table]))


def timed(connection: psycopg.Connection, feeds: Mapping[str, Feed]) -> list[RawTable]:
    """Return the raw tables of those of FEEDS that have a time, with the time and the key of this tree's contract."""
    query = "select array_agg(attname::text) from pg_attribute where attrelid = to_regclass(%s) and not attisdropped"
    found = []
    for raw in map(RawTable, feeds.values()):
        [(names,)] = connection.execute(query, [str(raw)])
        if raw.feed.time_column and {raw.feed.time_column, *raw.feed.key} <= set(names or []):
            found.append(raw)
    return found
