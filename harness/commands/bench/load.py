r"""Measure the load beside `psql \copy`, pandas and other ways to replace a day: what `nox -s bench -- load` does.

Everything runs with the same rows and in turn, the best of ROUNDS. What dbt takes is what dbt says of its model; how
long a reader waits for loads is measured in the server, so that nothing of this process is in it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from events.load import load
from harness.commands.bench.common import Bench, Figure, at_least, at_most, checkpoint, seconds
from harness.errors import ChecksFailedError
from harness.project.environments import python_of
from harness.reporting.console import Phases
from harness.warehouse.roles import Warehouse

LARGE_FACTOR = 10
DAY_EVENTS = 56_000
BAD_SHARE = 0.001
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
# A project whose one model is that table; its rows are in `landing`, where another tool has put them.
DBT_PROJECT = """
name: bench
profile: bench
flags:
  send_anonymous_usage_stats: false
  version_check: false
"""
DBT_MODEL = f"""
{{{{ config(materialized="incremental", incremental_strategy="delete+insert", unique_key="event_id") }}}}
select {COLUMNS} from landing
"""  # noqa: S608 - our names
LOADS_AT_ONCE = 8
# Takes the table as a reader does, over and over, until somebody says that it is enough; keeps its longest wait.
READER = """
    do $$
    declare
        began timestamptz;
        longest interval := '0';
    begin
        while not exists (select from public.enough) loop
            began := clock_timestamp();
            lock table raw.events in access share mode;
            longest := greatest(longest, clock_timestamp() - began);
            commit;
        end loop;
        insert into public.waited values (longest);
    end $$
