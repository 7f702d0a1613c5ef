"""What tests need of the machine: who is skipped and who fails, what is said at the end, and how it is looked for."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.ci import needs
from harness.project import pythons

SUITE = """\
import pytest

@pytest.fixture(params=[pytest.param(None, marks=pytest.mark.needs("python3.0.7"), id=pytest.HIDDEN_PARAM)])
def old():
    raise AssertionError("it is made for nobody")

def test_anywhere():
    pass

@pytest.mark.needs("git")
def test_git():
    pass

@pytest.mark.needs("engine", "buildx", "python3.0.8")
def test_both():
    raise AssertionError("it does not run")

@pytest.mark.needs("image")
def test_image():
    raise AssertionError("it does not run")

@pytest.mark.parametrize("n", range(3))
def test_old(old, n):
    raise AssertionError("it does not run")
"""
ENGINE = "a Docker engine: none answers at unix:///nowhere; start it, or name another in DOCKER_HOST"
BUILDX = (
    "buildx: the docker command has no such plugin; "
    "apt-get install docker-buildx, or see https://docs.docker.com/go/buildx"
)
PYTHON = "Python 3.0.{0}: no interpreter here is one; put one on the path: https://www.python.org/downloads/release/python-30{0}"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Give a folder of programs: git, and a docker command that has no plugin and finds no engine."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "git").write_text("#!/bin/sh\n")
    (folder / "docker").write_text('#!/bin/sh\n[ "$1 $2" = "context inspect" ] && echo unix:///nowhere || exit 1\n')
    for program in folder.iterdir():
        program.chmod(0o755)
    return folder


def run(programs: Path, suite: str, *options: str) -> tuple[int, str]:
    """Run pytest on SUITE where there are only PROGRAMS; return its exit code and what it says."""
    folder = programs.parent / "suite"
    folder.mkdir()
    (folder / "test_a.py").write_text(suite)
    env = {"PATH": str(programs), "DOCKER_HOST": "unix:///nowhere"}
    argv = [sys.executable, "-m", "pytest", "-p", "harness.ci.pytest_needs", "-p", "no:cacheprovider", "test_a.py"]
    done = subprocess.run([*argv, *options], cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("options", [(), ("--numprocesses=2",)], ids=["one process", "xdist"])
def test_the_run_ends_with_a_line_for_each_thing_that_is_missing(programs: Path, options: tuple[str, ...]) -> None:
    exit_code, said = run(programs, SUITE, *options)
    assert exit_code == 0, said
    heading, *lines, last = said.splitlines()[-6:]
    assert heading.strip("= ") == "not run, since something is missing"
    assert lines == [
        f"3 tests wait for {PYTHON.format(7)}",
        f"2 tests wait for {ENGINE}",
        f"1 test waits for {PYTHON.format(8)}",
        f"1 test waits for {BUILDX}",
    ]
    assert "2 passed, 5 skipped" in last


def test_without_the_docker_command_nothing_waits_for_its_plugin(programs: Path) -> None:
    (programs / "docker").unlink()
    exit_code, said = run(programs, SUITE)
    assert exit_code == 0, said
    [line] = [line for line in said.splitlines() if "the docker command" in line]
    assert line.startswith("2 tests wait for the docker command: it is not installed; ")


def test_chosen_needs_must_be_met(programs: Path) -> None:
    exit_code, said = run(programs, SUITE, "--needs", "git,buildx")
    assert exit_code == 1
    assert "1 passed, 5 deselected, 1 error" in said
    assert f"{ENGINE}\n{BUILDX}\n{PYTHON.format(8)}\n" in said


@pytest.mark.parametrize("options", [(), ("--numprocesses=1",)], ids=["one process", "xdist"])
def test_a_skip_without_a_need_fails(programs: Path, options: tuple[str, ...]) -> None:
    suite = """\
import pytest

def test_in_itself():
    pytest.skip("sundays")

@pytest.mark.skipif(True, reason="mondays")
def test_marked():
    pass

@pytest.fixture
def closed():
    pytest.skip("tuesdays")

