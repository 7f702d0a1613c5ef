"""After any history of loads the tables contain what a brute-force model of the files says, row by row."""

import gzip
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds import errors, partitions, staging
from feeds import loaded_days as days_of_loads
from feeds.contract import Feed
from feeds.interval import ALWAYS, Interval
from feeds.ledger import LoadResult
from feeds.lines import MAX_LINE_BYTES
from feeds.load import load
from feeds.tables import create_tables
from tests.events_feed import EVENTS
from tests.feeds.common import DAY, HEADER, account, contract, empty, ledger, loaded_days, rejects, rows
from tests.feeds.test_event_lines import AGAINST_RULES, REJECTED

Row = tuple[Any, ...]
Table = dict[Row, Row]  # by their keys
Days = dict[date, tuple[int | None, ...]]
RejectRow = tuple[int, str, str]


@dataclass(frozen=True)
class Line:
    """A line of a file: its row, or the text and the reason of its rejection, known from how it was made.

    One that a rule refuses has both: it may be out of range, too.
    """

    stored: bytes
    row: Row | None = None
    reject: tuple[str, str] | None = None


@dataclass(frozen=True)
class Shape:
    """A feed, how its lines are made, and where a row has its key and its time."""

    header: str
    lines: st.SearchStrategy[Line]
    key: tuple[int, ...]
    time: int

    def key_of(self, row: Row) -> Row:
        return tuple(row[position] for position in self.key)

    def moment_of(self, row: Row) -> datetime:
        moment = row[self.time]
        return moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day, tzinfo=UTC)


@dataclass(frozen=True)
class File:
    content: bytes
    lines: list[Line]

    @staticmethod
    def of(shape: Shape, lines: Iterable[Line], end: bytes, start: bytes, last: bytes, compress: bool) -> "File":  # noqa: PLR0917
        lines = list(lines)
        content = start + end.join([shape.header.encode(), *(line.stored for line in lines)]) + last
        return File(gzip.compress(content, 1) if compress else content, lines)

    def rows(self, shape: Shape, valid: Interval) -> tuple[list[Row], list[RejectRow]]:
        """Return the valid rows, whose times are in VALID, and the rejected ones."""
        rows: dict[Row, Row] = {}
        rejected = []
        number = 2
        for line in self.lines:
            if line.row and shape.moment_of(line.row) not in valid:
                rejected.append((number, line.stored.decode(), "out_of_range"))
            elif line.reject:
                rejected.append((number, *line.reject))
            elif line.row and shape.key_of(line.row) in rows:
                rejected.append((number, line.stored.decode(), "duplicate_key"))
            elif line.row:
                rows[shape.key_of(line.row)] = line.row
            number += 1 + line.stored.count(b"\n")
        return list(rows.values()), rejected


NOT_TEXT = ["too_long", "encoding", "nul_byte"]
BAD = [
    Line(b"x" * (MAX_LINE_BYTES + 1), reject=("x" * 1000 + "…", "too_long")),
    Line(account(1).encode() + b"\xff", reject=(account(1) + "\\xff", "encoding")),
    Line(b"a\0\xc3\xa9", reject=("a\\x00é", "nul_byte")),
    *(
        Line(line, reject=(line.decode(), reason))
        for reason, examples in REJECTED.items()
        for line in [examples[0].replace(b"{}", b"1")]
        if reason not in NOT_TEXT
    ),
    *(
        Line(line, (1, "proposed", 1, DAY, None), (line.decode(), f"{rule}: rule"))
        for rule, examples in AGAINST_RULES.items()
        for line in (example.replace(b"{}", b"1") for example in examples)
    ),
]
BLANK = Line(b" \t")

moments = st.integers(0, 8).map(lambda hours: DAY + timedelta(hours=12 * hours))
metadata = st.sampled_from(["3_a_b_1", '4_"a";_é_-0.5', "3_a\\n_\\._1", "3_a\t_\\N_1"])


def field_of(draw: st.DrawFn, text: str, delimiter: str) -> str:
    """Draw TEXT as a field, in quotes if it must be."""
    quoted = '"' + text.replace('"', '""') + '"'
    return quoted if bool(set(text) & {'"', delimiter, "\n"}) or draw(st.booleans()) else text


def written(draw: st.DrawFn, moment: datetime) -> str:
    """Draw a way to write MOMENT."""
    an_hour_later = moment + timedelta(hours=1)
    return draw(st.sampled_from([f"{moment:%Y-%m-%d %H:%M:%S}", f"{an_hour_later:%Y-%m-%dT%H:%M:%S}+01:00"]))


