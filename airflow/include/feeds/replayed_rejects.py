"""Load rejected rows that have become valid, since their feed's contract was changed.

A row is loaded as if it had never been rejected: only if the load that the table has the rows of its time from has
rejected it. All others stay in `raw.rejected_rows`, with the reason that they have now. So do rows whose key the table
has, and those of which the quarantine does not have every byte: load their file again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from feeds import history, ledger, loaded_days
from feeds.connection import connect, foreseen, owner, transaction
from feeds.contract import Feed
from feeds.copying import copy_line
from feeds.days import OUT_OF_RANGE
from feeds.definition import read_definition
from feeds.errors import WrongHeader
from feeds.formats import read_rejected
from feeds.interval import ALWAYS, Interval
from feeds.ledger import LoadResult
from feeds.lines import Lines, Reject, Row
from feeds.locks import block_writers, wait_for_turn
from feeds.table import RawTable

SOURCE = "raw.rejected_rows"  # of a replay, in the ledger
_AT_ONCE = 10_000  # rows
_NOT_REPLAYED = ("duplicate_key", "encoding", "nul_byte", "too_long")
_REJECTS = """
    select load_id, file_number, line_number, raw_text, header
    from only raw.rejected_rows
    join only raw.loads using (load_id)
    left join only raw.loaded_files using (load_id, file_number)
    where loads.feed = %s and status = 'succeeded' and reason <> all(%s)
        and (load_id, file_number, line_number) > (%s, %s, %s)
    order by load_id, file_number, line_number limit %s
"""
# No column of a feed has a name with `$`.
_REPLAYED = """
    create temporary table replayed on commit drop as select {names} from {table} limit 0;
    alter table pg_temp.replayed
        add load$ bigint, add file$ int, add line$ bigint, add reason$ text, add column$ text
"""
_IS_REJECT = "(rejected.load_id, rejected.file_number, rejected.line_number) = (load$, file$, line$)"
_IS_REFUSED = """
    update pg_temp.replayed set reason$ = 'rule', column$ = {rule} where reason$ is null and {rule} is not null
"""
_REMOVE_GONE = """
    delete from pg_temp.replayed where not exists (select from only raw.rejected_rows as rejected where {is_reject})
"""
# The table has the rows of the latest load of their time; a replay, which has no files, is none. That load has rejected
# the row, too, if it is one of those from the first that rejected it to the last, and has read its file.
_IS_REPLACED = """
    update pg_temp.replayed set reason$ = 'replaced'
    from only raw.loads as own, only raw.rejected_rows as rejected
    where reason$ is null and own.load_id = load$ and {is_reject} and coalesce((
        select coalesce(latest.same_as_load_id, latest.load_id) <> own.load_id and (
            latest.ended_at > own.ended_at
            or latest.ended_at < (select ended_at from only raw.loads where load_id = rejected.first_load_id)
            or not exists (
                select from only raw.loaded_files as read
                join only raw.loaded_files as of using (source_id)
                where read.load_id = latest.load_id and (of.load_id, of.file_number) = (load$, file$)
            )
        )
        from only raw.loads as latest
        where latest.feed = own.feed and latest.status = 'succeeded' and latest.source_sha256 is not null
            and {time} >= coalesce(latest.interval_start, '-infinity')
            and {time} < coalesce(latest.interval_end, 'infinity')
        order by latest.ended_at desc limit 1
    ), true)
"""
_IS_OF_NO_DAY = """
    update pg_temp.replayed set reason$ = 'replaced' from only raw.loads as own
    where reason$ is null and own.load_id = load$ and {is_replaced}
"""
# Of several rows of a load the first valid one counts, also if it is outside of the interval.
_IS_DUPLICATE = """
    update pg_temp.replayed set reason$ = 'duplicate_key'
    where reason$ is null and (
        exists (select from {known} where {same_key} and {is_known})
        or exists (
            select from pg_temp.replayed as known
            where {same_key} and known.load$ = replayed.load$ and known.reason$ = 'replaced'
                and (known.file$, known.line$) < (replayed.file$, replayed.line$)
        )
        or (load$, file$, line$) not in (
            select distinct on ({group}) load$, file$, line$ from pg_temp.replayed
            where reason$ is null order by {group}, load$, file$, line$
        )
    )
