"""Build both sides on the same rows, and compare their marts.

The rows are loaded once, into the base's database. Its models are built there, and the branch gets a copy of that
database, in which only those are built that can differ. Where incremental models are among them, half of the rows come
only then: both sides build a second time, and their marts are compared after that and again after a full refresh.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property

import psycopg

from feeds.contract import Feed, read_feeds
from feeds.errors import FeedError
from harness.diff import raw_data
from harness.diff.base import Base, differing_files, python_of_base, uncommitted
from harness.diff.changes import Changes, compare_projects
from harness.diff.disk import OF_DATABASE, OF_RAW, check_disk, database_bytes
from harness.diff.marts import Databases, compare_mart, new_mart
from harness.diff.project import Project, ancestors
from harness.diff.results import Diff, Mart
from harness.diff.sentences import listed
from harness.diff.sides import Side, build_both
from harness.diff.verdicts import of_files, of_raw_table
from harness.diff.warehouse_copy import OPTION, Source, copy_raw, note_of_changed_load
from harness.errors import DbtFailedError
from harness.oracle.expected_numbers import MARKETPLACE, Rows
from harness.pipeline.feed_files import samples
from harness.processes.git import git
from harness.project.environments import python_of
from harness.project.paths import ROOT
from harness.reporting.console import Phases
from harness.warehouse.roles import Warehouse, copy_warehouse, create_warehouse, make_passwords
from harness.warehouse.server import Server

LOAD = ("airflow/include", "airflow/feeds", "requirements/feeds.txt")  # what each side loads by, if it differs
BASE, BRANCH = "diff_base", "diff_branch"  # databases
SHOWN = 5  # files
NOT_AGAIN = "builds once, but not a second time, in increments"


@dataclass(frozen=True)
class Options:
    """Which rows are compared, and what is built.

    Attributes:
        events: the URI of the files of the feed `events`; None for its sample.
        feeds: those of other feeds, by name.
        warehouse: the one whose rows are taken, on a copy; None for files.
        builds_all: whether models are built, too, that cannot differ.
    """

    events: str | None = None
    feeds: Mapping[str, str] = field(default_factory=dict)
    warehouse: Source | None = None
    builds_all: bool = False

    @property
    def are_samples(self) -> bool:
        """Whether the rows are those of the samples."""
        return not (self.events or self.feeds or self.warehouse)

    def files(self, feed: Feed) -> str:
        """Return the URI of FEED's files."""
        if feed.name == MARKETPLACE and self.events:
            return self.events
        return self.feeds.get(feed.name) or samples([feed]).get(feed.name, feed.location)


