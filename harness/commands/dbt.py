"""Run dbt on an ephemeral warehouse with the samples loaded, or on one of the user's own: what `nox -s dbt` does.

Without arguments it is `dbt build`, then the documentation as one static page, `build/dbt-docs/index.html`.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import chain, pairwise

import psycopg
from psycopg.conninfo import make_conninfo

from feeds.contract import Feed, read_feeds
from feeds.files import find_files
from feeds.load import load
from feeds.tables import create_tables
from feeds.uri import shown
from harness.commands.arguments import dsn as valid_dsn
from harness.commands.kept_runs import take_down_kept
from harness.errors import DbtFailedError, NotUpError, UsageError
from harness.oracle.checks import compare_files
from harness.oracle.file_rows import rows
from harness.oracle.raw_rows import moment_of
from harness.oracle.row_values import RejectedError
from harness.pipeline import run_checks, run_data
from harness.pipeline.feed_files import samples
from harness.processes.command import stream
from harness.processes.failures import how_ended
from harness.project.environments import python_of
from harness.project.paths import BUILD, DBT_DOCS, ROOT, from_root
from harness.project.posargs import asks_for_help
from harness.project.session_lock import session_lock
from harness.reporting import dbt_report
from harness.reporting.console import Phases, say
from harness.reporting.report.writing import begin, compare_with_last, keep_figures
from harness.reporting.summary import Section, code, details
from harness.targets.takedown import down_command
from harness.warehouse.ephemeral import ephemeral_server
from harness.warehouse.roles import Warehouse, create_warehouse, make_passwords
from harness.warehouse.server import Server, describe

ARTIFACTS = BUILD / "dbt"
KEPT = ARTIFACTS / "kept-warehouse.json"  # for --reuse; only its owner may read it
REUSE = "nox -s dbt -- --reuse"
SHOWN = 3  # names of what failed, in the error
BUILD_MODELS = ["run", "--quiet"]
REBUILD = [*BUILD_MODELS, "--full-refresh", "--select", "config.materialized:incremental+"]
READ_MODELS = ("docs", "show", "test")  # commands that need the models to be built
GENERATE_DOCS = ["docs", "generate", "--static", "--quiet"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s dbt`; other arguments are dbt's."""
    parser.add_argument(
        "--postgres", type=valid_dsn, metavar="DSN", help="an administrator's DSN of a PostgreSQL, 14 to 18, to use"
    )
    parser.add_argument("--keep", action="store_true", help="leave the ephemeral warehouse up and print its DSN")
    parser.add_argument(
        "--reuse", action="store_true", help="use the warehouse that the last --keep left up, with its rows and models"
    )
    parser.add_argument("--down", action="store_true", help="take down what --keep left up, and do nothing else")
    parser.set_defaults(run=run_command, help=parser.format_help)


def run_command(parsed: argparse.Namespace, section: Section) -> None:
    """Run `nox -s dbt`."""
    if parsed.down:
        take_down_kept()
    elif asks_for_help(parsed.unknown):
        say(parsed.help())
        run_dbt(parsed.unknown, {}, "")
    else:
        run(parsed.unknown, parsed.postgres, section, keep=parsed.keep, reuse=parsed.reuse)


def run(
    arguments: Sequence[str], dsn: str | None, section: Section, *, keep: bool = False, reuse: bool = False
) -> None:
    """Run dbt with ARGUMENTS on the server that DSN names, or on an ephemeral one; SECTION gets the results.

    Where DBT_TARGET is `prod` it runs on the warehouse that the variables of `dbt/profiles.yml` name. KEEP leaves the
    ephemeral server up, unless an interrupt ends the run; REUSE takes the warehouse that was kept, and leaves it up. On
    a given server everything that was created is dropped. Raises UsageError for options that exclude one another,
    NotUpError, PostgresError, ServiceFailedError, or DbtFailedError.
    """
    command = on_one_line(arguments) or "build and docs"
    report = begin(section, f"dbt {command}")
    is_prod = os.environ.get("DBT_TARGET") == "prod"
    if is_prod and dsn:
        raise UsageError(
            "--postgres is for an ephemeral warehouse, and DBT_TARGET=prod is for your own.",
            "DBT_TARGET=prod builds in the warehouse that the variables in docs/operations.md name.",
            "Leave one of the two out.",
        )
    if (keep or reuse) and (is_prod or dsn):
        option = "--reuse" if reuse else "--keep"
        raise UsageError(
            f"{option} is for an ephemeral server, and this one is yours.",
            "What --postgres creates is dropped at the end; what DBT_TARGET=prod builds stays anyway.",
            f"Leave {option} out, or run dbt on an ephemeral server: nox -s dbt -- --keep",
        )
    run_data.add_clone(report)
    is_usual = not (arguments or dsn or is_prod or keep or reuse)
    if is_usual:
        compare_with_last(report, "dbt")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    with session_lock(ARTIFACTS / ".lock", "runs dbt in this clone"), run_data.lineage_kept(report):
        if is_prod:
            run_all(planned(arguments, models_exist=True), {}, prod_dsn(), section)
            return
        if reuse:
            warehouse = kept_warehouse()
            say(f"✓ {describe(warehouse.server)}, kept")
            run_on(warehouse, arguments, section, models_exist=True)
            return
        with ephemeral_server(dsn, keep=keep) as server:
            say(f"✓ {describe(server)}")
            warehouse = create_warehouse(server, "warehouse", make_passwords())
            try:
                run_on_sample(arguments, warehouse, section)
            except Exception:
                run_data.add_warehouse(report, warehouse)
                describe_kept(warehouse, keep=keep)
                raise
            run_data.add_warehouse(report, warehouse)
            describe_kept(warehouse, keep=keep)
    if is_usual:
        keep_figures(report, "dbt", report.phases.figures())


