"""What the tests of the dbt project share: a warehouse, and ways to run dbt on it."""

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from feeds.contract import read_feeds
from feeds.tables import create_others
from harness.processes.dbt_process import Dbt, Process
from harness.warehouse.roles import Warehouse, copy_warehouse, drop_warehouse
from tests.dbt.common import MARTS, five_days, write_file
from tests.events_feed import load

DATABASE = "warehouse_dbt"  # of each test, so that dbt's parse of the project, which has the name in it, holds


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
    return as_template(warehouse, "dbt")


def as_template(warehouse: Warehouse, name: str) -> Warehouse:
    """Rename the database of WAREHOUSE, so that it can be copied for tests."""
    template = replace(warehouse, database=f"{name}_{secrets.token_hex(4)}")
    rename = sql.SQL("alter database {} rename to {}")
    with psycopg.connect(warehouse.server.dsn, autocommit=True) as connection:
        connection.execute(rename.format(sql.Identifier(warehouse.database), sql.Identifier(template.database)))
    return template


@pytest.fixture(scope="session")
def five_days_template(
    built_template: Warehouse, processes: list[Process], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Warehouse:
    """Give a warehouse with the events of five days, and the marts of them, to be copied."""
    warehouse = copy_warehouse(built_template, DATABASE)
    load(str(write_file(tmp_path_factory.mktemp("events") / "events.csv", five_days())), warehouse.loader_dsn)
    dbt_on(warehouse, processes[0], folder).run(MARTS)
    return as_template(warehouse, "five_days")


@pytest.fixture
def warehouse(built_template: Warehouse) -> Iterator[Warehouse]:
    """Give a warehouse with empty raw tables and the staging models."""
    warehouse = copy_warehouse(built_template, DATABASE)
    yield warehouse
    drop_warehouse(warehouse)


@pytest.fixture
def has_five_days(warehouse: Warehouse, five_days_template: Warehouse) -> None:
    """Let the warehouse begin with the events of five days, and the marts of them."""
    begin_with(warehouse, five_days_template)


def begin_with(warehouse: Warehouse, template: Warehouse) -> None:
    """Make WAREHOUSE anew, as a copy of TEMPLATE."""
    drop_warehouse(warehouse)
    copy_warehouse(template, DATABASE)


@pytest.fixture
def dbt(warehouse: Warehouse, processes: list[Process], folder: Path) -> Dbt:
    """Give dbt, as run.py runs it, on the warehouse."""
    return dbt_on(warehouse, processes[0], folder)


@pytest.fixture
def other_dbt(dbt: Dbt, processes: list[Process], tmp_path: Path) -> Dbt:
    """Give dbt in another process, which begins with the parse of the first."""
    return replace(dbt, process=processes[1], env=with_parse_of(dbt), folder=tmp_path)


def with_parse_of(dbt: Dbt) -> dict[str, str]:
    """Return the environment of DBT for one that begins with its parse."""
    return dbt.env | {"DBT_PARTIAL_PARSE_FILE_PATH": str(dbt.artifacts / "partial_parse.msgpack")}
