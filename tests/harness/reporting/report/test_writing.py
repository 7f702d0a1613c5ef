"""When the report of a run is written, and that it never makes a run fail."""

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.reporting import figures
from harness.reporting.report import writing
from harness.reporting.report.writing import begin, compare_with_last, keep_figures, reported
from harness.reporting.summary import Section
from tests import pages


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(writing, "PAGE", tmp_path / "report" / "index.html")
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures")
    return tmp_path / "report" / "index.html"


def verdict(path: Path) -> list[str]:
    [section] = pages.with_class(pages.read(path), "verdict")
    return [pages.text(each) for each in section.iter("p")]


def test_a_run_that_ends_well(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = Section("e2e")
    with reported(section):
        begin(section, "e2e on kind", target="kind")
    assert verdict(path) == ["✓ It ended well."]
    assert capsys.readouterr().out == f"  report: {path}\n"


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (UsageError("what", "why", "next"), ["✗ what", "why", "Next: next"]),
        (
            KeyError("s3://a:b@bucket"),
            [
                "✗ KeyError: 's3://bucket'",
                "This is a defect: the error was not expected.",
                "Next: Read the traceback on the terminal.",
            ],
        ),
        (KeyboardInterrupt(), ["✗ KeyboardInterrupt: without a message"]),
    ],
)
def test_a_run_that_fails(error: BaseException, lines: list[str], path: Path) -> None:
    section = Section("e2e")
    begin(section, "e2e")
    with pytest.raises(type(error)), reported(section):
        raise error
    assert verdict(path)[: len(lines)] == lines


def test_a_command_without_a_report_writes_none(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with reported(Section("e2e")):
        pass
    assert not path.parent.exists()
    assert capsys.readouterr().out == ""


def test_the_report_of_an_earlier_run_does_not_stay(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("earlier")
    begin(Section("e2e"), "e2e")
    assert not path.exists()


def test_a_report_that_cannot_be_written_is_a_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.parent.write_text("a file in the folder's place")
    section = Section("e2e")
    with reported(section):
        begin(section, "e2e")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("  the report cannot be written: [Errno 17] File exists")
    with pytest.raises(UsageError), reported(section):  # the run's own error stays
        raise UsageError("what", "why", "next")


def test_the_history_grows_by_runs_that_are_kept() -> None:
    for total in (10.0, 11.0):
        run = begin(Section("e2e"), "e2e")
        compare_with_last(run, "e2e-kind")
        keep_figures(run, "e2e-kind", {"total": total})
    assert run.phases.last == {"total": 10.0}
    assert run.history == [{"total": 10.0}, {"total": 11.0}]
    assert run.notes == []


def test_a_damaged_history_is_ignored_and_said(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "e2e-kind.json").write_text("{")
    run = begin(Section("e2e"), "e2e")
    compare_with_last(run, "e2e-kind")
    assert (run.history, run.phases.last) == ([], {})
    assert run.notes == [f"{tmp_path}/figures/e2e-kind.json was ignored: it is damaged (JSONDecodeError)."]
