"""The results of the last pytest runs of this clone, which `nox -s tests` and its like leave in `build/reports`."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from harness.project.paths import BUILD
from harness.reporting.report.run import PytestRun

RESULTS = BUILD / "reports"
SLOWEST = 10


def read(folder: Path = RESULTS) -> Iterator[PytestRun]:
    """Yield the runs whose results are in FOLDER, by session; what cannot be read is left out."""
    for path in sorted(folder.glob("*.xml")):
        try:
            yield read_one(path)
        except (
            OSError,
            ElementTree.ParseError,
            ValueError,
            LookupError,
            OverflowError,
        ):  # damaged, or another program's
            continue


def read_one(path: Path) -> PytestRun:
    """Return the run whose results, in JUnit's format, are at PATH; raise an error if they are damaged."""
    [suite] = ElementTree.parse(path).getroot().iter("testsuite")  # noqa: S314 - our own file
    ended = {"failure": 0, "error": 0, "skipped": 0}
    failed, timed = [], []
    for case in suite.iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        timed.append((name, _seconds(case.get("time", "0"))))
        for kind in ended.keys() & {each.tag for each in case}:
            ended[kind] += 1
            if kind != "skipped":
                failed.append(name)
    began_at = datetime.fromisoformat(suite.attrib["timestamp"])
    return PytestRun(
        path.stem,
        began_at.astimezone(UTC) if began_at.tzinfo else began_at.replace(tzinfo=UTC),
        passed=len(timed) - len(set(failed)) - ended["skipped"],
        skipped=ended["skipped"],
        seconds=_seconds(suite.attrib["time"]),
        failed=list(dict.fromkeys(failed)),
        slowest=sorted(timed, key=lambda each: each[1], reverse=True)[:SLOWEST],
    )


def _seconds(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(text)
    return found
