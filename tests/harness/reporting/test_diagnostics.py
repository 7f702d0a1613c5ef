"""What is saved when something fails: all that can be, and where to begin."""

import re
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.reporting import diagnostics
from harness.reporting.console import Phases


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(diagnostics, "DIAGNOSTICS", tmp_path / "diagnostics")
    monkeypatch.setattr(diagnostics, "ROOT", tmp_path)
    return tmp_path


def test_the_summary_says_where_to_begin(folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "kind.log").write_text("it says")
    error = UsageError("What.", "Why.", "Next.")
    phases = Phases()
    with phases.phase("cluster ready"):
        pass
    diagnostics.save(error, {"commands": folder / "logs"}, phases=phases)
    place = re.fullmatch(r"Next\. Diagnostics: (diagnostics/[\d-]+)", error.next_step)
    assert place
    saved = folder / place[1]
    assert (saved / "commands" / "kind.log").read_text() == "it says"
    assert (saved / "summary.txt").read_text() == (
        "What failed\n\n  What.\n  Why.\n  Next.\n\n"
        "Phases, in the order of their ends (seconds)\n\n      0.0  cluster ready\n\n"
        "What is here\n\n  phases.json    how long each phase took\n  commands       what kind, docker and helm said\n"
    )


def test_what_cannot_be_saved_does_not_take_the_rest_with_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "logs").write_text("no folder")

    def save_more(destination: Path) -> None:
        with diagnostics.complaining("the events"):
            raise OSError(28, "No space left on device")
        (destination / "objects.txt").write_text("")

    diagnostics.save(ValueError("odd"), {"commands": folder / "logs"}, "postgresql://127.0.0.1:1/none", save_more)
    [saved] = (folder / "diagnostics").iterdir()
    assert {path.name for path in saved.iterdir()} == {"objects.txt", "summary.txt"}
    assert "ValueError: odd" in (saved / "summary.txt").read_text()
    said = capsys.readouterr().out
    for what in ("commands", "the events: [Errno 28] No space left on device", "the warehouse's ledger: connection"):
        assert f"  the diagnostics lack {what}" in said
