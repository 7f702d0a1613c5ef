"""The locks are fresh, whole and free of index addresses; a stale one is refused in one sentence."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness import environment, locks
from harness.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("group", PROJECT["dependency-groups"])
def test_every_group_has_a_fresh_lock_with_hashes(group: str) -> None:
    text = locks.path(group).read_text()
    pins = re.findall(r"^(\S+)==\S+", text, re.MULTILINE)
    assert pins
    assert text.count("--hash=sha256:") >= len(pins)
    assert not re.search(r"https?://|--index-url|--find-links| @ ", text)


def test_there_is_no_lock_without_a_group() -> None:
    names = {path.stem for path in locks.LOCKS.glob("*.txt")}
    assert names == {*PROJECT["dependency-groups"], "constraints"}


def test_a_version_appears_once() -> None:
    versions: dict[str, set[str]] = {}
    for path in locks.LOCKS.glob("*.txt"):
        for pin in re.findall(r"^(\S+==\S+(?: ; [^\\\n]*)?)", path.read_text(), re.MULTILINE):
            versions.setdefault(pin.partition("==")[0], set()).add(pin.split()[0])
    constrained = (locks.LOCKS / "constraints.txt").read_text()
    for pins in versions.values():
        for pin in pins:
            assert re.search(rf"^{re.escape(pin)}(?: ;.*)?$", constrained, re.MULTILINE), pin


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a project of its own: one group, and its lock."""
    monkeypatch.setattr(locks, "ROOT", tmp_path)
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "requirements")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.11"\n[dependency-groups]\nevents = []\n'
    )
    digest = locks._digest(locks._project(), ["events"])
    (tmp_path / "requirements" / "events.txt").write_text(f"# made from {digest}\n")
    return tmp_path


def test_a_lock_stays_fresh_when_another_group_changes(copy: Path) -> None:
    pyproject = copy / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + 'tests = [{ include-group = "events" }, "pytest"]\n')
    assert locks.path("events").exists()


def test_a_lock_of_a_group_is_stale_when_one_that_it_includes_changes(copy: Path) -> None:
    pyproject = copy / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + 'tests = [{ include-group = "events" }]\n')
    before = locks._digest(locks._project(), ["tests"])
    pyproject.write_text(pyproject.read_text().replace("events = []", 'events = ["fsspec"]'))
    assert locks._digest(locks._project(), ["tests"]) != before


def test_a_lock_that_is_older_than_the_project_is_refused_in_one_sentence(copy: Path) -> None:
    assert locks.path("events").exists()
    pyproject = copy / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("[]", '["fsspec"]'))
    with pytest.raises(locks.LockError) as caught:
        environment.install("events")
    assert str(caught.value) == (
        "requirements/events.txt is older than pyproject.toml: run nox -s lock, and commit what it writes."
    )


def test_a_comment_or_a_tools_setting_leaves_the_lock_fresh(copy: Path) -> None:
    pyproject = copy / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + "# a comment\n[tool.ruff]\nline-length = 80\n")
    assert locks.path("events").exists()


def test_a_missing_lock_is_refused(copy: Path) -> None:
    (copy / "requirements" / "events.txt").unlink()
    with pytest.raises(locks.LockError, match=r"requirements/events\.txt is older than pyproject\.toml"):
        locks.path("events")


def test_the_modules_that_run_before_any_environment_need_the_standard_library_alone() -> None:
    program = "from harness import environment, locks"
    argv = [sys.executable, "-S", "-I", "-c", f"import sys; sys.path.insert(0, 'cluster'); {program}"]
    subprocess.run(argv, cwd=ROOT, check=True)
