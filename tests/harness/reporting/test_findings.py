"""What `nox -s lint` and `nox -s types` tell of broken files: the tools themselves, in a copy of the project."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.project.environments import install
from harness.reporting.annotations import Finding
from harness.reporting.findings import read_colons, tell
from harness.reporting.summary import text

BROKEN = {
    "harness/broken.py": '"""Broken."""\n\nimport os\nx = {  "a":1}\n\n\n\ny = x["a"]\nz = {  "a":1}\n',
    "dbt/models/marts/dim/broken.sql": "SELECT a from b\n",
    ".ci/run": "#!/usr/bin/env bash\ncd $1\n",
    "airflow/Dockerfile": "FROM python:3\nRUN sudo true\n",
    ".github/workflows/ci.yml": (
        "name: ci\non: push\npermissions: {}\njobs:\n  a:\n    name: a\n    runs-on: ubuntu-latest\n"
        "    steps:\n      - run: echo ${{ nope.x }}\n"
    ),
}


def run(clone: Path, module: str, *arguments: str) -> tuple[int, list[str], str]:
    """Run a MODULE of the harness in CLONE; return its exit code, the lines for GitHub, and the summary."""
    summary = clone / "summary.md"
    env = os.environ | {
        "PYTHONPATH": f"{clone}{os.pathsep}{clone / 'airflow' / 'include'}",
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_ACTIONS": "true",
    }
    group = {"harness.ci.lint": "lint", "harness.ci.typecheck": "types"}[module]
    argv = [str(install(group)), "-m", module, *arguments]
    done = subprocess.run(argv, cwd=clone, env=env, capture_output=True, text=True, check=False)
    commands = [line for line in done.stdout.splitlines() if line.startswith("::")]
    written = re.sub(r": (\d+ min )?[\d.]+ s\n", ": TIME\n", summary.read_text())
    return done.returncode, commands, written


def shortened(command: str) -> str:
    """Return COMMAND with the beginning of its message."""
    where, _, message = command.partition("::")
    return f"{where}::{message[:50]}"


def test_each_linter_tells_its_lines(clone: Path) -> None:
    for name, content in BROKEN.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(content)

    exit_code, commands, summary = run(clone, "harness.ci.lint")

    assert exit_code == 1
    told = [shortened(command.removeprefix("::error file=")) for command in commands]
    assert [line for line in told if "broken.sql" not in line] == [
        "harness/broken.py,line=3,title=ruff check::I001 Import block is un-sorted or un-formatted",
        "harness/broken.py,line=3,title=ruff check::F401 `os` imported but unused",
        "harness/broken.py,line=4,title=ruff format::The formatter would write this another way.",
        ".ci/run,line=2,title=shellcheck::warning: Use 'cd ... || exit' or 'cd ... || return",
        ".ci/run,line=2,title=shellcheck::note: Double quote to prevent globbing and word sp",
        "airflow/Dockerfile,line=2,title=hadolint::DL3004 error: Do not use sudo as it leads to unpre",
        '.github/workflows/ci.yml,line=9,title=actionlint::undefined variable "nope". available variables are',
        ".github/workflows/ci.yml,line=9,title=zizmor::info[template-injection]: code injection via templ",
        ".github/workflows/ci.yml,line=2,title=zizmor::help[concurrency-limits]: insufficient job-level c",
    ]
    assert [line for line in told if "broken.sql" in line] == [
        "dbt/models/marts/dim/broken.sql,line=1,title=sqlfluff::" + message
        for message in ("CP01 | Keywords must be lower case. [capitalisatio",)
    ]
    assert summary.startswith(
        "## ✗ lint: TIME\n\n"
        "- **What happened:** "
        "ruff check, ruff format, sqlfluff, shellcheck, hadolint, actionlint, zizmor found something.\n"
        "- **Why, most likely:** A change breaks their rules.\n"
        "- **What to do:** What can be mended by itself: nox -s lint -- --fix\n\n"
        "**ruff check**\n\n"
        "| where | what |\n| --- | --- |\n"
        "| `harness/broken.py:3` | I001 Import block is un-sorted or un-formatted |\n"
        "| `harness/broken.py:3` | F401 \\`os\\` imported but unused |\n\n"
        "<details><summary>What ruff check says</summary>\n\n```text\nI001 [*] Import block is un-sorted"
    )
    assert summary.endswith("| ✗ | actionlint |  |\n| ✗ | zizmor |  |\n| ✓ | rumdl |  |\n\n")


def test_where_nothing_is_found_the_summary_is_a_table(clone: Path) -> None:
    (clone / ".ci" / "run").unlink()

    exit_code, commands, summary = run(clone, "harness.ci.lint")

    assert (exit_code, commands) == (0, [])
    assert summary == (
        "## ✓ lint: TIME\n\n|  | linter |  |\n| --- | --- | --- |\n"
        "| ✓ | ruff check |  |\n| ✓ | ruff format |  |\n| ✓ | sqlfluff |  |\n"
        "| - | shellcheck | there is no .ci/run yet |\n| ✓ | hadolint |  |\n"
        "| ✓ | actionlint |  |\n| ✓ | zizmor |  |\n| ✓ | rumdl |  |\n\n"
    )


def test_mypys_errors_are_told_with_their_lines(clone: Path) -> None:
    (clone / "broken.py").write_text('x: int = "a"\n\n\ndef f(a):\n    return a\n')

    exit_code, commands, summary = run(clone, "harness.ci.typecheck", "broken.py")

    assert exit_code == 1
    assignment = (
        'error: Incompatible types in assignment (expression has type "str", variable has type "int")  [assignment]'
    )
    untyped = "error: Function is missing a type annotation  [no-untyped-def]"
    assert commands == [
        f"::error file=broken.py,line=1,title=mypy::{assignment}",
        f"::error file=broken.py,line=4,title=mypy::{untyped}",
    ]
    assert summary == (
        "## ✗ types: TIME\n\n"
        "- **What happened:** mypy found 2 errors.\n"
        "- **Why, most likely:** A change does not keep what the types promise.\n"
        "- **What to do:** Mend the lines below, and see that nothing is left: nox -s types\n\n"
        "**mypy**\n\n"
        "| where | what |\n| --- | --- |\n"
        f"| `broken.py:1` | {text(assignment)} |\n"
        f"| `broken.py:4` | {text(untyped)} |\n\n"
        "<details><summary>What mypy says</summary>\n\n```text\n"
        f"broken.py:1: {assignment}\nbroken.py:4: {untyped}\nFound 2 errors in 1 file (checked 1 source file)\n"
        "```\n\n</details>\n\n"
    )


def test_mypys_success_and_its_own_failure_are_told(clone: Path) -> None:
    (clone / "good.py").write_text("x: int = 1\n")
    exit_code, commands, summary = run(clone, "harness.ci.typecheck", "good.py")
    assert (exit_code, commands) == (0, [])
    assert summary.startswith("## ✓ types: Success: no issues found in 1 source file (")

    (clone / "summary.md").unlink()
    exit_code, commands, summary = run(clone, "harness.ci.typecheck", "--no-such-option")
    assert (exit_code, commands) == (2, [])
    assert "- **What happened:** mypy ended with exit code 2.\n" in summary
    assert "mypy: error: unrecognized arguments: --no-such-option\n" in summary


@pytest.mark.parametrize(
    "line", ["In .ci/run line 2:", "  |", "6 |       - uses: a:1 b", "Success: no issues found", "12:30:01 text"]
)
def test_what_names_no_line_is_no_finding(line: str) -> None:
    assert read_colons(line, "tool") == []


def test_of_many_findings_the_first_are_in_the_table() -> None:
    findings = [Finding("a.py", number, "tool", "x") for number in range(1, 24)]
    [_, table, _] = tell("tool", findings, "said")
    assert table.splitlines()[-2:] == ["| `a.py:20` | x |", "|  | … and 3 more |"]
