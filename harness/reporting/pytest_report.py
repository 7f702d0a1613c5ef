"""Report a pytest run on the terminal, in the step's summary and beside the lines of the change: a pytest plugin.

The terminal ends with the ten slowest tests and the session's time, compared with its budget in pyproject.toml
(`[tool.events-platform.budget_s]`). Programs that the tests start must not write to the session's summary: while tests
run, the variables that make a program do so are unset.
"""

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from harness.project.settings import settings
from harness.reporting.annotations import Finding, annotate, in_repository
from harness.reporting.summary import VARIABLE, Section, code, details, seconds, span, table, text

SHOWN = 30  # failures in full
SLOWEST = 10
MESSAGE_LINES = (7, 3)  # the first and the last
ENDS = {2: "interrupted", 3: "pytest itself failed", 4: "invalid arguments", 5: "no tests ran"}
VARIABLES = (VARIABLE, "GITHUB_ACTIONS")
STEP = re.compile(r'^(?:E? +File ")?(\S+?)(?:", line |:)(\d+)', re.MULTILINE)  # of a traceback that is only text
HIDDEN = pytest.StashKey[dict[str, str]]()
STARTED = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hide from the tests, and from xdist's workers, where the summary is."""
    config.stash[STARTED] = time.monotonic()
    config.stash[HIDDEN] = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Restore the hidden variables."""
    hidden: dict[str, str] = config.stash[HIDDEN]
    os.environ.update(hidden)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print the times and write the summary; called once, at the end, in the process that has all reports."""
    pytest_unconfigure(config)
    session = os.environ.get("NOX_CURRENT_SESSION")
    stats: dict[str, list[Any]] = terminalreporter.stats
    slowest = slowest_tests([report for reports in stats.values() for report in reports])
    total = budget_line(session, time.monotonic() - config.stash[STARTED])
    if session and slowest:
        terminalreporter.write_sep("=", f"the {len(slowest)} slowest tests, with setup and teardown")
        for name, duration_s in slowest:
            terminalreporter.write_line(f"{duration_s:6.1f} s  {name}")
        terminalreporter.write_line(total)
    section = Section(session or "pytest", went_well=exitstatus == 0, started=config.stash[STARTED])
    section.headline = headline(stats, exitstatus)
    failures = [Failure(report, config) for kind in ("error", "failed") for report in stats.get(kind, [])]
    rows = [(span(name), f"{duration_s:.1f}") for name, duration_s in slowest]
    section.add(
        annotate([failure.finding() for failure in failures]),
        *(failure.block() for failure in failures[:SHOWN]),
        f"… and {len(failures) - SHOWN} more: the log has all." if len(failures) > SHOWN else "",
        rerun(session, failures),
        skipped(stats.get("skipped", [])),
        text(total) if slowest else "",
        details(f"The {len(rows)} slowest", table(("test", "seconds"), rows, numbers=("seconds",))) if rows else "",
    )
    section.write()


def headline(stats: dict[str, list[Any]], exitstatus: int) -> str:
    """Return how many tests ended how."""
    kinds = {"failed": "failed", "error": "errors", "passed": "passed", "skipped": "skipped", "xfailed": "xfailed"}
    counts = [f"{len(stats[kind]):,} {name}" for kind, name in kinds.items() if stats.get(kind)]
    return ", ".join([ENDS[exitstatus], *counts] if exitstatus in ENDS else counts)


def slowest_tests(reports: Sequence[Any]) -> list[tuple[str, float]]:
    """Return the slowest tests and their seconds, setup and teardown included, the slowest first."""
    taken: dict[str, float] = defaultdict(float)
    for report in reports:
        if hasattr(report, "duration"):  # not a warning
            taken[report.nodeid] += report.duration
    return sorted(taken.items(), key=lambda item: -item[1])[:SLOWEST]


def budget_line(session: str | None, total_s: float) -> str:
    """Return the total time of a SESSION, and how that compares with its budget, if it has one."""
    budget_s = settings()["budget_s"].get(session)
    if budget_s is None:
        return f"Total: {seconds(total_s)}"
    where = "pyproject.toml, [tool.events-platform.budget_s]"
    if total_s <= budget_s:
        return f"Total: {seconds(total_s)}, within the budget of {budget_s} s ({where})"
    return f"Total: {seconds(total_s)}, OVER the budget of {budget_s} s ({where}): make the slowest tests cheaper"


