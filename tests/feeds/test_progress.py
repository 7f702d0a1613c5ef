"""The progress that a load reports."""

import time

import pytest

from feeds.progress import Progress


@pytest.mark.parametrize(
    ("total_bytes", "expected"),
    [
        (8_000_000, "read 2.0 of 8.0 MB (25%), 20,000 rows, 4,000 rows/s, 15 s left"),
        (None, "read 2.0 MB, 20,000 rows, 4,000 rows/s"),
    ],
)
def test_progress_is_reported_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, total_bytes: int | None, expected: str
) -> None:
    clock = iter([100.0, 104.9, 105.0, 109.9])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    reports: list[str] = []
    progress = Progress(total_bytes, reports.append, every_s=5)
    for rows, read_bytes in [(15_000, 1_500_000), (5_000, 2_000_000), (1, 2_000_001)]:
        progress.advance(rows, read_bytes)
    assert reports == [expected]
