"""What the tests share: one ephemeral PostgreSQL for the run, and a fresh warehouse on it for each test that asks."""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from events import publishing, staging
from events.tables import create_tables
from harness.project import pythons
from harness.project.paths import ROOT
from harness.warehouse import server as postgres
from harness.warehouse.roles import Warehouse, create_warehouse, drop_warehouse, ephemeral_server, make_passwords

# A shell that starts pytest in the background has it ignore SIGINT, and what it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --postgres."""
    parser.addoption(
        "--postgres",
        metavar="DSN",
        help="an administrator's DSN of a PostgreSQL 18; else a container's where an engine answers, else the wheel's",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an empty --postgres, and take its password out: pytest shows the arguments of what fails."""
    if (dsn := config.getoption("--postgres")) is None:
        return
    if not (told := postgres.parts(dsn)):
        pytest.exit(
            "--postgres is empty, or no DSN that libpq can read.\n"
            "  A script most likely takes it from a variable that is not set.\n"
            "  Name a server, postgresql://user@host:5432/postgres, or leave it out.",
            returncode=2,
        )
    if password := told.pop("password", None):
        os.environ["PGPASSWORD"] = password
        config.option.postgres = make_conninfo("", **told)
    if told.keys() - postgres.DSN_PARTS:  # some are secret, too, and pytest would show them
        pytest.exit(str(postgres.other_parts("--postgres")), returncode=2)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which PostgreSQL the tests that need one get, and which Pythons there are beside this one."""
    return [
        f"PostgreSQL {postgres.MAJOR}: {postgres.which(config.getoption('--postgres'))}",
        f"Pythons: {', '.join(sorted(pythons.found()))}",
    ]


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[postgres.Server]:
    """Give the PostgreSQL of this run (of this process of it)."""
    with ephemeral_server(request.config.getoption("--postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def passwords() -> dict[str, str]:
    """Give the roles' passwords; roles belong to the server, so all its warehouses share them."""
    return make_passwords()


@pytest.fixture
def warehouse(server: postgres.Server, passwords: dict[str, str]) -> Iterator[Warehouse]:
    """Give a warehouse of this test alone."""
    warehouse = create_warehouse(server, f"warehouse_{secrets.token_hex(4)}", passwords)
    yield warehouse
    drop_warehouse(warehouse)


@pytest.fixture
def dsn(warehouse: Warehouse) -> str:
    """Give the loader's DSN of a warehouse with the raw tables."""
    create_tables(warehouse.loader_dsn)
    return warehouse.loader_dsn


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    """Give a connection to the warehouse of `dsn`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def small_partitions(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Have a module's small files cut as large ones are: a partition for each day with its ROWS_PER_DAY."""
    for module in (staging, publishing):
        monkeypatch.setattr(module, "MIN_ROWS", request.module.ROWS_PER_DAY)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Give a copy of the project to break, with the environments of this one and without its tests."""
    left_out = shutil.ignore_patterns(".git", ".nox", "build", "tests", "target", "logs", "__pycache__", ".*_cache")
    clone = shutil.copytree(ROOT, tmp_path / "clone", ignore=left_out)
    (clone / ".nox").symlink_to(ROOT / ".nox")
    return clone
