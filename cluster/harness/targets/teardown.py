"""Take a target down and say so, or what is left: the same for every target."""

from harness.console import Phases, say
from harness.supervisor import Supervisor


def take_down(supervisor: Supervisor, phases: Phases) -> None:
    """Take everything down, unless it is kept, and say so, or what is left."""
    if supervisor.kept:
        return
    say("… taking everything down")
    with phases.phase("taken down") as phase:
        supervisor.close()
        phase.text = "everything taken down"
        phase.went_well = not supervisor.left
    for thing in supervisor.left:
        say(f"✗ left behind: {thing}")
