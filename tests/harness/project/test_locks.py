"""The locks are fresh, whole and free of index addresses; a stale one is refused in one sentence."""

import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.ci.lock import changes
from harness.project import environments, locks
from harness.project.paths import ROOT

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
        environments.install("events")
    assert str(caught.value) == (
        "requirements/events.txt is older than pyproject.toml: run nox -s lock, and commit what it writes."
    )


def test_a_comment_or_a_tools_setting_leaves_the_lock_fresh(copy: Path) -> None:
    pyproject = copy / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + "# a comment\n[tool.ruff]\nline-length = 80\n")
    assert locks.path("events").exists()


def test_an_environment_is_of_one_version_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for version in ("3.11.2", "3.11.7"):
        monkeypatch.setattr(platform, "python_version", lambda version=version: version)
        folders.add(environments.python_of("dbt").parents[1].name)
    assert folders == {"dbt-py3.11.2", "dbt-py3.11.7"}


def test_a_missing_lock_is_refused(copy: Path) -> None:
    (copy / "requirements" / "events.txt").unlink()
    with pytest.raises(locks.LockError, match=r"requirements/events\.txt is older than pyproject\.toml"):
        locks.path("events")


def test_the_modules_that_run_before_any_environment_need_the_standard_library_alone() -> None:
    program = "from harness.ci import lock, plan; from harness.project import environments, locks, posargs"
    argv = [sys.executable, "-S", "-I", "-c", f"import sys; sys.path.insert(0, ''); {program}"]
    subprocess.run(argv, cwd=ROOT, check=True)


@pytest.fixture
def empty(clone: Path) -> Path:
    """Give a project that depends on nothing: its locks are written without an index."""
    (clone / "pyproject.toml").write_text(
        '[project]\nname = "a"\nversion = "0"\nrequires-python = ">=3.11"\n[dependency-groups]\nevents = []\n'
    )
    for lock in (clone / "requirements").iterdir():
        lock.unlink()
    return clone


def lock(project: Path, *options: str) -> tuple[int, str, str]:
    """Write the locks of PROJECT; return the exit code, what it says of errors, and the summary without times."""
    summary = project / "summary.md"
    env = os.environ | {"PYTHONPATH": str(project), "GITHUB_STEP_SUMMARY": str(summary)}
    argv = [str(environments.install("types")), "-m", "harness.ci.lock", *options]
    done = subprocess.run(argv, cwd=project, env=env, capture_output=True, text=True, check=False)
    told = re.sub(r"[\d.]+ s\b", "TIME", summary.read_text())
    summary.unlink()
    return done.returncode, done.stderr, told


def test_the_changed_versions_are_told_and_kept_for_a_pull_request(empty: Path) -> None:
    (empty / "requirements" / "constraints.txt").write_text(
        "# made from 0\n"
        "dbt-core==1.12.0\n    # via events-platform\n"
        "numpy==2.1.0 ; python_version < '3.12'\nnumpy==2.2.0 ; python_version >= '3.12'\n"
    )
    rows = "| dbt-core | 1.12.0 | gone |\n| numpy | 2.1.0, 2.2.0 | gone |\n"
    table = f"| package | from | to |\n| --- | --- | --- |\n{rows}"
    assert lock(empty) == (0, "", f"## ✓ lock: 2 versions changed (TIME)\n\n{table}\n")
    assert (empty / "build" / "lock.md").read_text() == table

    assert lock(empty) == (0, "", "## ✓ lock: 0 versions changed (TIME)\n\nNo version changed.\n\n")
    assert (empty / "build" / "lock.md").read_text() == "No version changed.\n"


def test_a_version_that_is_new_or_another_is_told() -> None:
    assert changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}) == (
        3,
        "| package | from | to |\n| --- | --- | --- |\n| b | 1 | 2 |\n| c | 1 | gone |\n| d | new | 1 |",
    )


def test_what_uv_says_when_it_fails_is_told(empty: Path) -> None:
    exit_code, said, told = lock(empty, "--no-such-option")
    assert exit_code == 1
    assert said.startswith("error: unexpected argument '--no-such-option' found\n")
    assert said.endswith("\nuv ended with exit code 2 and says why above.\n")
    assert told.startswith(
        "## ✗ lock: TIME\n\n"
        "- **What happened:** uv ended with exit code 2 and says why above.\n"
        "- **Why, most likely:** No versions fit what pyproject.toml asks for, or the package index was not reached.\n"
        "- **What to do:** Read what uv says, and try again: nox -s lock\n\n"
        "```text\nerror: unexpected argument '--no-such-option' found\n"
    )
