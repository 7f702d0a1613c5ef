"""Diagnostics hold all that can be saved of a failed run, and the error names their folder."""

import re
from pathlib import Path

import pytest

from feeds.errors import SourceEmpty
from harness.errors import UsageError
from harness.reporting import diagnostics
from harness.reporting.console import Phases


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(diagnostics, "DIAGNOSTICS", tmp_path / "diagnostics")
    monkeypatch.setattr(diagnostics, "ROOT", tmp_path)
    return tmp_path


def test_the_error_names_the_folder_and_its_summary_lists_the_files(folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "kind.log").write_text("output")
    error = UsageError("What.", "Why.", "Next.")
    phases = Phases()
    with phases.phase("cluster ready"):
        pass
    failure = diagnostics.save(error, {"commands": folder / "logs"}, phases=phases)
    assert isinstance(failure, UsageError)
    assert (failure.what, error.next_step) == ("What.", "Next.")
    place = re.fullmatch(r"Next\. Diagnostics: (diagnostics/[\d-]+)", failure.next_step)
    assert place
    saved = folder / place[1]
    assert (saved / "commands" / "kind.log").read_text() == "output"
    assert (saved / "summary.txt").read_text() == (
        "What failed\n\n  What.\n  Why.\n  Next.\n\n"
        "Phases, in the order of their ends (seconds)\n\n      0.0  cluster ready\n\n"
        "Files in this folder\n\n"
        "  phases.json    how long each phase took\n  commands       the output of kind, docker and helm\n"
    )


def test_a_part_that_cannot_be_saved_is_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "logs").write_text("no folder")

    def save_more(destination: Path) -> None:
        with diagnostics.log_and_continue("the events"):
            raise OSError(28, "No space left on device")
        (destination / "objects.txt").write_text("")

    error = ValueError("odd")
    assert diagnostics.save(error, {"commands": folder / "logs"}, "postgresql://127.0.0.1:1/none", save_more) is error
    [saved] = (folder / "diagnostics").iterdir()
    assert {path.name for path in saved.iterdir()} == {"objects.txt", "summary.txt"}
    assert "ValueError: odd" in (saved / "summary.txt").read_text()
    output = capsys.readouterr().out
    for what in ("commands", "the events: [Errno 28] No space left on device", "the warehouse's ledger: connection"):
        assert f"  the diagnostics do not have {what}" in output
    assert f"  Diagnostics: diagnostics/{saved.name}\n" in output


def test_two_failures_in_one_second_have_two_folders(folder: Path) -> None:
    failures = [diagnostics.save(SourceEmpty("What.", "Why.", "nox -s dbt"), {}) for _ in range(3)]
    places = [str(failure).partition("nox -s dbt — Diagnostics: ")[2] for failure in failures]
    assert sorted(places) == sorted(f"diagnostics/{path.name}" for path in (folder / "diagnostics").iterdir())
    assert len(places) == 3
