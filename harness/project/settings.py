"""The project's own settings: `[tool.events-platform]` in pyproject.toml, and where the workflow runs the pipelines.

Standard library only: the plan of a workflow is made before there is any environment.
"""

import tomllib
from functools import cache
from typing import Any

from harness.project.paths import ROOT


@cache
def settings() -> dict[str, Any]:
    """Return `[tool.events-platform]`: minutes and budgets per session, and Pythons."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(project["tool"]["events-platform"])


@cache
def places() -> dict[str, dict[str, str]]:
    """Return where the workflow runs the pipelines, by name: `places` in `cluster/versions.toml`."""
    versions = tomllib.loads((ROOT / "cluster" / "versions.toml").read_text(encoding="utf-8"))
    return dict(versions["places"])
