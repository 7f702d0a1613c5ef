"""Ask before something is dropped that this run did not make."""

import sys
from collections.abc import Mapping

from harness.errors import UsageError
from harness.reporting.console import say
from harness.targets.options import RunOptions


def confirm_loss(databases: Mapping[str, str], options: RunOptions) -> None:
    """Ask whether DATABASES, names with sizes, may be dropped, unless OPTIONS say so; raise UsageError if not."""
    if options.yes or not databases:
        return
    listed = ", ".join(f"{name} ({size})" for name, size in databases.items())
    is_asked = sys.stdin.isatty()
    if is_asked:
        say(f"This drops {listed}, which this run did not make.")
        say("Drop it? Answer y or n:")
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise UsageError(
        f"Nothing was dropped. This command would drop {listed}.",
        "You did not answer with y." if is_asked else "This run did not make it, and there is no terminal to ask at.",
        "If nobody needs it, repeat the command with --yes.",
    )
