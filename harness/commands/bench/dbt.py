"""Measure dbt: a new day beside a full refresh, two ways to count a snapshot, the start: `nox -s bench -- dbt`.

The events are of three years, with about a real log's shares of types and professionals. PostgreSQL generates them and
the load loads them, so that `raw.events` has its usual partitions. A run's time in the database is PostgreSQL's own
`active_time`.
"""

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg

from feeds.load import load
from harness.commands.bench.common import EVENTS as FEED
from harness.commands.bench.common import Bench, Figure, at_least, at_most, checkpoint, run_dbt, seconds
from harness.errors import ChecksFailedError
from harness.project.paths import ROOT, SAMPLE
from harness.reporting.console import Phases
from harness.warehouse.roles import Warehouse

FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
DAYS = 1_096
CORRECTED_DAYS = 7
DAYS_OF_MONTH = 30
# As in the DAGs: dbt's unit tests do not test the data.
BUILD = ("build", "--exclude-resource-type", "unit_test")
# {first} is the first event id, {count} the number of events, {moment} their start, {days} their days, {professionals}
# the number of professionals.
EVENTS = """
    select
        {first} + number as event_id,
        case
            when number % 100 < 87 then 'proposed'
            when number % 100 < 95 then 'created_account'
            when number / 100 % 6 = 0 then 'became_unable_to_propose'
            else 'became_able_to_propose'
        end as event_type,
        ({first} + number) * 7919 % {professionals} as professional_id_anonymized,
        to_char(
            timestamp '{moment:%Y-%m-%d}' + number::float8 * {days} / {count} * interval '1 day',
            'YYYY-MM-DD HH24:MI:SS'
        ) as created_at,
        case
            when number % 100 < 87 then number % 60 || '_warmtepomp_fit-heat-pump_' || number % 20 || '.89'
        end as meta_data
    from generate_series(0::bigint, {count} - 1) as number
"""
# The month from {start} until {end} as it was loaded, but for one of its days, from {changed} on.
MONTH = """
    select
        event_id,
        event_type,
        professional_id_anonymized
            + (created_at >= '{changed:%Y-%m-%d}' and created_at < '{changed:%Y-%m-%d}'::date + 1)::integer
            as professional_id_anonymized,
        to_char(created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') as created_at,
        meta_data
    from raw.events
    where created_at >= '{start:%Y-%m-%d}' and created_at < '{end:%Y-%m-%d}'
"""
# The query that most people would write first.
CALENDAR_JOIN = """
    with

    intervals as (

        select
            professional_id,
            event_type,
            created_at::date as from_date,
            coalesce(
                lead(created_at::date) over (partition by professional_id order by created_at, event_id) - 1, 'infinity'
            ) as to_date

        from intermediate.int_status_events

    )

    select
        dates.calendar_date as date,
        count(intervals.professional_id) as active_professionals

    from dim.dim_date as dates

    left join intervals
        on
            dates.calendar_date between intervals.from_date and intervals.to_date
            and intervals.event_type = 'became_able_to_propose'

    group by dates.calendar_date
"""


