"""Run a clone's own harness."""

import os
from pathlib import Path

from harness.project import environments
from harness.project.paths import ROOT


def python_of(clone: Path) -> str:
    """Return the Python that finds the packages of CLONE; see the fixture `clone`."""
    return str(clone / environments.python_of("tests").relative_to(ROOT))


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment and MORE.

    It is without what ties a harness to the nox that runs the tests, and nobody is told of runs that tests break.
    """
    left_out = ("NOX_PID", "PYTHONPATH", "AIRFLOW_CONN_NOTIFICATIONS", "NOTIFIER")
    return {name: value for name, value in os.environ.items() if name not in left_out} | more
