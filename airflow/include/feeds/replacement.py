"""Prepare the replacement of an interval's rows in the raw table: new partitions that contain the load's rows.

Rows outside the interval, in partitions that it cuts, are kept: they are copied into the new partitions. All this takes
long, and is done before anybody is blocked; `swap` then takes milliseconds.
"""

from collections.abc import Sequence
from datetime import datetime

import psycopg
from psycopg import sql

from feeds.definition import Definition
from feeds.interval import ALWAYS, Interval
from feeds.partitions import add_keys, key_ranges, make_table, partitions, rows_per_partition
from feeds.ranges import Partition, PlannedPartition, Staged, plan
from feeds.staging import Staging


class Replacement:
    """The replacement of the rows of INTERVAL by the load LOAD_ID, while nobody else writes to the raw table.

    Attributes:
        interval: of the load.
        partitions: the present partitions of the raw table.
        rows: the number of the interval's rows in the raw table, once they are counted.
        made: the partitions that were made to replace some of them.
        has_moved: whether rows move into the interval; the temporary table `moved` has their keys and days.
    """

    def __init__(
        self, connection: psycopg.Connection, definition: Definition, load_id: int, interval: Interval
    ) -> None:
        self.connection = connection
        self.definition = definition
        self.load_id = load_id
        self.partitions = partitions(connection, definition.table)
        self.rows = 0
        self.made: list[Partition] = []
        self.has_moved = False
        self.interval = interval
        self._within = definition.table.within(interval)
        self._touched = [partition for partition in self.partitions if partition.overlaps(interval)]
        self._left: list[Partition] = []  # partitions that a row moves from

    @property
    def replaced(self) -> list[Partition]:
        """The present partitions that the new ones replace."""
        return [partition for partition in self.partitions if partition in self._touched or partition in self._left]

    @property
    def old_rows(self) -> list[tuple[sql.Composable, sql.Composable]]:
        """The tables, each with a condition, that have the interval's rows."""
        return [(part.table, self._within) for part in self._touched]

    def count_rows(self) -> int:
        """Return the number of the interval's rows in the raw table."""
        where = sql.SQL(" where {}").format(self._within)
        counts = [
            sql.SQL("select count(*) from {}{}").format(part.table, sql.SQL("") if self._is_inside(part) else where)
            for part in self._touched
        ]
        if not counts:
            return 0
        counted = sql.SQL(" union all ").join(counts)
        self.rows = sum(int(rows) for (rows,) in self.connection.execute(counted))
        return self.rows

    def find_moved(self, tables: Sequence[sql.Composable] | None = None) -> int:
        """Find the keys of TABLES that the raw table has outside the interval, and where they are.

        Args:
            tables: those with the rows to load; by default the present partitions that the interval touches.

        Returns:
            The number of these keys.
        """
        raw = self.definition.table
        if self.interval == ALWAYS or raw.feed.time_column in (None, *raw.feed.key):
            return 0
        own = [partition.table for partition in self._touched] if tables is None else tables
        others = [(number, part) for number, part in enumerate(self.partitions) if not self._is_inside(part)]
        near, others = self._near(own, others)
        if not own or not others:
            return 0
        outside = [
            sql.SQL("select {}, {}, {} from {} where {} and not ({})").format(
                number, raw.key, raw.day, partition.table, near, self._within
            )
            for number, partition in others
        ]
        inside = [sql.SQL("select {} from {} where {}").format(raw.key, table, self._within) for table in own]
        self.connection.execute(
            sql.SQL(
                "create temporary table moved on commit drop as select 0 as partition$, {}, {} as day$ from {} limit 0"
            ).format(raw.key, raw.day, raw.identifier)
        )
        moved = self.connection.execute(
            sql.SQL("insert into pg_temp.moved select * from ({}) as others ({}, {}, {}) where ({}) in ({})").format(
                sql.SQL(" union all ").join(outside),
                sql.Identifier("partition$"),
                raw.key,
                sql.Identifier("day$"),
                raw.key,
                sql.SQL(" union all ").join(inside),
            )
        ).rowcount
        self.has_moved = moved > 0
        numbers = self.connection.execute("select distinct partition$ from pg_temp.moved")
        self._left = [self.partitions[number] for (number,) in numbers.fetchall()]
        return moved

    def _near(
        self, own: Sequence[sql.Composable], others: list[tuple[int, Partition]]
    ) -> tuple[sql.Composable, list[tuple[int, Partition]]]:
        """Return a condition for the keys of OWN, and those of OTHERS that may have one of them.

        Where keys are integers that rise with time, as in a log, that is none.
        """
        raw = self.definition.table
        column = raw.feed.column(raw.feed.key[0])
        if column.type != "integer":
            return sql.SQL("true"), others
        own_ranges = [keys for keys in key_ranges(self.connection, column.name, own) if keys[0] <= keys[1]]
        if not own_ranges:
            return sql.SQL("true"), []
        near = sql.SQL("{} between {} and {}").format(
            sql.Identifier(column.name), min(low for low, _ in own_ranges), max(high for _, high in own_ranges)
        )
        any_outside = sql.SQL("select exists (select from {} where {} and not ({}))").format(
            raw.identifier, near, self._within
        )
        if self.connection.execute(any_outside).fetchone() != (True,):
            return near, []
        ranges = key_ranges(self.connection, column.name, [partition.table for _, partition in others])
        return near, [
            other
            for other, (lowest, highest) in zip(others, ranges, strict=True)
            if any(lowest <= own_high and own_low <= highest for own_low, own_high in own_ranges)
        ]

    def make_partitions(self, staging: Staging, reader: psycopg.Connection | None) -> None:
        """Make the new partitions; READER, a second connection, reads the rows to keep.

        A partition that a row moves from is made again without that row: if it were only deleted there, a
        transaction with an older snapshot would see it beside the new one.
        """
        [(total,)] = self.connection.execute(
            "select sum(greatest(reltuples, 0))::bigint"
            " from pg_class join pg_partition_tree(%s) on relid = oid where isleaf",
            (str(self.definition.table),),
        )
        staged = [Staged(part.table, part.start, part.rows) for part in staging.parts]
        partition_rows = rows_per_partition(total or 0)
        planned = plan(self._touched, self.interval, staged, self._rows_by_day, partition_rows)
        for partition in self._left:
            if partition not in self._touched:
                all_rows = (partition, Interval(partition.start, partition.end))
                planned.append(PlannedPartition(partition.start, partition.end, kept=[all_rows]))
        for one in planned:
            self._make(one, reader)

    def _is_inside(self, partition: Partition) -> bool:
        """Return whether the interval contains all of PARTITION."""
        return partition in self._touched and not partition.is_cut_by(self.interval)

    def _rows_by_day(self, partition: Partition, kept: Interval) -> list[tuple[datetime, int]]:
        time, (start, end) = self.definition.table.partition_key, map(str, kept.bounds)
        return self.connection.execute(
            sql.SQL(
                "select date_trunc('day', greatest(least({time}, '9999-12-31'), '0001-01-01')::timestamptz), count(*)"
                " from {table} where {time} >= {start} and {time} < {end} group by 1 order by 1"
            ).format(time=time, table=partition.table, start=start, end=end)
        ).fetchall()

    def _make(self, planned: PlannedPartition, reader: psycopg.Connection | None) -> None:
        connection = self.connection
        table = planned.staged or make_table(connection, self.definition, self.load_id)
        for partition, interval in planned.kept:
            assert reader is not None
            self._copy(partition, interval, table, reader)
        if planned.staged is None:
            add_keys(connection, self.definition, table)
        self.definition.add_references(connection, table)
        bounds = [
            sql.SQL("{} {} {}").format(self.definition.table.partition_key, sql.SQL(operator), str(bound))
            for operator, bound in ((">=", planned.start), ("<", planned.end))
            if bound
        ]
        if bounds:  # so that attaching the partition does not scan its rows
            condition = sql.SQL(" and ").join(bounds)
            connection.execute(sql.SQL("alter table {} add check ({})").format(table, condition))
        self.made.append(Partition(table, planned.start, planned.end))

    def _copy(
        self, partition: Partition, interval: Interval, table: sql.Composable, reader: psycopg.Connection
    ) -> None:
        """Copy the rows of INTERVAL from PARTITION to TABLE, except those that move into the load's interval.

        READER reads them: one connection cannot read and write by COPY at once.
        """
        raw, columns = self.definition.table, self.definition.stored_columns
        kept_rows = raw.within(interval)
        if partition in self._left:
            kept_rows = sql.SQL("{} and ({}) not in ({})").format(kept_rows, raw.key, self._moved_keys(partition))
        rows = sql.SQL("copy (select {} from {} where {}) to stdout (format binary)").format(
            columns, partition.table, kept_rows
        )
        into = sql.SQL("copy {} ({}) from stdin (format binary, freeze)").format(table, columns)
        with reader.cursor().copy(rows) as kept, self.connection.cursor().copy(into) as new:
            for block in kept:
                new.write(block)

    def _moved_keys(self, partition: Partition) -> sql.Composable:
        """Return the keys that move from PARTITION as values: the reader does not see this connection's tables."""
        raw = self.definition.table
        types = [raw.columns[name] for name in raw.feed.key]
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in raw.feed.key)
        found = self.connection.execute(
            sql.SQL("select {} from pg_temp.moved where partition$ = {}").format(
                texts, self.partitions.index(partition)
            )
        ).fetchall()
        arrays = [
            sql.SQL("{}::{}[]").format([row[position] for row in found], sql.SQL(type_))
            for position, type_ in enumerate(types)
        ]
        return sql.SQL("select * from unnest({})").format(sql.SQL(", ").join(arrays))
