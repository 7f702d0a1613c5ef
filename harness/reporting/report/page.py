"""Write the report of a run as a page."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from feeds.uri import without_secrets
from harness.reporting import charts, figures, page
from harness.reporting.report import lineage, timing
from harness.reporting.report.run import Day, Node, Run, Series, Step, tests_by_model
from harness.reporting.summary import seconds
from harness.reporting.wording import count, listed, value

FOLDER = Path(__file__).parent
MOST_LINES = 6  # of the history
SLOWEST = 10
MOST_CHARS = 10_000  # of a text that is looked at; a page shows far fewer, so that no secret is cut in two
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How much a page shows: rows of a table, days of a series, characters of a value."""

    rows: int
    days: int
    chars: int


ROOMY, TIGHT = Limits(rows=300, days=2_000, chars=400), Limits(rows=20, days=20, chars=60)


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
    has_both: bool
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
    environment.globals.update(
        count=count,
        listed=listed,
        most=limits.rows,
        most_days=limits.days,
        since=lambda at: timing.since(run, at),
        earlier=lambda steps: timing.earlier(run, steps),
        anchor=lineage.anchor,
    )
    kinds = timing.rows(run, total_s)
    context = {
        "run": run,
        "total_s": total_s,
        "phases": timing.phases(run, total_s),
        "time": timing.chart(kinds, total_s),
        "total": timing.total_sentence(run, total_s),
        "sentences": timing.sentences(kinds),
        "days": days_chart(run.days or ()),
        "graph": lineage.graph(run.datasets),
        "entries": lineage.entries(run.datasets, run.nodes),
        "wrong": [number for number in run.numbers if not number.is_right],
        "pictures": [picture(series) for series in run.series if series.points],
        "tested": tested_models(run.nodes),
        "slowest": slowest(run),
        "notable": [node for node in run.nodes if node.has_failed or node.status == "warn"],
        "warned": sum(node.status == "warn" for node in run.nodes),
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


def picture(series: Series) -> Picture:
    """Return SERIES as a chart, with a sentence: on how many days both sides are known and differ."""
    grain, points = charts.by_grain(list(series.points))
    sides = [{day for day, *both in series.points if both[side] is not None} for side in (0, 1)]
    different = [day for day, expected, found in series.points if expected != found]
    if not sides[0]:
        text = "It was not computed independently."
    elif not sides[1]:
        text = "The warehouse has none."
    elif different:
        text = f"Both differ on {count(len(different), 'day')}, first on {different[0]}."
    else:
        text = f"Both are equal on each of {count(len(series.points), 'day')}."
    svg = charts.svg(charts.two_lines(points, grain), f"{value(series.title)}: {text}")
    return Picture(series, all(sides), text, svg)


def days_chart(days: Sequence[Day]) -> Markup | None:
    """Return how many rows of each of DAYS, of all feeds, came late and were corrected; None if none was."""
    counts: dict[date, list[int]] = {}
    for each in days:
        of_day = counts.setdefault(each.day, [0, 0])
        of_day[0] += each.late
        of_day[1] += each.corrected
    if not any(map(any, counts.values())):
        return None
    grain, points = charts.by_grain([(day, late, corrected) for day, (late, corrected) in sorted(counts.items())])
    return charts.svg(charts.stacked_bars(points, grain), f"Late and corrected rows by {grain}")


def tested_models(nodes: Sequence[Node]) -> list[TestedModel]:
    """Return how the tests of each model ended, those with failures and warnings first."""

    def number(tests: Sequence[Node], is_one: Callable[[Node], bool]) -> int:
        return sum(map(is_one, tests))

    found = [
        TestedModel(
            name or "(several)",
            passed=number(tests, lambda test: not test.has_failed and test.status not in ("warn", "skipped")),
            warned=number(tests, lambda test: test.status == "warn"),
            failed=number(tests, lambda test: test.has_failed),
            skipped=number(tests, lambda test: test.status == "skipped"),
            seconds=sum(test.seconds for test in tests),
        )
        for name, tests in tests_by_model(nodes).items()
    ]
    return sorted(found, key=lambda model: (-model.failed, -model.warned, model.name))


def slowest(run: Run) -> list[tuple[Step, float | None, float | None]]:
    """Return the nodes of dbt that took longest, with how long they took in earlier runs."""
    timed = timing.earlier(run, [node.step for node in run.nodes])
    return sorted(timed, key=lambda each: each[0].seconds or 0, reverse=True)[:SLOWEST]


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
