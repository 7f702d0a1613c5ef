"""Runs in a temporary directory of each test: a run elsewhere on the machine would remove its orphans, too."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
