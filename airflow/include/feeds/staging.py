"""Copy a file's rows into staging tables, one per range of time, which become visible only by the swap.

Runs of clean lines go to PostgreSQL's COPY unchanged; the other lines are parsed one by one. Everything happens in one
transaction, so a load that ends early leaves nothing behind. The tables are made in that transaction too, which lets
COPY write frozen rows: visible to everybody who sees the table, and never rewritten by a vacuum. Their rows are never
deleted: a frozen row that is deleted in the same transaction stays visible to older snapshots.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import psycopg
from psycopg import sql

from feeds.copying import Copier, Target
from feeds.days import OUT_OF_RANGE
from feeds.definition import Definition
from feeds.interval import Days, Interval, utc
from feeds.partitions import MAX_PARTITIONS, add_keys, discard, make_table, rows_per_partition
from feeds.records import CLEAN, COLUMNS, DUPLICATE, Event, parse, raw_text
from feeds.seen_ids import SeenIds
from feeds.source import Source

EXAMPLES = 1_000  # rejected rows that a refused load puts into quarantine
_ROW_BYTES = 80  # on average
_SHORTEST_ROW_BYTES = 41  # of a valid row, including its line end
_FETCHED_AT_ONCE = 10_000  # lines
_AFTER_ID = re.compile(rb";[^\n]*\n")
_ESCAPED = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", ";": "\\;"})
_TEMPORARY = """
    create temporary table outside (event_id bigint not null) on commit drop;
    create temporary table rejects (line_number bigint, raw_text text, reason text) on commit drop;
    create temporary table suspects (event_id bigint, line_number bigint, line bytea) on commit drop
"""
# A suspect is a duplicate if its id is in a staging table, or an earlier suspect has it. The rows are numbered, so that
# they can be fetched in parts: while a cursor is open, COPY freezes no rows.
_RESOLVED = """
    create temporary table resolved on commit drop as
    select
        row_number() over (order by line_number) as number, line_number, line,
        event_id in (select event_id from pg_temp.known)
            or row_number() over (partition by event_id order by line_number) > 1 as is_duplicate
    from pg_temp.suspects;
    create index on pg_temp.resolved (number)
"""
_FETCHED = """
    select line_number, line, is_duplicate from pg_temp.resolved
    where number > %s and number <= %s order by number
