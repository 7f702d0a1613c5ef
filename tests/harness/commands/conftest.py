"""Run a command of the harness in this process, as bad input allows: it starts nothing."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.commands import command_line
from harness.pipeline import lineage
from harness.reporting.report import writing


@dataclass(frozen=True)
class Outcome:
    """How a command has ended: its exit code and the lines on both streams."""

    exit_code: int
    errors: list[str]
    output: list[str]

    def is_error(self, exit_code: int, what: str) -> None:
        """Check that it printed an expected error, three lines whose first begins with WHAT."""
        assert self.exit_code == exit_code, self
        assert len(self.errors) == 3, self.errors
        assert self.errors[0].startswith(f"✗ {what}"), self.errors
        assert all(line.startswith("  ") and line.strip() for line in self.errors[1:])


Session = Callable[..., Outcome]


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "summary.md"
    path.touch()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


@pytest.fixture
def session(summary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Session:
    """Give a function that runs `python -m harness ARGUMENTS`; nothing may be left in the temporary directory."""
    temporary = summary.with_name("temporary")
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(writing, "PAGE", summary.with_name("report") / "index.html")
    monkeypatch.setattr(lineage, "EVENTS", summary.with_name("events.ndjson"))

    def session(*arguments: str) -> Outcome:
        exit_code = command_line.run(list(arguments))
        printed = capsys.readouterr()
        assert list(temporary.iterdir()) == []
        assert "Traceback" not in printed.out + printed.err
        return Outcome(exit_code, printed.err.splitlines(), printed.out.splitlines())

    return session
