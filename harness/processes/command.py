"""Run a program to its end and return its output."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import CommandFailedError
from harness.processes.failures import how_ended
from harness.reporting.console import say


def run(
    *command: str | Path,
    timeout_s: float = 60.0,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    both_streams: bool = False,
) -> str:
    """Run COMMAND and return its standard output; with BOTH_STREAMS its standard error as well, in order.

    Secrets may be in STDIN and in ENV, variables on top of the harness's own, but not in COMMAND: other users see it in
    the list of processes. Raises CommandFailedError if it fails, is not found, or takes longer than TIMEOUT_S seconds.
    """
    argv = [str(part) for part in command]
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both_streams else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=os.environ | dict(env or {}),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = b"".join(part for part in (error.stdout, error.stderr) if part)  # bytes, though text was asked for
        raise CommandFailedError(
            argv, f"did not end within {timeout_s:.0f} s", output.decode(errors="replace")
        ) from error
    except OSError as error:
        raise CommandFailedError(argv, "could not be started", str(error)) from error
    if done.returncode:
        raise CommandFailedError(argv, how_ended(done.returncode), done.stdout + (done.stderr or ""))
    return done.stdout


def stream(
    argv: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, str]:
    """Run ARGV, show each line of both its streams as it comes, and return its exit code and output.

    ENV is its whole environment, the harness's by default. There is no deadline: its user watches it.
    """
    lines = []
    with subprocess.Popen(
        argv, env=env, cwd=cwd, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                say(line.rstrip("\n"))
        except BaseException:  # as subprocess.run does
            process.kill()
            raise
    return process.returncode, "".join(lines)
