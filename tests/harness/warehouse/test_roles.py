"""Each of the three roles has the rights for its work, and no others."""

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from feeds.errors import NotAllowed
from harness.warehouse.roles import ROLES, Warehouse, create_warehouse, drop_warehouse
from tests.events_feed import COLUMNS, create_tables, load

INSERT_LOAD = "insert into raw.loads (feed, source_uri, status) values ('events', 'memory://x', 'running')"
DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture
def filled(warehouse: Warehouse) -> Warehouse:
    """Give a warehouse with the raw tables, and a mart and a staging model as dbt makes them."""
    create_tables(warehouse.loader_dsn)
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        connection.execute("create schema fact; create table fact.mart as select 1 as one")
        connection.execute("create schema staging; create view staging.model as select 2 as two")
        reader = sql.Identifier(warehouse.role("reader"))
        connection.execute(sql.SQL("grant select on fact.mart to {}").format(reader))
    return warehouse


def attempt(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(statement.encode())


def test_the_loader_owns_raw_and_nothing_else(filled: Warehouse) -> None:
    attempt(filled.loader_dsn, INSERT_LOAD)
    attempt(filled.loader_dsn, "create table raw.another (id int); drop table raw.another")
    for statement in (
        *("create schema other", "select * from fact.mart", "create table public.t (id int)"),
        *("update fact.mart set one = 2", "drop schema fact cascade", "alter role loader createdb"),
    ):
        with pytest.raises(DENIED):
            attempt(filled.loader_dsn, statement)


def test_the_transformer_reads_raw_and_owns_the_models_schemas(filled: Warehouse) -> None:
    attempt(filled.transformer_dsn, "select * from raw.events natural full join raw.rejected_rows, raw.loads")
    attempt(filled.transformer_dsn, "create schema other; create table other.t (id int); drop schema other cascade")
    for statement in (INSERT_LOAD, "delete from raw.events", "create table raw.t (id int)", "drop table raw.events"):
        with pytest.raises(DENIED):
            attempt(filled.transformer_dsn, statement)


def test_the_reader_only_selects_from_the_marts(filled: Warehouse) -> None:
    attempt(filled.reader_dsn, "select * from fact.mart")
    for statement in (
        "select * from raw.events",
        "select * from staging.model",
        "delete from fact.mart",
        "create table fact.t (id int)",
        "create schema other",
        "create temporary table t (id int)",
    ):
        with pytest.raises(DENIED):
            attempt(filled.reader_dsn, statement)


def test_a_load_changes_no_rights(filled: Warehouse, tmp_path: Path) -> None:
    """A load makes new partitions."""
    file = tmp_path / "events.csv"
    file.write_text(f"{';'.join(COLUMNS)}\n7;created_account;8;2020-01-31 00:00:00;\nnot an event\n")
    load(str(file), filled.loader_dsn, max_rejected=0.5)
    for table in ("raw.events", "raw.loads", "raw.rejected_rows"):
        with psycopg.connect(filled.transformer_dsn) as connection:
            assert len(connection.execute(f"table {table}".encode()).fetchall()) == 1
        for statement in (f"truncate {table}", f"drop table {table}"):
            with pytest.raises(DENIED):
                attempt(filled.transformer_dsn, statement)
        for statement in (f"table {table}", f"truncate {table}"):
            with pytest.raises(DENIED):
                attempt(filled.reader_dsn, statement)
    with psycopg.connect(filled.loader_dsn) as connection:
        partitions = connection.execute("select relid::regclass::text from pg_partition_tree('raw.events')").fetchall()
    for (partition,) in partitions:
        with pytest.raises(DENIED):
            attempt(filled.transformer_dsn, f"truncate {partition}")
        with pytest.raises(DENIED):
            attempt(filled.reader_dsn, f"table {partition}")
    for dsn in (filled.transformer_dsn, filled.reader_dsn):
        with pytest.raises(NotAllowed, match=r"^The role lacks a privilege: permission denied"):
            load(str(file), dsn)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_keeps_time_in_utc(warehouse: Warehouse, role: str) -> None:
    with psycopg.connect(warehouse.dsn(role)) as connection:
        assert connection.info.parameter_status("TimeZone") == "UTC"


def test_a_second_warehouse_keeps_the_passwords_of_the_first(warehouse: Warehouse) -> None:
    other = create_warehouse(warehouse.server, "another", warehouse.passwords)
    try:
        attempt(warehouse.reader_dsn, "select 1")
        attempt(other.reader_dsn, "select 1")
    finally:
        drop_warehouse(other)
