"""Whether the disk of the server that a comparison builds on has the room for it."""

import shutil
from pathlib import Path

import psycopg

from harness.docker import engine
from harness.errors import DiskFullError, EngineMissingError
from harness.warehouse.roles import Warehouse
from harness.warehouse.server import Server

# Times a size, what both sides have at most at one time, with temporary files and what was deleted but not vacuumed.
# Measured with 1,000,000 events and all models: 9 times the schema raw, and 3.2 times the base's database with half of
# the rows, which the branch then gets a copy of.
OF_RAW, OF_DATABASE = 10, 4
# PostgreSQL keeps up to max_wal_size of its log, 1 GB by default; it was 6 times the schema raw.
OF_LOG, MAX_LOG_BYTES = 6, 1_000_000_000


def check_disk(server: Server, size: int, times: int, what: str) -> None:
    """Raise DiskFullError if the disk of SERVER has not the room for TIMES the SIZE, in bytes, of WHAT.

    On a server that the harness did not start, and on an engine of another machine, that is not known.
    """
    if (folder := data_folder(server)) is None:
        return
    free, needed = shutil.disk_usage(folder).free, size * times + min(size * OF_LOG, MAX_LOG_BYTES)
    if free < needed:
        raise DiskFullError(
            f"The comparison needs about {needed / 1e6:,.0f} MB of disk, and {folder} has {free / 1e6:,.0f} MB free.",
            f"Both sides have a copy of {what} ({size / 1e6:,.0f} MB), their models, and rows to be loaded again.",
            "Free some disk space, set TMPDIR to a directory on another disk, or choose a server: --postgres DSN",
        )


def data_folder(server: Server) -> Path | None:
    """Return a folder of this machine that is on the disk where SERVER has its data; None if that is not known."""
    if server.origin == "a wheel":
        with psycopg.connect(server.dsn) as connection:
            [(folder,)] = connection.execute("show data_directory").fetchall()
    elif server.origin.startswith("the container image"):
        try:
            folder = engine.info()["DockerRootDir"]
        except EngineMissingError:  # there is no docker command
            return None
    else:
        return None
    return Path(folder) if Path(folder).exists() else None


def database_bytes(warehouse: Warehouse) -> int:
    """Return the size of WAREHOUSE's database in bytes."""
    with psycopg.connect(warehouse.server.dsn) as connection:
        [(size,)] = connection.execute("select pg_database_size(%s::name)", [warehouse.database]).fetchall()
    return int(size)
