"""The locks are fresh, complete and without index addresses; a stale one is refused in one sentence."""

import contextlib
import re
import shutil
import sys
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


def pins(text: str) -> dict[str, set[str]]:
    """Return the versions of each package in TEXT; a package has several where they differ between Pythons."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(version)
    return found


def test_every_pin_is_in_the_constraints() -> None:
    constraints = pins(locks.CONSTRAINTS.read_text())
    for group in GROUPS.keys() - set(locks.WITH_AIRFLOW):
        for name, versions in pins(locks.path(group).read_text()).items():
            assert versions <= constraints[name], (group, name)


@pytest.mark.parametrize("group", locks.WITH_AIRFLOW)
def test_what_runs_with_airflow_has_the_versions_of_airflows_constraints(group: str) -> None:
    constraints = pins((ROOT / locks.AIRFLOWS_CONSTRAINTS).read_text())
    locked = pins(locks.path(group).read_text())
    shared = locked.keys() & constraints.keys()
    assert len(shared) > len(locked) / 2
    assert {name: locked[name] for name in shared} == {name: constraints[name] for name in shared}


def test_the_image_keeps_what_airflow_pins_as_a_family() -> None:
    assert not [name for name in pins(locks.path("feeds").read_text()) if name.startswith("opentelemetry")]
    assert "opentelemetry-api" in pins(locks.path("airflow").read_text())


@pytest.mark.parametrize(
    ("group", "old", "new", "is_fresh"),
    [
        ("feeds", "tests = [", "tests = ['another', ", True),
        ("tests", "tests = [", "tests = ['another', ", False),
        ("tests", "feeds = [", "feeds = ['another', ", False),  # `tests` includes `feeds`
        ("feeds", "requires-python", "requires-python = '>=3.12' #", False),
        ("feeds", "[tool.ruff]", "# a comment\n[tool.ruff]\nfix = true", True),
    ],
)
def test_a_lock_is_stale_when_its_inputs_change(tmp_path: Path, group: str, old: str, new: str, is_fresh: bool) -> None:
    for path in (*locks.LOCKS.glob("*.txt"), ROOT / locks.AIRFLOWS_CONSTRAINTS):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
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


@pytest.mark.parametrize(("group", "is_fresh"), [("feeds", False), ("dags", False), ("dbt", True)])
def test_other_constraints_of_airflow_make_its_locks_stale(tmp_path: Path, group: str, is_fresh: bool) -> None:
    shutil.copytree(locks.LOCKS, tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow" / "constraints.txt").write_text("fsspec==1\n")
    with contextlib.nullcontext() if is_fresh else pytest.raises(locks.LockError):
        locks.path(group, tmp_path)


def test_a_missing_lock_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with pytest.raises(locks.LockError, match=r"requirements/feeds\.txt is older than pyproject\.toml"):
        locks.path("feeds", tmp_path)


def test_a_command_of_a_session_finds_the_uv_of_nox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV", str(tmp_path / "uv"))
    assert locks.uv_variable() == {"UV": str(tmp_path / "uv")}
    monkeypatch.delenv("UV")
    found = locks.uv()
    assert Path(found).name == "uv"
    assert locks.uv_variable() == {"UV": found}
    monkeypatch.setitem(sys.modules, "uv", None)  # not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    assert locks.uv_variable() == {}
    with pytest.raises(locks.LockError, match=r"^uv is not installed; install nox with it: "):
        locks.uv()


def test_the_version_of_a_locked_package_is_known() -> None:
    assert {locks.version("dbt", "dbt-core")} == pins(locks.path("dbt").read_text())["dbt-core"]
    assert locks.version("dbt", "core") == ""
