"""Write the report of a run as a page."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from feeds.uri import without_secrets
from harness.reporting import charts, figures, page
from harness.reporting.charts import TimeBar
from harness.reporting.report.run import Node, Run, Series, Step
from harness.reporting.summary import seconds
from harness.reporting.wording import count, listed, value

FOLDER = Path(__file__).parent
MOST_BARS = 14  # of each kind of step, the longest
MOST_LINES = 6  # of the history
SLOWEST = 10
MOST_CHARS = 10_000  # of a text that is looked at; a page shows far fewer, so that no secret is cut in two
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How much a page shows: rows of a table, characters of a value."""

    rows: int
    chars: int


ROOMY, TIGHT = Limits(rows=300, chars=400), Limits(rows=20, chars=60)


@dataclass(frozen=True)
class TestedModel:
    """How the tests of one model ended."""

    name: str
    passed: int
    warned: int
    failed: int
    skipped: int
    seconds: float


@dataclass(frozen=True)
class Picture:
    """A drawn series: the sentence about it, its SVG, and its days as a table has them."""

    series: Series
    text: str
    svg: Markup


def write_page(run: Run, path: Path) -> None:
    """Write the page of RUN, which has ended now, to PATH; raise OSError if it cannot be written."""
    total_s = run.phases.total_s
    run = without_secrets_of(run)
    text = render(run, total_s, ROOMY)
    if len(text.encode(errors="replace")) > page.LIMIT_BYTES:
        text = render(run, total_s, TIGHT)
    page.write(path, text)


def render(run: Run, total_s: float, limits: Limits) -> str:
    """Return the page of RUN, which took TOTAL_S seconds."""
    environment = page.environment(FOLDER)
    environment.filters.update(seconds=seconds, value=lambda text: value(text, limits.chars), size=size)
    environment.globals.update(count=count, listed=listed, most=limits.rows, since=lambda at: since(run, at))
    context = {
        "run": run,
        "total_s": total_s,
        "phases": phase_rows(run, total_s),
        "time": time_chart(run, total_s),
        "longest": longest_sentences(run),
        "wrong": [number for number in run.numbers if not number.is_right],
        "pictures": [picture(series) for series in run.series if series.points],
        "tested": tested_models(run.nodes),
        "slowest": sorted(run.nodes, key=lambda node: node.seconds, reverse=True)[:SLOWEST],
        "notable": [node for node in run.nodes if node.has_failed or node.status == "warn"],
        "changes": change_sentences(run),
        "lines": history_chart(run),
    }
    return environment.get_template("report.html").render(context)


def without_secrets_of(run: Run) -> Run:
    """Return RUN without secrets: those of its `secrets`, and whatever else looks like one.

    Its texts then are also such that UTF-8 has them, and not longer than anything that is shown.
    """

    @functools.cache
    def cleaned_text(text: str) -> str:
        return without_secrets(text[:MOST_CHARS].encode(errors="replace").decode(), *run.secrets)

    def cleaned(found: Any) -> Any:
        if isinstance(found, str):
            return cleaned_text(found)
        if isinstance(found, dict):
            return {cleaned(key): cleaned(each) for key, each in found.items()}
        if is_dataclass(found) and not isinstance(found, type):
            return replace(found, **{each.name: cleaned(getattr(found, each.name)) for each in fields(found)})
        if isinstance(found, (list, tuple)):
            return [cleaned(each) for each in found]
        return found

    whole = replace(run, secrets=[])
    for each in fields(run):
        if each.name != "secrets":
            setattr(whole, each.name, cleaned(getattr(run, each.name)))
    return whole


def since(run: Run, at: datetime) -> float:
    """Return the seconds from the start of RUN to AT."""
    return (at - run.phases.started_at).total_seconds()


def phase_rows(run: Run, total_s: float) -> list[tuple[str, float, float | None, str]]:
    """Return each phase and the total: its name, its seconds, those of the last run if known, and the change."""
    rows = []
    for name, taken in {**run.phases.seconds, "total": total_s}.items():
        before = run.phases.last.get(name)
        change = f"{100 * (taken / before - 1):+.0f}%" if before else ""
        rows.append((name, taken, before, change))
    return rows


