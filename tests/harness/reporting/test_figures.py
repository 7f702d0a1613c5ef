"""The figures of a run are stored for the next run of its name, and shown beside its own."""

from pathlib import Path

import pytest

from harness.reporting import figures
from harness.reporting.console import Phases


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures")
    return tmp_path / "figures"


def test_the_last_figures_are_those_stored_last() -> None:
    assert figures.last("e2e-kind") == {}
    figures.keep("e2e-kind", {"total": 1.23456})
    figures.keep("e2e-embedded", {"total": 2})
    figures.keep("e2e-kind", {"total": 3.5, "chart ready": 1})
    assert figures.last("e2e-kind") == {"total": 3.5, "chart ready": 1.0}
    assert figures.last("e2e-embedded") == {"total": 2.0}


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"total": "many"}', '{"total": null}'])
def test_an_unreadable_file_counts_as_none(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "e2e-kind.json").write_text(text)
    assert figures.last("e2e-kind") == {}


def test_phases_are_shown_beside_those_of_the_last_run() -> None:
    phases = Phases(last={"cluster ready": 41.26, "gone": 1})
    phases.seconds = {"cluster ready": 40.04, "new": 2}
    assert phases.header == ("phase", "seconds", "last time")
    assert phases.rows()[:2] == [("cluster ready", "40.0", "41.3"), ("new", "2.0", "")]
    alone = Phases()
    alone.seconds = {"new": 2}
    assert alone.header == ("phase", "seconds")
    assert alone.rows()[0] == ("new", "2.0")
