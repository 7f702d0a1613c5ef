"""A PostgreSQL server with default settings that a test may kill, start again and fill to the last byte."""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from harness.warehouse.ports import free_port
from harness.warehouse.roles import Warehouse, copy_warehouse, create_warehouse, make_passwords
from harness.warehouse.server import Server
from harness.warehouse.wheel import binaries, unprivileged_user
from tests.events_feed import create_tables
from tests.feeds.common import write_days

DEADLINE_S = 60.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.csv"


@pytest.fixture
def uri(file: Path) -> str:
    """Give a file with the events of three days."""
    return write_days(file, 0, 1, 2)


class OwnServer:
    """A PostgreSQL server from the wheel whose data survives a crash."""

    def __init__(self, directory: Path) -> None:
        self._user = unprivileged_user()
        self._binaries = binaries(directory)
        self._options: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}, "cwd": directory}
        if self._user:
            self._options |= {"user": self._user[0], "group": self._user[1], "extra_groups": []}
        self.directory = directory
        self._data = directory / "data"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        password = secrets.token_urlsafe(24)
        password_file = directory / "password"
        password_file.write_text(password)
        for path in (directory, password_file):
            self.give(path)
        settings = ("--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256", "--no-sync")
        argv: list[str | Path] = [
            self._binaries / "initdb",
            "--pgdata",
            self._data,
            "--encoding=UTF8",
            "--locale=C",
            *settings,
        ]
        subprocess.run(argv, **self._options, check=True, stdout=subprocess.DEVNULL)
        self.server = Server("a wheel", "127.0.0.1", self._port, "postgres", password)

    def give(self, path: Path) -> None:
        """Make the user that PostgreSQL runs as the owner of PATH."""
        if self._user:
            os.chown(path, *self._user)

    def start(self) -> None:
        """Start it, also after a kill, and wait until it accepts connections."""
        assert self._process is None or self._process.poll() is not None
        deadline = time.monotonic() + DEADLINE_S
        while True:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-p", str(self._port), "-k", ""],
                **self._options,
                stderr=(self.directory / "log").open("ab"),
            )
            while self._process.poll() is None:
                with contextlib.suppress(psycopg.OperationalError):
                    psycopg.connect(self.server.dsn).close()
                    return
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.02)
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.05)  # processes of the killed one still have its shared memory

    def kill(self) -> None:
        assert self._process
        processes = psutil.Process(self._process.pid).children(recursive=True)
        assert processes
        self._process.kill()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(DEADLINE_S)
        psutil.wait_procs(processes, DEADLINE_S)


@pytest.fixture(scope="session")
def own_server() -> Iterator[OwnServer]:
    """Give a running server that a test may kill and start again."""
    directory = Path(tempfile.mkdtemp(prefix="events-load-"))
    server = OwnServer(directory)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def own_template(own_server: OwnServer) -> Warehouse:
    """Give a warehouse with empty raw tables on that server, to be copied."""
    warehouse = create_warehouse(own_server.server, "template", make_passwords())
    create_tables(warehouse.loader_dsn)
    return warehouse


@pytest.fixture
def own(own_template: Warehouse) -> Warehouse:
    """Give a new warehouse with empty raw tables on that server."""
    return copy_warehouse(own_template, f"warehouse_{secrets.token_hex(4)}")