def describe_kept(warehouse: Warehouse, *, keep: bool) -> None:
    """Print how to use and how to take down WAREHOUSE, if it is KEPT, and record it for --reuse."""
    if keep:
        KEPT.unlink(missing_ok=True)
        KEPT.touch(mode=0o600)
        KEPT.write_text(json.dumps(asdict(warehouse)))
        say(f"  warehouse  {warehouse.admin_dsn}")
        say(f"  use it again: {REUSE} build --select MODEL")
        say(f"  take it down: {down_command('dbt')}")


def kept_warehouse() -> Warehouse:
    """Return the warehouse that the last --keep left up, or raise NotUpError."""
    try:
        recorded = json.loads(KEPT.read_text())
        warehouse = Warehouse(**recorded | {"server": Server(**recorded["server"])})
    except (OSError, ValueError, LookupError, TypeError):  # there is none, or an older version wrote it
        warehouse = None
    if not warehouse or not warehouse.server.is_ready():
        raise NotUpError(
            "No warehouse of nox -s dbt is up.",
            "None was left up by --keep, or it was taken down.",
            "Load the sample, build the models and leave them up: nox -s dbt -- --keep run",
        )
    return warehouse


def run_on_sample(arguments: Sequence[str], warehouse: Warehouse, section: Section) -> None:
    """Load the samples of all feeds into an empty warehouse and run dbt with ARGUMENTS.

    Without arguments also check what can be known of every model: built in two steps it has the same rows as built at
    once, and those that `dbt/tests/expected` has.
    """
    phases = phases_of(section)
    feeds = read_feeds()
    files = {feed: samples([feed]).get(feed.name, feed.location) for feed in feeds.values()}
    if arguments:
        load_all(files, warehouse, phases)
        run_on(warehouse, arguments, section, models_exist=False)
        return
    load_all(files, warehouse, phases, is_half=True)
    env = test_env(warehouse)
    with phases.phase("models built of half of the rows"):
        run_dbt(BUILD_MODELS, env, warehouse.admin_dsn)
    load_all(files, warehouse, phases)
    run_on(warehouse, arguments, section, models_exist=True)
    with psycopg.connect(warehouse.admin_dsn) as connection:
        run_checks.passed(compare_files(connection))
    before = run_checks.fingerprints(warehouse)
    with phases.phase("incremental models built anew: they have the same rows"):
        run_dbt(REBUILD, env, warehouse.admin_dsn)
        run_checks.check_unchanged(before, warehouse, "A full refresh")


def load_all(files: Mapping[Feed, str], warehouse: Warehouse, phases: Phases, *, is_half: bool = False) -> None:
    """Load FILES, or the earlier half of each."""
    with phases.phase(f"{'half of the ' if is_half else ''}samples loaded") as phase:
        loaded = []
        for feed, uri in files.items():
            create_tables(warehouse.loader_dsn, feed)
            end = middle(feed, uri) if is_half else None
            result = load(feed, warehouse.loader_dsn, source_uri=uri, end=end)
            loaded.append(f"{result.loaded:,} {feed.name}")
        phase.text = f"{'half of the ' if is_half else ''}samples loaded: {', '.join(loaded)}"


