"""Each linter checks its own files; pre-commit's hook refuses a commit or lets it pass."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.ci import lint
from harness.project import environments
from harness.project.paths import ROOT
from harness.reporting.annotations import Finding

LINTERS = {linter.name: linter for linter in lint.LINTERS}
RUFF = ("ruff check", "ruff format")


@pytest.mark.parametrize(
    ("file", "linters"),
    [
        ("noxfile.py", RUFF),
        ("dbt/run.py", RUFF),
        ("airflow/dags/pipelines.py", RUFF),
        ("tests/harness/ci/test_lint.py", RUFF),
        ("dbt/models/staging/stg_events.sql", ("sqlfluff",)),
        (".ci/run", ("shellcheck",)),
        ("airflow/Dockerfile", ("hadolint",)),
        ("README.md", ("rumdl",)),
        ("docs/adr/0003-an-environment-per-group.md", ("rumdl",)),
        ("./README.md", ("rumdl",)),
        ("airflow/data/events.csv", ()),
        ("airflow/include/feeds/tables.sql", ()),
    ],
)
def test_a_file_is_checked_by_its_linters(file: str, linters: tuple[str, ...]) -> None:
    got = {linter.name: lint.files_of(linter) for linter in lint.chosen([file])}
    assert got == {name: [os.path.normpath(file)] for name in linters}


@pytest.mark.needs("history")
def test_every_python_file_is_checked() -> None:
    argv = ("git", "ls-files", "--", "*.py")
    tracked = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert set(tracked) <= set(lint.files_of(LINTERS["ruff check"]))


def test_fast_leaves_out_the_slow_linters() -> None:
    assert lint.chosen() == list(lint.LINTERS)
    assert [linter.name for linter in lint.chosen(fast=True)] == [name for name in LINTERS if name != "sqlfluff"]
    both = ["README.md", "dbt/models/staging/stg_events.sql"]
    assert [linter.name for linter in lint.chosen(both)] == ["sqlfluff", "rumdl"]
    assert [linter.name for linter in lint.chosen(both, fast=True)] == ["rumdl"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--quick"], "✗ lint has no option --quick; it takes --fix, --fast and files.\n"),
        (["gone.py"], "✗ There is no file gone.py; files are named from the root.\n"),
        (["docs"], "✗ There is no file docs; files are named from the root.\n"),
    ],
)
def test_invalid_arguments_are_refused(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint.main(arguments) == 2
    assert capsys.readouterr() == ("", error)


def test_the_options_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: nox -s lint -- [--fix] [--fast] [FILE …]\n\nRun each linter on")


def test_a_linter_without_files_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    linter = replace(LINTERS["shellcheck"], files=("no-such/*.sh",))
    mark, note, result = lint.run(linter, fix=False)
    assert (mark, note, result.exit_code) == ("-", "there is no no-such/*.sh", 0)
    assert capsys.readouterr().out == "- shellcheck: there is no no-such/*.sh\n"


def test_a_finding_that_moved_is_not_fixed() -> None:
    before = [
        Finding("a.sql", line, "sqlfluff", f"AL08 Reuse of column alias 'a' from line {line - 1}.") for line in (9, 19)
    ]
    after = [replace(before[0], line=11, message="AL08 Reuse of column alias 'a' from line 10.")]
    assert lint.without(before, after) == before[1:]


# --- pre-commit -----------------------------------------------------------------------------------------------------


@pytest.fixture
def in_clone(clone: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Make the clone a repository with the hook installed; give a function that runs a command in it."""
    environments.install("lint")  # from here: an environment installed through a link has the link's path in it
    ours = ("GIT_", "GITHUB_", "NOX", "PYTHONPATH", "FORCE_COLOR")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # nox and pre-commit
        "PRE_COMMIT_HOME": str(tmp_path / "pre-commit"),
        "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
    }
    (tmp_path / "gitconfig").write_text("[user]\nname = test\nemail = test@example.invalid\n")

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=clone, env=env, capture_output=True, text=True, check=False)

    for argv in (
        ("git", "init", "--quiet"),
        ("git", "add", "--", ".", ":!.nox"),  # .gitignore has the folder, not a link
        ("git", "commit", "--quiet", "--message", "First"),
        ("pre-commit", "install"),
    ):
        done = run(*argv)
        assert done.returncode == 0, done.stdout + done.stderr
    return run


@pytest.mark.needs("git")
def test_pre_commit_refuses_a_badly_formatted_file(
    in_clone: Callable[..., subprocess.CompletedProcess[str]], clone: Path
) -> None:
    file = clone / "harness" / "new.py"
    file.write_text('"""New."""\n\nx = {  "a":1 }\n')
    (clone / "noxfile.py").open("a").write("x=1\n")  # badly formatted, too, but not in the commit
    in_clone("git", "add", "harness/new.py")
    refused = in_clone("git", "commit", "--message", "Badly formatted")
    assert refused.returncode == 1
    assert "harness/new.py:3: unformatted File would be reformatted (--fix)\n✗ ruff format\n" in refused.stderr
    assert "hadolint" not in refused.stderr
    assert in_clone("git", "log", "--format=%s").stdout == "First\n"

    file.write_text('"""New."""\n\nx = {"a": 1}\n')
    in_clone("git", "add", "harness/new.py")
    passed = in_clone("git", "commit", "--message", "Well formatted")
    assert passed.returncode == 0, passed.stderr
    assert in_clone("git", "log", "-1", "--format=%s").stdout == "Well formatted\n"


def test_hooks_run_sessions_and_install_no_tools() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    assert [(hook["language"], hook["entry"]) for hook in hooks] == [("system", "nox -s lint -- --fast")]
    assert "additional_dependencies" not in str(hooks)
