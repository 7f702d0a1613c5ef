"""Run the three pipelines end to end on a target, and check every number against an independent computation.

The weekly and the monthly run load the whole file again, and at the end so does a second daily run: after each, every
table holds what it held after the first, byte for byte.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psycopg

from events.errors import EventsError
from events.load import Interval
from events.source import check_source
from events.uri import shown
from harness.errors import ChecksFailedError, DagRunFailedError, DiskFullError, LeftBehindError, UsageError
from harness.pipeline import expected_numbers
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.checks import Check, compare, fingerprint
from harness.processes.background import InBackground
from harness.project.paths import BUILD, SAMPLE
from harness.reporting import dbt_report, figures
from harness.reporting.console import Phases, group, say, table, write_phases
from harness.reporting.summary import Section, details, text
from harness.reporting.summary import table as markdown_table
from harness.targets import Deployment, Settings, choose
from harness.warehouse.roles import Warehouse

DAG_IDS = ("events_pipeline_daily", "events_pipeline_weekly", "events_pipeline_monthly")
PARSED_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 1800.0  # of one DAG run, on a file of any size
DBT_CLOSING_LINE = "Done. PASS="
PHASES = BUILD / "e2e" / "phases.json"
MIN_FREE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Options:
    """What `nox -s e2e` was asked for.

    Attributes:
        target: a target's name, or `auto`.
        events: the events file, a path or any fsspec URI; the sample by default.
        start: the first instant to load, ISO 8601, UTC where it does not say; None for the file's beginning.
        end: the first instant not to load any more, likewise; None for the file's end.
        max_rejected: the share of rows that may be rejected, 0 to 1.
        keep: leave it up at the end.
        ui_port: the port for Airflow's UI and API; None for a free one.
        reuse: use the cluster that is up, and leave it up.
        namespace, registry, warehouse_dsn, storage_class, values: for a cluster, see `targets.Settings`.
    """

    target: str = "auto"
    events: str = field(default=str(SAMPLE), repr=False)
    start: str | None = None
    end: str | None = None
    max_rejected: float = 0.01
    keep: bool = False
    ui_port: int | None = None
    reuse: bool = False
    namespace: str | None = None
    registry: str | None = None
    warehouse_dsn: str | None = field(default=None, repr=False)
    storage_class: str | None = None
    values: str | None = None


@dataclass
class Held:
    """What has been found to hold so far.

    Attributes:
        rows: by table.
        checks: the numbers that are what the events file says.
        told: a line for each thing more.
    """

    rows: dict[str, int] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    told: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Say that one thing more holds."""
        self.told.append(line)
        say(f"✓ {line}")


def run(options: Options, section: Section) -> None:
    """Bring the target up, run, check, and take it down; tell SECTION all of it.

    Raises:
        EventsError: something foreseen went wrong, the harness's own errors among them.
    """
    target, reason = choose(options.target)
    if options.reuse and target.name == "embedded":
        raise UsageError(
            "--reuse is for a cluster that is up; the embedded target is made anew each time.",
            f"The target is embedded: {reason}.",
            "Leave --reuse out, or name the cluster: --target kind",
        )
    say(f"target {target.name}: {reason}")
    section.title = f"e2e on {target.name}"
    section.add(f"Target **{target.name}**: {text(reason)}.")
    events_uri = absolute(options.events)
    interval = Interval.parse(options.start, options.end)
    check_source(events_uri)
    check_room(events_uri)

    is_usual = events_uri == str(SAMPLE) and not (options.reuse or options.start or options.end)
    phases = Phases(last=figures.last(f"e2e-{target.name}") if is_usual else {})
    expected = InBackground(lambda: expected_numbers.compute(events_uri, interval.start, interval.end))
    held = Held()
    kept: Deployment | None = None
    try:
        with target.up(settings(options, events_uri), phases) as deployment:
            failure: Exception | None = None
            try:
                if options.reuse:
                    deployment.reset()
                run_pipelines(deployment, expected, interval, phases, held)
            except Exception as error:  # noqa: BLE001 - it is raised below; an interrupt is none, and keeps nothing
                failure = error
                add_dbt_evidence(error, deployment)
            if options.keep:
                deployment.keep()
                kept = deployment
            if failure:
                raise failure
        if deployment.left:
            raise LeftBehindError(
                f"Left behind: {'; '.join(deployment.left)}.",
                "It did not end when it was told to, or was made by somebody else.",
                "End or remove it by hand; what is left of a cluster: nox -s cluster -- down --target NAME",
            )
    finally:
        with contextlib.suppress(OSError):  # a disk that is full is what has failed already
            write_phases(PHASES, phases)
        print_tables(phases, held.rows)
        section.add_phases(phases)
        section.add(*held_blocks(held))
        if kept:
            print_addresses(kept)
    if is_usual and not options.keep:
        figures.keep(f"e2e-{target.name}", phases.figures())
    say(f"✓ e2e on {target.name}: everything holds ({phases.total_s:.0f} s)")


