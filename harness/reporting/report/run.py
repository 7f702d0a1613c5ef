"""What the report of a run shows, as plain data: it is collected before anything is taken down.

Needs only the standard library, as `harness.reporting.summary` does, which holds it.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from harness.reporting.console import Phases


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


@dataclass
class Run:
    """A run and what is known of it so far.

    Attributes:
        title: what ran, `e2e on embedded` for example.
        facts: where, on what, with which versions: a name and a value each.
        phases: of the run, which began when this was made.
        lines: checks that have passed, and other results, a sentence each.
        failure: None while nothing has failed.
        lineage: the OpenLineage events, by their times.
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
    loads: Sequence[Load] = ()
    rejects: Sequence[Reject] = ()
    rejects_file: str = ""
    tables: Sequence[Table] = ()
    nodes: Sequence[Node] = ()
    lineage: Sequence[Mapping[str, Any]] = ()
    history: Sequence[dict[str, float]] = ()
    figures_unit: str = "s"
    notes: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.facts = {
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        } | self.facts
