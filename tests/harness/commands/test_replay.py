"""`nox -s replay`: bad input, a fault that is found and shrunk, and an interrupt."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.commands.conftest import Session

NEXT = "  The options are listed in docs/targets.md and, for dbt, in docs/add-a-model.md."


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--seed", "seven"), "--seed: seven is not a whole number from 1 on"),
        (("--days", "0"), "--days: 0 is not a whole number from 1 on"),
        (("--feed", "orders"), "There is no feed 'orders'."),
        (("--events", "no.csv"), "There is no file"),
        (("--target", "moon"), "There is no target 'moon'."),
    ],
)
def test_bad_arguments(session: Session, arguments: tuple[str, ...], what: str) -> None:
    outcome = session("replay", *arguments)
    assert outcome.exit_code
    assert outcome.errors[0].startswith(f"✗ {what}"), outcome
