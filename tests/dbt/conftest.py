"""What the tests of the dbt project share: a warehouse, and ways to run dbt on it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from events.tables import create_tables
from harness.project.environments import install
from harness.warehouse.roles import Warehouse, create_warehouse, drop_warehouse
from harness.warehouse.server import Server
from tests.dbt.common import PROJECT, Dbt


@pytest.fixture(scope="session")
def dbt_python() -> str:
    """Give the Python of dbt's own environment."""
    return str(install("dbt"))


@pytest.fixture
def warehouse(server: Server, passwords: dict[str, str]) -> Iterator[Warehouse]:
    """Give a new warehouse of the same name for each test: dbt's parse of the project, which has it in, then holds."""
    warehouse = create_warehouse(server, "warehouse_dbt", passwords)
    yield warehouse
    drop_warehouse(warehouse)


@pytest.fixture
def environment(warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the environment of a dbt process on WAREHOUSE, whose raw tables exist, with target `test`."""
    create_tables(warehouse.loader_dsn)
    folder = tmp_path_factory.getbasetemp() / "dbt"
    paths = {"DBT_TARGET_PATH": f"{folder / 'target'}", "DBT_LOG_PATH": f"{folder / 'logs'}"}
    return {"PATH": os.environ["PATH"], "DBT_TARGET": "test", **paths, **warehouse.dbt_env()}


@pytest.fixture
def start(dbt_python: str, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts `run.py ARGUMENTS`, of another project if named, with more variables by name."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, project: Path = PROJECT, **more: str) -> subprocess.Popen[str]:
        command = [dbt_python, str(project / "run.py"), *arguments]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=environment | more, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """Give a function that runs `run.py ARGUMENTS` to its end and returns its exit code and its output."""

    def run(*arguments: str, project: Path = PROJECT, **more: str) -> tuple[int, str]:
        process = start(*arguments, project=project, **more)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    return run


@pytest.fixture
def run_in_process(dbt_python: str, environment: dict[str, str]) -> Iterator[Callable[[str], object]]:
    """Give a function that runs `dbt ARGUMENTS`, which end well, in a process that is there; staging is built."""
    with Dbt(dbt_python, environment) as dbt:
        dbt.run("run --quiet --select staging")
        yield dbt.run
