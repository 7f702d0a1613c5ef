"""The command that takes a kept run down works in another shell."""

import pytest

from harness.targets.takedown import down_command


@pytest.mark.parametrize(
    ("temporary", "command"),
    [("", "nox -s dbt -- --down"), ("/mnt/large disk", "TMPDIR='/mnt/large disk' nox -s dbt -- --down")],
)
def test_the_command_names_the_temporary_directory_of_the_run(
    monkeypatch: pytest.MonkeyPatch, temporary: str, command: str
) -> None:
    monkeypatch.setenv("TMPDIR", temporary)
    assert down_command("dbt") == command
