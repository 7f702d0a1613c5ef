"""Loads and builds on PostgreSQL as a service: an administrator who is no superuser, and no `pg_control_system`.

`nox -s tests -- tests/dbt/test_managed_service.py --postgres DSN` runs it on another version, 14 to 18.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from harness.processes.dbt_process import Process
from harness.warehouse.roles import Warehouse, create_metadata_database, create_warehouse, drop_all, make_passwords
from harness.warehouse.server import Server, identity
from tests.dbt.common import MARTS, expected, five_days, midnight, read, write_file
from tests.dbt.conftest import dbt_on
from tests.dbt.test_incremental import versions
from tests.events_feed import create_tables, load


@pytest.fixture
def managed(server: Server) -> Iterator[Server]:
    """Give the server as a service's administrator has it; one that --postgres names may be such a server already."""
    suffix = f"{server.suffix}_managed"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        query = "select 1 from pg_roles where rolname = current_user and rolsuper"
        if not connection.execute(query).fetchone():
            yield replace(server, suffix=suffix)
            return
        role = sql.Identifier(f"administrator{suffix}")
        connection.execute(sql.SQL("create role {} login createdb createrole password 'secret'").format(role))
        yield replace(server, user=f"administrator{suffix}", password="secret", suffix=suffix)  # noqa: S106
        connection.execute(sql.SQL("drop owned by {}; drop role {}").format(role, role))


@pytest.fixture
def managed_warehouse(managed: Server, server: Server) -> Iterator[Warehouse]:
    """Give a warehouse on it, made by its administrator."""
    warehouse = create_warehouse(managed, "warehouse", make_passwords())
    if managed.user != server.user:
        with psycopg.connect(replace(server, database=warehouse.database).dsn) as connection:
            connection.execute("revoke execute on function pg_control_system() from public")
    create_tables(warehouse.loader_dsn)
    yield warehouse
    drop_all(managed)


def test_loads_and_incremental_builds(managed_warehouse: Warehouse, processes: list[Process], tmp_path: Path) -> None:
    transformer, loader = managed_warehouse.transformer_dsn, managed_warehouse.loader_dsn
    with pytest.raises(psycopg.errors.InsufficientPrivilege), psycopg.connect(transformer) as connection:
        connection.execute("select * from pg_control_system()")
    dbt = dbt_on(managed_warehouse, processes[0], tmp_path)
    log = five_days()
    load(str(write_file(tmp_path / "events.csv", log)), loader)
    dbt.run("run --quiet")
    assert read(managed_warehouse) == expected(log)
    before = versions(managed_warehouse)

    log[4] = log[4]._replace(event_type="became_unable_to_propose")  # of day 3
    load(str(write_file(tmp_path / "events.csv", log)), loader, start=midnight(3), end=midnight(4))
    dbt.run(MARTS)
    assert read(managed_warehouse) == expected(log)
    after = versions(managed_warehouse)
    rewritten = sorted((kind, at.day) for kind, at in before if before[kind, at] != after[kind, at])
    assert rewritten == [("day", 3), ("day", 4), ("day", 5)]

    with psycopg.connect(transformer) as connection:  # the state of another server, as after a restore, does not count
        connection.execute("delete from test_fact.fct_events")
        connection.execute("update test_intermediate.model_state set server = '7' where model = 'test_fact.fct_events'")
    dbt.run(f"{MARTS} --select fct_events")
    assert read(managed_warehouse) == expected(log)


def test_all_is_dropped_while_a_reader_is_connected(managed: Server) -> None:
    warehouse = create_warehouse(managed, "warehouse", make_passwords())
    create_metadata_database(managed, "secret", "db.example", 5432)
    with psycopg.connect(warehouse.reader_dsn) as reader:
        drop_all(managed)
        with pytest.raises(psycopg.OperationalError):
            reader.execute("select 1")
    with psycopg.connect(managed.dsn) as connection:
        left = connection.execute(
            "select datname from pg_database where datname like %(end)s"
            " union select rolname from pg_roles where rolname like %(end)s and rolname <> current_user",
            {"end": f"%{managed.suffix}"},
        )
        assert left.fetchall() == []


def test_its_identity_is_its_address_and_the_databases(managed_warehouse: Warehouse) -> None:
    managed = managed_warehouse.server
    found = identity(replace(managed, database=managed_warehouse.database))
    assert found.startswith(f"{managed.host}:{managed.port}/")
    assert found == identity(replace(managed, database=managed_warehouse.database))
