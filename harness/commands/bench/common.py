"""What the benchmarks share: a server, figures, and their report in `build/bench/`."""

import base64
import json
import os
import pickle
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from feeds.contract import CONTRACTS, Feed, read_feed
from feeds.tables import create_tables
from harness.errors import ChecksFailedError
from harness.project.environments import python_of
from harness.project.paths import BUILD, ROOT
from harness.reporting import console
from harness.reporting import figures as kept
from harness.reporting.console import say
from harness.reporting.report.run import Number, Run
from harness.reporting.summary import Section, table
from harness.warehouse.roles import Warehouse, create_warehouse, drop_warehouse, make_passwords
from harness.warehouse.server import Server

REPORT = BUILD / "bench"
EVENTS = read_feed(CONTRACTS / "events.yaml")
COLUMNS = "event_id, event_type, professional_id_anonymized, created_at, meta_data"
TABLE = """
    create table plain (
        event_id bigint primary key,
        event_type text not null,
        professional_id_anonymized bigint not null,
        created_at timestamptz not null,
        meta_data text
    )
"""


# In a process that does nothing else, like a task's, so that its memory is the load's.
LOAD_ALONE = """
import base64, json, os, pickle, re, resource, sys, time
from feeds.load import load
feed = pickle.loads(base64.b64decode(sys.argv[1]))
began = time.monotonic()
load(feed, os.environ["LOADER_DSN"], source_uri=sys.argv[2])
seconds = time.monotonic() - began
if sys.platform == "linux":  # ru_maxrss has the peak of the process that started this one, too
    peak = int(re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]) / 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
print(json.dumps({"seconds": seconds, "memory_mb": peak}))
"""


@dataclass(frozen=True)
class Figure:
    """One figure of the report; without a target, `target` is empty and `reached` None."""

    name: str
    value: float
    unit: str
    target: str = ""
    reached: bool | None = None


@dataclass(frozen=True)
class Bench:
    """A server to measure on, and where files may be put."""

    server: Server
    directory: Path
    programs: Path

    @contextmanager
    def warehouse(self, feed: Feed = EVENTS) -> Iterator[Warehouse]:
        """Give an empty warehouse with the tables of FEED."""
        warehouse = create_warehouse(self.server, "bench", make_passwords())
        create_tables(warehouse.loader_dsn, feed)
        try:
            yield warehouse
        finally:
            drop_warehouse(warehouse)

    def generate(self, name: str, events: int, *options: str) -> Path:
        """Return the file NAME, written by the project's generator."""
        path = self.directory / name
        generator = ROOT / "airflow" / "data" / "generate.py"
        wanted = ["--events", str(events), "--seed", "1", "--out", str(path), *options]
        command = [sys.executable, str(generator), *wanted]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return path

    def load_alone(self, feed: Feed, path: Path) -> dict[str, float]:
        """Load PATH into an empty warehouse in its own process; return its seconds and its peak memory in MB."""
        with self.warehouse(feed) as warehouse:
            checkpoint(warehouse)
            argv = [sys.executable, "-c", LOAD_ALONE, base64.b64encode(pickle.dumps(feed)).decode(), str(path)]
            env = os.environ | {"LOADER_DSN": warehouse.loader_dsn}
            out = subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout
        measured: dict[str, float] = json.loads(out)
        return measured

    def psql_copy(self, copy: str, table: str) -> float:
        r"""Return how many seconds psql takes for COPY, a `\copy` into the table `plain` that TABLE makes."""
        with self.warehouse() as warehouse:
            with psycopg.connect(warehouse.admin_dsn) as connection:
                connection.execute(table.encode())
            checkpoint(warehouse)
            return seconds(lambda: self.psql(warehouse, copy))

    def psql(self, warehouse: Warehouse, command: str) -> None:
        """Run COMMAND in psql on WAREHOUSE as the administrator."""
        env = os.environ | {"PGPASSWORD": self.server.password}
        address = ("-h", self.server.host, "-p", str(self.server.port), "-U", self.server.user)
        argv = [str(self.programs / "psql"), "-X", "-q", *address, "-d", warehouse.database, "-c", command]
        subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)


