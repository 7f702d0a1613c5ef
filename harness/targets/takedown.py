"""Take a target down and print the result: the same for every target."""

import os
import shlex

from harness.processes.supervisor import Supervisor
from harness.reporting.console import Phases, say


def down_command(session: str) -> str:
    """Return the command that takes down what SESSION leaves up; it looks in the run's temporary directory."""
    temporary = os.environ.get("TMPDIR")
    return f"{f'TMPDIR={shlex.quote(temporary)} ' if temporary else ''}nox -s {session} -- --down"


def take_down(supervisor: Supervisor, phases: Phases) -> None:
    """Take everything down, unless it is kept, and print what could not be removed."""
    if supervisor.kept:
        return
    say("… taking everything down")
    with phases.phase("taken down") as phase:
        supervisor.close()
        phase.text = "everything taken down"
        phase.went_well = not supervisor.left_behind
    for thing in supervisor.left_behind:
        say(f"✗ left behind: {thing}")
