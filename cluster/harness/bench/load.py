r"""Measure the load beside `psql \copy`, pandas and other ways to replace a day: what `nox -s bench` does.

Everything runs on one PostgreSQL from the wheel, set as PostgreSQL comes, with the same rows and in turn, the best of
ROUNDS. The figures go to build/bench/load.md and build/bench/load.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg

from events.errors import EventsError
from events.load import load
from events.tables import create_tables
from harness import console
from harness import figures as kept
from harness.console import Phases, say
from harness.errors import ChecksFailedError
from harness.paths import BUILD, PYTHONPATH, ROOT
from harness.postgres import Server, binaries, describe, start_from_wheel
from harness.summary import Section, table
from harness.supervisor import Supervisor
from harness.warehouse import Warehouse, create_warehouse, drop_warehouse, make_passwords

EVENTS = 5_000_000
LARGE_FACTOR = 10
ROUNDS = 3
DAY_EVENTS = 56_000
BAD_SHARE = 0.001
REPORT = BUILD / "bench"
HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data\n"
FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
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
WAYS = LOAD, RANGE, DBT = "load", "delete of the range + insert", "dbt's delete+insert"
# What dbt's incremental strategy delete+insert executes (materialization incremental and
# default__get_delete_insert_merge_sql of dbt 1.12), on rows that a load has put into a table before: dbt's session is
# another one, which sees no temporary table of it.
DBT_STATEMENTS = f"""
    create temporary table plain__dbt_tmp on commit drop as (select {COLUMNS} from landing);
    delete from plain as dbt_internal_dest
    where (event_id) in (select distinct event_id from plain__dbt_tmp as dbt_internal_source);
    insert into plain ({COLUMNS}) (select {COLUMNS} from plain__dbt_tmp)
"""  # noqa: S608 - our names
# A process that does nothing else, as a task's does, so that its memory is the load's.
LOAD_ALONE = """
import json, os, re, resource, sys, time
from events.load import load
began = time.monotonic()
load(sys.argv[1], os.environ["LOADER_DSN"])
seconds = time.monotonic() - began
if sys.platform == "linux":  # ru_maxrss has the peak of the process that started this one, too
    peak = int(re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]) / 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
