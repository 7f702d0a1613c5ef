"""The progress of a load: bytes read of all bytes, rows per second, time left."""

import time
from collections.abc import Callable


class Progress:
    """Passes to REPORT, at most every EVERY_S seconds, how much of a file of TOTAL_BYTES (if known) has been read."""

    def __init__(self, total_bytes: int | None, report: Callable[[str], None], every_s: float) -> None:
        self._total_bytes = total_bytes
        self._report = report
        self._every_s = every_s
        self._started = self._reported = time.monotonic()
        self._rows = 0

    def advance(self, rows: int, read_bytes: int) -> None:
        """Count ROWS more; READ_BYTES is the number of bytes read so far."""
        self._rows += rows
        now = time.monotonic()
        if now - self._reported >= self._every_s:
            self._reported = now
            self._report(self._text(now - self._started, read_bytes))

    def _text(self, seconds: float, read_bytes: int) -> str:
        speed = f"{self._rows:,} rows, {self._rows / seconds:,.0f} rows/s"
        if not self._total_bytes or not read_bytes:
            return f"read {read_bytes / 1e6:,.1f} MB, {speed}"
        left_s = seconds * max(0, self._total_bytes - read_bytes) / read_bytes
        return (
            f"read {read_bytes / 1e6:,.1f} of {self._total_bytes / 1e6:,.1f} MB"
            f" ({read_bytes / self._total_bytes:.0%}), {speed}, {left_s:,.0f} s left"
        )