"""
_REASONS = "select reason$, column$, count(*) from pg_temp.replayed group by 1, 2 order by 3 desc, 1, 2"
_QUARANTINED = """
    delete from only raw.rejected_rows as rejected using pg_temp.replayed where {is_reject} and reason$ is null;
    update only raw.rejected_rows as rejected set reason = reason$, column_name = column$
    from pg_temp.replayed
    where {is_reject} and reason$ <> 'replaced'
        and (rejected.reason, rejected.column_name) is distinct from (reason$, column$)
"""
_LATEST_DAYS = """
    select load_id, day from raw.snapshot_days
    where feed = %s and load_id in (select load$ from pg_temp.replayed where reason$ is null) order by day
"""


class _Rejected(NamedTuple):
    """A row of the quarantine, and the header of its file."""

    load_id: int
    file_number: int
    line_number: int
    raw_text: str
    header: str | None


def replay(feed: Feed, dsn: str, *, valid: Interval = ALWAYS, lock_timeout_s: float = 1800.0) -> LoadResult:
    """Load the rejected rows of FEED that are valid now, and return what became of all of them.

    Args:
        feed: its contract as it is now.
        dsn: the warehouse as the role `loader`, a libpq URL.
        valid: the interval in which times are valid.
        lock_timeout_s: the longest wait for a lock of a load, dbt build, reader or user, in seconds.

    Returns:
        The rows read, loaded, still rejected, and valid but outside: of times whose rows are not of their file. Its
        `load_id` is 0 if no row was loaded.

    Raises:
        FeedError: see its subclasses; nothing was changed.
    """
    with foreseen(lock_timeout_s), connect(dsn) as connection:
        role = owner(connection, feed)
        with transaction(connection, role, lock_timeout_s):
            return _Replay(connection, RawTable(feed), valid, lock_timeout_s).run()


@dataclass(frozen=True)
class _Replay:
    """One replay, in a transaction."""

    connection: psycopg.Connection
    raw: RawTable
    valid: Interval
    lock_timeout_s: float
    lines: dict[Any, Lines] = field(default_factory=dict)

    def run(self) -> LoadResult:
        """Read the quarantine, and load what is valid."""
        connection, raw = self.connection, self.raw
        self._execute(_REPLAYED)
        names = sql.SQL("copy pg_temp.replayed (load$, file$, line$, reason$, column$, {}) from stdin").format(
            raw.names
        )
        for rejects in self._rejects():
            with connection.cursor().copy(names) as copy:
                copy.write(b"".join(self._line(*parsed) for parsed in self._parsed(rejects)))
        if raw.rules_case:
            self._execute(_IS_REFUSED)
        wait_for_turn(connection, self.lock_timeout_s)
        block_writers(connection, raw)
        read_definition(connection, raw)  # refuses a table that is not the contract's
        self._execute(_REMOVE_GONE)
        self._execute(_IS_REPLACED if raw.feed.time_column else _IS_OF_NO_DAY)
        self._execute(_IS_DUPLICATE)
        counts = {(reason, column): count for reason, column, count in connection.execute(_REASONS)}
        loaded, outside = counts.pop((None, None), 0), counts.pop(("replaced", None), 0)
        result = LoadResult(
            0,
            read=loaded + outside + sum(counts.values()),
            loaded=loaded,
            rejected=sum(counts.values()),
            outside=outside,
            replaced=0,
            reasons={str(Reject(*reason)): count for reason, count in counts.items()},
        )
        if loaded:
            result = replace(result, load_id=self._load(), absent=0 if raw.feed.time_column else None)
            if raw.feed.time_column:
                loaded_days.record_replayed(connection, result.load_id, raw)
            ledger.close(connection, result.load_id, (None, None), result)
        self._execute(_QUARANTINED)
        return result

    def _rejects(self) -> Iterator[list[_Rejected]]:
        last = (0, 0, 0)
        while found := self.connection.execute(
            _REJECTS, (self.raw.feed.name, list(_NOT_REPLAYED), *last, _AT_ONCE)
        ).fetchall():
            rejects = [_Rejected(*row) for row in found]
            last = rejects[-1][:3]
            yield rejects

    def _parsed(self, rejects: Sequence[_Rejected]) -> Iterator[tuple[_Rejected, Row | Reject, Lines]]:
        """Yield each of REJECTS with what its text is by the present contract."""
        for (header, *_), group in groupby(rejects, lambda each: (each.header, each.load_id, each.file_number)):
            # A record of several lines is read by itself.
            for _, records in groupby(group, lambda each: each.line_number if "\n" in each.raw_text else 0):
                yield from self._read(header, list(records))

    def _read(
        self, header: str | None, rejects: Sequence[_Rejected]
    ) -> Iterator[tuple[_Rejected, Row | Reject, Lines]]:
        feed = self.raw.feed
        try:
            rows = read_rejected("".join(f"{one.raw_text}\n" for one in rejects).encode(), feed, header)
        except WrongHeader:  # the file's rows cannot be read by the contract, and stay as they are
            return
        lines = self.lines.setdefault((rows.columns, rows.dialect), Lines(feed, rows.columns, rows.dialect))
        number = 0
        for block in rows.blocks:
            whole = block.record(0, len(block.lines.rstrip(b"\0\n")))
            found = [whole] if "\n" in rejects[0].raw_text else block.lines.split(b"\n")[:-1]
            for position, line in enumerate(found):
                yield rejects[number], block.flaws.get(position) or lines.parse(line), lines
                number += 1

    def _line(self, rejected: _Rejected, row: Row | Reject, lines: Lines) -> bytes:
        """Return a line for COPY."""
        if isinstance(row, Row) and row.moment and row.moment not in self.valid:
            row = OUT_OF_RANGE
        values: dict[str, str | None] = {}
        reason: tuple[str | None, str | None] = (None, None)
        if isinstance(row, Row):
            values = {column.name: value for column, value in zip(lines.columns, row.values, strict=True)}
        else:
            reason = row
        fields = [
            *rejected[:3],
            *reason,
            *(values.get(column.name) for column in self.raw.feed.table_columns),
        ]
        return copy_line(*fields)

    def _load(self) -> int:
        """Load the rows that have no reason to stay, and return the id of this load."""
        connection, raw = self.connection, self.raw
        interval = ALWAYS
        if raw.feed.time_column:
            [bounds] = connection.execute(
                sql.SQL(
                    "select min({time})::timestamptz, max({time})::timestamptz + interval '1 microsecond'"
                    " from pg_temp.replayed where reason$ is null"
                ).format(time=raw.partition_key)
            )
            interval = Interval(*bounds)
        load_id = ledger.begin(connection, raw.feed.name, SOURCE, interval, "replay")
        condition = sql.SQL("reason$ is null").format()
        if raw.feed.properties.history:
            days = connection.execute(_LATEST_DAYS, (raw.feed.name,)).fetchall()
            for of_load, day in days:
                rows = sql.SQL("select {} from pg_temp.replayed where {} and load$ = {}")
                snapshot = history.with_rows(raw, day, rows.format(raw.names, condition, of_load))
                history.write(connection, raw, sql.SQL("({})").format(snapshot), day, of_load)
            is_present = bool(days) and history.is_latest(connection, raw, days[-1][1])
            condition = sql.SQL("{} and load$ = {}").format(condition, days[-1][0] if is_present else 0)
        connection.execute(
            sql.SQL("insert into {} ({names}, load_id) select {names}, {} from pg_temp.replayed where {}").format(
                raw.identifier, load_id, condition, names=raw.names
            )
        )
        return load_id

    def _execute(self, statements: str) -> None:
        """Execute STATEMENTS about the table `replayed`."""
        raw = self.raw
        # Qualified: `raw.loads` may have a column of this name, too, such as started_at.
        time = sql.SQL("replayed.{}").format(raw.partition_key) if raw.feed.time_column else sql.SQL("null")
        # A snapshot is the whole table, and of a history its day.
        is_replaced = sql.SQL(
            "own.load_id is distinct from"
            " (select load_id from raw.snapshot_days where feed = own.feed order by day desc limit 1)"
        ).format()
        known, is_known, group = raw.identifier, sql.SQL("true").format(), raw.key
        if raw.feed.properties.history:
            known, is_known = history.table(raw), history.is_of_load("load$")
            is_replaced = sql.SQL(
                "not exists (select from raw.snapshot_days as days where days.load_id = own.load_id)"
            ).format()
            group = sql.SQL("{}, load$").format(raw.key)
        same_key = sql.SQL(" and ").join(
            sql.SQL("known.{name} = replayed.{name}").format(name=sql.Identifier(name)) for name in raw.feed.key
        )
        self.connection.execute(
            sql.SQL(statements).format(
                names=raw.names,
                table=raw.identifier,
                rule=raw.rules_case or sql.SQL("null"),
                is_reject=sql.SQL(_IS_REJECT),
                time=time,
                is_replaced=is_replaced,
                known=sql.SQL("{} as known").format(known),
                is_known=is_known,
                same_key=same_key,
                group=group,
            )
        )
