"""Compare a run's figures with those of the last one: `build/figures/<name>.json` holds the last that went well."""

import json

from harness.project.paths import BUILD

FIGURES = BUILD / "figures"


def last(name: str) -> dict[str, float]:
    """Return the figures of the last run of NAME, by figure; empty where there was none, or they cannot be read."""
    try:
        told = json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
        return {str(figure): float(value) for figure, value in told.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def keep(name: str, figures: dict[str, float]) -> None:
    """Write FIGURES down for the next run of NAME."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    told = {figure: round(value, 3) for figure, value in figures.items()}
    (FIGURES / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
