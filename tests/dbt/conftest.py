"""What the tests of the dbt project share: a warehouse, and ways to run dbt on it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from events.tables import create_tables
from harness.project.environments import install
from harness.warehouse.roles import MARK, Warehouse, create_warehouse, drop_warehouse
from harness.warehouse.server import Server
from tests.dbt.process import Dbt, Process

DATABASE = "warehouse_dbt"  # of each test, so that dbt's parse of the project, which has the name in it, holds


@pytest.fixture(scope="session")
def dbt_python() -> str:
    """Give the Python of dbt's own environment."""
    return str(install("dbt"))


@pytest.fixture(scope="session")
def processes(dbt_python: str) -> Iterator[list[Process]]:
    """Give two processes for dbt."""
    processes = [Process(dbt_python) for _ in range(2)]
    yield processes
    for process in processes:
        process.end()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder where dbt writes, in all tests that do not change the project."""
    return tmp_path_factory.mktemp("dbt")


def dbt_on(warehouse: Warehouse, process: Process, folder: Path) -> Dbt:
    """Return dbt with the target `test` on WAREHOUSE."""
    return Dbt(process, {"PATH": os.environ["PATH"], "DBT_TARGET": "test", **warehouse.dbt_env()}, folder)


@pytest.fixture(scope="session")
def template(server: Server, passwords: dict[str, str], processes: list[Process], folder: Path) -> str:
    """Give the name of a database with empty raw tables and the staging models."""
    warehouse = create_warehouse(server, DATABASE, passwords)
    create_tables(warehouse.loader_dsn)
    dbt_on(warehouse, processes[0], folder).run("run --quiet --select staging")
    template = f"template_dbt{server.suffix}"
    rename = sql.SQL("alter database {} rename to {}")
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(rename.format(sql.Identifier(warehouse.database), sql.Identifier(template)))
    return template


@pytest.fixture
def warehouse(template: str, server: Server, passwords: dict[str, str]) -> Iterator[Warehouse]:
    """Give a warehouse with empty raw tables and the staging models."""
    database = sql.Identifier(f"{DATABASE}{server.suffix}")
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template {}").format(database, sql.Identifier(template)))
        connection.execute(sql.SQL("comment on database {} is {}").format(database, MARK))
    warehouse = create_warehouse(server, DATABASE, passwords)  # what it grants on a database is not the template's
    yield warehouse
    drop_warehouse(warehouse)


@pytest.fixture
def dbt(warehouse: Warehouse, processes: list[Process], folder: Path) -> Dbt:
    """Give dbt, as run.py runs it, on the warehouse."""
    return dbt_on(warehouse, processes[0], folder)


@pytest.fixture
def other_dbt(dbt: Dbt, processes: list[Process], tmp_path: Path) -> Dbt:
    """Give dbt in another process, which begins with the parse of the first."""
    parsed = dbt.folder / "run-test" / "partial_parse.msgpack"
    env = dbt.env | {"DBT_PARTIAL_PARSE_FILE_PATH": str(parsed)}
    return replace(dbt, process=processes[1], env=env, folder=tmp_path)
