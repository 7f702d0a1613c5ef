"""`nox -s lock` reports which versions changed, and why it failed."""

import re
import subprocess
from pathlib import Path

import pytest

from harness.ci.lock import airflows_constraints, changes, main
from harness.project import pins
from harness.project.locks import AIRFLOWS_CONSTRAINTS, CONSTRAINTS
from tests import clones
from tests.servers import serving_folder


@pytest.fixture
def empty(clone: Path) -> Path:
    """Give a project without dependencies: its locks are written without an index."""
    (clone / "pyproject.toml").write_text(
        '[project]\nname = "a"\nversion = "0"\nrequires-python = ">=3.11"\n[dependency-groups]\nevents = []\n'
    )
    for lock in (clone / "requirements").iterdir():
        lock.unlink()
    write_constraints(clone, f"# From {airflows_constraints()}\n")
    return clone


def write_constraints(project: Path, text: str) -> None:
    (project / AIRFLOWS_CONSTRAINTS).write_text(text)


def lock(project: Path, *options: str, **variables: str) -> tuple[int, str, str]:
    """Write the locks of PROJECT; return the exit code, standard error, and the summary without times."""
    summary = project / "summary.md"
    argv = [clones.python_of(project), "-m", "harness.ci.lock", *options]
    env = clones.environment(GITHUB_STEP_SUMMARY=str(summary), **variables)
    done = subprocess.run(argv, cwd=project, env=env, capture_output=True, text=True, check=False)
    text = re.sub(r"[\d.]+ s\b", "TIME", summary.read_text())
    summary.unlink()
    return done.returncode, done.stderr, text


def test_the_changed_versions_are_in_the_summary_and_in_a_file(empty: Path) -> None:
    (empty / "requirements" / "constraints.txt").write_text(
        "# made from 0\n"
        "dbt-core==1.12.0\n    # via events-platform\n"
        "numpy==2.1.0 ; python_version < '3.12'\nnumpy==2.2.0 ; python_version >= '3.12'\n"
    )
    rows = "| dbt-core | 1.12.0 | removed |\n| numpy | 2.1.0, 2.2.0 | removed |\n"
    table = f"| package | from | to |\n| --- | --- | --- |\n{rows}"
    assert lock(empty) == (0, "", f"## ✓ lock: 2 versions changed (TIME)\n\n{table}\n")
    assert (empty / "build" / "lock.md").read_text() == table

    assert lock(empty) == (0, "", "## ✓ lock: 0 versions changed (TIME)\n\nNo version changed.\n\n")
    assert (empty / "build" / "lock.md").read_text() == "No version changed.\n"


def test_changed_new_and_removed_packages_are_reported() -> None:
    assert changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}) == (
        3,
        "| package | from | to |\n| --- | --- | --- |\n| b | 1 | 2 |\n| c | 1 | removed |\n| d | new | 1 |",
    )


def test_a_failure_contains_the_output_of_uv(empty: Path) -> None:
    exit_code, errors, summary = lock(empty, "--no-such-option")
    assert exit_code == 1
    assert errors.startswith("error: unexpected argument '--no-such-option' found\n")
    assert errors.endswith("\nuv ended with exit code 2 and says why above.\n")
    assert summary.startswith(
        "## ✗ lock: TIME\n\n"
        "- **What happened:** uv ended with exit code 2 and says why above.\n"
        "- **Why, most likely:** No versions fit pyproject.toml and Airflow's constraints, or no server answers.\n"
        "- **What to do:** Read the output, and try again: nox -s lock\n\n"
        "```text\nerror: unexpected argument '--no-such-option' found\n"
    )


def test_asking_for_help_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    before = CONSTRAINTS.read_bytes()
    main(["--help"])
    assert capfd.readouterr().out.startswith("usage: nox -s lock -- [OPTION OF uv pip compile]...\n")
    assert CONSTRAINTS.read_bytes() == before


def test_the_constraints_are_those_of_the_pinned_airflow_and_python() -> None:
    version = pins.chart()["airflow"]
    assert airflows_constraints().endswith(f"/constraints-{version}/constraints-3.13.txt")
    assert f"apache/airflow:{version}-python3.13" in pins.versions()["images"]["airflow"]


@pytest.mark.parametrize("source", ["a server", "a file"])
def test_airflows_constraints_are_read_and_kept(empty: Path, tmp_path: Path, source: str) -> None:
    (tmp_path / "constraints-3.13.txt").write_text("fsspec==1\n")
    kept = f"# From {airflows_constraints()}\nfsspec==1\n"
    with serving_folder(tmp_path) as address:
        own = f"{address}/constraints-3.13.txt" if source == "a server" else str(tmp_path / "constraints-3.13.txt")
        assert lock(empty, PLATFORM_AIRFLOW_CONSTRAINTS=own)[0] == 0
    assert (empty / AIRFLOWS_CONSTRAINTS).read_text() == kept
    assert lock(empty)[0] == 0  # nothing is read again
    assert (empty / AIRFLOWS_CONSTRAINTS).read_text() == kept


@pytest.mark.parametrize(("of_version", "exit_code"), [("this", 0), ("another", 1)])
def test_without_a_server_an_estimate_of_this_version_stays(empty: Path, of_version: str, exit_code: int) -> None:
    versions = empty / "cluster" / "versions.toml"
    with serving_folder(empty / "cluster") as address:  # it has no such file
        text = re.sub(r'"https://raw\.[^{"]*', f'"{address}/', versions.read_text())
        versions.write_text(text)
        url = f"{address}/{pins.chart()['airflow']}/constraints-3.13.txt"
        estimate = f"# Estimated, until nox -s lock can read {url if of_version == 'this' else 'another'}\nfsspec==1\n"
        write_constraints(empty, estimate)
        found, _, summary = lock(empty)
    assert found == exit_code
    assert (empty / AIRFLOWS_CONSTRAINTS).read_text() == estimate
    failure = f"Airflow's constraints cannot be read from {url}: HTTP Error 404: File not found"
    assert (failure in summary) is (exit_code == 1)
