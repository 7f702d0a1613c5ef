"""Save logs, tables and the state of a failed run to `build/diagnostics/`, before anything is taken down."""

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from feeds.errors import FeedError
from feeds.uri import without_secrets
from harness.errors import HarnessError
from harness.project.paths import BUILD, ROOT
from harness.reporting.console import Phases, say, write_phases

DIAGNOSTICS = BUILD / "diagnostics"
TABLES = ("loads", "rejected_rows")
TIMEOUTS = "-c statement_timeout=30s -c lock_timeout=5s"  # the failed program may hold a lock
CONTENTS = {
    "phases.json": "how long each phase took",
    "events.txt": "the namespace's events, the latest last: pods, images, probes",
    "objects.txt": "the namespace's objects, a line each",
    "describe": "each unhealthy object in full, with its events",
    "pods": "the log of each container, by pod; `.previous.log` is from before its restart",
    "tasks": "the logs of Airflow's tasks; `dbt/<pod>` has dbt's results of failed runs",
    "warehouse": "the ledger of loads and the rejected rows, as CSV",
    "chart": "the chart's values, as given and as rendered, its manifests and hooks",
    "nodes.txt": "the nodes: capacity, allocation, pressure",
    "export": "the engine's logs of PostgreSQL and the node; the node's kubelet, containerd and journal",
    "commands": "the output of kind, docker and helm",
    "components": "the output of Airflow's components and of PostgreSQL, as processes",
    "dbt": "dbt's log and artifacts, where it runs as a process",
    "postgres": "the output of PostgreSQL, if it did not start",
}


def save(
    error: Exception,
    folders: Mapping[str, Path],
    warehouse_dsn: str | None = None,
    save_more: Callable[[Path], None] = lambda _: None,
    phases: Phases | None = None,
) -> Exception:
    """Save what explains ERROR, and return the error to raise in its place: its last line names the folder.

    Each part is saved on its own, since one that is broken often cannot be saved. A part that cannot be saved is
    reported and left out: the failure itself matters more.

    An unexpected ERROR is returned unchanged, and the folder printed. FOLDERS are copied, under these names; of the
    warehouse the ledger and the rejected rows are saved; SAVE_MORE is called with the folder of the diagnostics.
    """
    destination = None
    with log_and_continue("a folder"):
        destination = make_unused(DIAGNOSTICS / time.strftime("%Y%m%d-%H%M%S"))
    if destination is None:
        return error
    for name, folder in folders.items():
        if folder.exists():
            with log_and_continue(name):
                shutil.copytree(folder, destination / name, ignore_dangling_symlinks=True)
    save_more(destination)
    if warehouse_dsn:
        with log_and_continue("the warehouse's ledger"):
            save_tables(warehouse_dsn, destination / "warehouse")
    with log_and_continue("the summary"):
        if phases:
            write_phases(destination / "phases.json", phases)
        (destination / "summary.txt").write_text(summary(error, destination, phases))
    place = f"Diagnostics: {destination.relative_to(ROOT)}"
    if not isinstance(error, FeedError):
        say(f"  {place}")
        return error
    next_step = f"{error.next_step}{'' if error.next_step.endswith('.') else ' —'} {place}"
    if isinstance(error, HarnessError):
        return error.amended(next_step=next_step)
    return type(error)(error.what, error.why, next_step)


@contextlib.contextmanager
def log_and_continue(what: str) -> Iterator[None]:
    """If saving WHAT fails in the block, print that the diagnostics do not have it."""
    try:
        yield
    except (OSError, ValueError, psycopg.Error, FeedError) as error:
        reason = without_secrets((str(error).splitlines() or [type(error).__name__])[0])
        say(f"  the diagnostics do not have {what}: {reason}")


def summary(error: Exception, folder: Path, phases: Phases | None) -> str:
    """Return the text of summary.txt: the failure, the phases, and the content of each file."""
    lines = ["What failed", ""]
    if isinstance(error, FeedError):
        lines += [f"  {line}" for line in (error.what, error.why, error.next_step)]
    else:
        lines += [
            f"  {type(error).__name__}: {without_secrets(str(error))}",
            "  This is a defect: the error was not expected. The terminal has its traceback.",
        ]
    if phases:
        lines += ["", "Phases, in the order of their ends (seconds)", ""]
        lines += [f"  {seconds:7.1f}  {name}" for name, seconds in phases.seconds.items()]
    lines += ["", "Files in this folder", ""]
    lines += [f"  {name:<14} {what}" for name, what in CONTENTS.items() if (folder / name).exists()]
    return "\n".join(lines) + "\n"


def save_tables(dsn: str, folder: Path) -> None:
    """Write the ledger of loads and the rejected rows as CSV files, if the tables exist."""
    with psycopg.connect(dsn, connect_timeout=10, options=TIMEOUTS) as connection:
        folder.mkdir(parents=True)
        for table in TABLES:
            if connection.execute("select to_regclass(%s)", (f"raw.{table}",)).fetchone() == (None,):
                continue
            statement = sql.SQL("copy raw.{} to stdout (format csv, header)").format(sql.Identifier(table))
            with connection.cursor().copy(statement) as rows, open(folder / f"{table}.csv", "wb") as file:
                for block in rows:
                    file.write(block)


def make_unused(wanted: Path) -> Path:
    """Make the folder WANTED, or with a number appended if another run has made it, and return it."""
    for number in itertools.count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError
