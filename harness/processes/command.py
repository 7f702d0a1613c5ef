"""Run a program to its end, within a deadline, and return what it says."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.errors import CommandFailedError


def run(
    *command: str | Path,
    timeout_s: float = 60.0,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    both_streams: bool = False,
) -> str:
    """Run COMMAND and return its standard output.

    Args:
        command: the argument list; nothing secret, it is shown in the list of processes.
        timeout_s: after so many seconds it is killed.
        stdin: what it reads; secrets may be in here.
        env: variables on top of the environment.
        both_streams: return what it says on standard error, too, in order.

    Raises:
        CommandFailedError: it failed, was not found, or took too long.
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
        said = b"".join(part for part in (error.stdout, error.stderr) if part)  # bytes, whatever was asked for
        raise CommandFailedError(
            argv, f"did not end within {timeout_s:.0f} s", said.decode(errors="replace")
        ) from error
    except OSError as error:
        raise CommandFailedError(argv, "could not be started", str(error)) from error
    if done.returncode:
        raise CommandFailedError(argv, f"ended with exit code {done.returncode}", done.stdout + (done.stderr or ""))
    return done.stdout
