"""The page."""

from pathlib import Path

from harness.diff.results import Diff


def write_page(diff: Diff, path: Path) -> None:
    """Write DIFF to PATH."""
    path.write_text(str(diff))