def or_bad(line: Callable[[st.DrawFn], Line], bad: Sequence[Line]) -> st.SearchStrategy[Line]:
    """Draw a LINE, or sometimes a BAD one."""
    return st.integers(0, 9).flatmap(lambda kind: st.sampled_from(bad) if kind == 9 else st.composite(line)())


def event(draw: st.DrawFn) -> Line:
    event_id, professional_id = draw(st.integers(-1, 9)), draw(st.integers(1, 3))
    moment, meta_data = draw(moments), draw(st.none() | metadata)
    event_type = "proposed" if meta_data else draw(st.sampled_from(["created_account", "became_able_to_propose"]))
    at, last = written(draw, moment), field_of(draw, meta_data or "", ";")
    text = f"{event_id};{event_type};{professional_id};{at};{last}"
    return Line(text.encode(), (event_id, event_type, professional_id, moment, meta_data))


def visit(draw: st.DrawFn) -> Line:
    """Draw a row whose key is a string and a date, with delimiters and line ends in quotes."""
    site, day = draw(st.sampled_from(["a", "é", 'b,"c"', "d\ne", "\\N", "A"])), draw(moments).date()
    visitors, note = draw(st.none() | st.integers(-1, 3)), draw(st.sampled_from(["x", "y\n,\n", "\\", ""]))
    text = f"{field_of(draw, site, ',')},{day},{'' if visitors is None else visitors},{field_of(draw, note, ',')}"
    reject = (text, "a_rule: rule") if visitors == -1 else None
    return Line(text.encode(), (site, day, visitors, note or None), reject)


def reading(draw: st.DrawFn) -> Line:
    """Draw a row whose key is a uuid, which may move to another time."""
    sensor, moment = UUID(int=draw(st.integers(0, 6)) + (0xA << 100)), draw(moments)
    value = draw(st.sampled_from(["1", "1.50", "-0.25", "007"]))
    name = draw(st.sampled_from([str(sensor), str(sensor).upper()]))
    at, value_ = written(draw, moment), field_of(draw, value, ",")
    return Line(f"{at},{value_},{name}".encode(), (moment, Decimal(value), sensor))


def tick(draw: st.DrawFn) -> Line:
    """Draw a row whose key is a time alone."""
    moment, value = draw(moments), draw(st.sampled_from(["true", "false", "YES"]))
    return Line(f"{value},{written(draw, moment)}".encode(), (value != "false", moment))


SHAPES = {
    "events": Shape(HEADER, or_bad(event, [*BAD, BLANK]), (0,), 3),
    "visits": Shape(
        "site,day,visitors,note",
        or_bad(
            visit,
            [
                *(BAD[0], BLANK, Line(b"a,2020-01-01,x,\xff", reject=("a,2020-01-01,x,\\xff", "encoding"))),
                Line(b"a,2020-02-30,1,", reject=("a,2020-02-30,1,", "day: type")),
                Line(b"a,2020-01-01,1", reject=("a,2020-01-01,1", "field_count")),
                Line(b'""x,2020-01-01,1,', reject=('""x,2020-01-01,1,', "quoting")),
            ],
        ),
        (0, 1),
        1,
    ),
    "readings": Shape(
        "at,value,sensor",
        or_bad(
            reading, [BLANK, Line(b"2020-01-01 00:00:00,1.234,", reject=("2020-01-01 00:00:00,1.234,", "value: type"))]
        ),
        (2,),
        0,
    ),
    "ticks": Shape("up,at", or_bad(tick, [BLANK, Line(b"maybe,", reject=("maybe,", "up: type"))]), (1,), 1),
}
KEY = "required: true, primaryKey: true"
COLUMNS = {
    "visits": (
        f"{{name: site, logicalType: string, {KEY}}}, {{name: day, logicalType: date, {KEY}}},"
        " {name: visitors, logicalType: integer}, {name: note, logicalType: string}",
        "day",
        "visitors >= 0",
    ),
    "readings": (
        "{name: at, logicalType: timestamp, required: true},"
        " {name: value, logicalType: number, physicalType: 'numeric(5,2)'},"
        f" {{name: sensor, logicalType: string, logicalTypeOptions: {{format: uuid}}, {KEY}}}",
        "at",
        "",
    ),
    "ticks": (f"{{name: up, logicalType: boolean}}, {{name: at, logicalType: timestamp, {KEY}}}", "at", ""),
}


@pytest.fixture
def feed(request: pytest.FixtureRequest, tmp_path: Path, dsn: str) -> Feed:
    """Give the feed of a shape, with its tables."""
    if request.param == "events":
        return EVENTS
    columns, time, rule = COLUMNS[request.param]
    feed = contract(tmp_path, request.param, columns, f"{{property: timeColumn, value: {time}}}", rule)
    create_tables(dsn, feed)
    return feed


