r"""Measure how a day's rows are replaced, by the load and in other ways: the second part of `nox -s bench -- load`.

dbt's time is the one that dbt reports for its model. How long a reader waits for loads is measured in the server, so
that it contains no time of this process.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from feeds.load import load
from harness.commands.bench.common import COLUMNS, TABLE, Bench, Figure, at_least, at_most, checkpoint, run_dbt, seconds
from harness.commands.bench.common import EVENTS as FEED
from harness.reporting.console import Phases
from harness.warehouse.roles import Warehouse

DAY_EVENTS = 56_000
HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data\n"
FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
WAYS = LOAD, RANGE, DBT = "load", "delete of the range + insert", "dbt's delete+insert"
# A project whose one model is the table `plain`; its rows are in `landing`, where another tool has put them.
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
# Locks the table like a reader, again and again, until the table `enough` has a row; records the longest wait.
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


def measure(bench: Bench, events: int, rounds: int, phases: Phases) -> list[Figure]:
    """Return what replacing one day costs in a table of EVENTS and in one of a tenth of them."""
    sizes = [max(3, size // DAY_EVENTS) for size in (events, events // 10)]
    cost: list[float] = []
    waits_ms: list[float] = []
    figures: list[Figure] = []
    for days in sizes:
        with phases.phase(f"{days} days") as phase, bench.warehouse() as warehouse:
            path = bench.directory / "days.csv"
            write_days(path, range(days), professional=1)
            load(FEED, warehouse.loader_dsn, source_uri=str(path))
            path.unlink()
            with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
                connection.execute(TABLE)
                connection.execute(f"insert into plain select {COLUMNS} from raw.events")  # noqa: S608 - our names
                connection.execute("create index on plain (created_at)")
                connection.execute("create table landing (like plain)")
                connection.execute("vacuum analyze plain")
            write_dbt_project(bench, warehouse)
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
                at_least(f"a day: load against {DBT}", best[DBT] / best[LOAD], 3),
                at_least(f"a day: load against {RANGE}", best[RANGE] / best[LOAD], 1.5),
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
            load(FEED, warehouse.loader_dsn, source_uri=str(path), start=at(start), end=at(days // 2 + 1), force=True)

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


def replace_day(way: str, bench: Bench, warehouse: Warehouse, path: Path, day: int) -> float:
    """Replace DAY by what the file at PATH has of it, in one of WAYS; return how many seconds it takes."""
    if way == LOAD:
        return seconds(lambda: load(FEED, warehouse.loader_dsn, source_uri=str(path), start=at(day), end=at(day + 1)))
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
    return took if way == RANGE else took + run_dbt_model(bench)


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


def write_dbt_project(bench: Bench, warehouse: Warehouse) -> None:
    """Write the project whose model is the table `plain` in WAREHOUSE."""
    project = bench.directory / "bench"
    server = {"host": bench.server.host, "port": bench.server.port, "user": bench.server.user}
    output = {"type": "postgres", **server, "password": bench.server.password, "dbname": warehouse.database}
    profiles = {"bench": {"target": "bench", "outputs": {"bench": {**output, "schema": "public", "threads": 1}}}}
    (project / "models").mkdir(parents=True, exist_ok=True)
    (project / "dbt_project.yml").write_text(DBT_PROJECT)
    (project / "profiles.yml").write_text(json.dumps(profiles))  # which is YAML, too
    (project / "models" / "plain.sql").write_text(DBT_MODEL)


def run_dbt_model(bench: Bench) -> float:
    """Run the project's model; return the seconds that dbt reports for it, without dbt's start."""
    project = bench.directory / "bench"
    run_dbt(["-m", "dbt.cli.main", "run", "--profiles-dir", "."], project, {}, "run", "it again: nox -s bench -- load")
    results = json.loads((project / "target" / "run_results.json").read_text())
    [model] = results["results"]
    [times] = [timing for timing in model["timing"] if timing["name"] == "execute"]
    moments = [datetime.fromisoformat(times[moment]) for moment in ("started_at", "completed_at")]
    return (moments[1] - moments[0]).total_seconds()
