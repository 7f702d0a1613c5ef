"""Tell in the step's summary and beside the lines of the change how a run of pytest ended: a plugin of pytest's.

    pytest -p harness.reporting.pytest_report

What the tests start is no session of its own: while they run, the variables that make a session tell are unset.
"""

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from harness.reporting.annotations import Finding, annotate, in_repository
from harness.reporting.summary import VARIABLE, Section, code, details, span, table, text

SHOWN = 30  # failures in full
SLOWEST = 5
MESSAGE_LINES = (7, 3)  # the first and the last
ENDS = {2: "interrupted", 3: "pytest itself failed", 4: "pytest was called wrongly", 5: "there was no test to run"}
VARIABLES = (VARIABLE, "GITHUB_ACTIONS")
STEP = re.compile(r'^(?:E? +File ")?(\S+?)(?:", line |:)(\d+)', re.MULTILINE)  # of a traceback that is text alone
HIDDEN = pytest.StashKey[dict[str, str]]()
STARTED = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hide from the tests, and from xdist's workers, where the summary is."""
    config.stash[STARTED] = time.monotonic()
    config.stash[HIDDEN] = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Give back what was hidden."""
    tell_again(config)


def tell_again(config: pytest.Config) -> None:
    """Give the variables back that were hidden."""
    hidden: dict[str, str] = config.stash[HIDDEN]
    os.environ.update(hidden)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Write the session's section; called once, at the end, in the process that has all reports."""
    tell_again(config)
    stats: dict[str, list[Any]] = terminalreporter.stats
    section = Section(os.environ.get("NOX_CURRENT_SESSION", "pytest"), started=config.stash[STARTED])
    section.went_well = exitstatus == 0
    section.headline = headline(stats, exitstatus)
    failures = [Failure(report, config) for kind in ("error", "failed") for report in stats.get(kind, [])]
    section.add(
        annotate([failure.finding() for failure in failures]),
        *(failure.block() for failure in failures[:SHOWN]),
        f"… and {len(failures) - SHOWN} more: the log has all." if len(failures) > SHOWN else "",
        again(failures),
        waiting(stats.get("skipped", [])),
        expected(stats.get("xfailed", [])),
        slowest([report for reports in stats.values() for report in reports if hasattr(report, "duration")]),
    )
    section.write()


def headline(stats: dict[str, list[Any]], exitstatus: int) -> str:
    """Return how many tests ended how."""
    kinds = {"failed": "failed", "error": "errors", "passed": "passed", "skipped": "skipped", "xfailed": "xfailed"}
    counts = ", ".join(f"{len(stats[kind]):,} {name}" for kind, name in kinds.items() if stats.get(kind))
    told = [ENDS[exitstatus]] if exitstatus in ENDS else []
    return ", ".join(filter(None, [*told, counts]))