@dataclass
class Run:
    """A comparison under way.

    Attributes:
        feeds: this tree's, by name.
        changes: what the two projects do not share; known when both are parsed.
    """

    base: Base
    options: Options
    sides: tuple[Side, Side]
    diff: Diff
    phases: Phases = field(default_factory=Phases)
    feeds: dict[str, Feed] = field(default_factory=read_feeds)
    projects: tuple[Project, Project] = field(init=False)
    changes: Changes = field(init=False)

    @property
    def files(self) -> dict[str, str]:
        """The URI of each feed's files."""
        return {name: self.options.files(feed) for name, feed in self.feeds.items()}

    @property
    def has_increments(self) -> bool:
        """Whether an incremental model can differ."""
        return any(project.is_incremental(name) for project in self.projects for name in self.changes.affected)

    def affected(self, side: Side) -> set[str]:
        """Return the nodes of SIDE whose rows can differ."""
        return self.changes.affected & self.project(side).nodes.keys()

    def needed(self, side: Side) -> set[str]:
        """Return those nodes of SIDE, and what they read; of the base also what those of the branch read."""
        read = set().union(*(ancestors(self.changes.affected, project.parents) for project in self.projects))
        return (self.changes.affected | read) & self.project(side).nodes.keys()

    def project(self, side: Side) -> Project:
        """Return the project of SIDE."""
        return self.projects[0 if side.is_base else 1]

    def load(self) -> None:
        """Load the rows into the base's warehouse; where the load differs, by the branch's code into its own, too."""
        base, branch = self.sides
        if self.options.warehouse:
            self.copy(self.options.warehouse)
            return
        with self.phases.phase("rows loaded") as phase:
            if self.diff.load_differs:
                files = raw_data.files_of_base(self.base, self.files)
                of_base = raw_data.load_files_by_base(self.base, base.warehouse, files)
                create_warehouse(branch.warehouse.server, BRANCH, branch.warehouse.passwords)
                counts = raw_data.load_files(branch.warehouse, self.feeds, self.files)
                for side in self.sides:
                    raw_data.set_same_times(side.warehouse)
            else:
                of_base = counts = raw_data.load_files(base.warehouse, self.feeds, self.files)
            loaded = loaded_rows(of_base, counts)
            self.diff.data = f"{'the samples: ' if self.options.are_samples else ''}{loaded}"
            phase.text = f"loaded {loaded}{', by each side' if self.diff.load_differs else ''}"

    def copy(self, source: Source) -> None:
        """Copy the rows of SOURCE into the base's warehouse; both sides have them as they are there."""
        warehouse = self.sides[0].warehouse
        with self.phases.phase("rows copied") as phase:
            check_disk(warehouse.server, source.raw_bytes, OF_RAW, f"the schema raw of {OPTION}")
            # The models of each side read its own feeds.
            copied = copy_raw(source, warehouse, self.feeds_of_base | self.feeds)
            if self.diff.load:
                self.diff.notes.append(note_of_changed_load(self.diff.load))
                self.diff.load = []
            self.diff.notes += copied.notes
            counts = ", ".join(f"{count:,} {name}" for name, count in copied.rows.items())
            self.diff.data = f"a copy of the warehouse: {counts}"
            phase.text = f"copied {counts}"

    def parse(self) -> None:
        """Read both projects, and find what can differ."""
        base, branch = self.sides
        with self.phases.phase("both projects parsed") as phase:
            self.projects = base.parse(), branch.parse()
            self.changes = compare_projects(
                *self.projects,
                {
                    f"the load ({listed(self.diff.load, SHOWN)})": self.diff.load_differs,
                    "the lock of dbt": base.python != branch.python,
                    "dbt/profiles.yml": bool(differing_files(self.base.folder, ROOT, "dbt/profiles.yml")),
                },
                everything=self.options.builds_all,
            )
            self.diff.changed = self.changes.listed()
            self.diff.built = sorted(self.changes.affected)
            numbers = f"{len(self.changes.nodes)} models changed, {len(self.changes.affected)} can differ"
            phase.text = f"parsed both dbt projects: {numbers}"

    def compare(self) -> None:
        """Build what can differ, and compare the marts."""
        marts = sorted(set(self.projects[0].marts) | set(self.projects[1].marts))
        self.diff.unaffected = [name for name in marts if name not in self.changes.affected]
        compared = [self.new_mart(name) for name in marts if name in self.changes.affected]
        if compared:
            self.build()
            dsns = (side.warehouse.admin_dsn for side in self.sides)
            base, branch = (psycopg.connect(dsn, autocommit=True) for dsn in dsns)
            with closing(base), closing(branch):
                self.compare_built(compared, Databases(base, branch, *self.projects))
        described = [mart for mart in map(self.new_mart, self.diff.unaffected) if mart.schema]
        self.diff.marts = sorted(compared, key=self.place) + described

    def place(self, mart: Mart) -> tuple[object, ...]:
        """Return the place of MART in the report: what differs comes first, and of that what was itself changed."""
        above = set().union(*(ancestors([mart.name], project.parents) for project in self.projects))
        return not mart.differences, mart.name not in self.changes.nodes, len(above), mart.name

    def new_mart(self, name: str) -> Mart:
        """Return the mart NAME, of which only its definition is compared yet."""
        return new_mart(name, *self.projects, self.changes)

    def build(self) -> None:
        """Build the base's models, and the branch's on a copy; where increments can differ, of half of the rows."""
        base, branch = self.sides
        if self.has_increments:
            with self.phases.phase("rows held back") as phase:
                rows = raw_data.hold_back(base.warehouse, self.feeds)
                phase.text = f"{rows:,} rows held back for a second run"
                if self.diff.load_differs:
                    raw_data.hold_back(branch.warehouse, self.feeds)
        if self.diff.load_differs:
            with self.phases.phase("models of both sides built"):
                build_both([(side, self.needed(side)) for side in self.sides], full_refresh=False)
            return
        with self.phases.phase("the base's models built"):
            build_both([(base, self.needed(base))], full_refresh=False)
        check_disk(base.warehouse.server, database_bytes(base.warehouse), OF_DATABASE, "the base's database")
        copy_warehouse(base.warehouse, BRANCH)
        branch.drop(self.projects[0].nodes[name] for name in self.affected(base))
        with self.phases.phase("the branch's models built on a copy"):
            build_both([(branch, self.affected(branch))], full_refresh=True)

    def compare_built(self, marts: list[Mart], databases: Databases) -> None:
        """Compare MARTS, which are built; after an incremental run and a full refresh, if some are incremental."""
        are_samples = self.options.are_samples
        if self.has_increments:
            with (
                self.phases.phase("models of both sides built again, with all rows"),
                ThreadPoolExecutor(len(self.sides)) as pool,
            ):
                list(pool.map(lambda side: raw_data.put_back(side.warehouse, self.feeds), self.sides))
                computing = pool.submit(self.expected, databases)
                self.build_again()
                expected = computing.result()
            if not self.diff.failure:
                with self.phases.phase("marts compared after an incremental run"):
                    for mart in marts:
                        found = compare_mart(mart, databases, expected, are_samples=are_samples)
                        mart.incremental_rows, mart.incremental_verdicts = found
            with self.phases.phase("models of both sides built anew"):
                for side in self.sides:
                    raw_data.forget_loads(side.warehouse)
                build_both([(side, self.affected(side)) for side in self.sides], full_refresh=True)
        else:
            expected = self.expected(databases)
        with self.phases.phase("marts compared after a full refresh"):
            for mart in marts:
                mart.rows, mart.verdicts = compare_mart(mart, databases, expected, are_samples=are_samples)
                mart.builds = {side.name: side.builds[mart.name] for side in self.sides if mart.name in side.builds}

    def build_again(self) -> None:
        """Build both sides in increments. If only the branch fails, what a full refresh leads to is still compared."""
        try:
            build_both([(side, self.needed(side)) for side in self.sides], full_refresh=False, what=NOT_AGAIN)
        except DbtFailedError as error:
            next_step = "Mend its incremental run. Until then the marts are compared after a full refresh alone."
            self.diff.failure = [error.what, error.why, next_step]
            self.diff.notes.append(self.diff.failure)

    def expected(self, databases: Databases) -> dict[str, dict[str, Rows]]:
        """Return by side the rows that the marts must have, as far as they are computed without the models."""
        if MARKETPLACE not in self.feeds:
            return {}
        if not self.diff.load_differs:
            found = of_raw_table(databases.base)
            return {"base": found, "branch": found}
        # Whose rows are right is in question, too: the files are read again, by the contract of each side.
        uri = self.files[MARKETPLACE]
        found = of_files(self.feeds[MARKETPLACE], uri, databases.branch)
        of_base = found
        if f"airflow/feeds/{MARKETPLACE}.yaml" in self.diff.load:
            feed = self.feeds_of_base.get(MARKETPLACE)
            of_base = of_files(feed, uri, databases.base) if feed else {}
            self.diff.notes.append(
                [
                    f"The contract of {MARKETPLACE} differs, and the rows of each side are checked by its own.",
                    "So both sides can be right and still not be the same.",
                ]
            )
        return {"base": of_base, "branch": found}

    @cached_property
    def feeds_of_base(self) -> dict[str, Feed]:
        """The base's feeds by name; none if this tree cannot read its contracts, since they are of another version."""
        try:
            return read_feeds(self.base.folder / "airflow" / "feeds")
        except FeedError:
            return {}


