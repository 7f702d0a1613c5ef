"""Collect what the report of a run shows, while its deployment is still up."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from feeds.errors import FeedError
from feeds.uri import first_line
from harness.oracle.checks import Check
from harness.oracle.expected_numbers import Rows
from harness.pipeline import lineage, rejected_rows
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.datasets import datasets
from harness.pipeline.rejected_rows import RejectedRows
from harness.processes.environment import environment
from harness.processes.git import default_branch, git, is_on
from harness.project import locks, pins
from harness.project.paths import ROOT
from harness.reporting import dbt_report
from harness.reporting.report.run import Day, Load, Node, Number, Reject, Run, Series, Step, Table
from harness.reporting.wording import count
from harness.warehouse.roles import Warehouse

TIMEOUTS = "-c statement_timeout=30s -c lock_timeout=5s"  # a failed program may hold a lock
MOST_LOADS, MOST_DAYS = 300, 2_000
AVAILABILITY, REVENUE = "analysis.availability_snapshot", "analysis.service_revenue_daily"
SERIES: dict[str, tuple[str, str, LiteralString]] = {
    AVAILABILITY: ("Active professionals", "", "select date, active_professionals from {} where date is not null"),
    REVENUE: (
        "Revenue of lead fees by day",
        "euro",
        "select date, sum(lead_fee_revenue) from {} where date is not null group by date",
    ),
}
# With the schema that a model has, which begins otherwise where dbt's target is not `prod`.
SCHEMA = """
    select nspname from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where relname = %(model)s and (nspname = %(schema)s or right(nspname, length(%(schema)s) + 1) = '_' || %(schema)s)
    order by nspname <> %(schema)s, nspname
"""
DAYS = """
    select feed, date, late_rows, corrected_rows, withdrawn_rows
    from {}
    where late_rows + corrected_rows + withdrawn_rows > 0
    order by date desc, feed
    limit %s
"""
LOADS = """
    select
        feed, coalesce(run_id, ''), status, translate(coalesce(failure, ''), e'\\n', ' '), started_at, ended_at,
        rows_read, rows_loaded, rows_rejected, rows_outside, rows_absent
    from (select * from raw.loads order by load_id desc limit %s) as latest order by load_id
"""
TABLES = """
    select
        nspname || '.' || relname,
        coalesce(sum(pg_total_relation_size(parts.relid)), pg_total_relation_size(pg_class.oid))
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
    left join lateral pg_partition_tree(pg_class.oid) as parts on relkind = 'p'
    where relkind in ('r', 'p', 'm') and not relispartition
        and nspname <> 'information_schema' and nspname !~ '^pg_'
    group by nspname, relname, pg_class.oid
    order by 2 desc, 1
"""


@contextlib.contextmanager
def part(run: Run, what: str) -> Iterator[None]:
    """If WHAT cannot be collected in the block, note that the report of RUN does not have it, and why."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the rest of the report, and the run's own result, matter more
        run.notes.append(f"The report does not have {what}: {first_line(error, *run.secrets)}")


def add_clone(run: Run, *, has_images: bool = False) -> None:
    """Add the commit of this clone, if it is one, its dbt, and with HAS_IMAGES its chart and images."""
    with contextlib.suppress(FeedError, OSError):
        changed = git(ROOT, "status", "--porcelain", "--untracked-files=no").splitlines()
        commit = git(ROOT, "rev-parse", "HEAD")
        run.facts["commit"] = commit + (f", and {len(changed)} changed files" if changed else "")
        branch = default_branch(ROOT)
        run.is_main = not changed and branch is not None and is_on(ROOT, branch)
    with contextlib.suppress(OSError):
        run.facts["dbt"] = locks.version("dbt", "dbt-core")
    if has_images:
        images = {f"image {name}": pins.image(name) for name in pins.images() if name not in pins.FOR_METRICS}
        run.facts |= {"chart": pins.chart()["version"], **images}


def add_checks(run: Run, checks: Sequence[Check], lines: Sequence[str], rejected: RejectedRows) -> None:
    """Add CHECKS, LINES about others, and the rows that were REJECTED to RUN."""
    run.numbers = [Number(each.name, str(each.expected), str(each.actual), each.passed) for each in checks]
    run.lines = list(lines)
    if rejected.counts:  # otherwise nobody may have asked
        add_rejected(run, rejected)


def add_rejected(run: Run, rejected: RejectedRows) -> None:
    """Add the rows that were REJECTED to RUN, and the file that has them, if there is one."""
    run.rejects = [
        Reject(reason, rows, [(line, text) for of, line, text in rejected.examples if of == reason])
        for reason, rows in rejected.counts.items()
    ]
    run.rejects_file = rejected.place if rejected.file else ""


def add_airflow(run: Run, api: AirflowApi) -> None:
    """Add the tasks that Airflow has run."""
    with part(run, "Airflow's tasks"):
        run.tasks = [
            Step(
                task["task_id"],
                task["dag_id"],
                task["state"] or "none",
                task["queued_when"],
                task["start_date"],
                task["end_date"],
                task["dag_run_id"],
            )
            for task in api.task_instances()
        ]
        run.facts["Airflow"] = api.version()


