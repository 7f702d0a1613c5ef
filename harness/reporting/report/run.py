"""What the report of a run shows, as plain data: it is collected before anything is taken down.

Needs only the standard library, as `harness.reporting.summary` does, which holds it.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from harness.reporting.console import Phases
from harness.reporting.figures import KeptRun


@dataclass(frozen=True)
class Failure:
    """Why a run failed: what happened, why most likely, and what to do next."""

    what: str
    why: str
    next_step: str


@dataclass(frozen=True)
class Step:
    """A task of Airflow, a load or a node of dbt, on the run's time axis.

    Attributes:
        name, of: what it is, and what it belongs to: a DAG, the kind of a node; may be empty.
        run_id: the run of the DAG; empty if it is none.
        state: as its program says it; `failed` if it failed.
        queued_at: when it began to wait; None if it did not, or that is not known.
        started_at, ended_at: None if it did not start, or had not ended.
    """

    name: str
    of: str
    state: str
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    run_id: str = ""

    @property
    def seconds(self) -> float | None:
        """How long it ran; None if it did not end."""
        return (self.ended_at - self.started_at).total_seconds() if self.started_at and self.ended_at else None


@dataclass(frozen=True)
class Number:
    """A number that was expected and the one that was found."""

    name: str
    expected: str
    found: str
    is_right: bool


@dataclass(frozen=True)
class Series:
    """A number by day: that of the independent computation, and the warehouse's; None where a side has none."""

    title: str
    unit: str
    points: Sequence[tuple[date, float | None, float | None]]


@dataclass(frozen=True)
class Load:
    """A load, as the ledger has it; its rows are None where it does not say."""

    feed: str
    run_id: str
    status: str
    failure: str
    started_at: datetime
    ended_at: datetime | None
    read: int | None
    loaded: int | None
    rejected: int | None
    outside: int | None
    absent: int | None

    @property
    def step(self) -> Step:
        """The load on the time axis."""
        return Step(self.feed, self.run_id.partition(" ")[0], self.status, None, self.started_at, self.ended_at)


@dataclass(frozen=True)
class Day:
    """A day of a feed's rows: what loads after its first one have added (late rows), changed and removed."""

    feed: str
    day: date
    late: int
    corrected: int
    withdrawn: int


@dataclass(frozen=True)
class Reject:
    """The rejected rows of one reason: how many, and the line and the text of some."""

    reason: str
    rows: int
    examples: Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Table:
    """A table of the warehouse with its partitions and indexes; `rows` is None if nobody has counted them."""

    name: str
    rows: int | None
    size_bytes: int


@dataclass(frozen=True)
class Node:
    """A node of dbt: a model, a test; of a test also what it tests, and some of the rows that fail it."""

    name: str
    kind: str
    status: str
    has_failed: bool
    message: str
    place: str
    seconds: float
    started_at: datetime | None
    tested: str = ""
    failing: int = 0
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @property
    def step(self) -> Step:
        """The node on the time axis; it did not start if it was skipped."""
        ended_at = self.started_at + timedelta(seconds=self.seconds) if self.started_at else None
        state = "failed" if self.has_failed else self.status
        return Step(self.name, self.kind.replace("_", " "), state, None, self.started_at, ended_at)


@dataclass(frozen=True)
class Pod:
    """When a pod was scheduled, had pulled its images, was started, and was ready; each None if it is not known."""

    name: str
    scheduled_at: datetime | None
    pulled_at: datetime | None
    started_at: datetime | None
    ready_at: datetime | None

    @property
    def step(self) -> Step:
        """The pod on the time axis: it waits until it is started, and starts until it is ready."""
        return Step(self.name, "", "", self.scheduled_at, self.started_at, self.ready_at or self.started_at)


