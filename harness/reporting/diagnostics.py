"""Save what explains a failure to `build/diagnostics/`, before anything is taken down."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from events.errors import EventsError
from events.uri import without_secrets
from harness.project.paths import BUILD, ROOT
from harness.reporting.console import Phases, say, write_phases

DIAGNOSTICS = BUILD / "diagnostics"
TABLES = ("loads", "rejected_events")
PATIENCE = "-c statement_timeout=30s -c lock_timeout=5s"  # whoever failed may hold a lock
CONTENTS = {
    "phases.json": "how long each phase took",
    "events.txt": "the namespace's events, the latest last: what Kubernetes says of pods, images, probes",
    "objects.txt": "all its objects, a line each",
    "describe": "each object that is not well, in full, its events at the end",
    "pods": "the log of each container, by pod; `.previous.log` is of before its restart",
    "tasks": "the logs of Airflow's tasks; `dbt/<pod>` has dbt's results of failed runs",
    "warehouse": "the ledger of loads and the rejected rows, as CSV",
    "chart": "the chart's values, as given and as rendered, its manifests and hooks",
    "nodes.txt": "the nodes: what they have, what is taken, what presses them",
    "export": "the engine's logs of PostgreSQL and the node; the node's own: kubelet, containerd, journal",
    "commands": "what kind, docker and helm said",
    "logs": "what the processes said",
}


def save(
    error: Exception,
    folders: Mapping[str, Path],
    warehouse_dsn: str | None = None,
    save_more: Callable[[Path], None] = lambda _: None,
    phases: Phases | None = None,
) -> None:
    """Copy FOLDERS, by name, and the ledger and the rejects of a warehouse; name the place in ERROR's last line.

    SAVE_MORE is called with the folder of the diagnostics. Each thing is saved for itself: what is broken is often what
    cannot tell. What cannot be saved is said and left out: the failure itself matters more.
    """
    destination = None
    with complaining("a folder"):
        destination = unused(DIAGNOSTICS / time.strftime("%Y%m%d-%H%M%S"))
    if destination is None:
        return
    for name, folder in folders.items():
        if folder.exists():
            with complaining(name):
                shutil.copytree(folder, destination / name, ignore_dangling_symlinks=True)
    save_more(destination)
    if warehouse_dsn:
        with complaining("the warehouse's ledger"):
            save_tables(warehouse_dsn, destination / "warehouse")
    with complaining("the summary"):
        if phases:
            write_phases(destination / "phases.json", phases)
        (destination / "summary.txt").write_text(summary(error, destination, phases))
    place = f"Diagnostics: {destination.relative_to(ROOT)}"
    if isinstance(error, EventsError):
        dash = "" if error.next_step.endswith(".") else " —"
        error.next_step = f"{error.next_step}{dash} {place}"
    else:
        say(f"  {place}")


@contextlib.contextmanager
def complaining(what: str) -> Iterator[None]:
    """Say that the diagnostics lack WHAT, where saving it fails, and go on."""
    try:
        yield
    except (OSError, ValueError, psycopg.Error, EventsError) as error:
        said = without_secrets((str(error).splitlines() or [type(error).__name__])[0])
        say(f"  the diagnostics lack {what}: {said}")


def summary(error: Exception, folder: Path, phases: Phases | None) -> str:
    """Return where to begin: what failed, how far the run came, and what is in each file."""
    lines = ["What failed", ""]
    if isinstance(error, EventsError):
        lines += [f"  {line}" for line in (error.what, error.why, error.next_step)]
    else:
        lines += [
            f"  {type(error).__name__}: {without_secrets(str(error))}",
            "  It was not foreseen; the terminal has its traceback.",
        ]
    if phases:
        lines += ["", "Phases, in the order of their ends (seconds)", ""]
        lines += [f"  {seconds:7.1f}  {name}" for name, seconds in phases.seconds.items()]
    lines += ["", "What is here", ""]
    there = {path.name for path in folder.iterdir()}
    lines += [f"  {name:<14} {what}" for name, what in CONTENTS.items() if name in there]
    return "\n".join(lines) + "\n"


def save_tables(dsn: str, folder: Path) -> None:
    """Write the ledger of loads and the rejected rows as CSV files, as far as the tables are there."""
    with psycopg.connect(dsn, connect_timeout=10, options=PATIENCE) as connection:
        folder.mkdir(parents=True)
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
