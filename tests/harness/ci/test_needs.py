"""What tests need of the machine: who is skipped, who fails, what the run prints, and how needs are looked for."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.ci import needs
from tests.clones import git
from tests.programs import write_answers, write_docker_without_engine

pytest_plugins = ["pytester"]

SUITE = """\
import pytest

@pytest.fixture(params=[pytest.param(None, marks=pytest.mark.needs("python3.0.7"), id=pytest.HIDDEN_PARAM)])
def old():
    raise AssertionError("it is set up for nobody")

def test_anywhere():
    pass

@pytest.mark.needs("git")
def test_git():
    pass

@pytest.mark.needs("engine", "buildx", "python3.0.8")
def test_both():
    raise AssertionError("it does not run")

@pytest.mark.needs("postgres-image")
def test_image():
    raise AssertionError("it does not run")

@pytest.mark.parametrize("n", range(3))
def test_old(old, n):
    raise AssertionError("it does not run")

@pytest.mark.xfail
def test_that_may_fail():
    assert 0
"""
ENGINE = "a Docker engine: none answers at unix:///var/run/docker.sock; start it, or name another in DOCKER_HOST"
BUILDX = (
    "buildx: the docker command has no such plugin; "
    "apt-get install docker-buildx, or see https://docs.docker.com/go/buildx"
)
PYTHON = "Python 3.0.{0}: it was not found; put one on the path: https://www.python.org/downloads/release/python-30{0}"


@pytest.fixture
def unknown_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Forget what has been found; give an empty folder, the only one on the path."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(needs, "SYSTEM_PROGRAMS", ())
    monkeypatch.setattr(needs, "NEEDS", {name: replace(need) for name, need in needs.NEEDS.items()})
    needs.find.cache_clear()
    yield folder
    needs.find.cache_clear()


@pytest.fixture
def programs(unknown_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put git on the path, and a docker command that has no plugin and finds no engine."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    write_answers(unknown_machine / "git", {})
    write_docker_without_engine(unknown_machine / "docker")


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., tuple[int, str]]:
    """Give a function that runs pytest on a suite: its exit code and output."""

    def run(suite: str, *options: str) -> tuple[int, str]:
        pytester.makepyfile(test_a=suite)
        result = pytester.runpytest_inprocess("-p", "harness.ci.pytest_needs", "-p", "no:cacheprovider", *options)
        return int(result.ret), f"{result.stdout}\n{result.stderr}"

    return run


@pytest.mark.usefixtures("programs")
def test_the_run_ends_with_a_line_for_each_missing_thing(run: Callable[..., tuple[int, str]]) -> None:
    exit_code, output = run(SUITE)
    assert exit_code == 0, output
    heading, *lines, last = output.strip().splitlines()[-6:]
    assert heading.strip("= ") == "skipped, because something they need is missing"
    assert lines == [
        f"3 tests need {PYTHON.format(7)}",
        f"2 tests need {ENGINE}",
        f"1 test needs {PYTHON.format(8)}",
        f"1 test needs {BUILDX}",
    ]
    assert "2 passed, 5 skipped, 1 xfailed in" in last


@pytest.mark.usefixtures("programs")
def test_chosen_needs_must_be_met(run: Callable[..., tuple[int, str]]) -> None:
    exit_code, output = run(SUITE, "--needs", "git,buildx")
    assert exit_code == 1
    assert "1 passed, 6 deselected, 1 error" in output
    assert f"{ENGINE}\n{BUILDX}\n{PYTHON.format(8)}\n" in output


def test_needs_imply_markers(run: Callable[..., tuple[int, str]]) -> None:
    suite = SUITE + "\n@pytest.mark.cluster\ndef test_on_a_cluster():\n    pass\n"
    _, output = run(suite, "--collect-only", "-q", "-m", "engine or slow")
    assert re.findall("::(.*)", output) == ["test_both", "test_image", "test_on_a_cluster"]


def test_a_skip_without_a_need_fails(run: Callable[..., tuple[int, str]]) -> None:
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
    exit_code, output = run(suite)
    assert exit_code == 1
    assert sorted(re.findall("^Skipped without a need: (.*)", output, re.M)) == ["mondays", "sundays", "tuesdays"]
    assert "1 failed, 2 errors in" in output


def test_a_skipped_module_fails(run: Callable[..., tuple[int, str]]) -> None:
    exit_code, output = run('import pytest\n\npytest.skip("closed", allow_module_level=True)\n')
    assert exit_code == pytest.ExitCode.INTERRUPTED
    assert "Skipped without a need: closed\n" in output


@pytest.mark.parametrize("options", [("--needs", "machine"), ("--needs", ""), ()])
def test_an_unknown_need_is_refused(run: Callable[..., tuple[int, str]], options: tuple[str, ...]) -> None:
    suite = 'import pytest\n\n@pytest.mark.needs("{}")\ndef test_a():\n    pass\n'
    exit_code, output = run(suite.format("git" if options else "machine"), *options)
    assert exit_code == pytest.ExitCode.USAGE_ERROR
    assert f"Unknown need {options[1] if options else 'machine'!r}; the needs are: docker, engine, " in output


# --- looking for them -----------------------------------------------------------------------------------------------


@pytest.fixture
def nothing(unknown_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have none of the needs met."""
    signed = "http://user:SECRET@127.0.0.1:1/{}?sig=SECRET"
    monkeypatch.setenv("PLATFORM_CHART", signed.format("chart.tgz"))
    for name in ("HELM", "KUBECTL"):
        monkeypatch.setenv(f"PLATFORM_{name}_URL", signed.format(name))
    monkeypatch.setenv("PLATFORM_CACHE", str(unknown_machine))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("nothing")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("docker", "the docker command: it is not installed"),
        ("postgres-image", "the docker command: it is not installed"),  # nothing else is looked for without it
        ("helm", "helm: it is not installed, and http://127.0.0.1:1/HELM?sig=… does not answer"),
        ("kubectl", "kubectl: it is not installed, and http://127.0.0.1:1/KUBECTL?sig=… does not answer"),
        ("chart", "Airflow's chart: it cannot be downloaded from http://127.0.0.1:1/chart.tgz?sig=…"),
        ("root", "root: this is an ordinary user"),
        ("mount", "root: this is an ordinary user"),
        ("git", "git: it is not installed"),
        ("history", "git: it is not installed"),
        ("pgbouncer", "pgbouncer: it is not installed"),
    ],
)
def test_a_missing_need_has_one_line(name: str, line: str) -> None:
    [found] = needs.missing([name])
    assert found.startswith(f"{line}; ")


@pytest.mark.needs("git")
def test_a_folder_without_git_has_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "ROOT", tmp_path)
    assert needs.no_history().startswith("git does not read this folder (not a git repository")
    git(tmp_path, "init", "--quiet")
    assert needs.no_history() == "git does not read this folder (Needed a single revision)"
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "one")
    assert needs.no_history() == ""
    (tmp_path / "below").mkdir()
    monkeypatch.setattr(needs, "ROOT", tmp_path / "below")
    assert needs.no_history() == f"this folder is part of another repository, {tmp_path}"