def time_chart(run: Run, total_s: float) -> Markup | None:
    """Return the chart of what ran when; None if nothing did."""
    phases = [
        (name, [TimeBar(run.phases.starts[name], run.phases.starts[name] + taken, phase_tone(run, name))])
        for name, taken in run.phases.seconds.items()
        if name in run.phases.starts
    ]
    groups = {
        "Phases": phases,
        "Tasks of Airflow": [bars_of(run, step, total_s) for step in run.tasks if step.started_at or step.queued_at],
        "Loads": [bars_of(run, step, total_s) for step in loads(run)],
        "Nodes of dbt": [bars_of(run, step, total_s) for step in nodes(run)],
    }
    rows: list[tuple[str, Sequence[TimeBar]]] = []
    for title, steps in groups.items():
        if steps:
            shown = sorted(steps, key=lambda step: length(step[1]), reverse=True)[:MOST_BARS]
            more = f", the longest {MOST_BARS} of {len(steps):,}" if len(steps) > MOST_BARS else ""
            rows.append((f"{title}{more}", ()))
            rows += with_longest(sorted(shown, key=lambda step: step[1][0].start_s))
    if not rows:
        return None
    end_s = max([total_s, *(bar.end_s for _, bars in rows for bar in bars)])
    return charts.svg(
        charts.time_bars([(value(name), bars) for name, bars in rows], end_s), "What ran when, in seconds"
    )


def phase_tone(run: Run, name: str) -> str:
    """Return the tone of the phase NAME."""
    return "failed" if run.phases.failed_in and name == f"{run.phases.failed_in} (not finished)" else "runs"


def length(bars: Sequence[TimeBar]) -> float:
    """Return how long something runs, without its wait."""
    return sum(bar.end_s - bar.start_s for bar in bars if bar.tone != "waits")


def with_longest(rows: Sequence[tuple[str, list[TimeBar]]]) -> list[tuple[str, Sequence[TimeBar]]]:
    """Return ROWS with their seconds in their names; the longest has its tone."""
    longest = max(length(bars) for _, bars in rows)
    found: list[tuple[str, Sequence[TimeBar]]] = []
    for name, bars in rows:
        is_longest = len(rows) > 1 and length(bars) == longest
        tones = [bar._replace(tone="longest") if bar.tone == "runs" and is_longest else bar for bar in bars]
        found.append((f"{seconds(length(bars))} {name}", tones))
    return found


def bars_of(run: Run, step: Step, total_s: float) -> tuple[str, list[TimeBar]]:
    """Return the name and the bars of STEP: its wait and its run; what has not ended lasts until the end."""
    start_s = since(run, step.started_at) if step.started_at else total_s
    bars = [TimeBar(max(0, since(run, step.queued_at)), max(0, start_s), "waits")] if step.queued_at else []
    if step.started_at:
        end_s = since(run, step.ended_at) if step.ended_at else total_s
        bars.append(TimeBar(max(0, start_s), max(0, end_s), "failed" if step.state == "failed" else "runs"))
    return f"{step.name} · {step.of}".removesuffix(" · "), bars


def loads(run: Run) -> list[Step]:
    """Return the loads of RUN as steps."""
    return [
        Step(load.feed, load.run_id.partition(" ")[0], load.status, None, load.started_at, load.ended_at)
        for load in run.loads
    ]


def nodes(run: Run) -> list[Step]:
    """Return the nodes of dbt as steps; what was skipped is none."""
    found = []
    for node in run.nodes:
        if node.started_at:
            ended_at = datetime.fromtimestamp(node.started_at.timestamp() + node.seconds, node.started_at.tzinfo)
            state = "failed" if node.has_failed else node.status
            found.append(Step(node.name, node.kind.replace("_", " "), state, None, node.started_at, ended_at))
    return found


