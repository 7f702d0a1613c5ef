"""What a raw table must hold after each load: the definition of a load in plain Python, on rows that a script knows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from feeds.contract import Feed
from feeds.interval import Interval
from harness.oracle.raw_rows import moment_of
from harness.oracle.row_values import Row
from harness.replay.delivered_file import Line

Key = tuple[Any, ...]


class DayOfLoad(NamedTuple):
    """What the ledger must say of a day of a load: rows loaded, added, changed, removed and absent."""

    loaded: int
    added: int
    changed: int
    removed: int
    absent: int


@dataclass(frozen=True)
class ExpectedLoad:
    """What the ledger must say of a load; of one that is refused, only that."""

    is_refused: bool
    counts: tuple[int, ...]  # rows read, loaded, rejected, outside and absent
    days: Mapping[date, DayOfLoad]


@dataclass
class DaySettled:
    """How a day has settled: rows that the first load of it had, and what later ones have done to it."""

    first: int
    late: int = 0
    corrected: int = 0
    withdrawn: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """All of its numbers."""
        return self.first, self.late, self.corrected, self.withdrawn


@dataclass
class ExpectedTable:
    """The rows of FEED's raw table, by key, and how its days have settled."""

    feed: Feed
    rows: dict[Key, Row] = field(default_factory=dict)
    settled: dict[date, DaySettled] = field(default_factory=dict)

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
        if too_many or (replaced and not inside):
            return ExpectedLoad(True, (), {})
        before = self.rows
        self.rows = {key: row for key, row in before.items() if key not in replaced} | inside
        absent = [row for key, row in valid.items() if key not in inside and key not in self.rows]
        counts = (len(lines), len(inside), rejected, len(valid) - len(inside), len(absent))
        days = self._days(before, inside, absent)
        self._settle(days, interval)
        return ExpectedLoad(False, counts, days)

    def _days(
        self, before: Mapping[Key, Row], inside: Mapping[Key, Row], absent: Sequence[Row]
    ) -> dict[date, DayOfLoad]:
        """Return what a load of the rows INSIDE its interval does by day to the rows BEFORE it."""
        loaded, added, changed, removed = Counter[date](), Counter[date](), Counter[date](), Counter[date]()
        for key, row in inside.items():
            loaded[self.day(row)] += 1
            if key not in before:
                added[self.day(row)] += 1
            elif before[key] != row:
                changed[self.day(row)] += 1
        for key, row in before.items():
            if key not in self.rows or self.day(self.rows[key]) != self.day(row):
                removed[self.day(row)] += 1
        missing = Counter(map(self.day, absent))
        every = loaded.keys() | removed.keys() | missing.keys()
        return {day: DayOfLoad(loaded[day], added[day], changed[day], removed[day], missing[day]) for day in every}

    def _settle(self, days: Mapping[date, DayOfLoad], interval: Interval) -> None:
        """Note what a load of INTERVAL has done to its DAYS."""
        for day, change in days.items():
            if (settled := self.settled.get(day)) is None:
                if midnight(day) in interval:
                    self.settled[day] = DaySettled(change.loaded)
            else:
                settled.late += change.added
                settled.corrected += change.changed
                settled.withdrawn += change.removed
        if interval.start and interval.end:  # it has had its other days, too, of which it found no row
            for number in range((interval.end - interval.start).days):
                self.settled.setdefault((interval.start + timedelta(number)).date(), DaySettled(0))

    def day(self, row: Row) -> date:
        """Return the day, in UTC, of ROW."""
        return self._moment(row).astimezone(UTC).date()

    def _moment(self, row: Row) -> datetime:
        return moment_of(row[str(self.feed.time_column)])

    def _key(self, row: Row) -> Key:
        return tuple(row[name] for name in self.feed.key)


def midnight(day: date) -> datetime:
    """Return when DAY begins, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
