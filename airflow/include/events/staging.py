"""Bring a file's rows to the warehouse: into tables of their own, cut by time, which only publishing makes seen.

Whole blocks of clean lines go to PostgreSQL's COPY as they are; the other lines are looked at one by one. Everything
happens in one transaction, so nothing is left of a load that ends in the middle. The tables are made in it too, which
lets COPY write their rows as frozen: visible to whoever sees the table, and never written again by a vacuum.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from events.interval import Days, Interval, midnight
from events.partitions import MAX_PARTITIONS, MIN_ROWS, add_key, make_table, new_table
from events.records import CLEAN, COLUMNS, DUPLICATE, Event, parse, raw_text
from events.source import Source, open_source

_ROW_BYTES = 80
_GATHERED_BYTES = 1 << 16  # single lines are sent together
_WAITING_BYTES = 1 << 22  # what a table's rows may come to while another's are copied
_ALL_WAITING_BYTES = 1 << 24
_DUPLICATES_AT_ONCE = 100_000
_FOUND_AT_ONCE = 10_000  # lines
_SAMPLED_PAGES = 64  # one page of so many tells whose ids are around there; it has about 70 rows

# Of every so many pages the id in the middle of one.
_ID_SAMPLES = sql.SQL("""
    select {}, event_id
    from
        generate_series(0, pg_relation_size({}) / current_setting('block_size')::int - 1, {}) as page,
        lateral (
            select percentile_disc(0.5) within group (order by event_id) as event_id
            from {}
            where ctid >= format('(%s,0)', page)::tid and ctid < format('(%s,0)', page + 1)::tid
        ) as middle
""")
# Whose ids are where: all ids, in ranges that follow each other, both ends included. The first begins at the lowest id
# that there can be, so that there is one even where all sampled rows were duplicates and are gone.
_ID_RANGES = sql.SQL("""
    create temporary table id_ranges on commit drop as
    select
        low,
        coalesce(lead(greatest(low, -9223372036854775807)) over ids - 1, 9223372036854775807) as high,
        owner
    from (
        select owner, event_id as low, lag(owner) over (order by event_id, owner) as owner_before
        from (select 0, -9223372036854775808 union all {}) as samples (owner, event_id)
        where event_id is not null
    ) as runs
    where owner is distinct from owner_before
    window ids as (order by low, owner)
""")

_AFTER_ID = re.compile(rb";[^\n]*")
_IDS = re.compile(rb"([^;\n]*)(?:;[^\n]*\n|\n)")
_CANONICAL_ID = re.compile(rb"(?:0|-?[1-9][0-9]*)(?![^;])")
_ESCAPED = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", ";": "\\;"})


@dataclass
class Target:
    """A table that rows are copied into.

    Attributes:
        table: its name.
        copy: the COPY statement.
        start: the first moment that belongs to it; None if it takes whatever is before the next one's.
        rows: the rows that are in it, or wait to be.
    """

    table: sql.Composable
    copy: sql.SQL | sql.Composed
    start: datetime | None = None
    last_day: bytes = b""
    rows: int = 0
    waiting: list[bytes] = field(default_factory=list)
    waiting_bytes: int = 0


class Copier:
    """Copies rows into tables, one after the other: into one while the rows of the others wait."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._targets: list[Target] = []
        self._current: Target | None = None
        self._open = ExitStack()
        self._waiting_bytes = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0

    def __enter__(self) -> "Copier":
        return self

    def __exit__(self, *error: Any) -> None:
        """Copy all that waits; after an error, break off the COPY that is going on."""
        if error[0] is None:
            while self._targets:
                self._turn_to(self._targets[0])
            self._send()
        self._current, self._gathered = None, []
        self._open.__exit__(*error)

    def write(self, target: Target, rows: bytes) -> None:
        """Copy ROWS, in COPY's text format, into TARGET now or later."""
        if target is self._current:
            self._gathered.append(rows)
            self._gathered_bytes += len(rows)
            if self._gathered_bytes > _GATHERED_BYTES:
                self._send()
            return
        target.waiting.append(rows)
        target.waiting_bytes += len(rows)
        self._waiting_bytes += len(rows)
        if target not in self._targets:
            self._targets.append(target)
        if target.waiting_bytes > _WAITING_BYTES or self._current is None:
            self._turn_to(target)
        elif self._waiting_bytes > _ALL_WAITING_BYTES:
            self._turn_to(max(self._targets, key=lambda waiting: waiting.waiting_bytes))

    def pause(self) -> None:
        """End the COPY that is going on, so that the connection takes other statements."""
        self._send()
        self._current = None
        self._open.close()

    def _turn_to(self, target: Target) -> None:
        self.pause()
        self._copy = self._open.enter_context(self._connection.cursor().copy(target.copy))
        self._current = target
        self._targets.remove(target)
        self._waiting_bytes -= target.waiting_bytes
        self._gathered, target.waiting, target.waiting_bytes = target.waiting, [], 0
        self._send()

    def _send(self) -> None:
        if self._gathered:
            self._copy.write(b"".join(self._gathered))
        self._gathered, self._gathered_bytes = [], 0


