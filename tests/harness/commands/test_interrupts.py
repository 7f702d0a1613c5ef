"""The error after an interrupt: its exit code is the shell's, and its next step repeats the command."""

import os
import signal
import subprocess
import sys

import pytest

from harness.commands.interrupts import Interrupted, interrupts_as_errors
from harness.errors import HarnessError


@pytest.mark.parametrize(
    ("arguments", "why", "command"),
    [
        (
            ["e2e", "--events", "a.csv"],
            "Everything was taken down, unless it is named above.",
            "nox -s e2e -- --events a.csv",
        ),
        (["e2e"], "Everything was taken down, unless it is named above.", "nox -s e2e"),
        (
            ["e2e", "--keep", "--events", "s3://SECRET:SECRET@bucket/a.csv?sig=SECRET"],
            "A cluster that was up, or partly up, stays; everything else was taken down.",
            "nox -s e2e -- --keep --events 's3://bucket/a.csv?sig=…'",
        ),
        (
            ["cluster", "up"],
            "A cluster that was up, or partly up, stays; everything else was taken down.",
            "nox -s cluster -- up",
        ),
    ],
)
def test_an_interrupt_is_an_error(arguments: list[str], why: str, command: str) -> None:
    with pytest.raises(HarnessError) as caught, interrupts_as_errors(arguments):
        raise Interrupted(signal.SIGINT, True)
    assert str(caught.value) == f"Interrupted by SIGINT.\n{why}\nRun it again: {command}"
    assert caught.value.exit_code == 130


def test_that_nox_was_killed_is_said() -> None:
    with (
        pytest.raises(HarnessError, match=r"^nox, which ran this, was killed\.\n") as caught,
        interrupts_as_errors(["e2e"]),
    ):
        raise Interrupted(signal.SIGTERM, False)
    assert caught.value.exit_code == 143


IN_A_FINALIZER = """
import os, signal, time
from harness.commands.interrupts import Interrupted, raise_interrupts

class Closed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

raise_interrupts()
try:
    Closed()
    print("went on", flush=True)
    time.sleep(30)
except Interrupted as interrupted:
    print(interrupted.args)
"""


def test_a_signal_while_an_object_is_deleted_is_not_lost() -> None:
    env = {name: value for name, value in os.environ.items() if name != "NOX_PID"}  # nox is not its parent
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FINALIZER], env=env, capture_output=True, text=True, check=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("went on\n(15, True)\n", "")
