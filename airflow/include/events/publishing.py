"""Make a load's rows seen: put its tables in the place of the partitions that its interval touches, all at once.

What an interval only cuts is kept: those rows are copied into the new partitions. All that takes long happens before
anybody is disturbed; the swap itself is one message to the server, which holds the table for some milliseconds.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable, QueryCanceled

from events.definition import EVENTS, Definition
from events.interval import Interval
from events.partitions import (
    MAX_PARTITIONS,
    MIN_ROWS,
    Partition,
    add_keys,
    attach,
    current_edition,
    detach,
    id_ranges,
    make_edition,
    make_table,
    partitions,
    retire,
)
from events.staging import Staging

_SWAP_LOCK_TIMEOUT_MS = 40  # readers that come while we wait for the table wait behind us
_SWAP_TIMEOUT_MS = 150  # how long readers may have to wait, but for the commit
_MOST_PAUSE_S = 0.5


@dataclass
class Piece:
    """A partition in the making: a range of time, and where its rows are."""

    start: datetime | None
    end: datetime | None
    rows: int = 0
    staged: sql.Composable | None = None
    kept: list[tuple[Partition, Interval]] = field(default_factory=list)

    def takes(self, other: "Piece", partition_rows: int) -> bool:
        """Say whether OTHER, which follows, is better part of this one."""
        return self.rows + other.rows < partition_rows and not (self.staged and other.staged)

    def take(self, other: "Piece") -> None:
        """Make OTHER, which follows, part of this one."""
        self.end = other.end
        self.rows += other.rows
        self.staged = self.staged or other.staged
        self.kept += other.kept


class Replacement:
    """The rows of INTERVAL in `raw.events`, and what takes their place.

    Nobody else may write to `raw.events` meanwhile. The rows are seen when `swap_statement` has been executed.
    """

    def __init__(
        self, connection: psycopg.Connection, definition: Definition, load_id: int, interval: Interval
    ) -> None:
        self._connection = connection
        self._definition = definition
        self._load_id = load_id
        self._interval = interval
        self._partitions = partitions(connection)
        self._touched = [partition for partition in self._partitions if partition.overlaps(interval)]
        self._moved_from: list[Partition] = []
        self.moved_from: str | None = None  # the earliest time that an event moved from, which may be no datetime
        self._made: list[Partition] = []

    def rows(self) -> int:
        """Return how many rows are there now."""
        where = sql.SQL(" where created_at >= {} and created_at < {}").format(*map(str, self._interval.bounds))
        counts = [
            sql.SQL("select count(*) from {}{}").format(part.table, sql.SQL("") if self._has(part) else where)
            for part in self._touched
        ]
        if not counts:
            return 0
        counted = sql.SQL(" union all ").join(counts)
        return sum(int(rows) for (rows,) in self._connection.execute(counted))

    def find_moved(self, tables: Sequence[sql.Composable] | None = None) -> int:
        """Note which event ids of TABLES are in `raw.events` outside the interval, and where.

        Args:
            tables: those with the rows to load; by default the partitions that the interval touches, as they are.

        Returns:
            How many there are.
        """
        own = [partition.table for partition in self._touched] if tables is None else tables
        own_ranges = [ids for ids in id_ranges(self._connection, own) if ids[0] <= ids[1]]
        if not own_ranges:
            return 0
        low, high = min(low for low, _ in own_ranges), max(high for _, high in own_ranges)
        start, end = map(str, self._interval.bounds)
        outside_has_some = sql.SQL(
            "select exists (select from raw.events where event_id between {} and {}"
            " and (created_at < {} or created_at >= {}))"
        ).format(low, high, start, end)
        if self._connection.execute(outside_has_some).fetchone() != (True,):  # in a log, whose ids rise with time
            return 0
        others = [(number, partition) for number, partition in enumerate(self._partitions) if not self._has(partition)]
        ranges = id_ranges(self._connection, [partition.table for _, partition in others])
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
        self._connection.execute(
            "create temporary table moved (number int, event_id bigint, created_at timestamptz) on commit drop"
        )
        moved = self._connection.execute(
            sql.SQL(
                "insert into pg_temp.moved"
                " select * from ({}) as others (number, event_id, created_at) where event_id in ({})"
            ).format(sql.SQL(" union all ").join(outside), sql.SQL(" union all ").join(inside))
        ).rowcount
        [(self.moved_from,)] = self._connection.execute("select min(created_at)::text from pg_temp.moved")
        numbers = self._connection.execute("select distinct number from pg_temp.moved")
        self._moved_from = [self._partitions[number] for (number,) in numbers.fetchall()]
        return moved

    def _has(self, partition: Partition) -> bool:
        """Say whether the interval has all of PARTITION."""
        return partition in self._touched and not partition.is_cut_by(self._interval)

    @property
    def _replaced(self) -> list[Partition]:
        """The partitions that others take the place of."""
        return [
            partition for partition in self._partitions if partition in self._touched or partition in self._moved_from
        ]

    def prepare(self, staging: Staging, reader: psycopg.Connection | None) -> None:
        """Make the tables that are to be partitions; READER, another connection, reads the rows that are kept.

        A partition that an event moved from is made anew without it, too: a row that is deleted would still be seen by
        who has an older snapshot, beside the new one.
        """
        [(total,)] = self._connection.execute(
            "select sum(greatest(reltuples, 0))::bigint"
            " from pg_class join pg_partition_tree('raw.events') on relid = oid where isleaf"
        )
        partition_rows = max(MIN_ROWS, (total or 0) // MAX_PARTITIONS)
        pieces = self._pieces(staging, partition_rows)
        for partition in self._moved_from:
            if partition not in self._touched:
                whole = Interval(partition.start, partition.end)
                pieces.append(Piece(partition.start, partition.end, kept=[(partition, whole)]))
        for piece in pieces:
            self._make(piece, reader)

    def swap_statement(self) -> sql.Composed:
        """Return what puts the prepared tables in the place of the partitions that they replace.

        Of the two ways it is the one with less to do while readers wait: to change partitions in the edition, or to
        put a new edition, in which the new ones are already, in the place of it. What was replaced is dropped later:
        something of somebody else's may depend on it.
        """
        edition = current_edition(self._connection)
        replaced = self._replaced
        others = [partition for partition in self._partitions if partition not in replaced]
        renames = retire(self._connection, [partition.table for partition in replaced])
        if 2 * len(others) > len(replaced) + len(self._made):
            return sql.SQL("; ").join(
                [
                    *(detach(edition, partition.table) for partition in replaced),
                    *(attach(edition, partition) for partition in self._made),
                    *renames,
                ]
            )
        renames += retire(self._connection, [edition])
        new = make_edition(self._connection, self._definition, self._load_id)
        for partition in self._made:
            self._connection.execute(attach(new, partition))
        statements = [detach(EVENTS, edition)]
        for partition in others:
            statements += [detach(edition, partition.table), attach(new, partition)]
        return sql.SQL("; ").join([*statements, attach(EVENTS, Partition(new, None, None)), *renames])

    def _pieces(self, staging: Staging, partition_rows: int) -> list[Piece]:
        """Return the partitions to make for all of the touched ones' range."""
        pieces: list[Piece] = []
        if self._touched and (left := self._touched[0].before(self._interval.start)):
            pieces += self._kept_pieces(self._touched[0], left, partition_rows)
        ends = [part.start for part in staging.parts[1:]] + [self._interval.end]
        for part, end in zip(staging.parts, ends, strict=False):  # no part has one end
            pieces.append(Piece(part.start, end, part.rows, part.table))
        if not staging.parts:
            pieces.append(Piece(self._interval.start, self._interval.end, 0))
        if self._touched and (right := self._touched[-1].after(self._interval.end)):
            pieces += self._kept_pieces(self._touched[-1], right, partition_rows)
        folded = pieces[:1]
        for piece in pieces[1:]:
            if folded[-1].takes(piece, partition_rows):
                folded[-1].take(piece)
            else:
                folded.append(piece)
        return folded

    def _kept_pieces(self, partition: Partition, kept: Interval, partition_rows: int) -> list[Piece]:
        """Cut KEPT, a part of PARTITION, at ends of days."""
        days = self._connection.execute(
            sql.SQL(
                "select date_trunc('day', greatest(least(created_at, '9999-12-31'), '0001-01-01')), count(*) from {}"
                " where created_at >= %s and created_at < %s group by 1 order by 1"
            ).format(partition.table),
            kept.bounds,
        )
        pieces = [Piece(kept.start, kept.end, 0)]
        for day, rows in days:
            if pieces[-1].rows >= partition_rows:
                pieces[-1].end = day
                pieces.append(Piece(day, kept.end, 0))
            pieces[-1].rows += rows
        for piece in pieces:
            if piece.rows:
                piece.kept.append((partition, Interval(piece.start, piece.end)))
        return pieces

    def _make(self, piece: Piece, reader: psycopg.Connection | None) -> None:
        connection = self._connection
        table = piece.staged or make_table(connection, self._definition, self._load_id)
        for partition, interval in piece.kept:
            assert reader is not None
            self._copy(partition, interval, table, reader)
        if piece.staged is None:
            add_keys(connection, self._definition, table)
        self._definition.refer(connection, table)
        bounds = []
        if piece.start:
            bounds.append(sql.SQL("created_at >= {}").format(str(piece.start)))
        if piece.end:
            bounds.append(sql.SQL("created_at < {}").format(str(piece.end)))
        if bounds:  # it spares attaching the look at each row
            condition = sql.SQL(" and ").join(bounds)
            connection.execute(sql.SQL("alter table {} add check ({})").format(table, condition))
        self._made.append(Partition(table, piece.start, piece.end))

    def _copy(
        self, partition: Partition, interval: Interval, table: sql.Composable, reader: psycopg.Connection
    ) -> None:
        """Copy the rows of INTERVAL from PARTITION to TABLE, but those that moved into the load's interval.

        READER reads them: one connection cannot do both at once.
        """
        moved: list[int] = []
        if partition in self._moved_from:
            number = self._partitions.index(partition)
            found = self._connection.execute("select event_id from pg_temp.moved where number = %s", (number,))
            moved = [event_id for (event_id,) in found]
        columns = self._definition.stored_columns
        rows = sql.SQL(
            "copy (select {} from {} where created_at >= {} and created_at < {} and event_id <> all({}::bigint[]))"
            " to stdout (format binary)"
        ).format(columns, partition.table, *map(str, interval.bounds), moved)
        into = sql.SQL("copy {} ({}) from stdin (format binary, freeze)").format(table, columns)
        with reader.cursor().copy(rows) as kept, self._connection.cursor().copy(into) as new:
            for block in kept:
                new.write(block)


