"""Run the pipelines end to end on a target, and check every number against an independent computation.

After the first run, a run of each other pipeline loads the whole file again, one beside a scheduled run and the last
one beside a second run of the first: every table has the same content as before.
"""

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from feeds.contract import Feed, read_feeds
from feeds.errors import FeedError
from feeds.files import find_files
from feeds.interval import Interval
from harness.commands.arguments import add_run_options, run_options
from harness.commands.confirmation import confirm_loss
from harness.commands.kept_runs import take_down_kept
from harness.errors import ChecksFailedError, DagRunFailedError, DiskFullError, LeftBehindError, UsageError
from harness.oracle import expected_numbers
from harness.pipeline import lineage, rejected_rows, run_checks, run_data
from harness.pipeline.feed_files import check_files, samples
from harness.pipeline.rejected_rows import RejectedRows
from harness.pipeline.run_checks import CheckResults
from harness.pipeline.runs import run_dags, run_ids, run_others, wait_for_scheduled_runs, wait_until_parsed
from harness.processes.background import in_background
from harness.project.paths import BUILD
from harness.reporting import dbt_report
from harness.reporting.console import Phases, say, say_phases, table, write_phases
from harness.reporting.report.run import Run
from harness.reporting.report.writing import begin, compare_with_last, keep_figures
from harness.reporting.summary import Section, text
from harness.targets.choice import choose
from harness.targets.kubernetes_target import provider_of
from harness.targets.options import TARGETS, RunOptions
from harness.targets.target import Deployment