class DbtBench(Bench):
    """dbt on a warehouse of the target prod."""

    def events(self, warehouse: Warehouse, first: int, count: int, moment: datetime, days: int) -> Path:
        """Return a file of COUNT events, the first with the id FIRST, of DAYS days from MOMENT on."""
        professionals = max(count // 12, 1)
        query = EVENTS.format(first=first, count=count, moment=moment, days=days, professionals=professionals)
        return self.copy(warehouse, query)

    def month(self, warehouse: Warehouse, day: int) -> Path:
        """Return a file of the month from number DAY on as it was loaded, except for a day in the middle."""
        start = FIRST_DAY + timedelta(day)
        end, changed = start + timedelta(DAYS_OF_MONTH), start + timedelta(DAYS_OF_MONTH // 2)
        return self.copy(warehouse, MONTH.format(start=start, end=end, changed=changed))

    def copy(self, warehouse: Warehouse, query: str) -> Path:
        """Return a file of the events that QUERY selects."""
        path = self.directory / "events.csv"
        # A command of psql is one line.
        self.psql(warehouse, f"\\copy ({' '.join(query.split())}) to '{path}' with (format csv, header, delimiter ';')")
        return path

    def dbt(self, warehouse: Warehouse, *arguments: str) -> tuple[float, float]:
        """Run `run.py ARGUMENTS` as the dbt task does; return its seconds, and those in the database among them."""
        folder = self.directory / "dbt"
        env = {"DBT_TARGET": "prod", "DBT_TARGET_PATH": str(folder / "target"), "DBT_LOG_PATH": str(folder / "logs")}
        before = self.database_s(warehouse)
        argv = ["dbt/run.py", *arguments, "--threads", "1"]  # with more, the time in the database is no part of it
        took = run_dbt(
            argv, ROOT, env | warehouse.dbt_env(), " ".join(arguments), "the tests of the models: nox -s dbt"
        )
        return took, self.database_s(warehouse) - before

    def database_s(self, warehouse: Warehouse) -> float:
        """Return the seconds that all sessions have spent on statements in WAREHOUSE, counted when a session ends."""
        sessions = "select count(*) from pg_stat_activity where datname = %s and backend_type = 'client backend'"
        deadline = time.monotonic() + 10
        with psycopg.connect(self.server.dsn, autocommit=True) as connection:  # of another database
            while connection.execute(sessions, [warehouse.database]).fetchone() != (0,):
                if time.monotonic() > deadline:
                    raise ChecksFailedError(
                        f"A session of the warehouse {warehouse.database} does not end.",
                        "Somebody else is most likely connected to the benchmark's database.",
                        "Run it again: nox -s bench -- dbt",
                    )
                time.sleep(0.01)
            query = "select active_time / 1000 from pg_stat_database where datname = %s"
            [(total_s,)] = connection.execute(query, [warehouse.database])
        return float(total_s)


def measure(bench: DbtBench, events: int, rounds: int) -> list[Figure]:
    """Return all figures: the snapshot's of EVENTS events, the new day's of twice as many."""
    phases = Phases()
    figures = measure_start(bench, rounds, phases)
    with bench.warehouse() as warehouse:
        half = DAYS // 2
        middle, last = FIRST_DAY + timedelta(half), FIRST_DAY + timedelta(DAYS)
        with phases.phase("half") as phase:
            load(FEED, warehouse.loader_dsn, source_uri=str(bench.events(warehouse, 0, events, FIRST_DAY, half)))
            bench.dbt(warehouse, "run", "--select", "+availability_snapshot", "--exclude", "availability_snapshot")
            phase.text = f"{events:,} events of {half} days made and loaded"
        figures += measure_snapshot(bench, warehouse, events, rounds, phases)
        with phases.phase("whole") as phase:
            file = bench.events(warehouse, events, events, middle, DAYS - half)
            load(FEED, warehouse.loader_dsn, source_uri=str(file), start=middle, end=last)
            phase.text = f"{events:,} more"
        return figures + measure_new_day(bench, warehouse, 2 * events, rounds, phases)


def measure_start(bench: DbtBench, rounds: int, phases: Phases) -> list[Figure]:
    """Return what a build of the sample takes over its time in the database, once the project has been parsed."""
    with phases.phase("start") as phase, bench.warehouse() as warehouse:
        load(FEED, warehouse.loader_dsn, source_uri=str(SAMPLE))
        took, in_database = bench.dbt(warehouse, *BUILD)
        first_s = took - in_database
        builds = [bench.dbt(warehouse, *BUILD) for _ in range(rounds)]
        over_s = min(took - in_database for took, in_database in builds)
        phase.text = (
            f"dbt build of the sample: {over_s:.1f} s over its time in the database, {first_s:.1f} s the first time"
        )
    return [
        Figure("dbt build over its time in the database, the first time", round(first_s, 2), "s"),
        at_most("dbt build over its time in the database, parsed before", over_s, 6, "s"),
    ]


def measure_snapshot(bench: DbtBench, warehouse: Warehouse, events: int, rounds: int, phases: Phases) -> list[Figure]:
    """Return what counting the snapshot takes by net changes, as the model does, and by a calendar."""
    bench.dbt(warehouse, "compile", "--select", "availability_snapshot")
    compiled = bench.directory / "dbt/target/compiled/marketplace/models/marts/analysis/availability_snapshot.sql"
    ways = {"net changes": (compiled.read_text(), rounds), "a calendar": (CALENDAR_JOIN, 1)}  # the latter takes long
    took: dict[str, float] = {}
    found: list[list[tuple[object, ...]]] = []
    for way, (query, times) in ways.items():
        with phases.phase(way) as phase, psycopg.connect(warehouse.transformer_dsn, autocommit=True) as connection:
            cursor = connection.cursor()
            took[way] = min(seconds(partial(cursor.execute, query.encode())) for _ in range(times))
            found.append(sorted(cursor))
            phase.text = f"snapshot of {events:,} events counted by {way}: {took[way]:.2f} s"
    if found[0] != found[1]:
        raise ChecksFailedError(
            "The two ways to count the snapshot have different results.",
            "One of them is wrong: the model, or the query that the benchmark compares it with.",
            "Run the tests of the models: nox -s tests -- tests/dbt/test_marts.py",
        )
    by_changes, by_calendar = took.values()
    return [
        Figure(f"the snapshot of {events:,} events by net changes", round(by_changes, 2), "s"),
        Figure("by a calendar joined to intervals", round(by_calendar, 2), "s"),
        at_least("net changes against that join", by_calendar / by_changes, 5),
    ]


def measure_new_day(bench: DbtBench, warehouse: Warehouse, events: int, rounds: int, phases: Phases) -> list[Figure]:
    """Return what all models take in the database: a full refresh, and builds after loads of a day, a week, a month."""
    with phases.phase("full refresh") as phase:
        _, full_s = bench.dbt(warehouse, "run", "--full-refresh")
        phase.text = f"full refresh of {events:,} events: {full_s:.1f} s in the database"
    day_events = events // DAYS
    days_s = []
    for number in range(rounds):
        with phases.phase(f"new day {number}") as phase:
            first, day = events + number * day_events, DAYS + number
            file = bench.events(warehouse, first, day_events, FIRST_DAY + timedelta(day), 1)
            days_s.append(build_after_load(bench, warehouse, file, day, 1))
            phase.text = f"a new day of {day_events:,} events: {days_s[-1]:.2f} s in the database"
    with phases.phase("no news") as phase:
        nothing_s = build_after_load(bench, warehouse, file, day, 1)
        phase.text = f"the same day once more: {nothing_s:.2f} s in the database"
    with phases.phase("corrected week") as phase:
        day = DAYS // 3
        moment = FIRST_DAY + timedelta(day)
        file = bench.events(warehouse, 2 * events, CORRECTED_DAYS * day_events, moment, CORRECTED_DAYS)
        week_s = build_after_load(bench, warehouse, file, day, CORRECTED_DAYS)
        phase.text = f"a week corrected two years later: {week_s:.2f} s in the database"
    with phases.phase("month") as phase:
        month_s = build_after_load(bench, warehouse, bench.month(warehouse, DAYS // 2), DAYS // 2, DAYS_OF_MONTH)
        phase.text = f"a month read again, of which one day changed: {month_s:.2f} s in the database"
    return [
        Figure(f"full refresh of all models, {events:,} events", round(full_s, 2), "s"),
        at_most(f"all models after a new day of {day_events:,} events", min(days_s), 2, "s"),
        at_least("a full refresh against a new day", full_s / min(days_s), 20),
        Figure("all models after a load without news", round(nothing_s, 2), "s"),
        Figure("all models after a correction of a week two years ago", round(week_s, 2), "s"),
        Figure("all models after a month was read again, of which one day changed", round(month_s, 2), "s"),
    ]


def build_after_load(bench: DbtBench, warehouse: Warehouse, file: Path, day: int, days: int) -> float:
    """Load FILE for DAYS days from number DAY on; return the seconds in the database of a build of all models."""
    start = FIRST_DAY + timedelta(day)
    load(FEED, warehouse.loader_dsn, source_uri=str(file), start=start, end=start + timedelta(days))
    checkpoint(warehouse)
    return bench.dbt(warehouse, "run")[1]
