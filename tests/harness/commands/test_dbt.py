"""`nox -s dbt`: which commands need models, and which options exclude one another; its runs: tests/e2e/test_dbt.py."""

import pytest

from harness.commands.dbt import on_one_line, planned
from tests.harness.commands.conftest import Session


@pytest.mark.parametrize(
    ("arguments", "target", "what"),
    [
        ("--keep --postgres host=x", "test", "--keep is for an ephemeral server, and this one is yours."),
        ("--reuse --postgres host=x", "test", "--reuse is for an ephemeral server, and this one is yours."),
        ("--keep", "prod", "--keep is for an ephemeral server, and this one is yours."),
        ("--postgres host=x", "prod", "--postgres is for an ephemeral warehouse, and DBT_TARGET=prod is for your own."),
    ],
)
def test_options_that_exclude_one_another(
    session: Session, monkeypatch: pytest.MonkeyPatch, arguments: str, target: str, what: str
) -> None:
    monkeypatch.setenv("DBT_TARGET", target)
    session("dbt", *arguments.split()).is_error(2, what)


@pytest.mark.parametrize(
    ("arguments", "models_exist", "commands"),
    [
        ("", False, ["build", "docs generate --static --quiet"]),
        ("", True, ["build", "docs generate --static --quiet"]),
        ("docs", False, ["run --quiet", "docs generate --static --quiet"]),
        ("docs", True, ["docs generate --static --quiet"]),
        ("test --select a", False, ["run --quiet", "test --select a"]),
        ("show --select a", False, ["run --quiet", "show --select a"]),
        ("show --select a", True, ["show --select a"]),
        ("build --select a", False, ["build --select a"]),
    ],
)
def test_models_are_built_before_what_reads_them(arguments: str, models_exist: bool, commands: list[str]) -> None:
    assert [" ".join(command) for command in planned(arguments.split(), models_exist=models_exist)] == commands


def test_values_of_variables_are_not_shown() -> None:
    given = ["build", "--vars", "password: s3cr3t", "--vars=token: s3cr3t", "--select", "a"]
    assert on_one_line(given) == "build --vars … --vars=… --select a"
    assert on_one_line([]) == ""
