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
from feeds.tables import create_others, create_tables
from harness.contracts.file_layout import FORMATS
from harness.diff.base import Base, python_of_base
from harness.errors import BaseFailedError
from harness.project.paths import DATA, ROOT
from harness.warehouse.roles import Warehouse

HELD_BACK = "held_back"  # the schema, in the copies that only a comparison uses
# The later half; and of every seventh day before that every tenth row, as one that arrives late.
LATER = """
    {time} >= (select percentile_disc(0.5) within group (order by {time}) from {table})
    or (
        mod(extract(epoch from {time})::bigint / 86400, 7) = 3
        and mod(hash_record_extended(row({key}), 0), 10) = 0
    )
"""
# The rows that come back are a load of their own. Its row in the ledger is a copy of the feed's last one, whatever
# columns the ledger has.
LOADED = """
    insert into raw.loads ({columns})
    select {columns} from (
        select (jsonb_populate_record(last, jsonb_build_object(
            'load_id', (select max(load_id) + 1 from raw.loads),
            'transaction_id', pg_current_xact_id(),
            'same_as_load_id', null,
            'ended_at', last.ended_at + interval '1 second'
        ))).*
        from raw.loads as last where feed = {feed} and status = 'succeeded' order by load_id desc limit 1
    ) as loaded
"""
LOADED_DAYS = """
    insert into raw.loaded_days (load_id, day, rows_loaded, rows_added, rows_present)
    select (select max(load_id) from raw.loads), day, count(*), count(*), count(*)
    from (select ({time} at time zone 'UTC')::date as day from {held}) as days group by day
"""
SAME_TIMES = """
    update raw.loads set
        started_at = '2000-01-01'::timestamptz + load_id * interval '1 hour',
        ended_at = '2000-01-01'::timestamptz + load_id * interval '1 hour' + interval '1 second'
"""


def load_files(warehouse: Warehouse, feeds: Mapping[str, Feed], files: Mapping[str, str]) -> dict[str, int]:
    """Load FILES, a URI for each of FEEDS, by this tree's code; return the number of rows by feed."""
    create_others(warehouse.loader_dsn, feeds.values())
    loaded = {}
    for name, uri in files.items():
        create_tables(warehouse.loader_dsn, feeds[name])
        loaded[name] = load(feeds[name], warehouse.loader_dsn, source_uri=uri).loaded
    return loaded


def load_files_by_base(base: Base, warehouse: Warehouse, files: Mapping[str, str]) -> None:
    """Load FILES, a URI for each of BASE's feeds, by its code, contracts and locks; raise BaseFailedError."""
    lock = Path("requirements", "feeds.txt")
    # This environment has the packages of the same lock, too.
    is_same = (base.folder / lock).read_bytes() == (ROOT / lock).read_bytes()
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


def files_of_base(base: Base, files: Mapping[str, str]) -> dict[str, str]:
    """Return the files of BASE's feeds: those of FILES, and else the sample that BASE has itself."""
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


def raw_size(dsn: str) -> int:
    """Return the size of the schema `raw` of the database at DSN, in bytes."""
    query = (
        "select coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint from pg_class"
        " join pg_namespace on pg_namespace.oid = relnamespace where nspname = 'raw' and relkind in ('r', 'm')"
    )
    with psycopg.connect(dsn) as connection:
        return int((connection.execute(query).fetchone() or (0,))[0])


def hold_back(warehouse: Warehouse, feeds: Mapping[str, Feed]) -> int:
    """Take the later half of the rows of each of FEEDS with a time, and some of before, out of its raw table.

    Return how many rows that are.
    """
    rows = 0
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute(f"create schema {HELD_BACK}")
        for feed, table, time in timed(connection, feeds):
            key = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in feed.key)
            held = sql.Identifier(HELD_BACK, feed.name)
            condition = sql.SQL(LATER).format(time=time, table=table, key=key)
            create = sql.SQL("create table {} as select * from {} where {}")
            rows += connection.execute(create.format(held, table, condition)).rowcount
            keys = sql.SQL(", ").join(map(sql.Identifier, feed.key))
            connection.execute(
                sql.SQL("delete from {0} where ({1}) in (select {1} from {2})").format(table, keys, held)
            )
            connection.execute(sql.SQL("analyze {}").format(table))
    return rows


def put_back(warehouse: Warehouse, feeds: Mapping[str, Feed]) -> None:
    """Put the rows that were held back into their raw tables again, as a load of each of FEEDS."""
    with psycopg.connect(warehouse.admin_dsn) as connection:
        found = connection.execute(
            "select attname from pg_attribute where attrelid = 'raw.loads'::regclass and attnum > 0"
            " and not attisdropped and attgenerated = '' order by attnum"
        ).fetchall()
        columns = sql.SQL(", ").join(sql.Identifier(name) for (name,) in found)
        has_days = connection.execute("select to_regclass('raw.loaded_days') is not null").fetchone() == (True,)
        for feed, table, time in timed(connection, feeds):
            held = sql.Identifier(HELD_BACK, feed.name)
            connection.execute(sql.SQL("insert into {} select * from {}").format(table, held))
            statement = sql.SQL(LOADED.replace("({columns})", "({columns}) overriding system value", 1))
            connection.execute(statement.format(columns=columns, feed=sql.Literal(feed.name)))
            if has_days:
                connection.execute(sql.SQL(LOADED_DAYS).format(time=time, held=held))
            connection.execute(sql.SQL("analyze {}").format(table))
        connection.execute(f"drop schema {HELD_BACK} cascade")


def timed(
    connection: psycopg.Connection, feeds: Mapping[str, Feed]
) -> list[tuple[Feed, sql.Identifier, sql.Identifier]]:
    """Return those of FEEDS whose raw table has a time column, with the table and that column."""
    found = []
    for feed in feeds.values():
        query = "select 1 from pg_attribute where attrelid = to_regclass(%s) and attname = %s and not attisdropped"
        table = sql.Identifier("raw", feed.name)
        if feed.time_column and connection.execute(query, [table.as_string(connection), feed.time_column]).fetchone():
            found.append((feed, table, sql.Identifier(feed.time_column)))
    return found
