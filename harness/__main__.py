"""The harness's command line, `python -m harness COMMAND …`, which the sessions in noxfile.py call."""

import os
import sys

from harness.commands import command_line
from harness.commands.interrupts import raise_interrupts
from harness.docker import engine
from harness.project import terminal
from harness.project.paths import BUILD


def main(arguments: list[str]) -> int:
    """Run the command that ARGUMENTS name, and return the process's exit code."""
    raise_interrupts()
    terminal.replace_unknown_characters()
    os.environ.setdefault("KUBECACHEDIR", str(BUILD / "kube-cache"))  # else kubectl and helm write to the user's own
    engine.use_current_context()
    engine.use_own_images()
    return command_line.run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