def run_dbt(argv: Sequence[str], cwd: Path, env: Mapping[str, str], what: str, next_run: str) -> float:
    """Run dbt's Python with ARGV, ENV on top of the environment; return its seconds, or raise ChecksFailedError."""
    argv, env, began = [str(python_of("dbt")), *argv], os.environ | dict(env), time.monotonic()
    process = subprocess.run(argv, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    if process.returncode:
        what = f"dbt {what} ended with exit code {process.returncode}."
        raise ChecksFailedError(what, process.stdout[-2000:], f"Run {next_run}")
    return time.monotonic() - began


def checkpoint(warehouse: Warehouse) -> None:
    """Write what earlier measurements have left to write."""
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        connection.execute("checkpoint")


def seconds(action: Callable[[], object]) -> float:
    """Return how long ACTION takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def at_least(name: str, value: float, target: float) -> Figure:
    """Return a ratio whose target is TARGET or more."""
    return Figure(name, round(value, 2), "x", f"≥ {target:g}", value >= target)


def at_most(name: str, value: float, target: float, unit: str = "x") -> Figure:
    """Return a figure whose target is TARGET or less."""
    return Figure(name, round(value, 2), unit, f"≤ {target:g}", value <= target)


def machine() -> str:
    """Describe this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB"


def add_figures(run: Run, figures: Sequence[Figure], earlier: Sequence[dict[str, float]]) -> None:
    """Add FIGURES to RUN beside their targets, and to its history those of EARLIER runs, which may be more or fewer."""
    run.numbers = [
        *run.numbers,
        *(
            Number(each.name, each.target or "no target", f"{each.value:,g} {each.unit}", each.reached is not False)
            for each in figures
        ),
    ]
    runs = [*earlier, {each.name: each.value for each in figures}]
    length = max(len(runs), len(run.history))
    both: list[list[dict[str, float]]] = [[{}] * (length - len(these)) + list(these) for these in (run.history, runs)]
    run.history = [first | second for first, second in zip(*both, strict=True)]


def report(name: str, title: str, figures: Sequence[Figure], events: int, section: Section) -> None:
    """Print FIGURES and write them to `build/bench/NAME.md` and `.json` and SECTION, with those of the last run."""
    marks = {True: "✓", False: "✗", None: ""}
    rows = [
        (figure.name, f"{figure.value:,g} {figure.unit}", figure.target, marks[figure.reached]) for figure in figures
    ]
    say("")
    console.table(("figure", "measured", "target", ""), rows)
    markdown, data = REPORT / f"{name}.md", REPORT / f"{name}.json"
    run = f"bench-{name}-{events}"
    before = kept.last(run)
    header = ("figure", "measured", "target", "", "last run")
    last = [f"{before[figure.name]:,g}" if figure.name in before else "" for figure in figures]
    beside = [(*row, value) for row, value in zip(rows, last, strict=True)]
    section.add(f"{title}, {events:,} events.", table(header, beside, numbers=("measured", "last run")))
    measured = {figure.name: figure.value for figure in figures}
    if section.run:
        add_figures(section.run, figures, [each.figures for each in kept.history(run)[0]])
    kept.keep(run, measured)
    REPORT.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps([asdict(figure) for figure in figures], indent=2, ensure_ascii=False))
    lines = [
        f"# {title}, {events:,} events",
        "",
        f"{machine()}; default PostgreSQL settings; {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "| figure | measured | target | |",
        "| --- | ---: | ---: | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    markdown.write_text("\n".join(lines) + "\n")
    say(f"\n✓ {markdown.relative_to(ROOT)}, {data.relative_to(ROOT)}")
