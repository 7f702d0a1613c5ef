"""Keep the figures of the last successful run in `build/figures/<name>.json`, to compare the next one with them."""

import json

from harness.project.paths import BUILD
from harness.reporting.console import say

FIGURES = BUILD / "figures"


def last(name: str) -> dict[str, float]:
    """Return the figures of the last run of NAME; empty if there was none, or the file cannot be read."""
    try:
        stored = json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
        return {str(figure): float(value) for figure, value in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def keep(name: str, figures: dict[str, float]) -> None:
    """Store FIGURES for the next run of NAME; if that fails, say so: this run has succeeded."""
    rounded = {figure: round(value, 3) for figure, value in figures.items()}
    try:
        FIGURES.mkdir(parents=True, exist_ok=True)
        (FIGURES / f"{name}.json").write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        say(f"  the figures cannot be kept for the next run: {error}")
