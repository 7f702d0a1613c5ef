"""The project's own settings: `[tool.events-platform]` in pyproject.toml."""

import tomllib
from functools import cache
from typing import Any

from harness.project.paths import ROOT


@cache
def settings() -> dict[str, Any]:
    """Return `[tool.events-platform]`: minutes and budgets per session, and Pythons."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(project["tool"]["events-platform"])
