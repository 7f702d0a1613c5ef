"""What `nox -s lint` and `nox -s types` report on broken files: the real tools, in a copy of the project."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.project.environments import install
from harness.reporting.annotations import Finding
from harness.reporting.findings import READERS, Result
from harness.reporting.findings import run as run_tool

Session = Callable[..., tuple[int, str, str]]
BROKEN = {
    "harness/broken.py": '"""Broken."""\n\nimport os\nx = {  "a":1}\n\n\ndef f(a=[]):\n    """F."""\n',
    "dbt/models/marts/dim/broken.sql": "SELECT a from b\n",
    ".ci/run": "#!/usr/bin/env bash\ncd $1\n",
    "airflow/Dockerfile": "FROM python:3\nRUN sudo true\n",
    ".github/workflows/ci.yml": (
        "name: ci\non: push\npermissions: {}\njobs:\n  a:\n    name: a\n    runs-on: ubuntu-latest\n"
        "    steps:\n      - run: echo ${{ nope.x }}\n"
    ),
    "docs/broken.md": "# Broken\n\n\ntext\n",
}
FOUND = """\
harness/broken.py:3: I001 Import block is un-sorted or un-formatted (--fix: Organize imports)
harness/broken.py:3: F401 `os` imported but unused (--fix: Remove unused import: `os`)
harness/broken.py:7: B006 Do not use mutable data structures for argument defaults (Replace wit
harness/broken.py:4: unformatted File would be reformatted (--fix)
dbt/models/marts/dim/broken.sql:1: CP01 Keywords must be lower case. (--fix)
.ci/run:2: SC2164 Use 'cd ... || exit' or 'cd ... || return' in case cd fails. (https://www.she
.ci/run:2: SC2086 Double quote to prevent globbing and word splitting. (https://www.shellcheck.
airflow/Dockerfile:2: DL3004 Do not use sudo as it leads to unpredictable behavior. Use a tool
.github/workflows/ci.yml:9: expression undefined variable "nope". available variables are "env"
.github/workflows/ci.yml:9: template-injection code injection via template expansion: may expan
.github/workflows/ci.yml:2: concurrency-limits insufficient job-level concurrency limits: workf
docs/broken.md:3: MD012 Multiple consecutive blank lines between content (--fix)
"""


@pytest.fixture
def session(clone: Path) -> Session:
    """Give a function that runs `nox -s lint` or `types` in the clone: its exit code, output and summary."""
    summary = clone / "summary.md"
    env = os.environ | {"PYTHONPATH": str(clone), "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true"}

    def run(group: str, module: str, *arguments: str) -> tuple[int, str, str]:
        summary.unlink(missing_ok=True)
        argv = [str(install(group)), "-m", module, *arguments]
        done = subprocess.run(argv, cwd=clone, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr, re.sub(r"[\d.]+ s\b", "TIME", summary.read_text())

    return run


def test_lint_reports_what_each_linter_finds_and_fixes(session: Session, clone: Path) -> None:
    for name, content in BROKEN.items():
        (clone / name).write_text(content)

    exit_code, output, summary = session("lint", "harness.ci.lint", *BROKEN)

    assert exit_code == 1
    lines = [line for line in output.splitlines() if not line.startswith("::")]
    names = ("ruff check", "ruff format", "sqlfluff", "shellcheck", "hadolint", "actionlint", "zizmor", "rumdl")
    found = [line[:95].rstrip() for line in lines if not line.startswith("✗")]
    assert found == FOUND.splitlines()
    assert lines[-1] == f"✗ {', '.join(names)} found problems; fix what the tools can fix: nox -s lint -- --fix"
    assert output.count("\n::error file=") == len(found)
    assert "\n::error file=harness/broken.py,line=4,title=ruff format::unformatted File would be " in output
    assert summary.startswith(
        "## ✗ lint: TIME\n\n"
        f"- **What happened:** {', '.join(names)} found problems.\n"
        "- **Why, most likely:** A change broke their rules.\n"
        "- **What to do:** Fix what the tools can fix: nox -s lint -- --fix\n\n"
    )
    assert "**ruff format**\n\n| where | what |\n| --- | --- |\n| `harness/broken.py:4` | unformatted F" in summary
    assert summary.endswith("| ✗ | zizmor |  |\n| ✗ | rumdl |  |\n\n")

    exit_code, output, summary = session("lint", "harness.ci.lint", "--fix", "harness/broken.py", "docs/broken.md")

    assert exit_code == 1  # a default argument is not fixed without being asked
    assert [line for line in output.splitlines() if line.startswith(("✓", "harness", "docs"))] == [
        *(line.replace(": ", ": fixed: ", 1) for line in FOUND.splitlines()[:2]),
        next(line for line in output.splitlines() if "B006" in line),
        "harness/broken.py:3: fixed: unformatted File would be reformatted (--fix)",
        "✓ ruff format: 1 fixed",
        "docs/broken.md:3: fixed: MD012 Multiple consecutive blank lines between content (--fix)",
        "✓ rumdl: 1 fixed",
    ]
    assert (clone / "docs" / "broken.md").read_text() == "# Broken\n\ntext\n"
    left = "✗ ruff check found problems; fix the rest by hand: 1 listed above"
    assert output.splitlines()[-1] == left
    assert "| ✗ | ruff check | 2 fixed, 1 left |\n| ✓ | ruff format | 1 fixed |\n| ✓ | rumdl | 1 fixed |\n" in summary


@pytest.mark.slow  # the environment `types` is large, and not installed on each Python
def test_types_reports_the_errors_of_mypy(session: Session, clone: Path) -> None:
    (clone / "broken.py").write_text('x: int = "a"\n\n\ndef f(a):\n    return a\n')
    exit_code, output, summary = session("types", "harness.ci.typecheck", "broken.py")
    assert exit_code == 1
    assignment = (
        'error: Incompatible types in assignment (expression has type "str", variable has type "int") [assignment]'
    )
    untyped = "error: Function is missing a type annotation [no-untyped-def]"
    assert output.splitlines() == [
        f"broken.py:1: {assignment}",
        f"broken.py:4: {untyped}",
        "✗ mypy found 2 errors",
        f"::error file=broken.py,line=1,title=mypy::{assignment}",
        f"::error file=broken.py,line=4,title=mypy::{untyped}",
    ]
    assert summary.startswith(
        "## ✗ types: TIME\n\n"
        "- **What happened:** mypy found 2 errors.\n"
        "- **Why, most likely:** A change made types wrong.\n"
        "- **What to do:** Fix the lines below, and check again: nox -s types\n\n"
        "**mypy**\n\n| where | what |\n| --- | --- |\n| `broken.py:1` | error: Incompatible"
    )

    (clone / "broken.py").write_text("x: int = 1\n")
    assert session("types", "harness.ci.typecheck", "broken.py") == (
        0,
        "✓ mypy found no errors\n",
        "## ✓ types: mypy found no errors (TIME)\n\n",
    )

    exit_code, output, summary = session("types", "harness.ci.typecheck", "--no-such-option")
    assert exit_code == 2
    assert "mypy: error: unrecognized arguments: --no-such-option\n✗ mypy ended with exit code 2\n" in output
    assert "<details><summary>Output of mypy</summary>" in summary


@pytest.mark.parametrize("output", ["", "[]", "text", '{"a": 1}', '[{"locations": []}]', "[1"])
def test_output_that_is_not_the_tools_json_is_shown(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    program = f"import sys; print({output!r}, end=''); print('it failed', file=sys.stderr); sys.exit(3)"
    result = run_tool("zizmor", [sys.executable, "-c", program], "tool")
    result.print()
    shown = "it failed\n" if output in ("", "[]") else f"{output}it failed\n"
    assert (result.exit_code, list(result.findings), capsys.readouterr().out) == (3, [], shown)


def test_a_note_of_mypy_has_its_hint() -> None:
    item = {"file": "a.py", "line": 1, "severity": "note", "message": "Revealed", "code": None, "hint": "See x"}
    assert READERS["mypy"](item) == ("a.py", 1, "note: Revealed", "See x")


def test_the_table_has_the_first_findings() -> None:
    result = Result(1, [Finding("a.py", number, "tool", "x") for number in range(1, 24)], "")
    _, table = result.markdown("tool")
    assert table.splitlines()[-2:] == ["| `a.py:20` | x |", "|  | … and 3 more |"]
