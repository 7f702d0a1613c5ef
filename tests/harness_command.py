"""Start the harness's command line in a process of its own, as a session does."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.project.paths import ROOT
from tests import clones

TIMEOUT_S = 600.0


def start(
    *arguments: str,
    python: str = sys.executable,
    program: Sequence[str] = ("-m", "harness"),
    cwd: Path = ROOT,
    **env: str,
) -> subprocess.Popen[str]:
    """Start `PYTHON -m harness ARGUMENTS`, or another PROGRAM, with the variables ENV; both streams are its stdout."""
    return subprocess.Popen(
        [python, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=clones.environment(**env),
    )


def run(*arguments: str, timeout_s: float = TIMEOUT_S, **options: Any) -> tuple[int, str]:
    """Run the harness as `start` does, and return its exit code and output."""
    process = start(*arguments, **options)
    output, _ = process.communicate(timeout=timeout_s)
    return process.returncode, output


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Return the output of PROCESS up to the line that matches PATTERN."""
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if re.search(pattern, line):
            return output
    raise AssertionError(f"no line matches {pattern!r}:\n{output}")


def error_lines(output: str) -> list[str]:
    """Return the three lines of the error at the end of OUTPUT."""
    lines = output.rstrip().splitlines()[-3:]
    assert lines[0].startswith("✗ "), output
    assert "Traceback" not in output
    return lines