print(json.dumps({"seconds": seconds, "memory_mb": peak}))
"""


@dataclass(frozen=True)
class Figure:
    """One figure of the report; TARGET is empty and HOLDS None where nothing is promised."""

    name: str
    value: float
    unit: str
    target: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Bench:
    """A server to measure on, and where files may be put."""

    server: Server
    directory: Path
    programs: Path

    @contextmanager
    def warehouse(self) -> Iterator[Warehouse]:
        """Have an empty warehouse with the raw tables."""
        warehouse = create_warehouse(self.server, "bench", make_passwords())
        create_tables(warehouse.loader_dsn)
        try:
            yield warehouse
        finally:
            drop_warehouse(warehouse)

    def generate(self, name: str, events: int, *options: str) -> Path:
        """Return the file NAME, which the project's generator has made."""
        path = self.directory / name
        generator = ROOT / "airflow" / "data" / "generate.py"
        wanted = ["--events", str(events), "--seed", "1", "--out", str(path), *options]
        command = [sys.executable, str(generator), *wanted]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return path

    def load_alone(self, path: Path) -> dict[str, float]:
        """Load PATH into an empty warehouse in a process of its own; return its seconds, rows and peak memory."""
        with self.warehouse() as warehouse:
            checkpoint(warehouse)
            env = os.environ | {
                "LOADER_DSN": warehouse.loader_dsn,
                "PYTHONPATH": os.pathsep.join(map(str, PYTHONPATH)),
            }
            out = subprocess.run(
                [sys.executable, "-c", LOAD_ALONE, path], env=env, check=True, capture_output=True, text=True
            ).stdout
        measured: dict[str, float] = json.loads(out)
        return measured

    def psql_copy(self, path: Path) -> float:
        r"""Return how many seconds `psql \copy` of PATH into an empty table with the same key takes."""
        with self.warehouse() as warehouse:
            with psycopg.connect(warehouse.admin_dsn) as connection:
                connection.execute(TABLE)
            checkpoint(warehouse)
            copy = f"\\copy plain from '{path}' with (format csv, header, delimiter ';')"
            env = os.environ | {"PGPASSWORD": self.server.password}
            address = ("-h", self.server.host, "-p", str(self.server.port), "-U", self.server.user)
            psql = [str(self.programs / "psql"), "-X", "-q", *address, "-d", warehouse.database, "-c", copy]
            return seconds(lambda: subprocess.run(psql, env=env, check=True))

    def pandas(self, path: Path) -> float:
        """Return how many seconds pandas.to_sql of PATH takes, as pandas and SQLAlchemy do it by default."""
        import pandas as pd  # type: ignore[import-untyped]
        import sqlalchemy

        with self.warehouse() as warehouse:
            engine = sqlalchemy.create_engine(warehouse.admin_dsn)

            def write() -> None:
                frame = pd.read_csv(path, sep=";", parse_dates=["created_at"])
                frame.to_sql("with_pandas", engine, index=False)

            try:
                return seconds(write)
            finally:
                engine.dispose()


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write the report; return the process's exit code."""
    parser = argparse.ArgumentParser("nox -s bench --", description=__doc__, allow_abbrev=False)
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help=f"of the file; {EVENTS:,} by default")
    parser.add_argument("--large", type=int, metavar="N", help="events of the large file; ten times as many by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"the best of N; {ROUNDS} by default")
    options = parser.parse_args(arguments)
    large = LARGE_FACTOR * options.events if options.large is None else options.large
    try:
        with Section("bench") as section:
            with Supervisor.launch() as supervisor:
                server = start_from_wheel(supervisor, settings={})
                say(f"✓ {describe(server)}, as PostgreSQL comes; {machine()}")
                bench = Bench(server, supervisor.directory, binaries(supervisor.directory))
                figures = measure(bench, options.events, large, options.rounds)
            report(figures, options.events, section)
            missed = [figure.name for figure in figures if figure.holds is False]
            if missed and options.events >= EVENTS:  # fewer events show that it runs, not how fast it is
                raise ChecksFailedError(
                    f"{len(missed)} of {len(figures)} figures are not what is promised: {missed[0]}.",
                    "The machine is most likely busy with other work, or a change made the load slower.",
                    f"See {(REPORT / 'load.md').relative_to(ROOT)}, and run it again on a quiet machine: nox -s bench",
                )
    except EventsError as error:
        console.error(error.what, error.why, error.next_step)
        return error.exit_code
    return 0


def measure(bench: Bench, events: int, large: int, rounds: int) -> list[Figure]:
    """Return all figures."""
    phases = Phases()
    with phases.phase("files made") as phase:
        clean = bench.generate("clean.csv", events)
        bad = bench.generate("bad.csv", events, "--bad", str(BAD_SHARE))
        phase.text = f"files made: {events:,} events, {clean.stat().st_size / events:.0f} bytes a row"
    psql_s: list[float] = []
    load_s: list[float] = []
    bad_s: list[float] = []
    memory_mb: list[float] = []
    for number in range(rounds):
        with phases.phase(f"round {number}") as phase:
            psql_s.append(bench.psql_copy(clean))
            turns = [(clean, load_s), (bad, bad_s)]
            for path, times in turns[:: 1 - 2 * (number % 2)]:  # whoever follows the other has more to wait for
                measured = bench.load_alone(path)
                times.append(measured["seconds"])
                memory_mb.append(measured["memory_mb"])
            phase.text = f"psql {psql_s[-1]:.1f} s, load {load_s[-1]:.1f} s, with bad rows {bad_s[-1]:.1f} s"
    bad.unlink()
    with phases.phase("pandas") as phase:
        pandas_s = bench.pandas(clean)
        phase.text = f"pandas.to_sql {pandas_s:.0f} s"
    clean.unlink()
    speed = events / min(load_s)
    figures = [
        Figure("load, clean file", round(speed), "rows/s"),
        Figure("psql \\copy into a table with the same key", round(events / min(psql_s)), "rows/s"),
        Figure("pandas.to_sql", round(events / pandas_s), "rows/s"),
        at_least("load against psql \\copy", min(psql_s) / min(load_s), 0.9),
        at_least("load against pandas.to_sql", pandas_s / min(load_s), 12),
        at_least("0.1% bad rows against the clean file", min(load_s) / min(bad_s), 0.6),
    ]
    figures += measure_days(bench, events, rounds, phases)
    if large:
        with phases.phase("large file") as phase:
            path = bench.generate("large.csv", large)
            measured = bench.load_alone(path)
            path.unlink()
            phase.text = f"{large:,} events loaded in {measured['seconds']:.1f} s"
        memory_mb.append(measured["memory_mb"])
        figures.append(Figure(f"load, {large:,} events", round(large / measured["seconds"]), "rows/s"))
        figures.append(
            at_least(f"{large:,} events against {events:,}, rows/s", large / measured["seconds"] / speed, 0.8)
        )
    figures.append(at_most("memory of the loading process, at its peak", max(memory_mb), 150, "MB"))
    return figures


def measure_days(bench: Bench, events: int, rounds: int, phases: Phases) -> list[Figure]:
    """Return what replacing one day costs in a table of EVENTS and in one of a tenth of them."""
    sizes = [max(3, size // DAY_EVENTS) for size in (events, events // 10)]
    cost: list[float] = []
    figures: list[Figure] = []
    for days in sizes:
        with phases.phase(f"{days} days") as phase, bench.warehouse() as warehouse:
            path = bench.directory / "days.csv"
            write_days(path, range(days), professional=1)
            load(str(path), warehouse.loader_dsn)
            path.unlink()
            with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
                connection.execute(TABLE)
                connection.execute(f"insert into plain select {COLUMNS} from raw.events")  # noqa: S608 - our names
                connection.execute("create index on plain (created_at)")
                connection.execute("create table landing (like plain)")
                connection.execute("vacuum analyze plain")
            took: dict[str, list[float]] = {way: [] for way in WAYS}
            day = days // 2
            for number in range(2 * rounds):
                write_days(path, [day], professional=number + 2)
                for way in WAYS:
                    checkpoint(warehouse)
                    took[way].append(seconds(partial(replace_day, way, warehouse, path, day)))
            best = {way: min(times) for way, times in took.items()}
            phase.text = f"a day of {DAY_EVENTS:,} replaced in a table of {days * DAY_EVENTS:,} in {best[LOAD]:.2f} s"
        cost.append(best[LOAD])
        if not figures:
            figures += [Figure(f"a day replaced by {way}", round(best[way], 3), "s") for way in WAYS]
            figures += [
                at_least(f"a day: load against {DBT}", best[DBT] / best[LOAD], 4),
                at_least(f"a day: load against {RANGE}", best[RANGE] / best[LOAD], 2),
            ]
    large, small = (days * DAY_EVENTS for days in sizes)
    return [*figures, at_most(f"a day in a table of {large:,} against {small:,}", cost[0] / cost[1], 1.3)]


def replace_day(way: str, warehouse: Warehouse, path: Path, day: int) -> None:
    """Replace DAY by what the file at PATH has of it, in one of WAYS."""
    if way == LOAD:
        load(str(path), warehouse.loader_dsn, start=at(day), end=at(day + 1))
    elif way == RANGE:
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute("create temporary table incoming (like plain) on commit drop")
            copy_in(connection, "incoming", path)
            connection.execute("delete from plain where created_at >= %s and created_at < %s", (at(day), at(day + 1)))
            connection.execute(f"insert into plain select {COLUMNS} from incoming")  # noqa: S608 - our names
    else:
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute("truncate landing")
            copy_in(connection, "landing", path)
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute(DBT_STATEMENTS.encode())


def copy_in(connection: psycopg.Connection, table: str, path: Path) -> None:
    """Copy the file at PATH into TABLE."""
    with (
        path.open("rb") as file,
        connection.cursor().copy(f"copy {table} from stdin with (format csv, header, delimiter ';')".encode()) as copy,
    ):
        while block := file.read(1 << 18):
            copy.write(block)


def write_days(path: Path, days: Sequence[int], professional: int) -> None:
    """Write DAY_EVENTS events for each of DAYS."""
    with path.open("w") as file:
        file.write(HEADER)
        for day in days:
            date = f"{at(day):%Y-%m-%d}"
            for number in range(DAY_EVENTS):
                second = number * 86_400 // DAY_EVENTS
                clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
                start = f"{day * DAY_EVENTS + number};"
                if number % 3:
                    file.write(f"{start}proposed;{professional};{date} {clock};33_warmtepomp_fit-heat-pump_4.89\n")
                else:
                    file.write(f"{start}created_account;{professional};{date} {clock};\n")


def at(day: int) -> datetime:
    """Return the beginning of DAY."""
    return FIRST_DAY + timedelta(days=day)


def checkpoint(warehouse: Warehouse) -> None:
    """Let no way pay for what the one before has left to write."""
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        connection.execute("checkpoint")


def seconds(action: Callable[[], object]) -> float:
    """Return how long ACTION takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def at_least(name: str, value: float, target: float) -> Figure:
    """Return a ratio that is promised to be TARGET or more."""
    return Figure(name, round(value, 2), "x", f"≥ {target:g}", value >= target)


def at_most(name: str, value: float, target: float, unit: str = "x") -> Figure:
    """Return a figure that is promised to be TARGET or less."""
    return Figure(name, round(value, 2), unit, f"≤ {target:g}", value <= target)


def machine() -> str:
    """Say what machine this is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB"


def report(figures: Sequence[Figure], events: int, section: Section) -> None:
    """Print FIGURES and write them to REPORT and the step's summary, beside those of the last time."""
    marks = {True: "✓", False: "✗", None: ""}
    rows = [(figure.name, f"{figure.value:,g} {figure.unit}", figure.target, marks[figure.holds]) for figure in figures]
    say("")
    console.table(("figure", "measured", "promised", ""), rows)
    name = f"bench-load-{events}"
    before = kept.last(name)
    header = ("figure", "measured", "promised", "", "last time")
    last = [f"{before[figure.name]:,g}" if figure.name in before else "" for figure in figures]
    beside = [(*row, value) for row, value in zip(rows, last, strict=True)]
    section.add(f"The load, {events:,} events.", table(header, beside, numbers=("measured", "last time")))
    kept.keep(name, {figure.name: figure.value for figure in figures})
    REPORT.mkdir(parents=True, exist_ok=True)
    (REPORT / "load.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=2, ensure_ascii=False))
    lines = [
        f"# The load, {events:,} events",
        "",
        f"{machine()}; PostgreSQL as it comes; {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "| figure | measured | promised | |",
        "| --- | ---: | ---: | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    (REPORT / "load.md").write_text("\n".join(lines) + "\n")
    say(f"\n✓ {(REPORT / 'load.md').relative_to(ROOT)}, {(REPORT / 'load.json').relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
