"""Where things are in the repository."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # one name for the clone, whatever links lead to it
CLONE = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]  # tells this clone's clusters from another's
BUILD = ROOT / "build"  # what sessions leave for people: diagnostics, documentation
SAMPLE = ROOT / "airflow" / "data" / "events.csv"
PYTHONPATH = (ROOT / "cluster", ROOT / "airflow" / "include")
