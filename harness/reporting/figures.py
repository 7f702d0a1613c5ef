"""Keep the figures of the last successful runs in `build/figures/<name>.json`, to compare the next one with them."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from harness.project.paths import BUILD, from_root
from harness.reporting.console import say

FIGURES = BUILD / "figures"
KEPT = 30  # runs of a name
CHANGE = 0.2  # of a figure, from which on it is one
LASTING = 3  # runs, after which a change is no accident


@dataclass(frozen=True)
class KeptRun:
    """The figures of a run.

    Attributes:
        ended_at: an ISO date and time in UTC; empty if an older version kept it.
        steps: the seconds of its tasks, loads and nodes of dbt, by `harness.reporting.report.run.step_names`.
        is_main: whether it ran a commit of the default branch, without changes.
    """

    ended_at: str
    figures: dict[str, float]
    steps: dict[str, float] = field(default_factory=dict)
    is_main: bool = False


class LastingChange(NamedTuple):
    """A figure that differs in the last `LASTING` runs from what it usually was before.

    Attributes:
        before: the median of the runs before.
        now: the median of the runs since.
    """

    figure: str
    before: float
    now: float

    @property
    def share(self) -> float:
        """The change as a share of what it was: 0.5 is half as much again."""
        return self.now / self.before - 1


def last(name: str) -> dict[str, float]:
    """Return the figures of the last run of NAME; empty if there was none, or the file cannot be read."""
    runs, _ = history(name)
    return runs[-1].figures if runs else {}


def history(name: str) -> tuple[list[KeptRun], str]:
    """Return the runs of NAME, the last one last, and a sentence about the file if it is damaged: then there are none.

    An older version kept only the figures of the last run.
    """
    path = FIGURES / f"{name}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        runs: Any = [{"ended_at": "", "figures": stored}] if isinstance(stored, dict) else stored
        return [
            KeptRun(
                str(run["ended_at"]),
                _numbers(run["figures"]),
                _numbers(run.get("steps", {})),
                is_main=run.get("is_main") is True,
            )
            for run in runs
        ], ""
    except FileNotFoundError:
        return [], ""
    except (OSError, ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        return [], f"{from_root(path)} was ignored: it is damaged ({type(error).__name__})."


def _numbers(figures: Mapping[str, object]) -> dict[str, float]:
    numbers = {str(name): float(str(value)) for name, value in figures.items()}
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError
    return numbers


def keep(
    name: str, figures: Mapping[str, float], steps: Mapping[str, float] | None = None, *, is_main: bool = False
) -> None:
    """Add the FIGURES of a run to those of the last runs of NAME; if that fails, say so: this run has succeeded.

    Beyond `KEPT` runs the oldest ones go, but not the last one of the default branch. See `KeptRun`.
    """
    ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    runs = [*history(name)[0], KeptRun(ended_at, _rounded(figures), _rounded(steps or {}), is_main)]
    main = [run for run in runs[:-KEPT] if run.is_main][-1:] if not last_of_main(runs[-KEPT:]) else []
    runs = [*main, *runs[len(main) - KEPT :]]
    try:
        FIGURES.mkdir(parents=True, exist_ok=True)
        text = json.dumps([asdict(run) for run in runs], indent=1)
        unfinished = FIGURES / f"{name}.json.part"  # a disk that is full must not cost the runs before
        unfinished.write_text(f"{text}\n", encoding="utf-8")
        unfinished.replace(FIGURES / f"{name}.json")
    except OSError as error:
        say(f"  the figures cannot be kept for the next run: {error}")


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {figure: round(value, 3) for figure, value in figures.items()}


def last_of_main(runs: Sequence[KeptRun]) -> KeptRun | None:
    """Return the last of RUNS that ran a commit of the default branch; None if there is none."""
    return next((run for run in reversed(runs) if run.is_main), None)


def lasting_changes(runs: Sequence[Mapping[str, float]]) -> list[LastingChange]:
    """Return the figures of the last of RUNS that have changed by more than `CHANGE` for `LASTING` runs."""
    found = []
    for figure in runs[-1] if runs else ():
        values = [run[figure] for run in runs if figure in run]
        before, since = values[:-LASTING], values[-LASTING:]
        if not before or (usual := statistics.median(before)) <= 0:
            continue
        if all(value > usual * (1 + CHANGE) for value in since) or all(value < usual * (1 - CHANGE) for value in since):
            found.append(LastingChange(figure, usual, statistics.median(since)))
    return found
