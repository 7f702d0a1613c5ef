"""Run a program whose output is for people: it is shown as it comes, and returned at the end."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.reporting.console import say


def stream(
    argv: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, str]:
    """Run ARGV to its end, each line of both its streams to standard output; return its exit code and what it said."""
    said = []
    with subprocess.Popen(
        argv, env=env, cwd=cwd, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                say(line.rstrip("\n"))
        except BaseException:  # as subprocess.run has it
            process.kill()
            raise
    return process.returncode, "".join(said)
