"""Take down what `--keep` left up: the `--down` of `nox -s e2e` and `nox -s dbt`."""

import tempfile

from harness.errors import LeftBehindError
from harness.processes.orphans import abandoned, kept, remove_orphans
from harness.processes.supervisor import ANSWER_TIMEOUT_S
from harness.reporting.console import say


def take_down_kept() -> None:
    """Take down this clone's kept runs, and those whose supervisor was killed; raise LeftBehindError if one stays."""
    for directory in remove_orphans():
        say(f"✓ {directory.name}taken down: its supervisor had been killed")
    runs = kept()
    for run in runs:
        if not run.take_down(ANSWER_TIMEOUT_S):
            raise LeftBehindError(
                f"{run.directory} could not be taken down within {ANSWER_TIMEOUT_S:.0f} s.",
                f"Its supervisor, process {run.pid}, is stuck or stopped, or runs in another container.",
                f"Kill it and the processes below it, and remove the directory: kill -9 {run.pid}",
            )
        say(f"✓ {run.directory.name} taken down")
    if not runs:
        say(f"no run of this clone is up in {tempfile.gettempdir()}; to take down a cluster: nox -s cluster -- down")
    for run in abandoned():
        owner = f"the clone {run.clone}, which no longer exists" if run.clone else "an older version"
        say(f"… {run.directory.name} stays up: it belongs to {owner}. Take it down: kill {run.pid}")
