"""Shared fixtures: one ephemeral PostgreSQL server per process, and a new warehouse on it for each test."""

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from feeds import partitions
from feeds.errors import SettingUnusable
from harness.docker import engine
from harness.processes.dbt_process import Process
from harness.project import pythons
from harness.project.environments import install
from harness.project.paths import ROOT
from harness.warehouse.ephemeral import describe_choice, ephemeral_server
from harness.warehouse.given import DSN_PARTS, dsn_parts, unsupported_parts
from harness.warehouse.roles import Warehouse, copy_warehouse, create_warehouse, drop_warehouse, make_passwords
from harness.warehouse.server import Server
from tests.clones import git
from tests.comparisons import EVENTS
from tests.events_feed import create_tables

# A shell that starts pytest in the background has it ignore SIGINT, and what it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        metavar="DSN",
        help="a PostgreSQL 14 to 18, as an administrator; else a container's where an engine answers, else the wheel's",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the engine. Refuse an empty --postgres, and remove its password: pytest prints its arguments."""
    engine.use_current_context()
    engine.use_own_images()
    if (dsn := config.getoption("--postgres")) is None:
        return
    try:
        parts = dsn_parts(dsn, "--postgres")
    except SettingUnusable as error:
        pytest.exit(str(error), returncode=2)
    if not parts:
        pytest.exit(
            "--postgres is empty.\n"
            "  A script most likely takes it from a variable that is not set.\n"
            "  Name a server, postgresql://user@host:5432/postgres, or leave it out.",
            returncode=2,
        )
    if password := parts.pop("password", None):
        os.environ["PGPASSWORD"] = password
        config.option.postgres = make_conninfo("", **parts)
    if parts.keys() - DSN_PARTS:  # some are secret, too
        pytest.exit(str(unsupported_parts("--postgres")), returncode=2)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name the PostgreSQL server of the tests, and the Pythons of this machine."""
    return [
        f"PostgreSQL: {describe_choice(config.getoption('--postgres'))}",
        f"Pythons: {', '.join(sorted(pythons.found()))}",
    ]


MEMORY = Path("/dev/shm")  # noqa: S108 - a file system, where the tests take four fifths of the time
MEMORY_BYTES = 4 << 30  # a container's default of 64 MiB is too small


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Give the PostgreSQL server of this process; one from the wheel has its files in memory, if they fit."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
                patch.setattr(tempfile, "tempdir", str(MEMORY))
            server = stack.enter_context(ephemeral_server(request.config.getoption("--postgres")))
        if not server.suffix:  # not a given server: its passwords are random, so connecting needs no 4096 hashes
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute("alter system set scram_iterations = 1")
                connection.execute("select pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def passwords() -> dict[str, str]:
    """Give the roles' passwords: all warehouses of a server share its roles."""
    return make_passwords()


@pytest.fixture(scope="session")
def template(server: Server, passwords: dict[str, str]) -> Warehouse:
    """Give a warehouse with empty raw tables, to be copied; nobody may be connected to it."""
    warehouse = create_warehouse(server, f"template_{secrets.token_hex(4)}", passwords)
    create_tables(warehouse.loader_dsn)
    return warehouse


@pytest.fixture(scope="session")
def processes() -> Iterator[list[Process]]:
    """Give two processes for dbt, which take seconds to start."""
    processes = [Process(str(install("dbt"))) for _ in range(2)]
    yield processes
    for process in processes:
        process.end()


@pytest.fixture
def warehouse(template: Warehouse) -> Iterator[Warehouse]:
    """Give a new warehouse with empty raw tables."""
    warehouse = copy_warehouse(template, f"warehouse_{secrets.token_hex(4)}")
    yield warehouse
    drop_warehouse(warehouse)


@pytest.fixture
def bare_warehouse(server: Server, passwords: dict[str, str]) -> Iterator[Warehouse]:
    """Give a new warehouse without tables."""
    warehouse = create_warehouse(server, f"warehouse_{secrets.token_hex(4)}", passwords)
    yield warehouse
    drop_warehouse(warehouse)


@pytest.fixture
def dsn(warehouse: Warehouse) -> str:
    """Give the loader's DSN of the warehouse."""
    return warehouse.loader_dsn


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def small_partitions(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Partition a module's small files like large ones: each day with ROWS_PER_DAY events has its own partition."""
    monkeypatch.setattr(partitions, "MIN_ROWS", request.module.ROWS_PER_DAY)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Give a copy of the project to break, with the environments of this one and without its tests."""
    left_out = shutil.ignore_patterns(".git", ".nox", "build", "tests", "target", "logs", ".*_cache")
    clone = shutil.copytree(ROOT, tmp_path / "clone", ignore=left_out)
    (clone / ".nox").symlink_to(ROOT / ".nox")
    return clone


@pytest.fixture
def repository(clone: Path) -> Path:
    """Give such a copy that is a git repository with one commit, on a branch of its own."""
    git(clone, "init", "--quiet", "--initial-branch=main")
    (clone / ".git" / "info" / "exclude").write_text(".nox\n")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "base")
    git(clone, "checkout", "--quiet", "-b", "change")
    (clone / "build").mkdir()
    (clone / "build" / "events.csv").write_text(EVENTS)
    return clone
