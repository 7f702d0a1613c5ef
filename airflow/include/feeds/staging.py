"""Copy the rows of files into staging tables, one per range of time, which become visible only by the swap.

Runs of clean lines go to PostgreSQL's COPY unchanged; the other lines are parsed one by one. Everything happens in one
transaction, so a load that ends early leaves nothing behind. The tables are made in that transaction too, which lets
COPY write frozen rows: visible to everybody who sees the table, and never rewritten by a vacuum. Their rows are never
deleted: a frozen row that is deleted in the same transaction stays visible to older snapshots.

COPY itself leaves out the rows that a rule of the contract refuses. Only then the lines of that COPY are looked at.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import psycopg
from psycopg import sql

from feeds.contract import Column
from feeds.copying import Copier, Piece, Target, copy_line
from feeds.days import OUT_OF_RANGE
from feeds.definition import Definition
from feeds.formats.rows import PREPARED, Block, Rows
from feeds.interval import Days, Interval
from feeds.keys import KnownDuplicates, SeenIntegers, SeenKeys
from feeds.lines import Dialect, Lines, Reject, Row, has_long_line, raw_text
from feeds.partitions import MAX_PARTITIONS, add_keys, discard, make_table, rows_per_partition
from feeds.routing import Routes
from feeds.rules import Rules
from feeds.suspects import Suspects
from feeds.values import moment_of

DUPLICATE = Reject("duplicate_key")
EXAMPLES = 1_000  # rejected rows that a refused load puts into quarantine
QUARANTINE_ROWS = 1_000_000  # of one load
_ALL_REJECTED = 10_000  # the first rows: if all are rejected, nobody needs the next million
_ROW_BYTES = 80  # on average
_FETCHED_AT_ONCE = 10_000  # lines
_FEW_DAYS = 8  # in a block: a pattern is made for each
_KEPT_BYTES = 1 << 23  # of lines whose blocks are kept
_SHORTEST = {"date": 10, "timestamp": 16, "uuid": 36}


class Staging:
    """The staging tables of one load of INTERVAL, which nobody else sees; a row outside of VALID is rejected.

    Attributes:
        parts: the tables with the rows to load, in the order of their times.
        rows_by_day: the number of these rows by day, YYYY-MM-DD.
        outside_by_day: the number of valid rows outside the interval by day.
        rejected: the number of rejected rows by reason and column.
        is_hopeless: whether reading has stopped early: too many rows were rejected, whatever follows.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        definition: Definition,
        load_id: int,
        interval: Interval,
        valid: Interval,
        *,
        duplicates: KnownDuplicates,
    ) -> None:
        self._connection = connection
        self._definition = definition
        self._raw = definition.table
        self._load_id = load_id
        self._interval = interval
        self._days = Days(interval)
        self._valid = valid
        self._valid_days = Days(valid)
        self._copier = Copier(connection)
        self._duplicates = duplicates
        self._has_many_days = False
        self._is_integer_key = self._raw.has_integer_key
        self._rules = Rules(connection, self._raw) if self._raw.feed.rules else None
        self._forms: dict[tuple[tuple[Column, ...], Dialect], Lines] = {}
        self._files: dict[int, Lines] = {}
        self.parts: list[Target] = []
        self.rows_by_day: Counter[bytes] = Counter()
        self.outside_by_day: Counter[bytes] = Counter()
        self.rejected: Counter[Reject] = Counter()
        self.is_hopeless = False
        feed = self._raw.feed
        self._shortest_values_bytes = sum(_shortest(column) for column in feed.columns if column.is_required)
        # A rule refuses rows outside the interval, too: another row with the same key is then no duplicate.
        outside = (
            self._raw.typed(column.name for column in feed.table_columns)
            if feed.rules
            else sql.SQL("{}, day$ {}").format(
                self._raw.typed(feed.key), sql.SQL(self._raw.columns[feed.time_column] if feed.time_column else "date")
            )
        )
        connection.execute(
            sql.SQL(
                "create temporary table outside ({outside}) on commit drop;"
                " create temporary table rejects (file_number int, line_number bigint, raw_text text, reason text,"
                " column_name text) on commit drop"
            ).format(outside=outside)
        )
        self._outside = Target(
            sql.Identifier("pg_temp", "outside"), sql.SQL(""), self._left_out if self._rules else None
        )
        self._rejects = _temporary("rejects", sql.SQL("file_number, line_number, raw_text, reason, column_name"))
        self._suspects = Suspects(connection, self._raw)

    @property
    def loaded(self) -> int:
        """The number of rows read that are valid and inside the interval."""
        return sum(part.rows for part in self.parts)

    @property
    def outside(self) -> int:
        """The number of rows read that are valid and outside the interval."""
        return self._outside.rows

    @property
    def outside_rows(self) -> sql.Composed:
        """The rows outside the interval as a query: their keys and their days, `day$`, as those of the raw table."""
        day = sql.SQL("{} as day$").format(self._raw.day) if self._rules else sql.SQL("day$").format()
        return sql.SQL("select {}, {} from {}").format(self._raw.key, day, self._outside.table)

    @property
    def read(self) -> int:
        """The number of rows read."""
        return self.loaded + self.outside + self.rejected.total() + self._suspects.target.rows

    def begin(self, total_bytes: int | None, most_rows: int | None) -> None:
        """Expect files of TOTAL_BYTES as stored and MOST_ROWS rows; None if that is not known."""
        self._routes = Routes(rows_per_partition((total_bytes or 0) // _ROW_BYTES), MAX_PARTITIONS)
        self._seen: SeenKeys = SeenIntegers(most_rows) if self._is_integer_key else self._duplicates

    def most_rows(self, rows: Rows, text_bytes: int | None) -> int | None:
        """Return how many rows ROWS, of a file with TEXT_BYTES of lines, can be; None if that is not known."""
        if rows.most_rows is not None or text_bytes is None:
            return rows.most_rows
        return text_bytes // self._shortest_row_bytes(rows) + 1

    def _shortest_row_bytes(self, rows: Rows) -> int:
        """Return the fewest bytes of one of ROWS in its file; of an object the keys of missing values are left out."""
        separators = 1 if rows.dialect == PREPARED else len(rows.columns)
        return self._shortest_values_bytes + separators

    def stage(
        self,
        rows: Rows,
        file_number: int,
        most_rows: int | None,
        max_rejected: float,
        report: Callable[[int], None],
        *,
        is_last: bool,
    ) -> None:
        """Copy ROWS of the file FILE_NUMBER, at most MOST_ROWS until the end of the last file, None if that is unknown.

        REPORT gets the number of rows of each block. Of several rows with the same key the first is taken, and the
        others are rejected. Reading stops as soon as more than the share MAX_REJECTED of all rows is rejected, even if
        all following rows are valid; and where no row is valid, or the quarantine is full.
        """
        form = (tuple(rows.columns), rows.dialect)
        if form not in self._forms:
            self._forms[form] = Lines(self._raw.feed, *form)
        self._files[file_number] = self._forms[form]
        self._use(file_number)
        kept_bytes = 0
        with self._copier:
            for block in rows.blocks:
                before = self.read
                self._take_block(block)
                taken = self.read - before
                kept_bytes += len(block.lines) if self._kept_block else 0
                if kept_bytes > _KEPT_BYTES:  # a row that waits keeps its whole block in memory
                    self._copier.flush()
                    kept_bytes = 0
                report(taken)
                if most_rows is not None:
                    is_exact = rows.most_rows is not None
                    most_rows -= taken if is_exact else len(block.lines) // self._shortest_row_bytes(rows)
                if self._is_hopeless(max_rejected, most_rows, is_last=is_last):
                    self.is_hopeless = True
                    break

    def _is_hopeless(self, max_rejected: float, most_rows: int | None, *, is_last: bool) -> bool:
        """Return whether too many rows are rejected, if MOST_ROWS follow, and no other file if this IS_LAST."""
        rejected = self.rejected.total()
        if is_last and max_rejected < 1 and rejected == self.read >= _ALL_REJECTED:
            return True
        most = QUARANTINE_ROWS
        if most_rows is not None:
            most = min(most, max(EXAMPLES, int(max_rejected * (self.read + max(most_rows, 0)))))
        return rejected > most

    def end(self) -> None:
        """Decide which of the rows that were set aside are duplicates."""
        if not self.is_hopeless:
            self._resolve_suspects()

    def find_duplicates(self) -> KnownDuplicates:
        """Return the keys that several of the rows have; only keys that are not one integer need it.

        If they are more than a load may reject, some are left out, and reading has been in vain.
        """
        if self._is_integer_key or self._duplicates:
            return KnownDuplicates()
        tables = [*(part.table for part in self.parts), self._outside.table]
        every = sql.SQL(" union all ").join(
            sql.SQL("select {} from {}").format(self._raw.key, table) for table in tables
        )
        query = sql.SQL("select {} from ({}) as keys group by {} having count(*) > 1 limit {}").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(n)) for n in self._raw.feed.key),
            every,
            self._raw.key,
            QUARANTINE_ROWS + 1,
        )
        with self._connection.cursor("duplicates") as cursor:
            cursor.itersize = _FETCHED_AT_ONCE
            found = KnownDuplicates(self._lines.key_of(key) for key in cursor.execute(query))
        if len(found) > QUARANTINE_ROWS:
            self.rejected[DUPLICATE] += len(found)
            self.is_hopeless = True
        return found

    def add_keys(self) -> None:
        """Add the keys and indexes to the staging tables."""
        for part in self.parts:
            add_keys(self._connection, self._definition, part.table)

    def discard(self) -> None:
        """Drop the staging tables of the rows to load."""
        discard(self._connection, [part.table for part in self.parts])
        self.parts = []

    def _use(self, file_number: int) -> None:
        """Read lines of the file FILE_NUMBER from now on: its columns may have an order of their own."""
        self._file_number, self._lines = file_number, self._files[file_number]
        lines = self._lines
        self._names = sql.SQL(", ").join(sql.Identifier(column.name) for column in lines.columns)
        self._options = sql.SQL("delimiter {}, null {}").format(lines.dialect.delimiter, lines.dialect.null)
        for part in self.parts:
            part.copy = self._copy_into(part.table, self._names)
        outside = self._names if self._rules else sql.SQL("{}, day$").format(self._raw.key)
        self._outside.copy = self._copy_into(self._outside.table, outside)

    def _copy_into(self, table: sql.Composable, names: sql.Composable) -> sql.Composed:
        where = sql.SQL(" where {}").format(self._rules.condition) if self._rules else sql.SQL("")
        return sql.SQL("copy {} ({}) from stdin with ({}, freeze){}").format(table, names, self._options, where)

    @property
    def _refuser(self) -> Callable[[Target, Sequence[Piece], int], int] | None:
        return self._left_out if self._rules else None

    @property
    def _kept_block(self) -> Block | None:
        """The present block, if COPY may leave out rows of it that are no lines in the file."""
        return self._block if self._rules and self._block.raw is not None else None

    def _take_block(self, taken: Block) -> None:
        self._block = taken
        lines, block, line_number, position = self._lines, taken.lines, taken.line_number, 0
        text_end = _end_of_utf8(block, 0)
        days: list[bytes | None] = []  # of runs of one day, one after another
        self._days_of_block: set[bytes] = set()
        while position < len(block):
            if position > text_end:
                text_end = _end_of_utf8(block, position)
            day = run = None
            if lines.has_clean and position < text_end:
                is_of_day = lines.time is not None and not self._has_many_days
                day = lines.day(block, position) if is_of_day else None
                run = lines.clean_of_day(day).match(block, position, text_end) if day or not is_of_day else None
            if run:
                if days[-1:] != [day]:
                    days.append(day)
                    self._has_many_days |= len(days) > _FEW_DAYS
                line_number += self._take_run(block[position : run.end()], day, line_number)
                position = run.end()
            else:
                end = lines.end_of_record(block, position)
                self._take_line(taken.record(position, end), line_number)
                line_number += block.count(b"\n", position, end + 1)
                position = end + 1
        if 0 < len(self._days_of_block) <= _FEW_DAYS:
            self._has_many_days = False

    def _take_run(self, lines: bytes, day: bytes | None, line_number: int) -> int:
        """Take LINES, which are clean and of one DAY unless it is None, and return their number."""
        if day is None and self._lines.time is not None and not has_long_line(lines):
            return self._take_days(lines, line_number)
        is_inside = self._days.contain(day) if day else True
        if is_inside is None or (day and not self._valid_days.contain(day)) or has_long_line(lines):
            each = lines.split(b"\n")[:-1]
            for number, line in enumerate(each, line_number):
                self._take_line(line, number)
            return len(each)
        rows = lines.count(b"\n")
        taken = rows
        if suspects := self._suspects_in(lines):
            each = lines.splitlines(keepends=True)
            start = 0
            for position in (*suspects, rows):  # what is between them is taken in pieces
                if position > start:
                    self._take_clean(
                        b"".join(each[start:position]), position - start, day, is_inside, line_number + start
                    )
                if position < rows:
                    self._take_suspect(each[position][:-1], line_number + position)
                start = position + 1
            return taken
        self._take_clean(lines, rows, day, is_inside, line_number)
        return taken

    def _take_days(self, lines: bytes, line_number: int) -> int:
        """Take LINES, which are clean and of several days, and return their number."""
        each, days = lines.splitlines(keepends=True), self._lines.days(lines)
        self._days_of_block.update(days)
        is_inside = {day: self._days.contain(day) if self._valid_days.contain(day) else None for day in set(days)}
        start = 0
        if None in is_inside.values():
            for position, day in enumerate(days):
                if is_inside[day] is None:
                    self._take_each(each[start:position], days[start:position], is_inside, line_number + start)
                    self._take_line(each[position][:-1], line_number + position)
                    start = position + 1
        self._take_each(each[start:], days[start:], is_inside, line_number + start)
        return len(each)

    def _take_each(
        self, each: list[bytes], days: list[bytes], is_inside: Mapping[bytes, bool | None], line_number: int
    ) -> None:
        """Take clean lines, each of its day, together with the others of it."""
        if not each:
            return
        suspects = set(self._suspects_in(b"".join(each)))
        of_days: dict[bytes, list[int]] = {}
        for position, day in enumerate(days):
            if position in suspects:
                self._take_suspect(each[position][:-1], line_number + position)
            else:
                of_days.setdefault(day, []).append(position)
        for day, positions in sorted(of_days.items()):
            lines = b"".join([each[position] for position in positions])
            numbers = [line_number + position for position in positions] if self._rules else []
            self._take_clean(lines, len(positions), day, is_inside[day], line_number, numbers=numbers)

    def _take_suspect(self, line: bytes, line_number: int) -> None:
        """Set LINE aside, which is clean."""
        row = self._lines.parse(line)
        assert isinstance(row, Row)
        self._suspect(row, line, self._raw_line(line, line_number), line_number)

    def _suspects_in(self, lines: bytes) -> list[int]:
        """Return the positions of those of LINES, which are clean, whose keys may be duplicates."""
        if isinstance(self._seen, SeenIntegers):
            return self._seen.add_integers(list(map(int, self._lines.key_lines(lines))))
        if not self._duplicates:
            return []
        return self._seen.add([self._lines.key_of(fields) for fields in self._lines.keys(lines)])

    def _take_clean(
        self,
        lines: bytes,
        rows: int,
        day: bytes | None,
        is_inside: bool | None,
        line_number: int,
        *,
        numbers: Sequence[int] = (),
    ) -> None:
        if day:
            (self.rows_by_day if is_inside else self.outside_by_day)[day] += rows
        if not is_inside and not self._rules:
            assert day is not None
            end = self._lines.day_end(day)
            self._copier.write(self._outside, Piece(end.join([*self._lines.key_lines(lines), b""]), rows))
            return
        piece = Piece(lines, rows, self._file_number, line_number, numbers, block=self._kept_block)
        self._copier.write(self._part(day) if is_inside else self._outside, piece)

    def _take_line(self, line: bytes, line_number: int) -> None:
        row = self._block.flaws.get(line_number - self._block.line_number) or self._lines.parse(line)
        if isinstance(row, Row) and not (row.moment and row.moment not in self._valid):
            if not self._seen.add([self._lines.key(row)]):
                self._take_row(row, self._file_number, line_number, line if self._block.raw is None else None)
                return
            self._suspect(row, line, self._raw_line(line, line_number), line_number)
            return
        raw = self._raw_line(line, line_number)  # of a Parquet file it is made, which takes long
        if isinstance(row, Reject) and not raw.strip() and row.reason != "too_long":
            return  # an empty line is no row
        self._reject(raw, line_number, row if isinstance(row, Reject) else OUT_OF_RANGE)

    def _raw_line(self, line: bytes, line_number: int) -> bytes:
        """Return LINE of the present block as it is in the file."""
        raw = self._block.raw
        return line if raw is None else raw[line_number - self._block.line_number]

    def _take_row(self, row: Row, file_number: int, line_number: int, raw: bytes | None) -> None:
        """Take ROW, which is RAW in the file, or the line of the present block."""
        day = row.moment.date().isoformat().encode() if row.moment else None
        is_inside = row.moment is None or row.moment in self._interval
        if day:
            (self.rows_by_day if is_inside else self.outside_by_day)[day] += 1
        part = self._part(day) if is_inside else self._outside
        if day is None or is_inside or self._rules:
            line = self._lines.copied(row)
        else:
            line = self._lines.copied_key(row) + self._lines.day_end(day)
        block = self._kept_block if raw is None else None
        self._copier.write(part, Piece(line, 1, file_number, line_number, raw=raw, block=block))

    def _reject(self, line: bytes, line_number: int, reject: Reject, file_number: int | None = None) -> None:
        where = (file_number or self._file_number, line_number)
        self._copier.write(self._rejects, Piece(copy_line(*where, raw_text(line), reject.reason, reject.column)))
        self.rejected[reject] += 1

    def _suspect(self, row: Row, line: bytes, raw: bytes, line_number: int) -> None:
        """Set LINE aside, a valid row whose key may be a duplicate, and which is RAW in the file."""
        piece = self._suspects.piece(self._lines.key(row), self._file_number, line_number, line, raw)
        self._copier.write(self._suspects.target, piece)

    def _left_out(self, target: Target, pieces: Sequence[Piece], count: int) -> int:
        """Reject the COUNT rows of PIECES that a rule refuses, and return their number: COPY has left them out."""
        assert self._rules
        found = self._rules.left_out(pieces, self._lines, count)
        for piece, offset, rule, day in found:
            self._reject(piece.raw_line(offset), piece.number(offset), Reject("rule", rule), piece.file_number)
            if day and target is self._outside:
                self.outside_by_day -= Counter({day.encode(): 1})
            elif day:
                self.rows_by_day -= Counter({day.encode(): 1})
        return len(found)

    def _resolve_suspects(self) -> None:
        """Reject the lines set aside whose key is a duplicate, and take the others."""
        if not self._suspects.target.rows:
            return
        if self._rules:
            self._reject_refused_suspects(self._rules)
        for rows in self._suspects.resolve([*(part.table for part in self.parts), self._outside.table]):
            self._use(rows[0].file_number)
            with self._copier:
                for suspect in rows:
                    if suspect.is_duplicate:
                        self._reject(suspect.raw, suspect.line_number, DUPLICATE)
                    elif isinstance(row := self._lines.parse(suspect.line), Row):
                        self._take_row(row, suspect.file_number, suspect.line_number, suspect.raw)

    def _reject_refused_suspects(self, rules: Rules) -> None:
        """Reject the lines set aside that a rule refuses: another line with the same key is then no duplicate."""
        for rows in self._suspects.by_file():
            self._use(rows[0].file_number)
            pieces = [
                Piece(self._lines.copied(row), 1, suspect.file_number, suspect.line_number, raw=suspect.raw)
                for suspect in rows
                if isinstance(row := self._lines.parse(suspect.line), Row)
            ]
            refused = rules.check(pieces, self._lines)
            with self._copier:
                for piece, _, rule, _ in refused:
                    self._reject(piece.raw or b"", piece.line_number, Reject("rule", rule))
            self._suspects.remove(rows[0].file_number, [one.piece.line_number for one in refused])

    def _part(self, day: bytes | None) -> Target:
        """Return the table for rows of DAY; of a snapshot there is one."""
        number, is_new = self._routes.table(day or b"", self.parts[-1].rows if self.parts else 0)
        if is_new:
            start = moment_of(day.decode()) if self.parts and day else self._interval.start
            self._copier.pause()
            table = make_table(self._connection, self._definition, self._load_id)
            self.parts.append(Target(table, self._copy_into(table, self._names), self._refuser, start))
        return self.parts[number]


def _shortest(column: Column) -> int:
    """Return the fewest bytes of a value of COLUMN in a file of lines."""
    return min(map(len, column.values), default=_SHORTEST.get(column.type, max(column.lengths[0], 1)))


def _temporary(name: str, columns: sql.Composable) -> Target:
    """Return the target for the temporary table NAME."""
    table = sql.Identifier("pg_temp", name)
    return Target(table, sql.SQL("copy {} ({}) from stdin").format(table, columns))


def _end_of_utf8(block: bytes, position: int) -> int:
    """Return the start of the first line of BLOCK from POSITION on that is not UTF-8, or the end of BLOCK."""
    if block.isascii():
        return len(block)
    try:
        str(memoryview(block)[position:], "utf-8")
    except UnicodeDecodeError as error:
        return max(block.rfind(b"\n", position, position + error.start) + 1, position)
    return len(block)