def longest_sentences(run: Run) -> list[str]:
    """Return which phase, task, load and node of dbt took longest, a sentence each."""
    found = []
    if run.phases.seconds:
        name = max(run.phases.seconds, key=lambda name: run.phases.seconds[name])
        found.append(f"The longest phase was {value(name)}: {seconds(run.phases.seconds[name])}.")
    for what, steps in (("task", run.tasks), ("load", loads(run)), ("node of dbt", nodes(run))):
        ended = [(step.seconds, step) for step in steps if step.seconds is not None]
        if ended:
            taken, step = max(ended, key=lambda each: each[0])
            of = f" of {value(step.of)}" if step.of and what == "task" else ""
            wait_s = (step.started_at - step.queued_at).total_seconds() if step.queued_at and step.started_at else 0
            waited = f", after {seconds(wait_s)} in the queue" if wait_s >= 0.05 else ""
            found.append(f"The longest {what} was {value(step.name)}{of}: {seconds(taken)}{waited}.")
    return found


def picture(series: Series) -> Picture:
    """Return SERIES as a chart, with a sentence: on how many days both sides are known and differ."""
    grain, points = charts.by_grain(list(series.points))
    sides = [{day for day, *both in series.points if both[side] is not None} for side in (0, 1)]
    different = [day for day, expected, found in series.points if expected != found]
    if not sides[0]:
        text = "It was not computed independently: the run failed before."
    elif not sides[1]:
        text = "The warehouse has none."
    elif different:
        text = f"Both differ on {count(len(different), 'day')}, first on {different[0]}."
    else:
        text = f"Both are equal on each of {count(len(series.points), 'day')}."
    svg = charts.svg(charts.two_lines(points, grain), f"{value(series.title)}: {text}")
    return Picture(series, text, svg)


def tested_models(nodes: Sequence[Node]) -> list[TestedModel]:
    """Return how the tests of each model ended, those with failures and warnings first."""
    of_model: dict[str, list[Node]] = {}
    for node in nodes:
        if node.kind in ("test", "unit_test"):
            of_model.setdefault(node.tested or "(several)", []).append(node)

    def number(tests: Sequence[Node], is_one: Callable[[Node], bool]) -> int:
        return sum(map(is_one, tests))

    found = [
        TestedModel(
            name,
            passed=number(tests, lambda test: not test.has_failed and test.status not in ("warn", "skipped")),
            warned=number(tests, lambda test: test.status == "warn"),
            failed=number(tests, lambda test: test.has_failed),
            skipped=number(tests, lambda test: test.status == "skipped"),
            seconds=sum(test.seconds for test in tests),
        )
        for name, tests in of_model.items()
    ]
    return sorted(found, key=lambda model: (-model.failed, -model.warned, model.name))


def change_sentences(run: Run) -> list[str]:
    """Return a sentence for each figure of the history that has changed for several runs."""
    found = []
    for change in figures.lasting_changes(run.history):
        more = "more" if change.share > 0 else "less"
        before, now = (f"{number:,.4g}{f' {run.figures_unit}' * bool(run.figures_unit)}" for number in change[1:])
        found.append(
            f"{value(change.figure)} has changed and stayed so for {figures.LASTING} runs:"
            f" {now} in place of {before}, {abs(change.share):.0%} {more}."
        )
    return found


def history_chart(run: Run) -> Markup | None:
    """Return small lines of the total and the largest figures over the last runs; None if there were not two."""
    if len(run.history) < 2:
        return None
    latest = run.history[-1]
    names = sorted(latest, key=lambda name: (name != "total", -latest[name]))[:MOST_LINES]
    lines = {value(name): [figures.get(name) for figures in run.history] for name in names}
    return charts.svg(charts.small_lines(lines), "Figures of the last runs, the last one at the right")


def size(number: int) -> str:
    """Return a NUMBER of bytes for people: `1.2 MB`."""
    for unit, bytes_of_it in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= bytes_of_it:
            return f"{number / bytes_of_it:,.1f} {unit}"
    return f"{number} bytes"