"""
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


class LoadBench(Bench):
    """Ways to load a file into an empty warehouse."""

    def load_alone(self, path: Path) -> dict[str, float]:
        """Load PATH into an empty warehouse in a process of its own; return its seconds, rows and peak memory."""
        with self.warehouse() as warehouse:
            checkpoint(warehouse)
            env = os.environ | {"LOADER_DSN": warehouse.loader_dsn}
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
            return seconds(lambda: self.psql(warehouse, copy))

    def pandas(self, path: Path) -> float:
        """Return how many seconds pandas.to_sql of PATH into the same table takes, as pandas does it by default."""
        import pandas as pd  # type: ignore[import-untyped]
        import sqlalchemy

        with self.warehouse() as warehouse:
            with psycopg.connect(warehouse.admin_dsn) as connection:
                connection.execute(TABLE)
            checkpoint(warehouse)
            engine = sqlalchemy.create_engine(warehouse.admin_dsn)

            def write() -> None:
                frame = pd.read_csv(path, sep=";", parse_dates=["created_at"])
                frame.to_sql("plain", engine, if_exists="append", index=False)

            try:
                return seconds(write)
            finally:
                engine.dispose()

    def write_dbt_project(self, warehouse: Warehouse) -> None:
        """Write the project whose model is `plain` in WAREHOUSE."""
        server = {"host": self.server.host, "port": self.server.port, "user": self.server.user}
        output = {"type": "postgres", **server, "password": self.server.password, "dbname": warehouse.database}
        profiles = {"bench": {"target": "bench", "outputs": {"bench": {**output, "schema": "public", "threads": 1}}}}
        (self.dbt_project / "models").mkdir(parents=True, exist_ok=True)
        (self.dbt_project / "dbt_project.yml").write_text(DBT_PROJECT)
        (self.dbt_project / "profiles.yml").write_text(json.dumps(profiles))  # which is YAML, too
        (self.dbt_project / "models" / "plain.sql").write_text(DBT_MODEL)

    @property
    def dbt_project(self) -> Path:
        """Where that project is."""
        return self.directory / "bench"

    def dbt_model(self) -> float:
        """Run the project's model; return how many seconds dbt says that it took, without dbt's start."""
        argv = [str(python_of("dbt")), "-m", "dbt.cli.main", "run", "--profiles-dir", "."]
        process = subprocess.run(argv, cwd=self.dbt_project, check=False, capture_output=True, text=True)
        if process.returncode:
            raise ChecksFailedError(
                f"dbt run ended with exit code {process.returncode}.",
                process.stdout[-2000:],
                "Run it again: nox -s bench -- load",
            )
        results = json.loads((self.dbt_project / "target" / "run_results.json").read_text())
        [model] = results["results"]
        [times] = [timing for timing in model["timing"] if timing["name"] == "execute"]
        moments = [datetime.fromisoformat(times[moment]) for moment in ("started_at", "completed_at")]
        return (moments[1] - moments[0]).total_seconds()


def measure(bench: LoadBench, events: int, large: int, rounds: int) -> list[Figure]:
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


def measure_days(bench: LoadBench, events: int, rounds: int, phases: Phases) -> list[Figure]:
    """Return what replacing one day costs in a table of EVENTS and in one of a tenth of them."""
    sizes = [max(3, size // DAY_EVENTS) for size in (events, events // 10)]
    cost: list[float] = []
    waits_ms: list[float] = []
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
            bench.write_dbt_project(warehouse)
            took: dict[str, list[float]] = {way: [] for way in WAYS}
            day = days // 2
            for number in range(2 * rounds):
                write_days(path, [day], professional=number + 2)
                for way in WAYS:
                    checkpoint(warehouse)
                    took[way].append(replace_day(way, bench, warehouse, path, day))
            best = {way: min(times) for way, times in took.items()}
            waits_ms.append(longest_wait_ms(warehouse, bench.directory, days))
            phase.text = f"a day of {DAY_EVENTS:,} replaced in a table of {days * DAY_EVENTS:,} in {best[LOAD]:.2f} s"
        cost.append(best[LOAD])
        if not figures:
            figures += [Figure(f"a day replaced by {way}", round(best[way], 3), "s") for way in WAYS]
            figures += [
                at_least(f"a day: load against {DBT}", best[DBT] / best[LOAD], 4),
                at_least(f"a day: load against {RANGE}", best[RANGE] / best[LOAD], 2),
            ]
    large, small = (days * DAY_EVENTS for days in sizes)
    return [
        *figures,
        at_most(f"a day in a table of {large:,} against {small:,}", cost[0] / cost[1], 1.3),
        at_most(f"a reader's longest wait beside {LOADS_AT_ONCE} loads", max(waits_ms), 250, "ms"),
    ]


def longest_wait_ms(warehouse: Warehouse, directory: Path, days: int) -> float:
    """Return how long a reader of `raw.events`, which has DAYS, waits at most while loads replace days of it."""
    path = directory / "day.csv"
    write_days(path, [days // 2], professional=0)

    def replace_all(number: int) -> None:
        start = max(0, days // 2 - number)
        for _ in range(3):
            load(str(path), warehouse.loader_dsn, start=at(start), end=at(days // 2 + 1), force=True)

    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        connection.execute("create table public.enough (); create table public.waited (longest interval)")
        with (
            ThreadPoolExecutor(LOADS_AT_ONCE + 1) as pool,
            psycopg.connect(warehouse.admin_dsn, autocommit=True) as other,
        ):
            reading = pool.submit(other.execute, READER)
            try:
                list(pool.map(replace_all, range(LOADS_AT_ONCE)))
            finally:
                connection.execute("insert into public.enough default values")
            reading.result()
        [(longest,)] = connection.execute("select extract(epoch from longest) from public.waited")
    return 1000 * float(longest)


def replace_day(way: str, bench: LoadBench, warehouse: Warehouse, path: Path, day: int) -> float:
    """Replace DAY by what the file at PATH has of it, in one of WAYS; return how many seconds it takes."""
    if way == LOAD:
        return seconds(lambda: load(str(path), warehouse.loader_dsn, start=at(day), end=at(day + 1)))
    began = time.monotonic()
    with psycopg.connect(warehouse.admin_dsn) as connection:
        if way == RANGE:
            connection.execute("create temporary table incoming (like plain) on commit drop")
            copy_in(connection, "incoming", path)
            connection.execute("delete from plain where created_at >= %s and created_at < %s", (at(day), at(day + 1)))
            connection.execute(f"insert into plain select {COLUMNS} from incoming")  # noqa: S608 - our names
        else:
            connection.execute("truncate landing")
            copy_in(connection, "landing", path)
    took = time.monotonic() - began
    return took if way == RANGE else took + bench.dbt_model()


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
