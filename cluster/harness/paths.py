"""Where things are in the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"  # what sessions leave for people: diagnostics, documentation
SAMPLE = ROOT / "airflow" / "data" / "events.csv"
PYTHONPATH = (ROOT / "cluster", ROOT / "airflow" / "include")