"""


class Staging:
    """The staging tables of one load of INTERVAL, which nobody else sees; a row outside of VALID is rejected.

    Attributes:
        parts: the tables with the rows to load, in the order of their times.
        rows_by_day: the number of these rows by day, YYYY-MM-DD.
        rejected: the number of rejected rows by reason.
        is_hopeless: whether reading has stopped early, since too many rows were rejected whatever follows.
    """

    def __init__(
        self, connection: psycopg.Connection, definition: Definition, load_id: int, interval: Interval, valid: Interval
    ) -> None:
        self._connection = connection
        self._definition = definition
        self._load_id = load_id
        self._interval = interval
        self._days = Days(interval)
        self._valid = valid
        self._valid_days = Days(valid)
        self._copier = Copier(connection)
        self.parts: list[Target] = []
        self._starts: list[bytes] = []
        self.rows_by_day: Counter[bytes] = Counter()
        self.rejected: Counter[str] = Counter()
        self.is_hopeless = False
        self._outside = _temporary("outside", "event_id")
        self._rejects = _temporary("rejects", "line_number, raw_text, reason")
        self._suspects = _temporary("suspects", "event_id, line_number, line")
        connection.execute(_TEMPORARY)

    @property
    def loaded(self) -> int:
        """The number of rows read that are valid and inside the interval."""
        return sum(part.rows for part in self.parts)

    @property
    def outside(self) -> int:
        """The number of rows read that are valid and outside the interval."""
        return self._outside.rows

    @property
    def read(self) -> int:
        """The number of rows read."""
        return self.loaded + self.outside + self.rejected.total() + self._suspects.rows

    def stage(self, source: Source, max_rejected: float, report: Callable[[int], None]) -> None:
        """Copy the rows of SOURCE; REPORT gets the number of rows of each block.

        Of several rows with the same event id the first is taken, and the others are rejected. Reading stops as soon as
        more than the share MAX_REJECTED of all rows is rejected, even if all following rows are valid.
        """
        self._partition_rows = rows_per_partition((source.total_bytes or 0) // _ROW_BYTES)
        text_bytes = source.text_bytes
        self._seen = SeenIds(None if text_bytes is None else text_bytes // _SHORTEST_ROW_BYTES + 1)
        line_number = source.first_line_number
        with self._copier:
            for block in source.blocks:
                before = self.read
                self._take_block(block, line_number)
                line_number += block.count(b"\n")
                report(self.read - before)
                if text_bytes is not None:
                    text_bytes -= len(block)
                    most_rows = self.read + text_bytes // _SHORTEST_ROW_BYTES + 1
                    if self.rejected.total() > max(EXAMPLES, max_rejected * most_rows):
                        self.is_hopeless = True
                        break
        self._resolve_suspects()

    def add_keys(self) -> None:
        """Add the keys and indexes to the staging tables."""
        for part in self.parts:
            add_keys(self._connection, self._definition, part.table)

    def quarantine(self, limit: int | None = None) -> None:
        """Insert the first LIMIT rejected rows, or all of them, into `raw.rejected_events`."""
        self._connection.execute(
            "insert into raw.rejected_events (load_id, line_number, raw_text, reason)"
            " select %s, line_number, raw_text, reason from pg_temp.rejects order by line_number limit %s",
            (self._load_id, limit),
        )

    def discard(self) -> None:
        """Drop the staging tables of the rows to load."""
        discard(self._connection, [part.table for part in self.parts])
        self.parts = []

    def _take_block(self, block: bytes, line_number: int) -> None:
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        while (end := _end_of_utf8(block)) < len(block):
            bad_line, _, rest = block[end:].partition(b"\n")
            line_number += self._take_lines(block[:end], line_number)
            self._take_line(bad_line, line_number)
            line_number += 1
            block = rest
        self._take_lines(block, line_number)

    def _take_lines(self, block: bytes, first_line_number: int) -> int:
        """Take the lines of BLOCK, which is UTF-8, and return their number."""
        line_number = first_line_number
        position = 0
        while position < len(block):
            if run := CLEAN.match(block, position):
                rows = self._take_run(block[position : run.end()], run["day"], line_number)
                position = run.end()
                line_number += rows
            else:
                end = block.find(b"\n", position)
                self._take_line(block[position:end], line_number)
                position = end + 1
                line_number += 1
        return line_number - first_line_number

    def _take_run(self, lines: bytes, day: bytes, line_number: int) -> int:
        """Take LINES, which are clean and of one DAY, and return their number."""
        is_inside = self._days.contain(day)
        if is_inside is None or not self._valid_days.contain(day):
            each = lines.split(b"\n")[:-1]
            for number, line in enumerate(each, line_number):
                self._take_line(line, number)
            return len(each)
        ids = _AFTER_ID.split(lines)[:-1]
        rows = len(ids)
        if suspects := self._seen.add(list(map(int, ids))):
            each = lines.splitlines(keepends=True)
            for position in suspects:
                self._suspect(int(ids[position]), each[position][:-1], line_number + position)
                each[position] = ids[position] = b""
            lines, ids = b"".join(each), [event_id for event_id in ids if event_id]
        if is_inside:
            self.rows_by_day[day] += len(ids)
            self._copier.write(self._part(day), lines, len(ids))
        else:
            self._copier.write(self._outside, b"".join(event_id + b"\n" for event_id in ids), len(ids))
        return rows

    def _take_line(self, line: bytes, line_number: int) -> None:
        row = parse(line)
        if isinstance(row, Event):
            if row.created_at not in self._valid:
                self._reject(line, line_number, OUT_OF_RANGE)
            elif self._seen.add([row.event_id]):
                self._suspect(row.event_id, line, line_number)
            else:
                self._take_event(row)
        elif line.strip() or row.reason == "too_long":
            self._reject(line, line_number, row.reason)

    def _take_event(self, event: Event) -> None:
        if event.created_at in self._interval:
            day = event.created_at.date().isoformat().encode()
            self.rows_by_day[day] += 1
            part = self._part(day)
            meta_data = (event.meta_data or "").translate(_ESCAPED)
            fields = (*event[:3], event.created_at.isoformat(), meta_data)
            self._copier.write(part, (";".join(map(str, fields)) + "\n").encode())
        else:
            self._copier.write(self._outside, b"%d\n" % event.event_id)

    def _reject(self, line: bytes, line_number: int, reason: str) -> None:
        text = raw_text(line).translate(_ESCAPED)
        self._copier.write(self._rejects, f"{line_number};{text};{reason}\n".encode())
        self.rejected[reason] += 1

    def _suspect(self, event_id: int, line: bytes, line_number: int) -> None:
        """Set LINE aside, a valid row whose event id may be a duplicate."""
        self._copier.write(self._suspects, f"{event_id};{line_number};\\\\x{line.hex()}\n".encode())

    def _resolve_suspects(self) -> None:
        """Reject the lines set aside whose event id is a duplicate, and take the others."""
        if not self._suspects.rows:
            return
        connection = self._connection
        connection.execute("create temporary table known (event_id bigint) on commit drop; analyze pg_temp.suspects")
        for target in (*self.parts, self._outside):
            connection.execute(
                sql.SQL(
                    "insert into pg_temp.known select event_id from pg_temp.suspects"
                    " where event_id in (select event_id from {})"
                ).format(target.table)
            )
        connection.execute(_RESOLVED)
        fetched = range(0, self._suspects.rows, _FETCHED_AT_ONCE)
        self._suspects.rows = 0
        for number in fetched:
            resolved = connection.execute(_FETCHED, (number, number + _FETCHED_AT_ONCE)).fetchall()
            with self._copier:
                for line_number, line, is_duplicate in resolved:
                    if is_duplicate:
                        self._reject(line, line_number, DUPLICATE)
                    elif isinstance(row := parse(line), Event):
                        self._take_event(row)

    def _part(self, day: bytes) -> Target:
        """Return the table for events of DAY, a new one if DAY is later than all before and the last table is full."""
        index = bisect_right(self._starts, day) - 1
        if index < 0 and self.parts:
            index = 0
        elif index == len(self.parts) - 1 and (
            not self.parts or (self.parts[-1].rows >= self._partition_rows and day > self.parts[-1].last_day)
        ):
            self._make_part(day)
            index += 1
        part = self.parts[index]
        part.last_day = max(part.last_day, day)
        return part

    def _make_part(self, day: bytes) -> None:
        if len(self.parts) >= MAX_PARTITIONS:
            self._partition_rows *= 2
        start = utc(datetime.fromisoformat(day.decode())) if self.parts else self._interval.start
        self._copier.pause()
        table = make_table(self._connection, self._definition, self._load_id)
        copy = sql.SQL("copy {} ({}) from stdin with (delimiter ';', null '', freeze)").format(
            table, sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        )
        self.parts.append(Target(table, copy, start))
        self._starts.append(day)


def _temporary(name: str, columns: str) -> Target:
    """Return the target for the temporary table NAME."""
    copy = f"copy pg_temp.{name} ({columns}) from stdin with (delimiter ';')"
    return Target(sql.Identifier("pg_temp", name), sql.SQL(copy))


def _end_of_utf8(block: bytes) -> int:
    """Return the start of the first line of BLOCK that is not UTF-8, or the end of BLOCK."""
    if block.isascii():
        return len(block)
    try:
        block.decode()
    except UnicodeDecodeError as error:
        return block.rfind(b"\n", 0, error.start) + 1
    return len(block)