def compare(base: Base, server: Server, options: Options) -> Diff:
    """Build both sides on SERVER, and compare the marts of BASE with those of this tree."""
    passwords = make_passwords()
    warehouses = create_warehouse(server, BASE, passwords), Warehouse(server, f"{BRANCH}{server.suffix}", passwords)
    artifacts = base.folder.parent
    sides = (
        Side(
            "base",
            f"The base, {base},",
            base.folder,
            python_of_base(base, "dbt"),
            artifacts / "base_dbt",
            warehouses[0],
        ),
        Side("branch", "The branch", ROOT, python_of("dbt"), artifacts / "branch_dbt", warehouses[1]),
    )
    files = uncommitted()
    commit = git(ROOT, "rev-parse", "HEAD")[:8]
    diff = Diff(base=str(base), branch=f"{commit}{' and uncommitted changes' if files else ''}", data="")
    diff.load = differing_files(base.folder, ROOT, *LOAD)
    diff.notes += notes(base, files, options)
    run = Run(base, options, sides, diff)
    with ExitStack() as stack:
        for side in sides:  # while the rows are loaded
            stack.callback(side.end)
            side.start("parse --quiet")
        run.load()
        run.parse()
        run.compare()
    diff.seconds = run.phases.figures()
    return diff


def loaded_rows(base: Mapping[str, int], branch: Mapping[str, int]) -> str:
    """Return the rows of each feed: `9 events, 6 orders in the base and 5 in the branch, 3 visits only in the base`."""
    found = []
    for name in dict.fromkeys([*base, *branch]):
        if name not in base or name not in branch:
            side, rows = ("base", base[name]) if name in base else ("branch", branch[name])
            found.append(f"{rows:,} {name} only in the {side}")
        else:
            differs = f" in the base and {branch[name]:,} in the branch" if base[name] != branch[name] else ""
            found.append(f"{base[name]:,} {name}{differs}")
    return ", ".join(found)


def notes(base: Base, files: list[str], options: Options) -> Iterator[list[str]]:
    """Yield what a reader must know of FILES that are not committed, and of feeds that only one side has."""
    if files:
        yield [
            f"The working tree has changes that are not committed: {listed(files, SHOWN)}.",
            "They are compared as they are.",
            "Commit them, or put them aside with git stash, to compare commits.",
        ]
    feeds = [{path.stem for path in (root / "airflow" / "feeds").glob("*.yaml")} for root in (base.folder, ROOT)]
    if feeds[0] != feeds[1]:
        only = [f"{name} only in the base" for name in sorted(feeds[0] - feeds[1])]
        only += [f"{name} only in the branch" for name in sorted(feeds[1] - feeds[0])]
        yield [
            f"The two sides do not have the same feeds: {', '.join(only)}.",
            "Both sides have the rows of all of them, as far as the warehouse has some."
            if options.warehouse
            else "Each side loads its own feeds; of those of both the files are the same.",
            "Models of a feed that one side lacks are shown as new or removed.",
        ]
