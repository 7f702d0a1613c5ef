"""The locks are fresh, complete and without index addresses; a stale one is refused in one sentence."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from harness.project import locks
from harness.project.paths import ROOT

GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_a_fresh_lock_with_hashes(group: str) -> None:
    text = locks.path(group).read_text()
    pins = re.findall(r"^(\S+)==\S+", text, re.MULTILINE)
    assert pins
    assert text.count("--hash=sha256:") >= len(pins)
    assert not re.search(r"https?://|--index-url|--find-links| @ ", text)


def test_there_is_no_lock_without_a_group() -> None:
    assert {path.stem for path in locks.LOCKS.glob("*.txt")} == {*GROUPS, "constraints"}


def test_every_pin_is_in_the_constraints() -> None:
    constraints = set(re.findall(r"^\S+==\S+", locks.CONSTRAINTS.read_text(), re.MULTILINE))
    for path in locks.LOCKS.glob("*.txt"):
        assert set(re.findall(r"^\S+==\S+", path.read_text(), re.MULTILINE)) <= constraints, path.name


@pytest.mark.parametrize(
    ("group", "old", "new", "is_fresh"),
    [
        ("events", "tests = [", "tests = ['another', ", True),
        ("tests", "tests = [", "tests = ['another', ", False),
        ("tests", "events = [", "events = ['another', ", False),  # `tests` includes `events`
        ("events", "requires-python", "requires-python = '>=3.12' #", False),
        ("events", "[tool.ruff]", "# a comment\n[tool.ruff]\nfix = true", True),
    ],
)
def test_a_lock_is_stale_when_its_inputs_change(tmp_path: Path, group: str, old: str, new: str, is_fresh: bool) -> None:
    shutil.copytree(locks.LOCKS, tmp_path / "requirements")
    text = (ROOT / "pyproject.toml").read_text()
    assert text.count(f"\n{old}") == 1
    (tmp_path / "pyproject.toml").write_text(text.replace(f"\n{old}", f"\n{new}"))
    if is_fresh:
        assert locks.path(group, tmp_path).exists()
    else:
        with pytest.raises(locks.LockError) as caught:
            locks.path(group, tmp_path)
        assert str(caught.value) == (
            f"requirements/{group}.txt is older than pyproject.toml: run nox -s lock, and commit what it writes."
        )


def test_a_missing_lock_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with pytest.raises(locks.LockError, match=r"requirements/events\.txt is older than pyproject\.toml"):
        locks.path("events", tmp_path)