@dataclass(frozen=True)
class PytestRun:
    """A run of pytest by a session of nox: which tests failed, and the slowest with their seconds."""

    session: str
    began_at: datetime
    passed: int
    skipped: int
    seconds: float
    failed: Sequence[str]
    slowest: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Dataset:
    """A file, a table, a view, or what reads them (an exposure of dbt), as the lineage events have it.

    Attributes:
        name: `events.csv`, `fact.fct_events`, `supply_dashboard`.
        kind: `file`, `table`, `exposure`.
        description: of which the first sentence is the grain, one row per what.
        columns: name, type, description, and where it comes from, which is empty where that is not known.
        made_of: the names of its direct sources.
        changed: the last commit that has changed its SQL or contract; empty if that is not known.
    """

    name: str
    kind: str
    description: str = ""
    columns: Sequence[tuple[str, str, str, str]] = ()
    made_of: Sequence[str] = ()
    rows: int | None = None
    built_at: datetime | None = None
    changed: str = ""


@dataclass
class Run:
    """A run and what is known of it so far.

    Attributes:
        title: what ran, `e2e on embedded` for example.
        facts: where, on what, with which versions: a name and a value each.
        phases: of the run, which began when this was made.
        lines: checks that have passed, and other results, a sentence each.
        failure: None while nothing has failed.
        has_warehouse: whether its loads, rejected rows and tables were collected.
        older_loads: how many came before `loads`.
        days: those of which a load after the first one has changed rows; None if that is not known.
        datasets: all that the lineage events name.
        pytest: the last runs of pytest in this clone, by session.
        is_main: whether it runs a commit of the default branch, without changes.
        last, main: the last kept run of the same kind, and the last one of the default branch.
        history: of the last runs of the same kind, the last one last, the figures.
        figures_unit: of the history's figures; empty if each has another.
        notes: what is not known and why, a sentence each.
        secrets: URIs and DSNs whose secrets are nowhere in the report.
    """

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    phases: Phases = field(default_factory=Phases)
    lines: list[str] = field(default_factory=list)
    failure: Failure | None = None
    numbers: Sequence[Number] = ()
    series: list[Series] = field(default_factory=list)
    tasks: Sequence[Step] = ()
    has_warehouse: bool = False
    loads: Sequence[Load] = ()
    older_loads: int = 0
    rejects: Sequence[Reject] = ()
    rejects_file: str = ""
    tables: Sequence[Table] = ()
    days: Sequence[Day] | None = None
    pods: Sequence[Pod] = ()
    datasets: Sequence[Dataset] = ()
    nodes: Sequence[Node] = ()
    pytest: Sequence[PytestRun] = ()
    is_main: bool = False
    last: KeptRun | None = None
    main: KeptRun | None = None
    history: Sequence[dict[str, float]] = ()
    figures_unit: str = "s"
    notes: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list, repr=False)

    @property
    def has_other_main(self) -> bool:
        """Whether a run of the default branch is known that is not the last one."""
        return self.main is not None and self.main != self.last

    def __post_init__(self) -> None:
        self.facts = {
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        } | self.facts


def tests_by_model(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """Return the tests among NODES by the name of what they test, which is empty where that is not known."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        if node.kind in ("test", "unit_test"):
            found.setdefault(node.tested, []).append(node)
    return found


def step_names(steps: Sequence[Step]) -> list[str]:
    """Return a name for each of STEPS, by which it is found in another run: the second of a name has a 2."""
    seen: Counter[str] = Counter()
    names = []
    for step in steps:
        name = f"{step.of} {step.name}".strip()
        seen[name] += 1
        names.append(f"{name} {seen[name]}" if seen[name] > 1 else name)
    return names


def step_seconds(run: Run) -> dict[str, float]:
    """Return how long each task, load and node of dbt of RUN took that has ended, by its name."""
    found: dict[str, float] = {}
    for steps in (run.tasks, [load.step for load in run.loads], [node.step for node in run.nodes]):
        taken = zip(step_names(steps), steps, strict=True)
        found |= {name: step.seconds for name, step in taken if step.seconds is not None}
    return found
