"""Prepare the replacement of an interval's rows in `raw.events`: new partitions that contain the load's rows.

Rows outside the interval, in partitions that it cuts, are kept: they are copied into the new partitions. All this takes
long, and is done before anybody is blocked; `swap` then takes milliseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from psycopg import sql

from feeds.definition import Definition
from feeds.interval import Interval
from feeds.partitions import Partition, add_keys, id_ranges, make_table, partitions, rows_per_partition
from feeds.staging import Staging


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


class Replacement:
    """The replacement of the rows of INTERVAL by the load LOAD_ID, while nobody else writes to `raw.events`.

    Attributes:
        partitions: the present partitions of `raw.events`.
        made: the partitions that were made to replace some of them.
        moved_from: the earliest `created_at` of an event that moves into the interval, as text since it may be no
            datetime; None if no event moves.
    """

    def __init__(
        self, connection: psycopg.Connection, definition: Definition, load_id: int, interval: Interval
    ) -> None:
        self.connection = connection
        self.definition = definition
        self.load_id = load_id
        self.partitions = partitions(connection)
        self.made: list[Partition] = []
        self.moved_from: str | None = None
        self._interval = interval
        self._touched = [partition for partition in self.partitions if partition.overlaps(interval)]
        self._left: list[Partition] = []  # partitions that an event moves from

    @property
    def replaced(self) -> list[Partition]:
        """The present partitions that the new ones replace."""
        return [partition for partition in self.partitions if partition in self._touched or partition in self._left]

    def count_rows(self) -> int:
        """Return the number of the interval's rows in `raw.events`."""
        where = sql.SQL(" where created_at >= {} and created_at < {}").format(*map(str, self._interval.bounds))
        counts = [
            sql.SQL("select count(*) from {}{}").format(part.table, sql.SQL("") if self._is_inside(part) else where)
            for part in self._touched
        ]
        if not counts:
            return 0
        counted = sql.SQL(" union all ").join(counts)
        return sum(int(rows) for (rows,) in self.connection.execute(counted))

    def find_moved(self, tables: Sequence[sql.Composable] | None = None) -> int:
        """Find the event ids of TABLES that `raw.events` has outside the interval, and where they are.

        Args:
            tables: those with the rows to load; by default the present partitions that the interval touches.

        Returns:
            The number of these event ids.
        """
        own = [partition.table for partition in self._touched] if tables is None else tables
        own_ranges = [ids for ids in id_ranges(self.connection, own) if ids[0] <= ids[1]]
        if not own_ranges:
            return 0
        low, high = min(low for low, _ in own_ranges), max(high for _, high in own_ranges)
        start, end = map(str, self._interval.bounds)
        any_outside = sql.SQL(
            "select exists (select from raw.events where event_id between {} and {}"
            " and (created_at < {} or created_at >= {}))"
        ).format(low, high, start, end)
        if self.connection.execute(any_outside).fetchone() != (True,):  # as in a log, whose ids rise with time
            return 0
        others = [(number, part) for number, part in enumerate(self.partitions) if not self._is_inside(part)]
        ranges = id_ranges(self.connection, [partition.table for _, partition in others])
        outside = [
            sql.SQL(
                "select {}, event_id, created_at from {} where event_id between {} and {}"
                " and (created_at < {} or created_at >= {})"
            ).format(number, partition.table, low, high, start, end)
            for (number, partition), (lowest, highest) in zip(others, ranges, strict=True)
            if any(lowest <= own_high and own_low <= highest for own_low, own_high in own_ranges)
        ]
        if not outside:
            return 0
        inside = [
            sql.SQL("select event_id from {} where created_at >= {} and created_at < {}").format(table, start, end)
            for table in own
        ]
        self.connection.execute(
            "create temporary table moved (number int, event_id bigint, created_at timestamptz) on commit drop"
        )
        moved = self.connection.execute(
            sql.SQL(
                "insert into pg_temp.moved"
                " select * from ({}) as others (number, event_id, created_at) where event_id in ({})"
            ).format(sql.SQL(" union all ").join(outside), sql.SQL(" union all ").join(inside))
        ).rowcount
        [(self.moved_from,)] = self.connection.execute("select min(created_at)::text from pg_temp.moved")
        numbers = self.connection.execute("select distinct number from pg_temp.moved")
        self._left = [self.partitions[number] for (number,) in numbers.fetchall()]
        return moved

    def make_partitions(self, staging: Staging, reader: psycopg.Connection | None) -> None:
        """Make the new partitions; READER, a second connection, reads the rows to keep.

        A partition that an event moves from is made again without that event: if it were only deleted there, a
        transaction with an older snapshot would see it beside the new one.
        """
        [(total,)] = self.connection.execute(
            "select sum(greatest(reltuples, 0))::bigint"
            " from pg_class join pg_partition_tree('raw.events') on relid = oid where isleaf"
        )
        planned = self._plan(staging, rows_per_partition(total or 0))
        for partition in self._left:
            if partition not in self._touched:
                all_rows = (partition, Interval(partition.start, partition.end))
                planned.append(PlannedPartition(partition.start, partition.end, kept=[all_rows]))
        for plan in planned:
            self._make(plan, reader)

    def _is_inside(self, partition: Partition) -> bool:
        """Return whether the interval contains all of PARTITION."""
        return partition in self._touched and not partition.is_cut_by(self._interval)

    def _plan(self, staging: Staging, partition_rows: int) -> list[PlannedPartition]:
        """Return the partitions to make for the range of the touched ones."""
        planned: list[PlannedPartition] = []
        if self._touched and (before := self._touched[0].before(self._interval.start)):
            planned += self._plan_kept(self._touched[0], before, partition_rows)
        ends = [part.start for part in staging.parts[1:]] + [self._interval.end]
        for part, end in zip(staging.parts, ends, strict=False):  # without parts there is still one end
            planned.append(PlannedPartition(part.start, end, part.rows, part.table))
        if not staging.parts:
            planned.append(PlannedPartition(self._interval.start, self._interval.end))
        if self._touched and (after := self._touched[-1].after(self._interval.end)):
            planned += self._plan_kept(self._touched[-1], after, partition_rows)
        merged = planned[:1]
        for plan in planned[1:]:
            if merged[-1].can_merge(plan, partition_rows):
                merged[-1].merge(plan)
            else:
                merged.append(plan)
        return merged

    def _plan_kept(self, partition: Partition, kept: Interval, partition_rows: int) -> list[PlannedPartition]:
        """Cut KEPT, a part of PARTITION, at ends of days."""
        days = self.connection.execute(
            sql.SQL(
                "select date_trunc('day', greatest(least(created_at, '9999-12-31'), '0001-01-01')), count(*) from {}"
                " where created_at >= %s and created_at < %s group by 1 order by 1"
            ).format(partition.table),
            kept.bounds,
        )
        planned = [PlannedPartition(kept.start, kept.end)]
        for day, rows in days:
            if planned[-1].rows >= partition_rows:
                planned[-1].end = day
                planned.append(PlannedPartition(day, kept.end))
            planned[-1].rows += rows
        for plan in planned:
            if plan.rows:
                plan.kept.append((partition, Interval(plan.start, plan.end)))
        return planned

    def _make(self, plan: PlannedPartition, reader: psycopg.Connection | None) -> None:
        connection = self.connection
        table = plan.staged or make_table(connection, self.definition, self.load_id)
        for partition, interval in plan.kept:
            assert reader is not None
            self._copy(partition, interval, table, reader)
        if plan.staged is None:
            add_keys(connection, self.definition, table)
        self.definition.add_references(connection, table)
        bounds = [
            sql.SQL("created_at {} {}").format(sql.SQL(operator), str(bound))
            for operator, bound in ((">=", plan.start), ("<", plan.end))
            if bound
        ]
        if bounds:  # so that attaching the partition does not scan its rows
            condition = sql.SQL(" and ").join(bounds)
            connection.execute(sql.SQL("alter table {} add check ({})").format(table, condition))
        self.made.append(Partition(table, plan.start, plan.end))

    def _copy(
        self, partition: Partition, interval: Interval, table: sql.Composable, reader: psycopg.Connection
    ) -> None:
        """Copy the rows of INTERVAL from PARTITION to TABLE, except those that move into the load's interval.

        READER reads them: one connection cannot read and write by COPY at once.
        """
        moved: list[int] = []
        if partition in self._left:
            number = self.partitions.index(partition)
            found = self.connection.execute("select event_id from pg_temp.moved where number = %s", (number,))
            moved = [event_id for (event_id,) in found]
        columns = self.definition.stored_columns
        rows = sql.SQL(
            "copy (select {} from {} where created_at >= {} and created_at < {} and event_id <> all({}::bigint[]))"
            " to stdout (format binary)"
        ).format(columns, partition.table, *map(str, interval.bounds), moved)
        into = sql.SQL("copy {} ({}) from stdin (format binary, freeze)").format(table, columns)
        with reader.cursor().copy(rows) as kept, self.connection.cursor().copy(into) as new:
            for block in kept:
                new.write(block)