class Failure:
    """A test that failed, or what could not be collected, set up or taken down."""

    def __init__(self, report: Any, config: pytest.Config) -> None:
        self.report = report
        self.folder = config.invocation_params.dir
        self.rootpath = config.rootpath
        self.when = report.when
        self.name = report.nodeid.rpartition("::")[2] if "::" in report.nodeid else report.nodeid
        self.full = str(report.longrepr or "")

    @property
    def message(self) -> str:
        """What the failing line says: the assertion's message, the exception."""
        all_lines = self.full.splitlines()
        if crash := getattr(self.report.longrepr, "reprcrash", None):
            lines = crash.message.splitlines()
        else:  # what collection says, or a worker that crashed: pytest marks what matters by an E
            lines = [line[4:] for line in all_lines if line.startswith("E ")] or all_lines
        if len(lines) > sum(MESSAGE_LINES):  # what is compared stands at the end
            first, last = MESSAGE_LINES
            lines[first:-last] = [f"… {len(lines) - first - last} more lines"]
        return "\n".join(lines) or "It says nothing."

    @property
    def steps(self) -> list[tuple[str, int]]:
        """The files of the repository and their lines that the traceback goes through, from the test on."""
        entries = getattr(getattr(self.report.longrepr, "reprtraceback", None), "reprentries", [])
        locations = [getattr(entry, "reprfileloc", None) for entry in entries]
        found = [(location.path, location.lineno) for location in locations if location] or STEP.findall(self.full)
        places = [(in_repository(self.folder / path), int(line)) for path, line in found]
        return [(path, line) for path, line in places if path and not path.startswith(".nox/")]

    @property
    def place(self) -> tuple[str, int | None]:
        """The line of the test that failed, or where it begins if none did."""
        path, line, _ = getattr(self.report, "location", None) or (self.report.nodeid.partition("::")[0], None, "")
        path = in_repository(self.rootpath / path)
        of_test = [number for file, number in self.steps if file == path]
        return path, of_test[0] if of_test else line and line + 1

    @property
    def came_from(self) -> str:
        """The last line of the repository that the traceback goes through; empty where it is the test's own."""
        last = self.steps[-1:]
        return "" if last in ([], [self.place]) else f"{last[0][0]}:{last[0][1]}"

    def finding(self) -> Finding:
        """Return what is shown beside the line."""
        path, line = self.place
        came_from = f"\nIt comes from {self.came_from}" if self.came_from else ""
        return Finding(path, line, self.title, self.message + came_from)

    @property
    def title(self) -> str:
        """Say in a few words what failed."""
        how = {"collect": "not be collected", "setup": "not be set up", "teardown": "not be taken down"}
        return f"{self.name} could {how[self.when]}" if self.when in how else f"{self.name} failed"

    def block(self) -> str:
        """Return what the summary says of it."""
        where = span(self.finding().place or self.report.nodeid)
        came_from = f", out of {span(self.came_from)}" if self.came_from else ""
        told = [f"### {text(self.title)}", f"at {where}{came_from}", code(self.message)]
        full = [self.full, *(f"---- {name} ----\n{said}" for name, said in getattr(self.report, "sections", []))]
        told.append(details("The whole failure", code("\n".join(full), last=100)))
        return "\n\n".join(told)


def again(failures: Sequence[Failure]) -> str:
    """Return the command that runs just what failed."""
    session = os.environ.get("NOX_CURRENT_SESSION")
    names = list(dict.fromkeys(failure.name.partition("[")[0] for failure in failures))
    if not (session and names):
        return ""
    command = f'nox -s {session} -- -k "{" or ".join(names[:5])}"'
    return f"**What to do:** run what failed alone, {span(command)}"


def waiting(reports: Sequence[Any]) -> str:
    """Return a list of what is missing, how many of the skipped tests wait for it, and how to get it."""
    lines = [f"- {text(line)}" for line in waiting_lines(reports)]
    return "\n".join([f"**{len(reports):,} did not run, since something is missing**\n", *lines]) if lines else ""


def reason(report: Any) -> str:
    """Return why a test was skipped."""
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    return str(told).removeprefix("Skipped: ")


def waiting_lines(reports: Sequence[Any]) -> list[str]:
    """Return a line for each thing that the skipped tests of REPORTS wait for; what most of them wait for is first."""
    count = Counter(line for report in reports for line in reason(report).splitlines())
    ordered = sorted(count, key=lambda line: (-count[line], line))
    return [f"{count[line]:,} {'test waits' if count[line] == 1 else 'tests wait'} for {line}" for line in ordered]


def expected(reports: Sequence[Any]) -> str:
    """Return a table of the tests that may fail, and why."""
    rows = [(span(report.nodeid), report.wasxfail) for report in reports]
    return f"**{len(reports):,} may fail**\n\n{table(('test', 'why'), rows)}" if rows else ""


def slowest(reports: Sequence[Any]) -> str:
    """Return a table of the tests that took longest, what sets them up and takes them down included."""
    taken: dict[str, float] = defaultdict(float)
    for report in reports:
        taken[report.nodeid] += report.duration
    longest = sorted(taken.items(), key=lambda item: -item[1])[:SLOWEST]
    rows = [(span(name), f"{duration_s:.1f}") for name, duration_s in longest]
    return details(f"The {len(rows)} slowest", table(("test", "seconds"), rows, numbers=("seconds",))) if rows else ""
