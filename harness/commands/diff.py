"""Show what the working tree's change does to the data: its marts beside those of a base commit, on the same rows.

Without a base it is the commit where the branch left the default branch.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from feeds.contract import Feed, read_feeds
from feeds.uri import shown
from harness.commands.arguments import absolute_uri
from harness.commands.arguments import dsn as valid_dsn
from harness.diff import raw_data
from harness.diff.approval import FILE, compare_with_approved
from harness.diff.base import Base, checked_out, differing_files, find_base, uncommitted
from harness.diff.disk import check_disk, database_bytes
from harness.diff.marts import Sides, compare_mart, differences, new_mart
from harness.diff.project import Changes, Project, ancestors, compare_projects
from harness.diff.results import Diff, Mart
from harness.diff.sides import Side, build_both
from harness.diff.verdicts import Expected, of_files, of_raw_table
from harness.diff.warehouse_copy import OPTION, Source, copy_raw, find_source, note_of_changed_load
from harness.diff.writing import say_diff, write_files
from harness.errors import ApprovalError, DifferencesError, UsageError
from harness.oracle.expected_numbers import MARKETPLACE
from harness.pipeline.feed_files import samples
from harness.project.environments import install_other
from harness.project.paths import BUILD, ROOT
from harness.project.session_lock import session_lock
from harness.reporting.console import Phases, say
from harness.reporting.summary import Section
from harness.warehouse.ephemeral import ephemeral_server
from harness.warehouse.roles import Warehouse, copy_warehouse, create_warehouse, drop_warehouse, make_passwords
from harness.warehouse.server import Server

FOLDER = BUILD / "diff"
LOAD = ("airflow/include", "airflow/feeds", "requirements/feeds.txt")
SHOWN = 5  # files


@dataclass(frozen=True)
class Options:
    """What the user chose; see `add_options`."""

    base: str | None = None
    events: str | None = None
    feeds: dict[str, str] = field(default_factory=dict)
    warehouse_dsn: str | None = None
    postgres: str | None = None
    all: bool = False
    strict: bool = False

    @property
    def are_samples(self) -> bool:
        """Whether the rows are those of the samples."""
        return not (self.events or self.feeds or self.warehouse_dsn)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s diff`."""
    parser.add_argument("--base", metavar="REF", help="the commit, branch or tag to compare with")
    parser.add_argument("--events", metavar="PATH_OR_URI", type=absolute_uri, help="the files of the feed events")
    parser.add_argument(
        "--feed", metavar="NAME=URI", type=feed_files, action="append", default=[], help="the files of another feed"
    )
    parser.add_argument(
        "--warehouse-dsn", metavar="DSN", type=valid_dsn, help="compare on a copy of this warehouse, which is only read"
    )
    parser.add_argument("--all", action="store_true", help="build every model, also those that cannot differ")
    parser.add_argument("--strict", action="store_true", help="fail if marts differ and nothing approves it")
    parser.add_argument(
        "--postgres", type=valid_dsn, metavar="DSN", help="an administrator's DSN of a PostgreSQL, 14 to 18, to use"
    )
    parser.set_defaults(run=run_command)


def feed_files(text: str) -> tuple[str, str]:
    """Return the name and the URI in TEXT, `orders=files/*.csv`."""
    name, equals, uri = text.partition("=")
    if not equals or not name or not uri:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not NAME=URI")
    return name, absolute_uri(uri)


