"""What the tests of the dbt project share: a warehouse, and ways to run dbt on it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from feeds.contract import read_feeds
from feeds.tables import create_others
from harness.processes.dbt_process import Dbt, Process
from harness.project.environments import install
from harness.warehouse.roles import Warehouse, copy_warehouse, drop_warehouse

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
def built_template(template: Warehouse, processes: list[Process], folder: Path) -> Warehouse:
    """Give a warehouse with empty raw tables of all feeds and the staging models, to be copied."""
    warehouse = copy_warehouse(template, DATABASE)
    create_others(warehouse.loader_dsn, read_feeds().values())
    dbt_on(warehouse, processes[0], folder).run("run --quiet --select staging")
    built = replace(warehouse, database=f"dbt_{template.database}")
    rename = sql.SQL("alter database {} rename to {}")
    with psycopg.connect(template.server.dsn, autocommit=True) as connection:
        connection.execute(rename.format(sql.Identifier(warehouse.database), sql.Identifier(built.database)))
    return built


@pytest.fixture
def warehouse(built_template: Warehouse) -> Iterator[Warehouse]:
    """Give a warehouse with empty raw tables and the staging models."""
    warehouse = copy_warehouse(built_template, DATABASE)
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
