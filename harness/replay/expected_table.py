"""What a raw table must hold after each load: the definition of a load in plain Python, on rows that a script knows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from feeds.contract import Feed
from feeds.interval import Interval
from harness.oracle.raw_rows import moment_of
from harness.oracle.row_values import Row
from harness.replay.delivered_file import Line

Key = tuple[Any, ...]


@dataclass(frozen=True)
class ExpectedLoad:
    """What the ledger must say of a load; of one that is refused, only that."""

    is_refused: bool
    read: int
    loaded: int
    rejected: int
    outside: int
    absent: Counter[date]  # by day

    @property
    def counts(self) -> tuple[int, ...]:
        """The counts that the ledger has of every load that succeeded."""
        return self.read, self.loaded, self.rejected, self.outside


@dataclass
class ExpectedTable:
    """The rows of FEED's raw table, by key."""

    feed: Feed
    rows: dict[Key, Row] = field(default_factory=dict)

    def load(self, lines: Sequence[Line], interval: Interval) -> ExpectedLoad:
        """Load INTERVAL of the file with LINES, unless the load must be refused."""
        valid: dict[Key, Row] = {}
        for line in lines:
            if line.row is not None:
                valid.setdefault(self._key(line.row), line.row)  # the first of several is taken
        inside = {key: row for key, row in valid.items() if self._moment(row) in interval}
        replaced = {key for key, row in self.rows.items() if self._moment(row) in interval or key in inside}
        rejected = len(lines) - len(valid)
        too_many = bool(rejected) and rejected / len(lines) > self.feed.properties.max_rejected
        is_refused = too_many or bool(replaced and not inside)
        if not is_refused:
            self.rows = {key: row for key, row in self.rows.items() if key not in replaced} | inside
        absent = Counter(self.day(row) for key, row in valid.items() if key not in inside and key not in self.rows)
        return ExpectedLoad(is_refused, len(lines), len(inside), rejected, len(valid) - len(inside), absent)

    def day(self, row: Row) -> date:
        """Return the day, in UTC, of ROW."""
        return self._moment(row).astimezone(UTC).date()

    def _moment(self, row: Row) -> datetime:
        return moment_of(row[str(self.feed.time_column)])

    def _key(self, row: Row) -> Key:
        return tuple(row[name] for name in self.feed.key)
