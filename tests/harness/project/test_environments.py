"""An environment is of one group and one Python, and finds the packages of the clone that it is used from."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.ci import docs
from harness.project import environments
from harness.project.paths import ROOT
from tests import clones


def test_an_environment_is_of_one_version_of_python() -> None:
    versions = ("3.11.2", "3.11.7")
    folders = [environments.python_of("dbt", version).parents[1].name for version in versions]
    assert folders == ["dbt-py3.11.2", "dbt-py3.11.7"]


def test_a_linked_environment_has_the_packages_of_its_clone(clone: Path) -> None:
    argv = [clones.python_of(clone), "-c", "import feeds, harness; print(feeds.__file__, harness.__file__)"]
    output = subprocess.check_output(argv, cwd="/", env=clones.environment(), text=True)
    assert output.split() == [f"{clone}/airflow/include/feeds/__init__.py", f"{clone}/harness/__init__.py"]


def test_modules_that_run_before_any_environment_need_only_the_standard_library() -> None:
    program = "from harness.ci import lock, plan; from harness.project import environments, locks, posargs"
    argv = [sys.executable, "-S", "-I", "-c", f"import sys; sys.path.insert(0, ''); {program}"]
    subprocess.run(argv, cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("posargs", "groups"),
    [
        (["--target", "kind"], ["airflow", "dbt", "harness"]),
        (["--target", "kind", "--help"], ["harness"]),
        (["-h", "--python", "3.13"], ["harness"]),
    ],
)
def test_help_installs_only_the_environment_that_prints_it(
    monkeypatch: pytest.MonkeyPatch, posargs: list[str], groups: list[str]
) -> None:
    installed: list[str] = []

    def install(group: str, _: str | None) -> str:
        installed.append(group)
        return f"python of {group}"

    session_install = docs.sessions()["e2e"].func.__globals__["install"]
    monkeypatch.setattr(environments, "install", install)
    assert session_install(SimpleNamespace(posargs=posargs), "airflow", "dbt", "harness") == "python of harness"
    assert installed == groups