def cut_partitions(connection: psycopg.Connection, interval: Interval) -> list[sql.Composable]:
    """Return the partitions that INTERVAL has a part of: the rows of the other part are kept."""
    return [
        partition.table
        for partition in partitions(connection)
        if partition.overlaps(interval) and partition.is_cut_by(interval)
    ]


def swap(connection: psycopg.Connection, statement: sql.Composable, deadline: float) -> None:
    """Execute STATEMENT, which needs `raw.events` for itself, and commit; readers wait for no more than a moment.

    Who reads is let through: if the table is not free in a moment, or the server is so busy that it would take longer
    than a moment, another try is made a little later, until DEADLINE (of time.monotonic). It is one message with the
    commit, so that nobody waits for this process in between.

    Raises:
        LockNotAvailable: the table did not become free.
        QueryCanceled: somebody has cancelled the load.
    """
    block = f"begin lock table only raw.events in access exclusive mode; {statement.as_string(connection)}; end"
    pause_s, longest_ms = 0.02, float(_SWAP_TIMEOUT_MS)
    while True:
        at_once = sql.SQL(
            "savepoint swap; set local lock_timeout = {lock_timeout}; set local statement_timeout = {longest};"
            " do {block}; set local statement_timeout = 0; commit"
        ).format(lock_timeout=_SWAP_LOCK_TIMEOUT_MS, longest=round(longest_ms), block=block)
        began = time.monotonic()
        try:
            connection.execute(at_once)
            return
        except (LockNotAvailable, QueryCanceled) as error:
            connection.execute("rollback to savepoint swap; release savepoint swap")
            if isinstance(error, QueryCanceled):
                if 1000 * (time.monotonic() - began) < round(longest_ms):
                    raise  # that was somebody, not the time
                longest_ms *= 1.1  # a server that is always so busy must not keep the load away for ever
            if time.monotonic() > deadline:
                raise LockNotAvailable("raw.events did not become free") from error
        pause = pause_s * (0.5 + secrets.randbelow(1000) / 1000)
        connection.execute("select pg_sleep(%s)", (pause,))  # there, so that who cancels the load is heard
        pause_s = min(2 * pause_s, _MOST_PAUSE_S)
