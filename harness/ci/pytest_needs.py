"""Skip the tests whose needs are not met, and list at the end the missing needs: a pytest plugin.

    @pytest.mark.needs("engine", "buildx")

names what a test needs, out of `harness.ci.needs`. A fixture cannot be marked, but a parameter of it can:

    @pytest.fixture(params=[pytest.param(None, marks=pytest.mark.needs("helm", "chart"), id=pytest.HIDDEN_PARAM)])

A test that is skipped in any other way fails. `--needs buildx,chart` runs only the tests that need one of these, and
fails those whose needs are not met. Two markers follow from others: a test that needs an engine has `engine`, one with
`cluster` has `slow`.
"""

from typing import Any

import pytest

from harness.ci import needs
from harness.reporting.pytest_report import lines_of_missing, reason

SKIPPED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --needs."""
    parser.addoption(
        "--needs",
        metavar="NAME,…",
        help="run only the tests that need one of these, and fail them if something that they need is missing",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"needs(name, …): what a test needs: {', '.join(needs.NEEDS)}, python3.11.2 …")


def needs_of(item: pytest.Item) -> list[str]:
    """Return what a test needs, by name."""
    return needs.expand(name for mark in item.iter_markers("needs") for name in mark.args)


def chosen_needs(config: pytest.Config) -> set[str]:
    """Return the names given with --needs; none if it was not given."""
    option = config.getoption("--needs")
    names = set() if option is None else set(option.split(","))
    needs.expand(names)
    return names


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse unknown needs, add the markers that follow, and with --needs deselect the tests without these needs."""
    try:
        of_item = {item: set(needs_of(item)) for item in items}
        chosen = chosen_needs(config)
    except needs.UnknownNeedError as error:
        raise pytest.UsageError(str(error)) from error
    for item, names in of_item.items():
        if "engine" in names:
            item.add_marker("engine")
        if item.get_closest_marker("cluster"):
            item.add_marker("slow")
    if chosen:
        config.hook.pytest_deselected(items=[item for item in items if not of_item[item] & chosen])
        items[:] = [item for item in items if of_item[item] & chosen]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs are not met before its fixtures are set up; with --needs it fails."""
    if lines := needs.missing(needs_of(item)):
        if chosen_needs(item.config):
            pytest.fail("\n".join(lines), pytrace=False)
        item.stash[SKIPPED] = True
        pytest.skip("\n".join(lines))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Fail a test that is skipped in any other way."""
    report: pytest.TestReport = yield
    if report.skipped and not hasattr(report, "wasxfail") and not item.stash.get(SKIPPED, default=False):
        fail(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Any:
    """Fail a module that is skipped."""
    report: pytest.CollectReport = yield
    if report.skipped:
        fail(report)
    return report


def fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure."""
    report.outcome = "failed"
    report.longrepr = f'Skipped without a need: {reason(report)}\nName what it needs: @pytest.mark.needs("…")'


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Any:
    """End the run with the missing needs; with xdist in the process that has the reports of all workers."""
    yield
    if lines := lines_of_missing(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_sep("=", "skipped, because something they need is missing")
        for line in lines:
            terminalreporter.write_line(line)
