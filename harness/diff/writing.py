"""Where a comparison is read: the terminal, the step's summary, and `build/diff/`."""

import json
from dataclasses import asdict
from pathlib import Path

from harness.diff.results import Diff
from harness.reporting.console import say
from harness.reporting.summary import Section


def say_diff(diff: Diff) -> None:
    """Print DIFF."""
    import pprint

    say(pprint.pformat(diff, width=160))


def write_files(diff: Diff, folder: Path, section: Section) -> None:
    """Write DIFF to FOLDER and SECTION."""
    (folder / "diff.json").write_text(json.dumps(asdict(diff), indent=2, default=str) + "\n", encoding="utf-8")
