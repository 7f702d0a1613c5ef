"""Run a clone's own harness."""

import os
from pathlib import Path

from harness.project import environments
from harness.project.paths import ROOT


def python_of(clone: Path) -> str:
    """Return the Python that finds the packages of CLONE; see the fixture `clone`."""
    return str(clone / environments.python_of("tests").relative_to(ROOT))


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment and MORE, without what ties a harness to the nox that runs the tests."""
    return {name: value for name, value in os.environ.items() if name not in ("NOX_PID", "PYTHONPATH")} | more
