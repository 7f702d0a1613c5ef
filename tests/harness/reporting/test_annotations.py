"""What GitHub shows beside the lines of a change."""

from pathlib import Path

import pytest

from harness.project.paths import ROOT
from harness.reporting.annotations import Finding, annotate


@pytest.fixture(autouse=True)
def on_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")


@pytest.mark.parametrize(
    ("finding", "command"),
    [
        (
            Finding("dbt/models/a,b.sql", 3, "dbt model a: error", "100% wrong:\r\nline, two"),
            "::error file=dbt/models/a%2Cb.sql,line=3,title=dbt model a%3A error::100%25 wrong:%0D%0Aline, two",
        ),
        (Finding(ROOT / "tests" / ".." / "noxfile.py", None, "types", "x"), "::error file=noxfile.py,title=types::x"),
        (Finding(Path("/elsewhere/a.py"), 3, "types", "x"), "::error title=types::x"),
        (Finding(None, None, "lint", "x"), "::error title=lint::x"),
    ],
)
def test_a_finding_is_a_workflow_command(finding: Finding, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert annotate([finding]) == ""
    assert capsys.readouterr().out == f"{command}\n"


@pytest.mark.parametrize("value", ["false", None])
def test_nothing_is_printed_elsewhere(
    value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if value is None:
        monkeypatch.delenv("GITHUB_ACTIONS")
    else:
        monkeypatch.setenv("GITHUB_ACTIONS", value)
    assert annotate([Finding("a.py", number, "types", "x") for number in range(11)]) == ""
    assert capsys.readouterr().out == ""


def test_the_summary_says_when_github_does_not_show_all(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("a.py", number, "types", "x") for number in range(1, 12)]
    assert annotate(findings[:10]) == ""
    assert annotate(findings) == "GitHub shows the first 10 of these 11 beside their lines."
    assert capsys.readouterr().out.count("::error ") == 21


def test_the_place_is_relative_to_the_repository() -> None:
    assert Finding(ROOT / "a.py", 3, "", "").place == "a.py:3"
    assert Finding("a.py", None, "", "").place == "a.py"
    for path in ("/elsewhere/a.py", "", None):
        assert Finding(path, 3, "", "").place == ""