def run_command(parsed: argparse.Namespace, section: Section) -> None:
    """Run `nox -s diff`."""
    options = Options(
        parsed.base, parsed.events, dict(parsed.feed), parsed.warehouse_dsn, parsed.postgres, parsed.all, parsed.strict
    )
    if options.warehouse_dsn and (options.events or options.feeds):
        raise UsageError(
            "--warehouse-dsn cannot be given with --events or --feed.",
            "The rows are those of the warehouse.",
            "Leave one of them out.",
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    with session_lock(FOLDER / ".lock", "compares in this clone"):
        base = find_base(options.base)
        source = find_source(options.warehouse_dsn) if options.warehouse_dsn else None
        with checked_out(base) as base, ephemeral_server(options.postgres) as server:
            diff = compare(base, server, options, source)
            diff.approval = compare_with_approved(
                (each for mart in diff.marts for each in differences(mart)), ROOT, base.folder
            )
    say_diff(diff)
    write_files(diff, FOLDER, section)
    check(diff, strict=options.strict)


def check(diff: Diff, *, strict: bool) -> None:
    """Raise ApprovalError if the differences of DIFF are not those approved; DifferencesError for any, if STRICT."""
    page = "They are described in build/diff/index.html."
    if approval := diff.approval:
        wrong = [
            *(f"{each} is not approved" for each in approval.unapproved),
            *(f"{each} is approved, and does not happen" for each in approval.absent),
        ]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise ApprovalError(
                f"The differences are not those of {FILE}: {wrong[0]}{more}.",
                page,
                f"Change the models until they do what is meant, or the entries of {FILE}.",
            )
        return
    different = [mart.name for mart in diff.marts if differences(mart)]
    if strict and different:
        raise DifferencesError(
            f"{', '.join(different)} differ{'s' if len(different) == 1 else ''} from the base, and --strict is set.",
            page,
            f"If they are meant, name them in {FILE}: docs/diff.md shows how.",
        )


def compare(base: Base, server: Server, options: Options, source: Source | None = None) -> Diff:
    """Build both sides on SERVER and compare their marts; their rows are those of SOURCE, or of files."""
    phases = Phases()
    feeds = read_feeds()
    diff = Diff(base=str(base), branch=describe_branch(), data="")
    if files := uncommitted():
        some = ", ".join(files[:SHOWN]) + (f" and {len(files) - SHOWN} more" if len(files) > SHOWN else "")
        diff.notes.append([f"Not committed: {some}.", "They are compared as they are."])
    load_differs = differing_files(base.folder, ROOT, *LOAD)
    diff.load_differs = bool(load_differs) and source is None
    passwords = make_passwords()
    artifacts = base.folder.parent
    lock = "requirements/dbt.txt"
    base_warehouse = create_warehouse(server, "diff_base", passwords)
    branch_warehouse = Warehouse(server, f"diff_branch{server.suffix}", passwords)
    pythons = [install_other("dbt", root / lock) for root in (base.folder, ROOT)]
    base_side = Side("base", f"The base, {base}", base.folder, pythons[0], artifacts / "base_dbt", base_warehouse)
    branch_side = Side("branch", "The branch", ROOT, pythons[1], artifacts / "branch_dbt", branch_warehouse)
    with ended(base_side, branch_side):
        for side in (base_side, branch_side):
            side.start("parse --quiet")
        files = {feed.name: files_of(feed, options) for feed in feeds.values()}
        with phases.phase("rows loaded") as phase:
            if source:
                check_disk(server, source.raw_bytes, f"the schema raw of {OPTION}")
                copied = copy_raw(source, base_warehouse, feeds)
                counts = copied.rows
                diff.notes += [*([note_of_changed_load(load_differs)] if load_differs else []), *copied.notes]
            elif diff.load_differs:
                raw_data.load_files_by_base(base, base_warehouse, raw_data.files_of_base(base, files))
                create_warehouse(server, "diff_branch", passwords)
                counts = raw_data.load_files(branch_warehouse, feeds, files)
                for warehouse in (base_warehouse, branch_warehouse):
                    raw_data.set_same_times(warehouse)
            else:
                counts = raw_data.load_files(base_warehouse, feeds, files)
            loaded = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            which = "the samples: " if options.are_samples else "a copy of the warehouse: " if source else ""
            diff.data = f"{which}{loaded}"
            done = "copied" if source else "loaded"
            phase.text = f"{done} {loaded}{', by each side' if diff.load_differs else ''}"
        with phases.phase("both projects parsed") as phase:
            projects = base_side.parse(), branch_side.parse()
            changes = find_changes(base, projects, pythons, diff, everything=options.all)
            phase.text = f"parsed both dbt projects: {len(changes.nodes)} models changed, {len(changes.affected)} can differ"
        build_and_compare(diff, (base_side, branch_side), projects, changes, feeds, files, options, phases)
    diff.seconds = phases.figures()
    return diff


def describe_branch() -> str:
    """Return the commit of the working tree, and whether it has other changes."""
    base = find_base("HEAD")
    return f"{base.commit[:8]}{' and uncommitted changes' if uncommitted() else ''}"


def files_of(feed: Feed, options: Options) -> str:
    """Return the URI of FEED's files."""
    if feed.name == MARKETPLACE and options.events:
        return options.events
    return options.feeds.get(feed.name) or samples([feed]).get(feed.name, feed.location)


def find_changes(
    base: Base, projects: tuple[Project, Project], pythons: list[object], diff: Diff, *, everything: bool
) -> Changes:
    """Return what differs between the two PROJECTS, and note it in DIFF."""
    changes = compare_projects(
        *projects,
        {
            "the load": diff.load_differs,
            "the lock of dbt": pythons[0] != pythons[1],
            "dbt/profiles.yml": bool(differing_files(base.folder, ROOT, "dbt/profiles.yml")),
            "all models are built": everything,
        },
    )
    diff.changed = changes.listed()
    return changes


@contextmanager
def ended(*sides: Side) -> Iterator[None]:
    """End dbt's processes of SIDES after the block."""
    try:
        yield
    finally:
        for side in sides:
            side.end()


def build_and_compare(
    diff: Diff,
    sides: tuple[Side, Side],
    projects: tuple[Project, Project],
    changes: Changes,
    feeds: dict[str, Feed],
    files: dict[str, str],
    options: Options,
    phases: Phases,
) -> None:
    """Build what can differ on both SIDES, and what that reads; fill DIFF with the marts."""
    base, branch = sides
    affected = changes.affected
    needed = affected | set().union(*(ancestors(affected, project.parents) for project in projects))
    of_base = needed & projects[0].nodes.keys()
    of_branch = affected & projects[1].nodes.keys()
    marts = sorted(set(projects[0].marts) | set(projects[1].marts))
    diff.taken = [name for name in marts if name not in affected]
    diff.built = sorted(affected)
    if not affected:
        diff.marts = [mart for mart in (new_mart_of(name, projects, changes) for name in marts) if mart.schema]
        return
    has_increments = any(project.is_incremental(name) for project in projects for name in affected)
    server = base.warehouse.server
    if has_increments:
        with phases.phase("half of the rows held back"):
            raw_data.hold_back(base.warehouse, feeds)
            if diff.load_differs:
                raw_data.hold_back(branch.warehouse, feeds)
    with phases.phase("built the base's models"):
        first = [(base, of_base)]
        if diff.load_differs:
            first.append((branch, needed & projects[1].nodes.keys()))
        build_both(first, full_refresh=False)
    if not diff.load_differs:
        check_disk(server, database_bytes(base.warehouse), "what the base's build made")
        copy_warehouse(base.warehouse, "diff_branch")
        with phases.phase("built the branch's on a copy"):
            build_both([(branch, of_branch)], full_refresh=True)
    expected: Expected = {}
    with connected(base, branch) as connections:
        compared = [new_mart_of(name, projects, changes) for name in marts if name in affected]
        both = Sides(*connections, *projects)
        if has_increments:
            with phases.phase("built incrementally, with all rows"):
                for side in sides:
                    raw_data.put_back(side.warehouse, feeds)
                build_both([(base, of_base), (branch, needed & projects[1].nodes.keys())], full_refresh=False)
        if MARKETPLACE in feeds:
            with phases.phase("expected rows computed without the models"):
                expected = (
                    of_files(feeds[MARKETPLACE], files[MARKETPLACE], connections[1])
                    if diff.load_differs
                    else of_raw_table(connections[0])
                )
        if has_increments:
            with phases.phase("compared"):
                for mart in compared:
                    mart.incremental_rows, mart.incremental_verdicts = compare_mart(
                        mart, both, expected, are_samples=options.are_samples
                    )
            with phases.phase("built anew"):
                build_both([(base, affected & projects[0].nodes.keys()), (branch, of_branch)], full_refresh=True)
        with phases.phase("compared after a full refresh"):
            for mart in compared:
                mart.rows, mart.verdicts = compare_mart(mart, both, expected, are_samples=options.are_samples)
                mart.builds = {side.name: side.builds[mart.name] for side in sides if mart.name in side.builds}
    drop_warehouse(branch.warehouse)
    assert server
    others = [mart for mart in (new_mart_of(name, projects, changes) for name in diff.taken) if mart.schema]
    diff.marts = sorted(compared, key=lambda mart: (not differences(mart), mart.name)) + others


def new_mart_of(name: str, projects: tuple[Project, Project], changes: Changes) -> Mart:
    """Return the mart NAME, not compared yet."""
    return new_mart(name, *projects, changes)


@contextmanager
def connected(*sides: Side) -> Iterator[list[psycopg.Connection]]:
    """Connect to the warehouse of each of SIDES as its administrator."""
    connections = [psycopg.connect(side.warehouse.admin_dsn, autocommit=True) for side in sides]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


__all__ = ["add_options", "run_command", "say"]