def middle(feed: Feed, uri: str) -> datetime | None:
    """Return the median of the times in the files at URI; None for a snapshot, or if there are not two of them."""
    if feed.time_column is None:
        return None
    found = chain.from_iterable(rows(feed, path) for path in find_files(uri))
    times = sorted(moment_of(row[feed.time_column]) for row in found if not isinstance(row, RejectedError))
    return times[len(times) // 2] if times and times[0] < times[len(times) // 2] else None


def run_on(warehouse: Warehouse, arguments: Sequence[str], section: Section, *, models_exist: bool) -> None:
    """Run dbt with ARGUMENTS on WAREHOUSE, in which the models may exist already."""
    run_all(planned(arguments, models_exist=models_exist), test_env(warehouse), warehouse.admin_dsn, section)


def test_env(warehouse: Warehouse) -> dict[str, str]:
    """Return the environment of dbt on WAREHOUSE."""
    return {"DBT_TARGET": "test", **os.environ} | warehouse.dbt_env()


def planned(arguments: Sequence[str], *, models_exist: bool) -> list[list[str]]:
    """Return the commands of dbt for ARGUMENTS: `build` and the documentation if there are none; models come first."""
    reads_models = bool(arguments) and arguments[0] in READ_MODELS
    commands = [BUILD_MODELS] if reads_models and not models_exist else []
    if list(arguments) != ["docs"]:
        commands.append(list(arguments) or ["build"])
    if list(arguments) in ([], ["docs"]):
        commands.append(GENERATE_DOCS)
    return commands


def prod_dsn() -> str:
    """Return the DSN of the warehouse that the environment names, incomplete where variables are missing."""
    names = ("WAREHOUSE_USER", "DBT_ENV_SECRET_WAREHOUSE_PASSWORD", "WAREHOUSE_HOST", "WAREHOUSE_PORT")
    user, password, host, port = (os.environ.get(name, "") for name in names)
    database = os.environ.get("WAREHOUSE_DATABASE", "")
    return make_conninfo(user=user, password=password, host=host, port=port, dbname=database)


def run_all(commands: Sequence[Sequence[str]], env: Mapping[str, str], dsn: str, section: Section) -> None:
    """Run the COMMANDS of dbt; SECTION gets the results of the user's own."""
    for command in commands:
        if command == BUILD_MODELS:
            with phases_of(section).phase("models built"):
                run_dbt(command, env, dsn)
        elif command == GENERATE_DOCS:
            run_dbt(command, env, dsn)
            DBT_DOCS.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ARTIFACTS / "target" / "static_index.html", DBT_DOCS)
            say(f"✓ documentation: {from_root(DBT_DOCS)}")
        else:
            with phases_of(section).phase(f"dbt {on_one_line(command)}") as phase:
                phase.went_well = False  # dbt itself says how it went
                run_dbt(command, env, dsn, section)


def on_one_line(arguments: Sequence[str]) -> str:
    """Return ARGUMENTS of dbt for people: without secrets, and without the values of variables, which may be some."""
    pairs = pairwise(["", *arguments])
    return " ".join(
        "…" if before == "--vars" else "--vars=…" if each.startswith("--vars=") else shown(each)
        for before, each in pairs
    )


def phases_of(section: Section) -> Phases:
    """Return the phases of the report that SECTION has, or new ones."""
    return section.run.phases if section.run else Phases()


def run_dbt(arguments: Sequence[str], env: Mapping[str, str], dsn: str, section: Section | None = None) -> None:
    """Run `dbt ARGUMENTS` with ENV, or raise DbtFailedError; SECTION gets the results, and by DSN the failing rows."""
    target = ARTIFACTS / "target"
    paths = {
        "DBT_TARGET_PATH": str(target),
        "DBT_LOG_PATH": str(ARTIFACTS / "logs"),
        "DBT_USE_COLORS": os.environ.get("DBT_USE_COLORS", str(sys.stdout.isatty())),
    }
    for name in (dbt_report.RESULTS, dbt_report.FRESHNESS):
        (target / name).unlink(missing_ok=True)  # of a run before
    env = os.environ | dict(env) | paths
    exit_code, output = stream([python_of("dbt"), "dbt/run.py", *arguments], cwd=ROOT, env=env)
    results = dbt_report.read(target)
    report = dbt_report.report(results, dsn)
    command = on_one_line(arguments)
    if section and section.run:
        section.run.secrets.append(dsn)
        run_data.add_dbt(section.run, target, dsn)
    if section:
        section.headline = f"{command}: {dbt_report.headline(results)}".removesuffix(": ")
    if exit_code:
        names = [result.name for result in results if result.failed]
        stale = dbt_report.stale_sources(target)
        raise failed(f"dbt {command} {how_ended(exit_code)}", names, stale, report, code(output, last=60))
    if section:
        section.add(*report)


def failed(what: str, names: Sequence[str], stale: Sequence[str], report: Sequence[str], output: str) -> DbtFailedError:
    """Return the error for a command in which the nodes NAMES failed, or sources are STALE; the rest is Markdown."""
    if stale:
        return DbtFailedError(
            f"{what}: {', '.join(stale)} is stale.",
            "No load has succeeded for longer than the limit in its yml in dbt/models/staging.",
            "Load newer files: run a DAG, or see in its log why its last run failed.",
            [*report, output],
        )
    if not names:
        why = "The project cannot be parsed, or the arguments are invalid; dbt says which."
        return DbtFailedError(f"{what}.", why, "Fix what dbt names, and run it again.", [*report, output])
    selected = " ".join(f"+{name}" for name in names[:SHOWN])
    statements = (ARTIFACTS / "target" / "run").relative_to(ROOT)
    return DbtFailedError(
        f"{what}: {', '.join(names[:SHOWN])}{' and more' if len(names) > SHOWN else ''} failed.",
        "A changed model, or rows that a model does not expect; dbt shows the rows or the statement.",
        f"The statements are in {statements}; run only what failed: nox -s dbt -- build --select {selected}",
        [*report, details("dbt's output", output)],
    )