def test_by_a_fixture(closed):
    pass
"""
    exit_code, said = run(programs, suite, *options)
    assert exit_code == 1
    assert sorted(re.findall("^Skipped without a need: (.*)", said, re.MULTILINE)) == ["mondays", "sundays", "tuesdays"]
    assert "1 failed, 2 errors in" in said


def test_a_module_that_is_skipped_fails(programs: Path) -> None:
    exit_code, said = run(programs, 'import pytest\n\npytest.skip("closed", allow_module_level=True)\n')
    assert exit_code == pytest.ExitCode.INTERRUPTED
    assert "Skipped without a need: closed\n" in said


def test_what_may_fail_may_fail(programs: Path) -> None:
    exit_code, said = run(programs, "import pytest\n\n@pytest.mark.xfail\ndef test_a():\n    assert 0\n")
    assert (exit_code, "1 xfailed" in said) == (0, True), said


@pytest.mark.parametrize("options", [("--needs", "machine"), ("--needs", ""), ()])
def test_a_need_that_there_is_not_is_an_error(programs: Path, options: tuple[str, ...]) -> None:
    suite = 'import pytest\n\n@pytest.mark.needs("{}")\ndef test_a():\n    pass\n'
    exit_code, said = run(programs, suite.format("git" if options else "machine"), *options)
    assert exit_code == pytest.ExitCode.USAGE_ERROR
    assert f"There is no need {options[1] if options else 'machine'!r}; there are: docker, engine, " in said


# --- how it is looked for -------------------------------------------------------------------------------------------


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let there be nothing of what is looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "SYSTEM_PROGRAMS", ())
    monkeypatch.setattr(needs, "NEEDS", {name: replace(need) for name, need in needs.NEEDS.items()})
    signed = "http://user:SECRET@127.0.0.1:1/{}?sig=SECRET"
    monkeypatch.setenv("PLATFORM_CHART", signed.format("chart.tgz"))
    for name in ("HELM", "KUBECTL"):
        monkeypatch.setenv(f"PLATFORM_{name}_URL", signed.format(name))
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    needs.find.cache_clear()
    yield
    needs.find.cache_clear()


@pytest.mark.usefixtures("nothing")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("docker", "the docker command: it is not installed"),
        ("helm", "helm: it is not installed, and http://127.0.0.1:1/HELM?sig=… does not answer"),
        ("kubectl", "kubectl: it is not installed, and http://127.0.0.1:1/KUBECTL?sig=… does not answer"),
        ("chart", "Airflow's chart: it cannot be had from http://127.0.0.1:1/chart.tgz?sig=…"),
        ("root", "root: this is an ordinary user"),
        ("mount", "root: this is an ordinary user"),
        ("git", "git: it is not installed"),
        ("history", "git: it is not installed"),
        ("pgbouncer", "pgbouncer: it is not installed"),
    ],
)
def test_what_is_missing_is_said(name: str, line: str) -> None:
    [said] = needs.missing([name])
    assert said.startswith(f"{line}; ")


@pytest.mark.needs("git")
def test_a_folder_without_git_has_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "ROOT", tmp_path)
    assert needs.no_history().startswith("git does not read this folder (not a git repository")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert needs.no_history() == "git does not read this folder (Needed a single revision)"
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "one"], check=True)
    assert needs.no_history() == ""
    (tmp_path / "below").mkdir()
    monkeypatch.setattr(needs, "ROOT", tmp_path / "below")
    assert needs.no_history() == f"this folder is part of another repository, {tmp_path}"


def test_an_interpreter_is_found_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"3.11.901": "python3.11", "3.12.902": "python3", "3.13.903": "pyenv/versions/3.13.903/bin/python3"}
    for version, place in places.items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"/nowhere{os.pathsep}{tmp_path}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    pythons.found.cache_clear()
    found = pythons.found()
    pythons.found.cache_clear()
    assert {version: found.get(version) for version in [*places, "3.11.902"]} == {
        **{version: str(tmp_path / place) for version, place in places.items()},
        "3.11.902": None,
    }
