"""What ran when: steps on one axis of seconds, the critical path through them, and how long each took in other runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from markupsafe import Markup

from harness.reporting import charts
from harness.reporting.charts import TimeBar
from harness.reporting.report.run import Run, Step, step_names
from harness.reporting.summary import seconds
from harness.reporting.wording import value

MOST_BARS = 14  # of each kind of step
MOST_NAMED = 10  # steps of a path in a sentence, the longest
PHASES, PODS, TASKS, LOADS, NODES = "Phases", "Pods", "Tasks of Airflow", "Loads", "Nodes of dbt"
ONE_OF = {PHASES: "phase", PODS: "pod", TASKS: "task", LOADS: "load", NODES: "node of dbt"}
Kinds = Mapping[str, Sequence["Row"]]  # as `rows` returns them
NEVER_RAN = ("upstream_failed", "skipped")  # though Airflow says when it decided that
CLOCKS_S = 0.05  # by which the clocks of what ends and of what begins then may differ


@dataclass(frozen=True)
class Row:
    """A step on the axis: its wait, if it is known, and its run; `of` as of a `Step`."""

    name: str
    of: str
    bars: Sequence[TimeBar]
    is_critical: bool = False

    @property
    def start_s(self) -> float:
        """When it began, or began to wait."""
        return self.bars[0].start_s

    @property
    def end_s(self) -> float:
        """When it ended."""
        return self.bars[-1].end_s

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Which rows are drawn where there is no room for all: those that failed, the critical path, the longest."""
        return any(bar.tone == "failed" for bar in self.bars), self.is_critical, self.length_s or self.wait_s

    @property
    def wait_s(self) -> float:
        """How long it waited; 0 if that is not known."""
        return sum(bar.end_s - bar.start_s for bar in self.bars if bar.tone == "waits")

    @property
    def length_s(self) -> float:
        """How long it ran, without its wait."""
        return sum(bar.end_s - bar.start_s for bar in self.bars if bar.tone != "waits")


@dataclass(frozen=True)
class Comparison:
    """How long something took, and took in the last run of its kind and in the last one of main; None if unknown."""

    name: str
    taken_s: float
    last_s: float | None
    main_s: float | None

    @property
    def change(self) -> str:
        """The change from the last run, `+12%`; empty if it is not known."""
        return f"{100 * (self.taken_s / self.last_s - 1):+.0f}%" if self.last_s else ""


def since(run: Run, at: datetime) -> float:
    """Return the seconds from the start of RUN to AT."""
    return (at - run.phases.started_at).total_seconds()


def phases(run: Run, total_s: float) -> list[Comparison]:
    """Return each phase of RUN and the total."""
    last, main = (kept.figures if kept else {} for kept in (run.last, run.main))
    measured = {**run.phases.seconds, "total": total_s}
    return [Comparison(name, taken, last.get(name), main.get(name)) for name, taken in measured.items()]


def earlier(run: Run, steps: Sequence[Step]) -> list[tuple[Step, float | None, float | None]]:
    """Return each of STEPS with how long it took in the last run and in that of main."""
    last, main = (kept.steps if kept else {} for kept in (run.last, run.main))
    names = step_names(steps)
    return [(step, last.get(name), main.get(name)) for step, name in zip(steps, names, strict=True)]


def rows(run: Run, total_s: float) -> dict[str, list[Row]]:
    """Return what ran, by kind, in the order of the starts; what is on the critical path of its kind is marked."""

    def phase(name: str, taken: float) -> Row:
        is_failed = run.phases.failed_in and name == f"{run.phases.failed_in} (not finished)"
        start_s = run.phases.starts[name]
        return Row(name, "", [TimeBar(start_s, start_s + taken, "failed" if is_failed else "runs")])

    kinds = {
        PHASES: [phase(name, taken) for name, taken in run.phases.seconds.items() if name in run.phases.starts],
        PODS: [_row(run, pod.step, total_s) for pod in run.pods if pod.scheduled_at or pod.started_at],
        TASKS: [
            _row(run, step, total_s)
            for step in run.tasks
            if (step.started_at or step.queued_at) and step.state not in NEVER_RAN
        ],
        LOADS: [_row(run, load.step, total_s) for load in run.loads],
        NODES: [_row(run, node.step, total_s) for node in run.nodes if node.started_at],
    }
    return {title: _marked(found, has_path=title != PODS) for title, found in kinds.items() if found}


def _row(run: Run, step: Step, total_s: float) -> Row:
    """Return STEP as a row; what has not ended lasts until the end."""
    start_s = since(run, step.started_at) if step.started_at else total_s
    bars = [TimeBar(max(0, since(run, step.queued_at)), max(0, start_s), "waits")] if step.queued_at else []
    if step.started_at:
        end_s = since(run, step.ended_at) if step.ended_at else total_s
        bars.append(TimeBar(max(0, start_s), max(0, end_s), "failed" if step.state == "failed" else "runs"))
    return Row(step.name, step.of, bars)


def _marked(found: Sequence[Row], *, has_path: bool) -> list[Row]:
    spans = [(row.start_s, row.end_s) for row in found]
    path = set(critical_path(spans)) if has_path and len(found) > 1 else set()
    marked = []
    for i, row in enumerate(found):
        bars = [bar._replace(tone="critical") if bar.tone == "runs" and i in path else bar for bar in row.bars]
        marked.append(replace(row, bars=bars, is_critical=i in path))
    return sorted(marked, key=lambda row: (row.start_s, row.end_s))


