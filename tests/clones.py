"""Clones of this and other repositories, and a clone's own harness."""

import os
import subprocess
from pathlib import Path

from harness.project import environments
from harness.project.paths import ROOT


def git(folder: Path, *arguments: str) -> str:
    """Run git in FOLDER, as an author who need not be configured, and return its output."""
    argv = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def python_of(clone: Path) -> str:
    """Return the Python that finds the packages of CLONE; see the fixture `clone`."""
    return str(clone / environments.python_of("tests").relative_to(ROOT))


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment and MORE.

    It is without what ties a harness to the nox that runs the tests, and nobody is told of runs that tests break.
    """
    left_out = ("NOX_PID", "PYTHONPATH", "AIRFLOW_CONN_NOTIFICATIONS", "NOTIFIER")
    return {name: value for name, value in os.environ.items() if name not in left_out} | more
