"""How far a load has come, for people: bytes of all bytes, rows a second, time left."""

import time
from collections.abc import Callable


class Progress:
    """Says, no more often than every EVERY_S seconds, how far reading a file of TOTAL_BYTES (if known) has come."""

    def __init__(self, total_bytes: int | None, say: Callable[[str], None], every_s: float) -> None:
        self._total_bytes = total_bytes
        self._say = say
        self._every_s = every_s
        self._began = self._said = time.monotonic()
        self._rows = 0

    def advance(self, rows: int, read_bytes: int) -> None:
        """Count ROWS more; READ_BYTES have been read until now."""
        self._rows += rows
        now = time.monotonic()
        if now - self._said >= self._every_s:
            self._said = now
            self._say(self._text(now - self._began, read_bytes))

    def _text(self, seconds: float, read_bytes: int) -> str:
        speed = f"{self._rows:,} rows, {self._rows / seconds:,.0f} rows/s"
        if not self._total_bytes or not read_bytes:
            return f"read {read_bytes / 1e6:,.1f} MB, {speed}"
        left_s = seconds * max(0, self._total_bytes - read_bytes) / read_bytes
        return (
            f"read {read_bytes / 1e6:,.1f} of {self._total_bytes / 1e6:,.1f} MB"
            f" ({read_bytes / self._total_bytes:.0%}), {speed}, {left_s:,.0f} s left"
        )
