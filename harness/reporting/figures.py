"""Keep the figures of the last successful run in `build/figures/<name>.json`, to compare the next one with them."""

import json

from harness.project.paths import BUILD

FIGURES = BUILD / "figures"


def last(name: str) -> dict[str, float]:
    """Return the figures of the last run of NAME; empty if there was none, or the file cannot be read."""
    try:
        stored = json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
        return {str(figure): float(value) for figure, value in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def keep(name: str, figures: dict[str, float]) -> None:
    """Store FIGURES for the next run of NAME."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    rounded = {figure: round(value, 3) for figure, value in figures.items()}
    (FIGURES / f"{name}.json").write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