def add_warehouse(
    run: Run,
    warehouse: Warehouse,
    expected: Mapping[str, Rows] | None = None,
    rows: Mapping[str, int] | None = None,
) -> None:
    """Add the loads, the tables and the series of WAREHOUSE, beside what marts are EXPECTED to have; ROWS are known."""
    run.secrets += [warehouse.admin_dsn, warehouse.loader_dsn, warehouse.transformer_dsn, warehouse.reader_dsn]
    add_series(run, expected, {})
    run.has_warehouse = False
    with part(run, "the warehouse's numbers"), connection(warehouse) as conn:
        run.facts["PostgreSQL"] = conn.execute("show server_version").fetchall()[0][0]
        run.tables = [Table(name, (rows or {}).get(name), int(size)) for name, size in conn.execute(TABLES)]
        tables = {table.name for table in run.tables}
        if "raw.loads" in tables:
            run.loads = [Load(*row) for row in conn.execute(LOADS, [MOST_LOADS])]
            run.older_loads = conn.execute("select count(*) from raw.loads").fetchall()[0][0] - len(run.loads)
        add_rejected(run, rejected_rows.examples(conn))
        run.has_warehouse = True
        places = {name: place_of(conn, name) for name in SERIES}
        found = {
            name: dict(conn.execute(sql.SQL(query).format(places[name])).fetchall())
            for name, (_, _, query) in SERIES.items()
            if places[name]
        }
        add_series(run, expected, found)
        with part(run, "late and corrected rows"):
            run.days = days_of(conn)


def place_of(connection: psycopg.Connection[Any], model: str) -> sql.Identifier | None:
    """Return the table or view of MODEL, as `schema.name`; None if there is none."""
    schema, _, name = model.partition(".")
    found = connection.execute(SCHEMA, {"schema": schema, "model": name}).fetchone()
    return sql.Identifier(found[0], name) if found else None


def days_of(connection: psycopg.Connection[Any]) -> list[Day] | None:
    """Return the latest days whose rows a load after the first one has changed; None where the view is not there."""
    view = place_of(connection, "analysis.feed_days")
    return [Day(*row) for row in connection.execute(sql.SQL(DAYS).format(view), [MOST_DAYS])][::-1] if view else None


@contextlib.contextmanager
def connection(warehouse: Warehouse) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection to WAREHOUSE that only reads."""
    with psycopg.connect(warehouse.admin_dsn, connect_timeout=10, options=TIMEOUTS) as conn:
        conn.read_only = True
        yield conn


def add_series(run: Run, expected: Mapping[str, Rows] | None, found: dict[str, dict[date, Any]]) -> None:
    """Set the series of RUN: those EXPECTED beside those FOUND, both by day."""
    run.series = []
    for name, (title, unit, _) in SERIES.items():
        computed: dict[date, Any] = defaultdict(int)
        for row in (expected or {}).get(name, ()):
            day, number = row if name == AVAILABILITY else (row[1], row[3])
            computed[day] += number
        days = sorted({*computed, *found.get(name, {})})
        points = [(day, as_float(computed.get(day)), as_float(found.get(name, {}).get(day))) for day in days]
        run.series.append(Series(title, unit, points))


def as_float(number: Any) -> float | None:
    """Return NUMBER for a chart."""
    return None if number is None else float(number)


@contextlib.contextmanager
def lineage_kept(run: Run) -> Iterator[None]:
    """Let what runs in the block, in this process or below it, emit its events; RUN gets them if they go to files."""
    lineage.forget()
    are_elsewhere = lineage.elsewhere(os.environ)
    with TemporaryDirectory(prefix="lineage-") as folder, environment(lineage.variables(os.environ, folder)):
        try:
            yield
        finally:
            if not are_elsewhere:
                add_lineage(run, partial(lineage.collect, [Path(folder)], run.phases.started_at))


def add_lineage(run: Run, collect: Callable[[], lineage.Found | None]) -> None:
    """Add what the events that COLLECT returns say to RUN, if there are any."""
    with part(run, "the lineage events"):
        events, damaged = collect() or ([], [])
        run.datasets = datasets(events, {table.name: table.rows for table in run.tables if table.rows is not None})
        if damaged:
            run.notes.append(
                f"{count(len(damaged), 'file')} of lineage events cannot be read, the first: {damaged[0]}."
            )


def add_dbt(run: Run, folder: Path | None, dsn: str) -> None:
    """Add the results of dbt in FOLDER, if there are any; the rows that fail its tests are read by DSN."""
    with part(run, "dbt's results"):
        results = dbt_report.read(folder) if folder else []
        rows_of: dict[str, tuple[list[str], list[list[str]]]] = {}
        for result in [result for result in results if result.failing and result.compiled][: dbt_report.SHOWN]:
            with part(run, f"the rows of {result.name}"):
                rows_of[result.name] = dbt_report.select_failing(result.compiled, dsn)
        run.nodes = [
            Node(
                result.name,
                result.kind,
                result.status,
                has_failed=result.failed,
                message=result.message,
                place=result.finding().place,
                seconds=result.taken_s,
                started_at=result.started_at,
                tested=result.tested,
                failing=result.failing,
                header=rows_of.get(result.name, ([], []))[0],
                rows=rows_of.get(result.name, ([], []))[1],
            )
            for result in results
        ]
