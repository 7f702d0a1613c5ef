"""Whether the disk of the server that a comparison builds on has the room for it."""

import shutil
from pathlib import Path

import psycopg

from harness.docker import engine
from harness.errors import DiskFullError, EngineMissingError
from harness.warehouse.roles import Warehouse
from harness.warehouse.server import Server

# Of the rows that both sides are built from: times their size. Measured with 1,000,000 events.
NEEDED = 6.0


def check_disk(server: Server, size: int, what: str) -> None:
    """Raise DiskFullError if the disk of SERVER has no room for a comparison of WHAT, which has SIZE bytes.

    On a server that the harness did not start, and on an engine of another machine, that is not known.
    """
    folder = data_folder(server)
    if folder is None:
        return
    free, needed = shutil.disk_usage(folder).free, round(size * NEEDED)
    if free < needed:
        raise DiskFullError(
            f"A comparison needs about {needed / 1e9:,.1f} GB, and {folder} has {free / 1e9:,.1f} GB free.",
            f"Both sides have a copy of {what}, {size / 1e9:,.1f} GB, and their models.",
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
