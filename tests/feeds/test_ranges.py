"""The partitions that a load makes cover the range of those that it replaces, day by day, whatever they are."""

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from feeds.interval import Interval
from feeds.ranges import Partition, Staged, plan

DAYS = 12
FIRST = datetime(2020, 1, 1, tzinfo=UTC)

bounds = st.lists(st.integers(1, DAYS - 1), unique=True, max_size=5).map(sorted)
rows = st.lists(st.integers(0, 9), min_size=DAYS, max_size=DAYS)


def moment(day: int | None) -> datetime | None:
    return None if day is None else FIRST + timedelta(days=day)


def day_of(bound: datetime | None, default: int) -> int:
    return default if bound is None else (bound - FIRST).days


def days(start: datetime | None, end: datetime | None) -> list[int]:
    return list(range(day_of(start, 0), day_of(end, DAYS)))


def table(name: str) -> sql.Composable:
    return sql.Identifier(name)


@given(
    bounds, st.none() | st.integers(1, DAYS - 2), st.none() | st.integers(2, DAYS - 1), bounds, rows, st.integers(1, 20)
)
def test_each_day_has_one_place(  # noqa: PLR0917 - drawn
    cuts: list[int], start: int | None, end: int | None, parts: list[int], rows: list[int], partition_rows: int
) -> None:
    start = start if start is None or end is None or start < end else None
    interval = Interval(moment(start), moment(end))
    present = [
        Partition(table(f"of {first}"), moment(first), moment(last)) for first, last in pairwise([None, *cuts, None])
    ]
    touched = [partition for partition in present if partition.overlaps(interval)]
    inside = days(interval.start, interval.end)
    starts = [day for day in parts if inside[0] < day <= inside[-1]]
    staged = [
        Staged(table(f"staged {number}"), interval.start if number == 0 else moment(first), sum(rows[first:last]))
        for number, (first, last) in enumerate(pairwise([inside[0], *starts, inside[-1] + 1]))
    ]

    def rows_by_day(partition: Partition, kept: Interval) -> list[tuple[datetime, int]]:
        of_range = set(days(kept.start, kept.end)) & set(days(partition.start, partition.end))
        return [(FIRST + timedelta(days=day), rows[day]) for day in sorted(of_range) if rows[day]]

    planned = plan(touched, interval, staged, rows_by_day, partition_rows)
    # They follow each other, and cover what the touched ones did.
    assert (planned[0].start, planned[-1].end) == (touched[0].start, touched[-1].end)
    assert all(one.end == following.start for one, following in pairwise(planned))
    # Each staging table is in one of them, all of it.
    assert [one.staged for one in planned if one.staged] == [part.table for part in staged]
    for one in planned:
        if one.staged:
            number = [part.table for part in staged].index(one.staged)
            last = starts[number] if number < len(starts) else inside[-1] + 1
            assert set(days(staged[number].start, moment(last))) <= set(days(one.start, one.end))
    # Each day with rows outside the interval is kept once, from its own partition, in the range of its new one.
    kept = [
        (day, partition.table) for one in planned for partition, part in one.kept for day in days(part.start, part.end)
    ]
    for one in planned:
        assert all(set(days(part.start, part.end)) <= set(days(one.start, one.end)) for _, part in one.kept)
    outside = [day for day in days(touched[0].start, touched[-1].end) if rows[day] and day not in inside]
    assert [(day, of) for day, of in kept if rows[day]] == [
        (day, present[bisect_right(cuts, day)].table) for day in outside
    ]
    assert not {day for day, _ in kept} & set(inside)
    assert sum(one.rows for one in planned) == sum(rows[day] for day in days(touched[0].start, touched[-1].end))
    # None is smaller than it must be.
    assert not any(one.can_merge(following, partition_rows) for one, following in pairwise(planned))