class Staging:
    """The rows of one file that a load of INTERVAL takes, in tables that nobody else sees.

    Attributes:
        parts: the tables with the rows to load, in the order of their times.
        outside: how many valid rows are outside the interval.
        rejected: how many rows are rejected, by reason.
    """

    def __init__(self, connection: psycopg.Connection, load_id: int, interval: Interval) -> None:
        self._connection = connection
        self._load_id = load_id
        self._interval = interval
        self._days = Days(interval)
        self._copier = Copier(connection)
        self._partition_rows = MIN_ROWS
        self.parts: list[Target] = []
        self._starts: list[bytes] = []
        self._has_odd_ids = False
        self.outside = 0
        self.rejected: Counter[str] = Counter()
        self._rejects = Target(
            sql.SQL("raw.rejected_events"),
            sql.SQL(
                "copy raw.rejected_events (load_id, line_number, raw_text, reason) from stdin with (delimiter ';')"
            ),
        )
        self._outside = Target(
            sql.SQL("pg_temp.outside"), sql.SQL("copy pg_temp.outside (event_id) from stdin with (freeze)")
        )
        connection.execute("create temporary table outside (event_id bigint not null) on commit drop")

    @property
    def loaded(self) -> int:
        """How many rows of the file are valid and inside the interval."""
        return sum(part.rows for part in self.parts)

    @property
    def read(self) -> int:
        """How many rows the file has."""
        return self.loaded + self.outside + self.rejected.total()

    def stage(self, source: Source, report: Callable[[int], None]) -> None:
        """Copy all rows of SOURCE, those with an event id that was there before too; REPORT gets each block's rows."""
        self._partition_rows = max(MIN_ROWS, (source.total_bytes or 0) // (_ROW_BYTES * MAX_PARTITIONS))
        line_number = source.first_line_number
        with self._copier:
            for block in source.blocks:
                before = self.read
                self._take_block(block, line_number)
                line_number += block.count(b"\n")
                report(self.read - before)

    def settle_duplicates(self, source_uri: str) -> str | None:
        """Give each table its key; of the rows with one event id leave the first in the file and reject the others.

        Returns:
            The SHA-256 of the file as it was when it had to be read again for that, None if that was not needed.
        """
        connection = self._connection
        targets = [*self.parts, self._outside] if self._outside.rows else self.parts
        # Where one table has duplicates, others have: the search then comes first, as a key that fails costs as much.
        keyless: list[Target] = []
        for target in targets:
            if keyless or not add_key(connection, target.table):
                keyless.append(target)
        if not keyless and len(targets) < 2:
            return None
        connection.execute("create temporary table duplicates (event_id bigint primary key) on commit drop")
        self._find_duplicates_in(keyless)
        self._take_out_duplicates(targets)
        ids = self._next_duplicates()
        with ThreadPoolExecutor(1) as beside:  # the server makes keys while the file is read again
            keyed = beside.submit(self._make_keys, keyless, targets)
            try:
                digest = self._settle(ids, source_uri, keyed) if ids else None
                keyed.result()
                while ids := self._next_duplicates():
                    again = self._settle(ids, source_uri, keyed)
                    if digest not in (None, again):
                        return again
                    digest = again
            except BaseException:
                with suppress(psycopg.Error):  # what failed is said, not that this did
                    connection.cancel_safe()  # or it would be waited for
                raise
        return digest

    def _make_keys(self, keyless: list[Target], targets: list[Target]) -> None:
        """Give KEYLESS their keys, and then take out the duplicates that are in several of TARGETS."""
        for target in keyless:
            add_key(self._connection, target.table)
        if len(targets) > 1:
            self._find_duplicates_across([target.table for target in targets])
            self._take_out_duplicates(targets)

    def _next_duplicates(self) -> list[int]:
        found = self._connection.execute(
            "delete from duplicates where event_id in (select event_id from duplicates limit %s) returning event_id",
            (_DUPLICATES_AT_ONCE,),
        )
        return [event_id for (event_id,) in found]

    def drop(self) -> None:
        """Remove the tables."""
        for part in self.parts:
            self._connection.execute(sql.SQL("drop table {}").format(part.table))

    def _find_duplicates_in(self, targets: list[Target]) -> None:
        """Note the event ids that a table of TARGETS has several times."""
        self._connection.execute("set local enable_hashagg = off")  # rows come nearly sorted: a sort is quick with them
        for target in targets:
            self._connection.execute(
                sql.SQL(
                    "insert into duplicates select event_id from {} group by event_id having count(*) > 1"
                    " on conflict do nothing"
                ).format(target.table)
            )
        self._connection.execute("reset enable_hashagg")

    def _find_duplicates_across(self, tables: list[sql.Composable]) -> None:
        """Note the event ids that are in several of TABLES, each of which has its key.

        In a log, whose ids rise with time, nearly every id lies in a range that one table has for itself. So each id is
        given an owner, the table that has the next lower one of some sampled ids; and only ids that are elsewhere than
        with their owner, the strays, are looked up. With ids in no order that is most of them, and takes longer.
        """
        connection = self._connection
        samples = sql.SQL(" union all ").join(
            _ID_SAMPLES.format(number, sql.Literal(table.as_string(connection)), _SAMPLED_PAGES, table)
            for number, table in enumerate(tables)
        )
        connection.execute("create temporary table strays (event_id bigint, owner int) on commit drop")
        connection.execute(_ID_RANGES.format(samples))
        for number, table in enumerate(tables):
            connection.execute(
                sql.SQL(
                    "insert into strays select event_id, owner from id_ranges"
                    " join {} on event_id between low and high where owner <> {}"
                ).format(table, number)
            )
        connection.execute("analyze strays")
        connection.execute(
            "insert into duplicates select event_id from strays group by event_id having count(*) > 1"
            " on conflict do nothing"
        )
        for (owner,) in connection.execute("select distinct owner from strays").fetchall():
            connection.execute(
                sql.SQL(
                    "insert into duplicates select event_id from strays join {} using (event_id) where owner = {}"
                    " on conflict do nothing"
                ).format(tables[owner], owner)
            )

    def _take_out_duplicates(self, targets: list[Target]) -> None:
        """Delete all rows with a duplicate event id."""
        if not self._connection.execute("select 1 from duplicates limit 1").fetchone():
            return
        self._connection.execute("analyze duplicates")
        for target in targets:
            gone = self._connection.execute(
                sql.SQL("delete from {} where event_id in (select event_id from duplicates)").format(target.table)
            ).rowcount
            target.rows -= gone
            if target is self._outside:
                self.outside -= gone

    def _settle(self, ids: list[int], source_uri: str, keyed: "Future[None]") -> str:
        """Read the file again, for the rows with IDS, to take them when the tables are KEYED; return the SHA-256."""
        new = set(ids)
        settled: set[int] = set()
        wanted = {b"%d" % event_id for event_id in ids}
        found: list[tuple[int, bytes]] = []

        def take_found() -> None:
            keyed.result()
            for number, line in found:
                row = parse(line)
                if not isinstance(row, Event):
                    continue
                if row.event_id in new:
                    new.remove(row.event_id)
                    settled.add(row.event_id)
                    self._take_event(row)
                elif row.event_id in settled:
                    self._reject(line, number, DUPLICATE)
            found.clear()

        with open_source(source_uri) as source, self._copier:
            line_number = source.first_line_number
            for block in source.blocks:
                lines = block.replace(b"\r\n", b"\n") if b"\r" in block else block
                ids_there = _IDS.findall(lines)
                if self._has_odd_ids or not wanted.isdisjoint(ids_there):
                    each = lines.split(b"\n")
                    found += (
                        (line_number + number, each[number])
                        for number, text in enumerate(ids_there)
                        if text in wanted or (self._has_odd_ids and not _CANONICAL_ID.fullmatch(text))
                    )
                if len(found) > _FOUND_AT_ONCE:
                    take_found()
                line_number += block.count(b"\n")
            take_found()
        return source.sha256

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
        """Take the lines of BLOCK, which is UTF-8, and return how many there are."""
        line_number = first_line_number
        position = 0
        while position < len(block):
            if run := CLEAN.match(block, position):
                rows = block.count(b"\n", position, run.end())
                day = run["day"]
                contained = self._days.contain(day)
                if contained is not None:
                    lines = block[position : run.end()]
                    if contained:
                        self._write(self._part(day), lines, rows)
                    else:
                        self._write_outside(_AFTER_ID.sub(b"", lines), rows)
                else:
                    for number, line in enumerate(block[position : run.end() - 1].split(b"\n"), line_number):
                        self._take_line(line, number)
                position = run.end()
                line_number += rows
            else:
                end = block.find(b"\n", position)
                self._take_line(block[position:end], line_number)
                position = end + 1
                line_number += 1
        return line_number - first_line_number

    def _take_line(self, line: bytes, line_number: int) -> None:
        row = parse(line)
        if isinstance(row, Event):
            self._has_odd_ids = self._has_odd_ids or not _CANONICAL_ID.match(line)
            self._take_event(row)
        elif line.strip() or row.reason == "too_long":
            self._reject(line, line_number, row.reason)

    def _take_event(self, event: Event) -> None:
        if event.created_at in self._interval:
            part = self._part(event.created_at.date().isoformat().encode())
            meta_data = (event.meta_data or "").translate(_ESCAPED)
            fields = (*event[:3], event.created_at.isoformat(), meta_data)
            self._write(part, (";".join(map(str, fields)) + "\n").encode(), 1)
        else:
            self._write_outside(b"%d\n" % event.event_id, 1)

    def _reject(self, line: bytes, line_number: int, reason: str) -> None:
        text = raw_text(line).translate(_ESCAPED)
        self._copier.write(self._rejects, f"{self._load_id};{line_number};{text};{reason}\n".encode())
        self.rejected[reason] += 1

    def _write_outside(self, ids: bytes, rows: int) -> None:
        self._write(self._outside, ids, rows)
        self.outside += rows

    def _write(self, target: Target, lines: bytes, rows: int) -> None:
        self._copier.write(target, lines)
        target.rows += rows

    def _part(self, day: bytes) -> Target:
        """Return the table for events of DAY; it may be a new one if DAY is later than all before it."""
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
        table = new_table(self._load_id)
        copy = sql.SQL("copy {} ({}) from stdin with (delimiter ';', null '', freeze)").format(
            table, sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        )
        start = midnight(day.decode()) if self.parts else self._interval.start
        self._copier.pause()
        make_table(self._connection, table, self._load_id)
        self.parts.append(Target(table, copy, start))
        self._starts.append(day)


def _end_of_utf8(block: bytes) -> int:
    """Return where the first line of BLOCK begins that is not UTF-8; its end if there is none."""
    if block.isascii():
        return len(block)
    try:
        block.decode()
    except UnicodeDecodeError as error:
        return block.rfind(b"\n", 0, error.start) + 1
    return len(block)
