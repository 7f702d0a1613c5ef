"""Skip the tests whose needs are not met, and no others, and end with what they wait for: a plugin of pytest.

    @pytest.mark.needs("engine", "buildx")

names what a test needs, out of `harness.ci.needs`. A fixture cannot be marked, but a parameter of it can:

    @pytest.fixture(params=[pytest.param(None, marks=pytest.mark.needs("helm", "chart"), id=pytest.HIDDEN_PARAM)])

A test that is skipped in another way fails. `--needs buildx,chart` runs only the tests that need one of these, and
fails those whose needs are not met.
"""

from typing import Any

import pytest

from harness.ci import needs
from harness.reporting.pytest_report import reason, waiting_lines

SKIPPED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --needs."""
    parser.addoption(
        "--needs",
        metavar="NAME,…",
        help="run only the tests that need one of these; they fail where something that they need is missing",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"needs(name, …): what a test needs: {', '.join(needs.NEEDS)}, python3.11.2 …")


def asked(item: pytest.Item) -> list[str]:
    """Return what a test needs, by name."""
    return needs.expand(name for mark in item.iter_markers("needs") for name in mark.args)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse needs that there are not; with --needs leave out the tests that have none of those."""
    try:
        of_item = {item: set(asked(item)) for item in items}
        chosen = chosen_needs(config)
    except needs.UnknownNeedError as error:
        raise pytest.UsageError(str(error)) from error
    if chosen:
        config.hook.pytest_deselected(items=[item for item in items if not of_item[item] & chosen])
        items[:] = [item for item in items if of_item[item] & chosen]


def chosen_needs(config: pytest.Config) -> set[str]:
    """Return what --needs names; nothing where it was not given."""
    told = config.getoption("--needs")
    if told is None:
        return set()
    names = set(told.split(","))
    needs.expand(names)
    return names


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs are not met, before any of its fixtures is made; with --needs it fails."""
    if lines := needs.missing(asked(item)):
        if chosen_needs(item.config):
            pytest.fail("\n".join(lines), pytrace=False)
        item.stash[SKIPPED] = True
        pytest.skip("\n".join(lines))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Let no test be skipped in another way."""
    report: pytest.TestReport = yield
    if report.skipped and not hasattr(report, "wasxfail") and not item.stash.get(SKIPPED, default=False):
        refuse(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Any:
    """Let no module be skipped."""
    report: pytest.CollectReport = yield
    if report.skipped:
        refuse(report)
    return report


def refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skip."""
    report.outcome = "failed"
    report.longrepr = f'Skipped without a need: {reason(report)}\nName what it needs: @pytest.mark.needs("…")'


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Any:
    """End the run with what is missing; with xdist in the process that has the reports of all workers."""
    yield
    if lines := waiting_lines(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_sep("=", "not run, since something is missing")
        for line in lines:
            terminalreporter.write_line(line)
