"""Write the report of a run when it ends, well or not."""

import contextlib
from collections.abc import Iterator, Mapping

from feeds.errors import FeedError
from feeds.uri import first_line, without_secrets
from harness.project.paths import BUILD, from_root
from harness.reporting import figures
from harness.reporting.console import say
from harness.reporting.report import pytest_results
from harness.reporting.report.page import write_page
from harness.reporting.report.run import Failure, Run, step_seconds
from harness.reporting.summary import Section

PAGE = BUILD / "report" / "index.html"


def begin(section: Section, title: str, **facts: str) -> Run:
    """Begin the report of the command that SECTION is about, and return what it will show: its caller adds to it.

    A command that knows its TITLE only later begins twice.

    The report of an earlier run is removed: it would be taken for this one's, should this one be killed.
    """
    section.run = Run(title, facts, pytest=list(pytest_results.read()))
    with contextlib.suppress(OSError):
        PAGE.unlink(missing_ok=True)
    return section.run


def compare_with_last(run: Run, name: str) -> None:
    """Give RUN the figures of the last runs of NAME, and say in it if their file is damaged."""
    runs, damage = figures.history(name)
    run.history = [each.figures for each in runs]
    run.last, run.main = (runs[-1] if runs else None), figures.last_of_main(runs)
    run.phases.last = run.last.figures if run.last else {}
    if damage:
        run.notes.append(damage)


def keep_figures(run: Run, name: str, measured: Mapping[str, float]) -> None:
    """Add what RUN has MEASURED to its own history, and to the runs of NAME that are kept."""
    run.history = [*run.history, dict(measured)]
    figures.keep(name, measured, step_seconds(run), is_main=run.is_main)


@contextlib.contextmanager
def reported(section: Section) -> Iterator[None]:
    """Write the report at the end of the block, if one was begun in it."""
    try:
        yield
    except BaseException as error:
        write(section.run, error)
        raise
    write(section.run)


def write(run: Run | None, error: BaseException | None = None) -> None:
    """Write the report of RUN, which ended with ERROR if given; a report that fails is a line and not an error."""
    if run is None:
        return
    try:
        if error is not None:
            run.failure = failure_of(error)
        write_page(run, PAGE)
        say(f"  report: {from_root(PAGE)}")
    except Exception as second:  # noqa: BLE001 - whatever is wrong with it, the run's own result matters more
        say(f"  the report cannot be written: {first_line(second, *run.secrets)}")


def failure_of(error: BaseException) -> Failure:
    """Return what is shown of ERROR."""
    if isinstance(error, FeedError):
        return Failure(error.what, error.why, error.next_step)
    what = without_secrets(f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'without a message')}")
    return Failure(what, "This is a defect: the error was not expected.", "Read the traceback on the terminal.")