PHASES = BUILD / "e2e" / "phases.json"
MIN_FREE_BYTES = 1_000_000_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s e2e`."""
    parser.add_argument("--target", default=RunOptions().target, help=f"{', '.join(TARGETS)}; auto by default")
    add_run_options(parser)
    parser.add_argument("--start", metavar="INSTANT", help="first instant to load, UTC, e.g. 2020-02-01")
    parser.add_argument("--end", metavar="INSTANT", help="first instant after the interval")
    parser.add_argument(
        "--reuse", action="store_true", help="use the cluster that is up, empty its warehouse, and leave it up"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything up, and print the addresses and logins")
    parser.add_argument("--down", action="store_true", help="take down what --keep left up on the embedded target")
    parser.set_defaults(run=run_command)


def run_command(parsed: argparse.Namespace, section: Section) -> None:
    """Run `nox -s e2e`."""
    if parsed.down:
        take_down_kept()
        return
    begin(section, section.title)  # before anything can fail
    lineage.forget()
    options = run_options(parsed, interval=Interval.parse(parsed.start, parsed.end))
    run(replace(options, uris={**samples(read_feeds().values()), **options.uris}), section)


def run(options: RunOptions, section: Section) -> None:
    """Bring the target up, run the pipelines, check the results, and take it down; SECTION gets the results."""
    target, reason = choose(options.target)
    if options.reuse and target.name == "embedded":
        raise UsageError(
            "--reuse is for a cluster that is up; the embedded target is always new.",
            f"The target is embedded ({reason}).",
            "Leave --reuse out, or name the cluster: --target kind",
        )
    if options.reuse:
        existing = provider_of(target.name, options).existing_databases()
        confirm_loss({name: size for name, size in existing.items() if name.startswith("warehouse")}, options)
    say(f"target {target.name} ({reason})")
    section.title = f"e2e on {target.name}"
    report = begin(section, section.title, target=f"{target.name} ({reason})")
    run_data.add_clone(report, has_images=target.name != "embedded")
    report.secrets += options.uris.values()
    section.add(f"Target **{target.name}** ({text(reason)}).")
    feeds = list(read_feeds().values())
    for feed in feeds:
        check_files(feed, options.uri(feed), options.interval)
    check_room([options.uri(feed) for feed in feeds])

    is_usual = options == RunOptions(options.target, keep=options.keep, uris=samples(feeds))
    phases, name = report.phases, f"e2e-{target.name}"
    if is_usual:
        compare_with_last(report, name)
    results = CheckResults()
    kept: Deployment | None = None
    try:
        with target.up(options, phases) as deployment:
            try:
                run_and_check(deployment, options, feeds, phases, results)
            except Exception:  # not an interrupt, after which nothing is kept
                collect(report, deployment, results, has_failed=True)
                kept = keep(deployment, options)
                raise
            collect(report, deployment, results)
            kept = keep(deployment, options)
        if deployment.left_behind:
            raise LeftBehindError(
                f"Left behind: {'; '.join(deployment.left_behind)}.",
                "It did not end in time, or somebody else created it or uses it.",
                "Remove it by hand; for a cluster: nox -s cluster -- down --target NAME",
            )
    finally:
        with contextlib.suppress(OSError):  # the disk may be full, which is then the error already
            write_phases(PHASES, phases)
        say_phases(phases)
        if results.rows:
            table(("table", "rows"), results.row_counts)
            say("")
        section.add_phases(phases)
        section.add(*results.markdown())
        run_data.add_checks(report, results.numbers, results.others, results.rejected)
        if kept:
            for line in [*kept.addresses(), ""]:
                say(line)
    if is_usual and not options.keep:
        keep_figures(report, name, phases.figures())
    say(f"✓ e2e on {target.name}: all checks passed ({phases.total_s:.0f} s)")


def collect(report: Run, deployment: Deployment, results: CheckResults, *, has_failed: bool = False) -> None:
    """Collect for REPORT what only DEPLOYMENT knows, before it is taken down."""
    run_data.add_airflow(report, deployment.api)
    with run_data.part(report, "the pods"):
        report.pods = deployment.pods()
    marts = results.expected.marts.content if results.expected and results.expected.marts else None
    run_data.add_warehouse(report, deployment.warehouse, marts, results.rows)
    folder = deployment.last_dbt_run
    with run_data.part(report, "the results of the failed dbt run"):
        folder = next(reversed(deployment.failed_dbt_runs() if has_failed else []), folder)
    run_data.add_dbt(report, folder, deployment.warehouse.admin_dsn)
    collected = partial(lineage.of_run, deployment.lineage_folders, report.phases.started_at)
    run_data.add_lineage(report, lambda: results.lineage or collected())  # the run may have failed before its check


def keep(deployment: Deployment, options: RunOptions) -> Deployment | None:
    """Let the deployment stay up and return it, if OPTIONS say so."""
    if not options.keep:
        return None
    deployment.keep()
    return deployment


def run_and_check(
    deployment: Deployment, options: RunOptions, feeds: Sequence[Feed], phases: Phases, results: CheckResults
) -> None:
    """Run the pipelines of FEEDS and check them; raise ChecksFailedError, or DagRunFailedError with dbt's results."""
    if options.reuse:
        deployment.reset()
    try:
        run_pipelines(deployment, options, feeds, phases, results)
    except Exception as error:
        results.rejected = rejected_rows.collect(deployment.warehouse)
        if isinstance(error, DagRunFailedError):
            raise explained(error, deployment, results.rejected) from error
        raise
    results.rejected = rejected_rows.collect(deployment.warehouse)


def explained(error: DagRunFailedError, deployment: Deployment, rejected: RejectedRows) -> DagRunFailedError:
    """Return ERROR with dbt's results if dbt failed, and with the file that has the rows that the load REJECTED."""
    if error.task_id == "dbt_build":
        return with_dbt_results(error, deployment)
    if rejected.counts:  # the table is most likely gone when somebody reads this
        return error.amended(next_step=error.next_step.replace(rejected_rows.TABLE, rejected.place))
    return error


def with_dbt_results(error: DagRunFailedError, deployment: Deployment) -> DagRunFailedError:
    """Return ERROR with the results that dbt has written of the failed run, and the rows that fail its tests."""
    results: list[str] = []
    try:
        if runs := deployment.failed_dbt_runs():
            results = dbt_report.report(dbt_report.read(runs[-1]), deployment.warehouse.admin_dsn)
    except (FeedError, OSError, ValueError) as second:  # ERROR matters more
        say(f"  dbt's own results cannot be read: {next(iter(str(second).splitlines()), '')}")
    return error.amended(evidence=[*results, *error.evidence])


def run_pipelines(
    deployment: Deployment, options: RunOptions, feeds: Sequence[Feed], phases: Phases, results: CheckResults
) -> None:
    """Run every DAG; check all numbers after the first run of each feed, and that each later one changes nothing."""
    api, warehouse, interval = deployment.api, deployment.warehouse, options.interval
    files = [(feed, options.uri(feed)) for feed in feeds]
    are_samples = options.uris == samples(feeds) and interval == RunOptions().interval
    computing = in_background(lambda: expected_numbers.compute(files, interval, warehouse.admin_dsn))
    with phases.phase("DAGs parsed") as phase:
        dags = wait_until_parsed(api, [feed.name for feed in feeds])
        pipelines = [dag_id for dag_ids in dags.pipelines.values() for dag_id in dag_ids]
        phase.text = f"{len(pipelines) + len(dags.others)} DAGs parsed, no import errors"
    earlier_runs = run_ids(api, pipelines)
    first_runs = run_dags(api, dags.first, interval, phases)
    with phases.phase("numbers checked") as phase:
        results.expected = expected = computing.result()
        results.numbers = run_checks.compare_numbers(expected, warehouse, are_samples=are_samples)
        run_checks.passed(results.numbers)
        results.rows = expected.rows
        before = run_checks.fingerprints(warehouse)
        phase.text = f"{len(results.numbers)} checks passed: rows, digests and rejected rows of each feed, the marts"

    for number, dag_ids in enumerate(dags.later):
        runs = run_dags(api, dag_ids, interval, phases, beside_scheduled=number == 0)
        run_checks.check_unchanged(before, warehouse, " and ".join(dag_ids))
    wait_for_scheduled_runs(api, pipelines, earlier_runs)
    run_checks.check_unchanged(before, warehouse, "a scheduled run")
    run_checks.check_numbers(expected, warehouse, are_samples=are_samples)
    results.passed("a second run changes nothing: every table has the same content as before")
    for feed, dag_id in zip(feeds, dags.first, strict=True):
        figures_of_load = run_checks.check_xcom(api, warehouse, feed.name, dag_id, runs[dag_id])
        results.passed(f"the XCom of load_{feed.name} matches raw.loads: {figures_of_load}")
    lines = run_checks.check_task_log(api, dags.first[0], runs[dags.first[0]])
    results.passed(f"the log of dbt_build can be read over the API: {lines} lines, with dbt's output")
    for line in (*run_others(api, dags.others, phases), *deployment.check()):
        results.passed(line)
    results.lineage = lineage.of_run(deployment.lineage_folders, phases.started_at)  # of the other DAGs, too
    results.passed(check_lineage(results.lineage, first_runs, expected.rows))


def check_lineage(found: lineage.Found | None, first_runs: Mapping[str, str], rows: Mapping[str, int]) -> str:
    """Return what the runs' events, as FOUND, show; see `lineage.check`."""
    if place := lineage.elsewhere(os.environ):
        return f"lineage: events went {place}"
    if found is None:
        return "lineage: the events are on the volumes of the logs and of dbt's results, and not checked here"
    events, damaged = found
    if damaged:
        raise ChecksFailedError(
            f"A lineage event cannot be read: {damaged[0]}.",
            "Its file was damaged, or a process that was killed has written half of it.",
            "Look at docs/lineage.md for where they are.",
        )
    return lineage.check(events, first_runs, rows)


def check_room(uris: Iterable[str]) -> None:
    """Raise DiskFullError if the temporary directory has too little room for a run on the local files of URIS."""
    sizes = [Path(path).stat().st_size for uri in uris if "://" not in uri for path in find_files(uri)]
    needed = MIN_FREE_BYTES + 10 * sum(sizes)
    where = tempfile.gettempdir()
    free = shutil.disk_usage(where).free
    if free < needed:
        raise DiskFullError(
            f"{where} has {free / 1e6:,.0f} MB free; the run needs {needed / 1e6:,.0f} MB.",
            "PostgreSQL's files, Airflow's logs and a copy of the feeds' files go there.",
            "Free some disk space, or set TMPDIR to a directory on a larger disk.",
        )
