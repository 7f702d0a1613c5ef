"""Folders and files of the repository, and names for this clone."""

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # without links: one name for the clone
CLONE = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]  # in the names of this clone's clusters
BUILD = ROOT / "build"  # what sessions write for people: diagnostics, reports, documentation
DBT_DOCS = BUILD / "dbt-docs" / "index.html"  # `nox -s dbt` makes it
DATA = ROOT / "airflow" / "data"  # a sample of each feed
SAMPLE = DATA / "events.csv"
PACKAGE_FOLDERS = (ROOT, ROOT / "airflow" / "include")  # the folders of `harness` and of `feeds`


def expanded(text: str) -> Path:
    """Return TEXT, a path that a user typed, with the folder for its `~`; the `~` of an unknown user stays."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser() fails for an unknown user


def from_root(path: Path) -> str:
    """Return PATH from the repository's folder if it is in it, else PATH itself."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