class Failure:
    """A test that failed, or could not be collected, set up or torn down."""

    def __init__(self, report: Any, config: pytest.Config) -> None:
        self.report = report
        self.folder = config.invocation_params.dir
        self.rootpath = config.rootpath
        self.name = report.nodeid.rpartition("::")[2] if "::" in report.nodeid else report.nodeid
        self.full = str(report.longrepr or "")

    @property
    def message(self) -> str:
        """The assertion's or exception's message."""
        all_lines = self.full.splitlines()
        if crash := getattr(self.report.longrepr, "reprcrash", None):
            lines = crash.message.splitlines()
        else:  # of collection, or of a worker that crashed: pytest marks the message's lines by an E
            lines = [line[4:] for line in all_lines if line.startswith("E ")] or all_lines
        if len(lines) > sum(MESSAGE_LINES):  # compared values are at the end
            first, last = MESSAGE_LINES
            lines[first:-last] = [f"… {len(lines) - first - last} more lines"]
        return "\n".join(lines) or "There is no message."

    @property
    def steps(self) -> list[tuple[str, int]]:
        """The traceback's files and lines in the repository, from the test on."""
        entries = getattr(getattr(self.report.longrepr, "reprtraceback", None), "reprentries", [])
        locations = [getattr(entry, "reprfileloc", None) for entry in entries]
        found = [(location.path, location.lineno) for location in locations if location] or STEP.findall(self.full)
        places = [(in_repository(self.folder / path), int(line)) for path, line in found]
        return [(path, line) for path, line in places if path and not path.startswith(".nox/")]

    @property
    def place(self) -> tuple[str, int | None]:
        """The line of the test that failed; its first line if the traceback has none of it."""
        path, line, _ = getattr(self.report, "location", None) or (self.report.nodeid.partition("::")[0], None, "")
        path = in_repository(self.rootpath / path)
        of_test = [number for file, number in self.steps if file == path]
        return path, of_test[0] if of_test else line and line + 1

    @property
    def raised_at(self) -> str:
        """The last line of the repository in the traceback; empty where it is `place`."""
        last = self.steps[-1:]
        return "" if last in ([], [self.place]) else f"{last[0][0]}:{last[0][1]}"

    def finding(self) -> Finding:
        """Return the annotation of the test's line."""
        path, line = self.place
        raised_at = f"\nraised at {self.raised_at}" if self.raised_at else ""
        return Finding(path, line, self.title, self.message + raised_at)

    @property
    def title(self) -> str:
        """What failed, in a few words."""
        step = {"collect": "be collected", "setup": "be set up", "teardown": "be torn down"}.get(self.report.when)
        return f"{self.name} could not {step}" if step else f"{self.name} failed"

    def block(self) -> str:
        """Return the failure as Markdown."""
        where = span(self.finding().place or self.report.nodeid)
        raised_at = f", raised at {span(self.raised_at)}" if self.raised_at else ""
        captured = [f"---- {name} ----\n{output}" for name, output in getattr(self.report, "sections", [])]
        full = details("The whole failure", code("\n".join([self.full, *captured]), last=100))
        return "\n\n".join([f"### {text(self.title)}", f"at {where}{raised_at}", code(self.message), full])


def rerun(session: str | None, failures: Sequence[Failure]) -> str:
    """Return the command that runs only the tests that failed."""
    names = list(dict.fromkeys(failure.name.partition("[")[0] for failure in failures))
    if not (session and names):
        return ""
    command = f'nox -s {session} -- -k "{" or ".join(names[:5])}"'
    return f"**What to do:** run only what failed: {span(command)}"


def skipped(reports: Sequence[Any]) -> str:
    """Return a list of what is missing, how many of the skipped tests need it, and how to get it."""
    if not reports:
        return ""
    heading = f"**{len(reports):,} skipped, because something they need is missing**\n"
    return "\n".join([heading, *(f"- {text(line)}" for line in lines_of_missing(reports))])


def reason(report: Any) -> str:
    """Return why a test was skipped."""
    longrepr = report.longrepr
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")


def lines_of_missing(reports: Sequence[Any]) -> list[str]:
    """Return a line for each thing that the skipped tests of REPORTS need; what most of them need is first."""
    count = Counter(line for report in reports for line in reason(report).splitlines())
    ordered = sorted(count, key=lambda line: (-count[line], line))
    return [f"{count[line]:,} {'test needs' if count[line] == 1 else 'tests need'} {line}" for line in ordered]
