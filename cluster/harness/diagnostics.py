"""Save what explains a failure to `build/diagnostics/`, before anything is taken down."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from events.errors import EventsError
from harness.console import say
from harness.paths import BUILD, ROOT

DIAGNOSTICS = BUILD / "diagnostics"
TABLES = ("loads", "rejected_events")


def save(
    error: Exception,
    folders: Mapping[str, Path],
    warehouse_dsn: str | None = None,
    save_more: Callable[[Path], None] = lambda _: None,
) -> None:
    """Copy FOLDERS, by name, and the ledger and the rejects of a warehouse; name the place in ERROR's last line.

    SAVE_MORE is called with the folder of the diagnostics.

    What cannot be saved is said and left out: the failure itself matters more.
    """
    destination = None
    try:
        destination = unused(DIAGNOSTICS / time.strftime("%Y%m%d-%H%M%S"))
        for name, folder in folders.items():
            if folder.exists():
                shutil.copytree(folder, destination / name, ignore_dangling_symlinks=True)
        save_more(destination)
        if warehouse_dsn:
            save_tables(warehouse_dsn, destination / "warehouse")
    except (OSError, psycopg.Error, EventsError) as second:
        say(f"  the diagnostics are not complete: {str(second).splitlines()[0]}")
    if destination is None:
        return
    place = f"Diagnostics: {destination.relative_to(ROOT)}"
    if isinstance(error, EventsError):
        dash = "" if error.next_step.endswith(".") else " —"
        error.next_step = f"{error.next_step}{dash} {place}"
    else:
        say(f"  {place}")


def save_tables(dsn: str, folder: Path) -> None:
    """Write the ledger of loads and the rejected rows as CSV files, as far as the tables are there."""
    folder.mkdir(parents=True)
    with psycopg.connect(dsn) as connection:
        for table in TABLES:
            if connection.execute("select to_regclass(%s)", (f"raw.{table}",)).fetchone() == (None,):
                continue
            statement = sql.SQL("copy raw.{} to stdout (format csv, header)").format(sql.Identifier(table))
            with connection.cursor().copy(statement) as rows, open(folder / f"{table}.csv", "wb") as file:
                for block in rows:
                    file.write(block)


def unused(wanted: Path) -> Path:
    """Make the folder WANTED, or one with a number behind it where another run has it, and return it."""
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path
