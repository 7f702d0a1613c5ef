"""The arithmetic of partitions: which ones a load makes in place of those that its interval touches. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from psycopg import sql

from feeds.interval import Interval


@dataclass(frozen=True)
class Partition:
    """A partition of a raw table and the bounds of its rows' times; None is an open bound."""

    table: sql.Composable
    start: datetime | None
    end: datetime | None

    def before(self, moment: datetime | None) -> Interval | None:
        """Return its range before MOMENT, or None."""
        if moment is None or (self.start is not None and self.start >= moment):
            return None
        return Interval(self.start, moment)

    def after(self, moment: datetime | None) -> Interval | None:
        """Return its range from MOMENT on, or None."""
        if moment is None or (self.end is not None and self.end <= moment):
            return None
        return Interval(moment, self.end)

    def is_cut_by(self, interval: Interval) -> bool:
        """Return whether INTERVAL, which it overlaps, leaves out a part of its range."""
        return bool(self.before(interval.start) or self.after(interval.end))

    def overlaps(self, interval: Interval) -> bool:
        """Return whether it and INTERVAL have a moment in common."""
        begins_before = self.start is None or interval.end is None or self.start < interval.end
        return begins_before and (self.end is None or interval.start is None or interval.start < self.end)


@dataclass(frozen=True)
class Staged:
    """A staging table with ROWS rows from the moment START on, until the next one's; None for no bound."""

    table: sql.Composable
    start: datetime | None
    rows: int


@dataclass
class PlannedPartition:
    """A partition to make: its range of time, a staging table or None, and the rows to keep of other partitions."""

    start: datetime | None
    end: datetime | None
    rows: int = 0
    staged: sql.Composable | None = None
    kept: list[tuple[Partition, Interval]] = field(default_factory=list)

    def can_merge(self, following: "PlannedPartition", partition_rows: int) -> bool:
        """Return whether both are small enough, and have at most one staging table."""
        return self.rows + following.rows < partition_rows and not (self.staged and following.staged)

    def merge(self, following: "PlannedPartition") -> None:
        """Extend this one over FOLLOWING."""
        self.end = following.end
        self.rows += following.rows
        self.staged = self.staged or following.staged
        self.kept += following.kept


RowsByDay = Callable[[Partition, Interval], Iterable[tuple[datetime, int]]]


def plan(
    touched: Sequence[Partition],
    interval: Interval,
    staged: Sequence[Staged],
    rows_by_day: RowsByDay,
    partition_rows: int,
) -> list[PlannedPartition]:
    """Return the partitions to make for the range of TOUCHED, consecutive ones that INTERVAL overlaps.

    Args:
        touched: the present partitions, in the order of their times; the interval may cut the first and the last one.
        interval: of the load.
        staged: the staging tables of the interval, in the order of their times.
        rows_by_day: returns the first moment of each day that a partition has rows of in a range, and their number.
        partition_rows: the number of rows from which a partition is large enough: smaller neighbours are merged.
    """
    planned: list[PlannedPartition] = []
    if touched and (before := touched[0].before(interval.start)):
        planned += _cut(touched[0], before, rows_by_day, partition_rows)
    ends = [part.start for part in staged[1:]] + [interval.end]
    for part, end in zip(staged, ends, strict=False):  # without staging tables there is still one end
        planned.append(PlannedPartition(part.start, end, part.rows, part.table))
    if not staged:
        planned.append(PlannedPartition(interval.start, interval.end))
    if touched and (after := touched[-1].after(interval.end)):
        planned += _cut(touched[-1], after, rows_by_day, partition_rows)
    merged = planned[:1]
    for following in planned[1:]:
        if merged[-1].can_merge(following, partition_rows):
            merged[-1].merge(following)
        else:
            merged.append(following)
    return merged


def _cut(partition: Partition, kept: Interval, rows_by_day: RowsByDay, partition_rows: int) -> list[PlannedPartition]:
    """Return partitions for KEPT, a part of PARTITION, which is cut at starts of days."""
    planned = [PlannedPartition(kept.start, kept.end)]
    for day, rows in rows_by_day(partition, kept):
        if planned[-1].rows >= partition_rows:
            planned[-1].end = day
            planned.append(PlannedPartition(day, kept.end))
        planned[-1].rows += rows
    for one in planned:
        if one.rows:
            one.kept.append((partition, Interval(one.start, one.end)))
    return planned
