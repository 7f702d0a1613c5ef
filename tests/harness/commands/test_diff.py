"""`nox -s diff` as a command: bad input, interrupts; tests/e2e/test_diff.py has whole comparisons."""

import signal
from pathlib import Path
from typing import Any

import pytest

from harness.project.session_lock import session_lock
from harness.warehouse.server import Server
from tests import comparisons, harness_command
from tests.comparisons import command, interrupt, interrupted_after, made
from tests.harness.commands.conftest import Session

pytestmark = pytest.mark.needs("git")


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def options(repository: Path, temporary: Path) -> dict[str, Any]:
    return comparisons.options(repository, temporary)


def test_an_interrupt_while_dbt_runs_leaves_nothing(server: Server, options: dict[str, Any], temporary: Path) -> None:
    interrupted_after("loaded 14 events", server, options, temporary)


def test_a_second_session_waits_for_the_first(server: Server, options: dict[str, Any], repository: Path) -> None:
    (repository / "build" / "diff").mkdir()
    with session_lock(repository / "build" / "diff" / ".lock", "compares"):
        process = harness_command.start(*command(server), **options)
        harness_command.read_until(process, "^… waiting for another session, which compares in this clone$")
        interrupt(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["--feed", "orders=a.csv"],
            [
                "✗ There is no feed 'orders'.",
                "  The feeds are: events.",
                "  Name one of them, or make it: nox -s feed -- new NAME --from FILE",
            ],
        ),
        (
            ["--feed", "events=a.csv", "--events", "b.csv"],
            [
                "✗ The files of events are given twice.",
                "  --feed events=URI is the same as --events URI, and a pattern may name several files.",
                "  Give them once: --feed events=URI",
            ],
        ),
        (
            ["--warehouse-dsn", "postgresql://h/d", "--events", "a.csv"],
            [
                "✗ --warehouse-dsn cannot be given with --events or --feed.",
                "  The rows are those of the warehouse.",
                "  Leave one of them out.",
            ],
        ),
    ],
)
def test_arguments_that_are_not_valid(session: Session, arguments: list[str], lines: list[str]) -> None:
    outcome = session("diff", *arguments)
    assert (outcome.exit_code, outcome.errors, outcome.output) == (2, lines, [])


@pytest.mark.parametrize("text", ["orders", "=a.csv", "orders="])
def test_files_of_a_feed_without_a_name_or_without_files(session: Session, text: str) -> None:
    session("diff", "--feed", text).is_error(2, f"--feed: {text} is not NAME=URI.")


@pytest.mark.needs("history")
def test_a_base_that_is_not_there(session: Session) -> None:
    session("diff", "--base", "no/such/branch").is_error(70, "There is no commit 'no/such/branch' in this clone.")


@pytest.mark.needs("history")
@pytest.mark.parametrize("option", ["--events={}", "--feed=events={}"])
def test_files_that_are_not_there(session: Session, server: Server, tmp_path: Path, option: str) -> None:
    missing = tmp_path / "missing.csv"
    before = made(server)
    outcome = session("diff", "--base", "HEAD", "--postgres", server.dsn, option.format(missing))
    outcome.is_error(10, f"{missing} does not exist.")
    assert made(server) == before
