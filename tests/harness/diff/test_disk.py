"""A disk too small for the copies of a comparison is found before they are made."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.diff.disk import check_disk, data_folder, database_bytes
from harness.docker import engine
from harness.errors import DiskFullError, EngineMissingError
from harness.warehouse.roles import Warehouse
from harness.warehouse.server import Server

CONTAINER = Server("the container image postgres:18", "127.0.0.1", 1, "postgres", "")
GIVEN = Server("--postgres", "no-such-host.invalid", 5432, "postgres", "", suffix="_1")


def has_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def has_engine(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setattr(engine, "info", lambda: {"DockerRootDir": folder})


@pytest.mark.parametrize(
    ("size", "free", "is_enough"),
    [
        (100_000_000, 1_600_000_000, True),
        (100_000_000, 1_599_999_999, False),
        (1_000_000_000, 11_000_000_000, True),  # the log has a limit
        (1_000_000_000, 10_999_999_999, False),
    ],
)
def test_it_is_measured_against_the_free_space(
    size: int, free: int, is_enough: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    has_engine(monkeypatch, str(tmp_path))
    has_free(monkeypatch, free)
    if is_enough:
        check_disk(CONTAINER, size, 10, "the schema raw of --warehouse-dsn")
        return
    with pytest.raises(DiskFullError) as full:
        check_disk(CONTAINER, size, 10, "the schema raw of --warehouse-dsn")
    needed = {100_000_000: "1,600", 1_000_000_000: "11,000"}[size]
    what = f"the schema raw of --warehouse-dsn ({size / 1e6:,.0f} MB)"
    assert str(full.value).splitlines() == [
        f"The comparison needs about {needed} MB of disk, and {tmp_path} has {needed} MB free.",
        f"Both sides have a copy of {what}, their models, and rows to be loaded again.",
        "Free some disk space, set TMPDIR to a directory on another disk, or choose a server: --postgres DSN",
    ]


def test_where_the_disk_is_not_known_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    has_free(monkeypatch, 0)
    check_disk(GIVEN, 1, 1, "it")
    has_engine(monkeypatch, "/no/such/disk")  # of an engine of another machine
    check_disk(CONTAINER, 1, 1, "it")

    def no_docker() -> None:
        raise EngineMissingError("", "", "")

    monkeypatch.setattr(engine, "info", no_docker)
    check_disk(CONTAINER, 1, 1, "it")


def test_the_folder_of_a_server_from_the_wheel_is_its_own(server: Server) -> None:
    folder = data_folder(server)
    assert (folder is None) == (server.origin == "--postgres")
    if server.origin == "a wheel":
        assert folder
        assert (folder / "PG_VERSION").read_text().startswith("18")


def test_the_size_is_that_of_the_database(warehouse: Warehouse) -> None:
    assert 5_000_000 < database_bytes(warehouse) < 50_000_000