def settings(options: Any, events_uri: str) -> Settings:
    """Return what the target is asked for."""
    asked_for = vars(options)
    names = [field.name for field in fields(Settings) if field.name in asked_for]
    return Settings(events_uri, **{name: asked_for[name] for name in names})


def add_dbt_evidence(error: Exception, deployment: Deployment) -> None:
    """Add to ERROR what dbt has written of the run that failed, and the rows, as long as the warehouse is there."""
    if not (isinstance(error, DagRunFailedError) and error.task_id == "dbt_build"):
        return
    try:
        if runs := deployment.failed_dbt_runs():
            error.evidence[:0] = dbt_report.tell(dbt_report.read(runs[-1]), deployment.warehouse.admin_dsn)
    except (EventsError, OSError, ValueError) as second:  # the failure itself matters more
        say(f"  dbt's own results cannot be read: {next(iter(str(second).splitlines()), '')}")


def run_pipelines(
    deployment: Deployment,
    expected: InBackground[expected_numbers.Expected],
    interval: Interval,
    phases: Phases,
    held: Held,
) -> None:
    """Run every DAG, check the warehouse after the first and compare it after each; what holds goes to HELD."""
    api = deployment.api
    with phases.phase("DAGs parsed") as phase:
        wait_until_parsed(api)
        phase.text = f"{len(DAG_IDS)} DAGs parsed, no import errors"
    runs_before = {run_id for dag_id in DAG_IDS for run_id in api.runs(dag_id)}
    bounds = {"start": interval.start, "end": interval.end}
    conf = {name: bound.isoformat() for name, bound in bounds.items() if bound}
    first, *others = DAG_IDS
    run_dag(api, first, conf, phases, first)
    with phases.phase("numbers checked") as phase:
        wanted = expected.result()
        held.checks = check(wanted, deployment.warehouse)
        held.rows = wanted.rows
        before = fingerprints(deployment.warehouse)
        phase.text = f"{len(held.checks)} checks passed: rows, lead fees, contents of the marts, rejected rows"

    for dag_id in others:
        run_dag(api, dag_id, conf, phases, dag_id)
        check_unchanged(before, deployment.warehouse, dag_id)
    run_id = run_dag(api, first, conf, phases, f"{first} again")
    wait_for_scheduled_runs(api, before=runs_before)
    check_unchanged(before, deployment.warehouse, f"the second run of {first}")
    check(wanted, deployment.warehouse)
    held.say("a second run changes nothing: every table holds what it held")
    figures = check_figures(api, deployment.warehouse, first, run_id)
    held.say(f"load_events gives XCom what the ledger says: {figures}")
    lines = check_task_log(api, first, run_id)
    held.say(f"the log of dbt_build is readable over the API, dbt's {lines} lines among it")
    for holds in deployment.check():
        held.say(holds)


def run_dag(api: AirflowApi, dag_id: str, conf: dict[str, str], phases: Phases, phase_name: str) -> str:
    """Unpause and trigger a DAG and follow it to its end, a line per task as it changes state; return the run's id."""
    with group(dag_id), phases.phase(phase_name) as phase:
        phase.text = f"{phase_name} succeeded"
        started = time.monotonic()

        def changed(task_id: str, state: str) -> None:
            say(f"  {time.monotonic() - started:5.1f} s  {task_id:<14} {state}")

        api.unpause(dag_id)
        run_id = api.trigger(dag_id, conf)
        api.follow(dag_id, run_id, RUN_TIMEOUT_S, changed)
    return run_id


def wait_until_parsed(api: AirflowApi) -> None:
    """Wait until Airflow knows exactly the project's DAGs.

    Raises:
        DagRunFailedError: a DAG file cannot be imported, or the DAGs are others.
    """
    deadline = time.monotonic() + PARSED_TIMEOUT_S
    while (found := api.dag_ids()) != set(DAG_IDS) or api.import_errors():
        if errors := api.import_errors():
            raise DagRunFailedError(
                f"A DAG file cannot be imported: {errors[0]}",
                "The file, or something that it imports, is broken.",
                "See the whole error: nox -s dags",
            )
        if time.monotonic() > deadline:
            raise DagRunFailedError(
                f"The DAGs are {', '.join(sorted(found)) or 'none'} and should be {', '.join(DAG_IDS)}.",
                "A DAG was renamed or added, or the DAG processor does not see the folder.",
                "See what is there: nox -s dags",
            )
        time.sleep(0.5)


def wait_for_scheduled_runs(api: AirflowApi, before: set[str]) -> None:
    """Wait for the runs that unpausing made beside ours, not for those that were there BEFORE.

    Raises:
        DagRunFailedError: one failed, or did not end.
    """
    for dag_id in DAG_IDS:
        for run_id in api.runs(dag_id).keys() - before:
            api.follow(dag_id, run_id, RUN_TIMEOUT_S, lambda *_: None)


