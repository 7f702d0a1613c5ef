"""Print progress on the terminal: one line per step as it ends, plain text, groups on GitHub."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path


def on_github() -> bool:
    """Return whether this runs in GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def say(line: str) -> None:
    """Print a line at once; a closed terminal or pipe does not stop the program."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def error(what: str, why: str, next_step: str) -> None:
    """Print an expected error: what happened, why most likely, what to run next."""
    with contextlib.suppress(OSError):
        print(f"✗ {what}\n  {why}\n  {next_step}", file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, ["─" * width for width in widths], *rows):
        cells = [cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        say("  " + "  ".join(cells))


@contextlib.contextmanager
def group(title: str) -> Iterator[None]:
    """Fold the output of the block on GitHub; elsewhere print the title above it."""
    folds = on_github()
    say(f"::group::{title}" if folds else f"── {title}")
    try:
        yield
    finally:
        if folds:
            say("::endgroup::")


@dataclass
class Phases:
    """The phases of a run that have ended, with their times.

    Attributes:
        seconds: by phase, in the order of their ends.
        starts: seconds from the first moment to the start of each phase.
        failed_in: the innermost phase that failed; None if none did.
        last: the seconds of the previous comparable run, by phase; empty if they are unknown.
        started, started_at: the first moment, by the monotonic clock and by the calendar.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    failed_in: str | None = None
    last: Mapping[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator["Phase"]:
        """Time the block, and print `✓ text (seconds)` when it succeeds."""
        phase = Phase(name)
        begun = time.monotonic()
        try:
            yield phase
        except BaseException:
            unfinished = f"{name} (not finished)"
            self.seconds[unfinished], self.starts[unfinished] = time.monotonic() - begun, begun - self.started
            self.failed_in = self.failed_in or name
            raise
        self.seconds[name], self.starts[name] = time.monotonic() - begun, begun - self.started
        if phase.went_well:
            say(f"✓ {phase.text} ({self.seconds[name]:.1f} s)")

    @property
    def header(self) -> tuple[str, ...]:
        """The column names of `rows`."""
        return ("phase", "seconds", "last time") if self.last else ("phase", "seconds")

    def rows(self) -> list[tuple[str, ...]]:
        """Return each phase, of which some overlap, and the total, with their seconds and, if known, the last run's."""
        rows: list[tuple[str, ...]] = []
        for name, seconds in self.figures().items():
            before = f"{self.last[name]:.1f}" if name in self.last else ""
            rows.append((name, f"{seconds:.1f}", before) if self.last else (name, f"{seconds:.1f}"))
        return rows

    def figures(self) -> dict[str, float]:
        """Return the seconds of each phase and the total."""
        return {**self.seconds, "total": self.total_s}

    @property
    def total_s(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self.started


def say_phases(phases: Phases) -> None:
    """Print the table of PHASES between empty lines; nothing if none has ended, as when a run is refused."""
    if phases.seconds:
        say("")
        table(phases.header, phases.rows())
        say("")


@dataclass
class Phase:
    """A running phase: the block may change its text, or have it not printed."""

    text: str
    went_well: bool = True


def write_phases(path: Path, phases: Phases) -> None:
    """Write the phases as JSON: seconds by phase, in the order of their ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"total_s": round(phases.total_s, 1), "phases_s": {k: round(v, 1) for k, v in phases.seconds.items()}}
    path.write_text(json.dumps(content, indent=2) + "\n")