def critical_path(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return which of SPANS, starts and ends in seconds, made everything end when it did: their indexes, in order.

    The last one is the one that ends last; before each comes the one that was the last to end before it began, since
    that is what it had waited for.
    """
    path: list[int] = []
    ended = sorted(range(len(spans)), key=lambda i: (spans[i][1], spans[i][1] - spans[i][0]))
    begin_s = float("inf")
    while ended:
        i = ended.pop()
        start_s, end_s = spans[i]
        if end_s <= begin_s + CLOCKS_S and start_s < begin_s:
            path.insert(0, i)
            begin_s = start_s
    return path


def chart(kinds: Kinds, total_s: float) -> Markup | None:
    """Return the chart of what ran when, KINDS in the TOTAL_S seconds of a run; None if nothing did."""
    drawn: list[tuple[str, Sequence[TimeBar]]] = []
    for title, found in kinds.items():
        ranked = sorted(range(len(found)), key=lambda i: found[i].rank, reverse=True)
        more = f", {MOST_BARS} of {len(found):,}" if len(found) > MOST_BARS else ""
        drawn.append((f"{title}{more}", ()))
        for row in (found[i] for i in sorted(ranked[:MOST_BARS])):
            drawn.append(
                (value(f"{seconds(row.length_s or row.wait_s)} {row.name} · {row.of}".removesuffix(" · ")), row.bars)
            )
    if not drawn:
        return None
    end_s = max([total_s, *(bar.end_s for _, bars in drawn for bar in bars)])
    return charts.svg(charts.time_bars(drawn, end_s), "What ran when, in seconds")


def total_sentence(run: Run, total_s: float) -> str:
    """Return how long RUN took, and if it ended well beside the last run of its kind and beside main's."""
    if run.failure:
        return f"Until it failed it took {seconds(total_s)}."
    [total] = [each for each in phases(run, total_s) if each.name == "total"]
    sides = {"the last run of its kind": total.last_s}
    if run.has_other_main:
        sides["the last one of main"] = total.main_s
    known = [
        f"{difference(total_s, other_s)} {side} ({seconds(other_s)})" for side, other_s in sides.items() if other_s
    ]
    is_main = " That one was of main." if known and run.main and not run.has_other_main else ""
    return f"It took {seconds(total_s)}{': ' if known else ''}{' and '.join(known)}.{is_main}"


def difference(taken_s: float, other_s: float) -> str:
    """Return how TAKEN_S differs from OTHER_S: `12% more than`."""
    share = f"{abs(taken_s / other_s - 1):.0%}"
    return "equal to" if share == "0%" else f"{share} {'more' if taken_s > other_s else 'less'} than"


def meanwhile(task: Row, kinds: Kinds) -> list[str]:
    """Return what ran in the time of TASK, which says why it took so long: tasks beside it, and dbt's nodes if its own.

    Only the nodes of the last build are known: they are its own if all are in its time, and no other build was.
    """

    def overlap_s(row: Row) -> float:
        return min(task.end_s, row.end_s) - max(task.bars[-1].start_s, row.bars[-1].start_s)

    others = [row for row in kinds[TASKS] if row is not task]
    nodes = kinds.get(NODES, [])
    found = []
    if (
        nodes
        and all(overlap_s(row) == row.length_s for row in nodes)
        and not any(row.name == task.name and overlap_s(row) > 0 for row in others)
    ):
        found.append(f"Its nodes ran for {seconds(covered_s((row.start_s, row.end_s) for row in nodes))} of it.")
    beside = [f"{value(row.name)} of {value(row.of)}" for row in others if overlap_s(row) > task.length_s / 2]
    if beside:
        found.append(f"For most of it ran beside it: {', '.join(beside[:MOST_NAMED])}.")
    return found


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return how many seconds are in at least one of SPANS."""
    total_s, until_s = 0.0, -math.inf
    for start_s, end_s in sorted(spans):
        total_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return total_s


def sentences(kinds: Kinds) -> list[str]:
    """Return which step of each of KINDS took longest, and what the critical path of its kind is, a sentence each."""
    found = []
    for title, steps in kinds.items():
        ended = [row for row in steps if row.length_s]
        if ended:
            longest = max(ended, key=lambda row: row.length_s)
            waited = f", after {seconds(longest.wait_s)} of waiting" if longest.wait_s >= CLOCKS_S else ""
            of = f" of {value(longest.of)}" if title == TASKS else ""
            started = "ready in " if title == PODS else ""
            length = f"{started}{seconds(longest.length_s)}"
            found.append(f"The longest {ONE_OF[title]} was {value(longest.name)}{of}: {length}{waited}.")
            found += meanwhile(longest, kinds) if title == TASKS else []
    for title in (PHASES, NODES):
        path = [row for row in kinds.get(title, []) if row.is_critical]
        named = sorted(path, key=lambda row: row.length_s, reverse=True)[:MOST_NAMED]
        if len(path) > 1:
            texts = [f"{value(row.name)} ({seconds(row.length_s)})" for row in path if row in named]
            more = f", the longest {len(named)} of {len(path)}" if len(path) > len(named) else ""
            found.append(f"The critical path of the {title.lower()}{more}: {', '.join(texts)}.")
    return found