def files(shape: Shape) -> st.SearchStrategy[File]:
    return st.builds(
        File.of,
        st.just(shape),
        st.lists(shape.lines, min_size=5, max_size=15),
        st.sampled_from([b"\n", b"\r\n"]),
        st.sampled_from([b"", b"\xef\xbb\xbf"]),
        st.sampled_from([b"", b"\n", b"\r\n\r\n"]),
        st.booleans(),
    )


bounded = st.tuples(moments, st.integers(1, 4)).map(lambda pair: (pair[0], pair[0] + timedelta(hours=12 * pair[1])))
intervals: st.SearchStrategy[tuple[datetime | None, datetime | None]] = st.one_of(
    bounded, bounded.map(lambda b: (b[0], None)), bounded.map(lambda b: (None, b[1])), st.just((None, None))
)


@dataclass(frozen=True)
class Step:
    """One load: of which of the files, under which of two names."""

    name: int
    file: int
    interval: tuple[datetime | None, datetime | None]
    allow_empty: bool
    max_rejected: float
    valid: Interval


steps = st.builds(
    Step,
    st.integers(0, 1),
    st.integers(0, 1),
    intervals,
    st.booleans(),
    st.sampled_from([0.3, 1.0, 1.0]),
    st.sampled_from([ALWAYS, ALWAYS, Interval(DAY + timedelta(hours=30), None)]),
)


@pytest.mark.slow
@settings(
    max_examples=9, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data(), loads=st.lists(steps, min_size=3, max_size=5))
@pytest.mark.parametrize(
    ("feed", "partition_rows"),
    [("events", 2), ("events", 50_000), ("visits", 2), ("readings", 2), ("ticks", 2)],
    indirect=["feed"],
)
def test_any_loads_in_any_order(
    *,
    dsn: str,
    db: psycopg.Connection,
    tmp_path: Path,
    feed: Feed,
    partition_rows: int,
    data: st.DataObject,
    loads: Sequence[Step],
) -> None:
    """They include repetition, overlap, late and moved rows, and corrections of the past."""
    shape = SHAPES[feed.name]
    contents = [data.draw(files(shape)) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "MIN_ROWS", partition_rows)
        patch.setattr(days_of_loads, "_FEW_ROWS", data.draw(st.sampled_from([0, 200_000])))
        patch.setattr(staging, "_FEW_DAYS", data.draw(st.sampled_from([0, 1, 8])))
        empty(db, feed)
        history = History(dsn, db, feed, shape)
        quarantine = Quarantine()
        for step in loads:
            path = tmp_path / f"{step.name}.csv"
            path.write_bytes(contents[step.file].content)
            with suppress(errors.InvertedInterval):  # a part of a day has no dates
                history.check(path, contents[step.file], step)
                start, end = map(history.bound, step.interval)
                quarantine.add(
                    replace(step, interval=(start, end)), ledger(db)[-1], contents[step.file].rows(shape, step.valid)[1]
                )
            assert sorted(rejects(db)) == sorted(quarantine.rows())


class Held(NamedTuple):
    """A rejected row, the intervals of the loads that have rejected it one after another, and the last of them."""

    row: RejectRow
    intervals: list[Interval]
    load_id: int


@dataclass
class Quarantine:
    """The rejected rows by the file's name, with the last load of it; those of a refused load apart."""

    of_loads: dict[int, list[Held]] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    of_refused: dict[int, list[RejectRow]] = field(default_factory=dict)

    def add(self, step: Step, load: dict[str, Any], rows: list[RejectRow]) -> None:
        """Add ROWS that LOAD, of STEP, has rejected; it replaces those of loads within its interval."""
        self.of_refused.pop(step.name, None)
        if load["status"] == "failed":
            self.of_refused[step.name] = rows
            return
        (start, end), load_id = step.interval, load["same_as_load_id"] or load["load_id"]
        before, found = self.of_loads.get(step.name, []), []
        if load_id == load["load_id"]:  # else nothing was loaded
            moved = [held for held in before if held.load_id == self.last.get(step.name)]
            for row in rows:
                chain = [each for held in moved if held.row[1] == row[1] for each in held.intervals]
                found.append(Held(row, [Interval(start, end), *chain], load_id))
            texts = {row[1] for row in rows}
            before = [held for held in before if held not in moved or held.row[1] not in texts]
        self.last[step.name] = load_id
        left = [
            held
            for held in before
            if held.load_id == load_id
            or not all(
                (not start or (each.start and each.start >= start)) and (not end or (each.end and each.end <= end))
                for each in held.intervals
            )
        ]
        self.of_loads[step.name] = left + found

    def rows(self) -> list[RejectRow]:
        """Return all rows."""
        of_loads = [held.row for holds in self.of_loads.values() for held in holds]
        return of_loads + [row for rows in self.of_refused.values() for row in rows]


