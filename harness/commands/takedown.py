"""Delete the cluster of a run that has ended: the last command of the run's supervisor, not for people."""

import argparse
import json
import os

from harness.errors import NotUpError
from harness.reporting.summary import Section
from harness.targets.kubernetes_target import TAKEDOWN, provider_of
from harness.targets.options import CLUSTERS, RunOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the target; the variable of `TAKEDOWN` has the other options."""
    parser.add_argument("target", choices=CLUSTERS)
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace, _: Section) -> None:
    """Delete everything of the run; raise NotUpError if something of it still exists."""
    provider = provider_of(parsed.target, RunOptions(parsed.target, **json.loads(os.environ[TAKEDOWN])))
    provider.delete()
    if provider.exists():
        raise NotUpError(
            f"The {provider.title} still exists.",
            "Not everything of it could be deleted.",
            f"Take it down: {provider.command('down')}",
        )