def check_figures(api: AirflowApi, warehouse: Warehouse, dag_id: str, run_id: str) -> str:
    """Check that XCom has the closing figures of a run's load, those of the ledger; return them.

    Raises:
        ChecksFailedError: it has others.
    """
    with psycopg.connect(warehouse.admin_dsn) as connection:
        rows = connection.execute(
            "select load_id, rows_read, rows_loaded, rows_rejected, rows_outside from raw.loads where run_id = %s",
            (f"{dag_id} {run_id}",),
        ).fetchall()
    names = ("load_id", "read", "loaded", "rejected", "outside")
    given = api.returned(dag_id, run_id, "load_events")
    found = [tuple(given[name] for name in names)] if isinstance(given, dict) and given.keys() >= set(names) else given
    if found != rows:
        raise ChecksFailedError(
            f"The task load_events of {dag_id} gave {given} to XCom, and raw.loads has {rows} of it.",
            "A change to what the task returns, or to what the load writes to its ledger.",
            "See load_events in airflow/dags/events_pipeline.py and LoadResult in airflow/include/events/ledger.py.",
        )
    return ", ".join(f"{name} {given[name]:,}" for name in names[1:])


def check_task_log(api: AirflowApi, dag_id: str, run_id: str) -> int:
    """Check that the log of a task that has ended can be read over the API, dbt's own among its lines; return those.

    Raises:
        ChecksFailedError: it cannot, or they are not.
    """
    log = api.task_log(dag_id, run_id, "dbt_build")
    if not any(DBT_CLOSING_LINE in line for line in log):
        raise ChecksFailedError(
            f"The log of {dag_id}'s task dbt_build has no line with {DBT_CLOSING_LINE!r}.",
            "The task's log is lost with its pod, or dbt's output does not reach it.",
            "Look at the task's log in the UI, and at logs.persistence in cluster/values.",
        )
    return len(log)


def check(expected: expected_numbers.Expected, warehouse: Warehouse) -> list[Check]:
    """Compare the warehouse with what the events file says.

    Raises:
        ChecksFailedError: a number differs.
    """
    with psycopg.connect(warehouse.admin_dsn) as connection:
        checks = compare(expected, connection)
    if wrong := [c for c in checks if not c.passed]:
        for c in wrong:
            say(f"✗ {c.name}: expected {c.expected}, found {c.actual}")
        raise ChecksFailedError(
            f"{len(wrong)} of {len(checks)} numbers are not what the events file says: {wrong[0].name}.",
            "A change to the load or to a model most likely changed their meaning.",
            "Compare what is expected and found above; the models' own tests: nox -s dbt",
            [markdown_table(("number", "expected", "found"), [(c.name, c.expected, c.actual) for c in wrong])],
        )
    return checks


def fingerprints(warehouse: Warehouse) -> dict[str, str]:
    """Return a digest of each table's content, by table."""
    with psycopg.connect(warehouse.admin_dsn) as connection:
        return fingerprint(connection)


def check_unchanged(before: dict[str, str], warehouse: Warehouse, what: str) -> None:
    """Compare every table's content with BEFORE.

    Raises:
        ChecksFailedError: WHAT changed a table.
    """
    after = fingerprints(warehouse)
    if changed := [name for name in before if before[name] != after[name]]:
        raise ChecksFailedError(
            f"{what} changed {', '.join(changed)}.",
            "The load or a model does not give the same result twice.",
            "Look for what depends on the time, on the order of rows, or on the runs before.",
        )


def absolute(uri: str) -> str:
    """Return URI, made absolute if it is a relative path: other processes have other working directories."""
    path = uri.removeprefix("file://")
    if "://" in path or "::" in path or shown(uri) != uri:  # no path, or one that looks as if it had a password in it
        return uri
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 - leaves a ~ that it does not know


def check_room(events_uri: str) -> None:
    """Raise DiskFullError unless the temporary directory has room for the run."""
    path = Path(events_uri)
    needed = MIN_FREE_BYTES + (10 * path.stat().st_size if path.is_file() else 0)
    where = tempfile.gettempdir()
    free = shutil.disk_usage(where).free
    if free < needed:
        raise DiskFullError(
            f"{where} has {free / 1e6:,.0f} MB free; the run needs {needed / 1e6:,.0f} MB.",
            "PostgreSQL's files, Airflow's logs and a copy of the events go there.",
            "Free some room, or point TMPDIR at a directory that has it.",
        )


def print_addresses(deployment: Deployment) -> None:
    """Print how to reach what was left up, and how to take it down."""
    for line in deployment.addresses():
        say(line)
    say("")


def held_blocks(held: Held) -> list[str]:
    """Return Markdown of what holds."""
    rows = [(name, f"{count:,}") for name, count in held.rows.items()]
    numbers = markdown_table(("number", "value"), [(c.name, c.expected) for c in held.checks])
    return [
        markdown_table(("table", "rows"), rows, numbers=("rows",)) if rows else "",
        details(f"{len(held.checks)} numbers are what the events file says", numbers) if held.checks else "",
        "\n".join(f"- {text(line)}" for line in held.told),
    ]


def print_tables(phases: Phases, rows: dict[str, int]) -> None:
    """Print the closing tables: phases with seconds, tables with rows."""
    say("")
    phases.print()
    if rows:
        say("")
        table(("table", "rows"), [(name, f"{count:,}") for name, count in rows.items()])
    say("")
