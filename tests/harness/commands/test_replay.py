"""`nox -s replay`: bad input."""

import pytest

from harness.project.paths import ROOT
from tests.harness.commands.conftest import Session


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--seed", "seven"), "--seed: seven is not a whole number from 1 on"),
        (("--days", "0"), "--days: 0 is not a whole number from 1 on"),
        (("--feed", "orders"), "There is no feed 'orders'."),
        (("--events", "no.csv"), f"{ROOT}/no.csv does not exist."),
        (("--script", "no.yaml"), "no.yaml is no delivery script: it cannot be read: No such file or directory."),
        (("--target", "embedded", "--script", "script.yaml"), "--script cannot be given with --target."),
        (("--script", "script.yaml", "--seed", "3"), "--seed cannot be given with --script."),
        (("--target", "embedded", "--days", "3"), "--days cannot be given with --target."),
        (("--target", "moon"), "A replay has no target 'moon'."),
    ],
)
def test_bad_arguments(session: Session, arguments: tuple[str, ...], what: str) -> None:
    outcome = session("replay", *arguments)
    assert outcome.exit_code
    assert outcome.errors[0].startswith(f"✗ {what}"), outcome