@dataclass
class History:
    """The loads of FEED so far, after which its table contains the rows TABLE, by their keys."""

    dsn: str
    db: psycopg.Connection
    feed: Feed
    shape: Shape
    table: Table = field(default_factory=dict)
    days: dict[int, Days] = field(default_factory=dict)  # of each load

    def check(self, path: Path, content: File, step: Step) -> None:
        """Load PATH, which has CONTENT, and compare what the table contains then."""
        start, end = interval = [self.bound(moment) for moment in step.interval]
        inside = Interval(*interval)
        shape = self.shape
        valid, rejected_rows = content.rows(shape, step.valid)
        new = {shape.key_of(row): row for row in valid if shape.moment_of(row) in inside}
        deleted = {key: row for key, row in self.table.items() if shape.moment_of(row) in inside or key in new}
        read, rejected = len(valid) + len(rejected_rows), len(rejected_rows)
        reasons = dict(Counter(reason for _, _, reason in rejected_rows))
        after = {key: row for key, row in self.table.items() if key not in deleted} | new
        days = self.days_of(valid, new, deleted, after, inside)
        absent = sum(counts[4] or 0 for counts in days.values())
        expected: LoadResult | type[errors.FeedError] = LoadResult(
            0, read, len(new), rejected, len(valid) - len(new), len(deleted), reasons, absent=absent
        )
        if rejected and rejected / read > step.max_rejected:
            expected = errors.TooManyRejected
        elif deleted and not new and not step.allow_empty:
            expected = errors.EmptyReplacement
        else:
            self.table = after
        assert self.load(path, step, len(deleted)) == expected
        found = rows(self.db, self.feed)
        assert {shape.key_of(row): row for row in found} == self.table
        assert len(found) == len(self.table)
        row = ledger(self.db)[-1]
        assert (row["interval_start"], row["interval_end"], row["rows_read"]) == (start, end, read)
        assert row["source_sha256"] == hashlib.sha256(content.content).hexdigest()
        assert row["source_size_bytes"] == len(content.content)
        assert row["status"] == ("succeeded" if isinstance(expected, LoadResult) else "failed")
        assert row["rows_absent"] == (absent if isinstance(expected, LoadResult) else None)
        if row["same_as_load_id"]:  # nothing was written, and nothing may be absent
            assert not any(any(counts[1:5]) for counts in days.values())
        elif isinstance(expected, LoadResult) and days:
            self.days[row["load_id"]] = days
        assert loaded_days(self.db) == self.days

    def days_of(self, valid: Sequence[Row], new: Table, deleted: Table, after: Table, inside: Interval) -> "Days":
        """Return what a load does by day: rows loaded, added, changed, removed, absent, and present after it."""
        key_of = self.shape.key_of

        def day(row: Row) -> date:
            return self.shape.moment_of(row).date()

        late = [row for row in valid if self.shape.moment_of(row) not in inside and key_of(row) not in after]
        each: list[Counter[date]] = [
            Counter(map(day, new.values())),
            Counter(day(row) for key, row in new.items() if key not in self.table),
            Counter(day(row) for key, row in new.items() if key in self.table and self.table[key] != row),
            Counter(day(row) for key, row in deleted.items() if key not in after or day(after[key]) != day(row)),
        ]
        written = {one for counts in each for one in counts}
        absent, present = Counter(map(day, late)), Counter(map(day, after.values()))
        return {
            one: (*(counts[one] for counts in each), absent[one], present[one] if one in written else None)
            for one in written | absent.keys()
        }

    def bound(self, moment: datetime | None) -> datetime | None:
        """Return the bound MOMENT as the feed has it: of dates, the first midnight that is not before it."""
        if moment is None or self.feed.column(self.feed.time_column or "").type != "date":
            return moment
        midnight = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
        return midnight + timedelta(days=midnight < moment)

    def load(self, path: Path, step: Step, deleted: int) -> LoadResult | type[errors.FeedError]:
        """Return what the load of PATH did, or its error; a load that had nothing to do did not delete DELETED rows."""
        start, end = step.interval
        options: dict[str, Any] = {"max_rejected": step.max_rejected, "allow_empty": step.allow_empty}
        try:
            result = load(self.feed, self.dsn, source_uri=str(path), start=start, end=end, valid=step.valid, **options)
        except errors.InvertedInterval:
            raise
        except errors.FeedError as error:
            return type(error)
        if result.same_as_load_id:
            return replace(result, load_id=0, same_as_load_id=None, replaced=deleted)
        return replace(result, load_id=0)
