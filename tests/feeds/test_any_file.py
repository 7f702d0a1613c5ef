"""A load of any file does what its contract says, by the harness's reader, which shares no code with it.

Runs of clean lines, which COPY gets unchanged, are mixed with other lines, and blocks end anywhere.
"""

import gzip
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from feeds import source
from feeds.contract import Feed
from feeds.interval import ALWAYS, Interval
from feeds.load import load
from feeds.tables import create_tables
from harness.oracle.csv_rows import csv_row, whole_record
from harness.oracle.row_values import RejectedError, Row, each
from tests.events_feed import EVENTS
from tests.feeds import common
from tests.feeds.common import contract, empty, rows

HEADER = common.HEADER.encode()
BOM = b"\xef\xbb\xbf"
ROWS_PER_DAY = 3
START, END = datetime(2020, 1, 1, 12, tzinfo=UTC), datetime(2020, 1, 3, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("small_partitions")

ids = st.one_of(
    st.integers(0, 30).map(str),
    st.sampled_from(
        [
            *("+1", "-1", "-0", "00", "007", "1.0", " 1", "1 ", "", "0x1", "1e1", "\u0661", "1_0"),
            *("9" * 18, "9" * 19, str(2**63 - 1), str(2**63), str(-(2**63)), str(-(2**63) - 1), "0" * 40 + "5"),
        ]
    ),
)
types = st.sampled_from(["created_account", "became_able_to_propose", "became_unable_to_propose", "Proposed", ""])
days = st.sampled_from(
    [
        *("2020-01-01", "2020-01-02", "2020-01-03", "2020-02-29", "2019-02-29", "2020-02-30", "0001-01-01"),
        *("9999-12-31", "10000-01-01", "0000-01-01", "1900-02-29", "2000-02-29", "0999-12-31", "infinity", "now"),
    ]
)
times = st.sampled_from(
    [
        *(" 00:00:00", " 11:59:59.999999", " 12:00:00", "T23:59:59Z", " 24:00:00", " 23:59:60", "", " 9:00:00"),
        *(" 00:00:00.1234567", " 00:30:00+01:00", " 23:30:00-01:00", " 00:00:00+14:00", " 00:00:00-24:00"),
        " 00:00:00 BC",
    ]
)
names = st.sampled_from(
    ["a", "é", "\u2028", "a b", "a;b", 'a"b', "a\nb", "a\\b", "\\N", "\\.", "", "\t", "_", "x" * 300]
)
fees = st.sampled_from(
    ["1", "0.50", "-1.5", "+2", "999999999999.999999", "1234567890123", "1.1234567", ".5", "1.", "NaN", "1,5", ""]
)
metadata = st.one_of(
    st.tuples(ids, names, names, fees).map("_".join),
    st.tuples(ids, names, names, fees, names).map("_".join),
    st.sampled_from(["", "3_a_b_1", "3_a_b_1\r"]),
)
moments = st.tuples(days, times).map("".join)
wild = st.one_of(
    st.tuples(ids, types, ids, moments, metadata), st.tuples(ids, st.just("proposed"), ids, moments, metadata)
)
plain = st.builds(
    lambda number, who, moment, name: (str(number), "proposed", str(who), moment, f"3_{name}_b_1.5"),
    st.integers(0, 99),
    st.integers(0, 9),
    st.sampled_from(["2020-01-01 11:00:00", "2020-01-01 12:00:00", "2020-01-02 00:00:00", "2020-01-03 00:00:00"]),
    st.sampled_from(["a", "é", "x" * 30]),
)
OTHER_LINES = [b"", b" ", b"\t\r", BOM, HEADER, b"\0", b"\xff", b'"', b";;;;", BOM + common.account(1).encode()]


@st.composite
def event_lines(draw: st.DrawFn) -> bytes:
    """Draw a line of events: clean, with some wild fields, quoted correctly or not, or anything."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from(OTHER_LINES))
    fields = list(draw(plain))
    if kind > 4:
        different = draw(wild)
        changed = draw(st.sampled_from([(0,), (1, 4), (2,), (3,), (4,), (0, 3), (0, 1, 2, 3, 4)]))
        fields = [different[n] if n in changed else fields[n] for n in range(5)]
    return written(draw, fields, draw(st.sampled_from([(), (), (4,), (0, 1, 2, 3, 4)])), ";")


def written(draw: st.DrawFn, fields: Sequence[str], quoted: Sequence[int], delimiter: str) -> bytes:
    """Draw a line of FIELDS, those in QUOTED with quotes, correct ones or not, perhaps damaged."""
    double = draw(st.sampled_from([True, True, True, False]))
    texts = [
        '"' + (text.replace('"', '""') if double else text) + '"' if n in quoted else text
        for n, text in enumerate(fields)
    ]
    stored = delimiter.join(texts).encode()
    if draw(st.integers(0, 19)) == 0:
        at = draw(st.integers(0, len(stored)))
        stored = stored[:at] + draw(st.sampled_from(DAMAGE)) + stored[at:]
    return stored


DAMAGE = [b"\0", b"\xff", b"\xc3", b";", b",", b'"', b"\r", b"\n"]
# A feed with each type, and a key of two columns; a string may have delimiters, quotes and line ends.
MIXED = (
    "{name: site, logicalType: string, logicalTypeOptions: {maxLength: 6}, required: true, primaryKey: true},"
    " {name: at, logicalType: timestamp, required: true},"
    " {name: day, logicalType: date, required: true, primaryKey: true},"
    " {name: n, logicalType: integer}, {name: v, logicalType: number, physicalType: 'numeric(5,2)'},"
    " {name: up, logicalType: boolean}, {name: u, logicalType: string, logicalTypeOptions: {format: uuid}}"
)
UUID = "0000000a-0000-4000-8000-00000000000"
usual = st.tuples(
    st.sampled_from(["a", "b", "é", "a b"]),
    st.sampled_from(["2020-01-01 11:00:00", "2020-01-01 12:00:00", "2020-01-02 00:00:00"]),
    st.sampled_from(["2020-01-01", "2020-02-29"]),
    st.sampled_from(["0", "7", "-7", ""]),
    st.sampled_from(["1", "-1.50", "999.99", ""]),
    st.sampled_from(["true", "false", ""]),
    st.sampled_from([UUID + "a", ""]),
)
unusual = st.tuples(
    st.sampled_from(["a,b", "c\nd", "c\r\nd", '"', "\\N", "x" * 7, "", "\\", "é\n\n"]),
    moments,
    days,
    ids,
    st.sampled_from(["1.234", "1000", "1e2", ".5", "-0", "+1.5", "007.10", "NaN"]),
    st.sampled_from(["TRUE", "t", "no", "maybe", "0"]),
    st.sampled_from([UUID + "A", UUID, UUID + "ab", "x"]),
)


@st.composite
def mixed_lines(draw: st.DrawFn) -> bytes:
    """Draw a line of MIXED: clean, with some unusual fields, or anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([b"", b" ", b'"', b",,,,,,", b"\xff", BOM, b'"\n"']))
    fields, others = list(draw(usual)), draw(unusual)
    for position in draw(st.lists(st.integers(0, 6), max_size=2)):
        fields[position] = others[position]
    quoted = {n for n, text in enumerate(fields) if bool(set(text) & set(',"\n')) and draw(st.integers(0, 9))}
    return written(draw, fields, [*quoted, *draw(st.lists(st.integers(0, 6), max_size=2))], ",")


def content_of(
    stored: Sequence[bytes], ends: Sequence[bytes], start: bytes, has_last_end: bool, header: bytes = HEADER
) -> bytes:
    whole = [header, *stored]
    text = b"".join(line + ends[number % len(ends)] for number, line in enumerate(whole))
    return start + (text if has_last_end else text.removesuffix(ends[(len(whole) - 1) % len(ends)]))


def contents(lines: st.SearchStrategy[bytes], header: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(
        content_of,
        st.lists(lines, max_size=25),
        st.sampled_from([[b"\n"], [b"\r\n"], [b"\n", b"\r\n"]]),
        st.sampled_from([b"", BOM, BOM + b"\n", b"\r\n \n"]),
        st.booleans(),
        st.just(header),
    )


EMBEDDED = content_of([b'1;proposed;1;2020-01-01 00:00:00;"3_a\nb_c_1"'], [b"\n"], b"", True)
QUOTED = content_of([b'"1";proposed;1;2020-01-01 00:00:00;"3_a;b_""c""_1"'] * 2, [b"\r\n"], BOM, True)


def numbered(feed: Feed, content: bytes) -> list[tuple[int, Row | RejectedError]]:
    """Return the rows of CONTENT, with the number of their first line."""
    csv, found = feed.properties.csv, []
    headers = [column.header for column in feed.columns]
    lines = content.removeprefix(BOM).split(b"\n")
    position = next(n for n, line in enumerate(lines) if line.strip()) + 1
    while position < len(lines):
        record, taken = lines[position].removesuffix(b"\r"), 1
        if record.count(csv.quote.encode()) % 2:
            record, taken = whole_record(lines, position, len(headers), csv.delimiter, csv.quote)
        if record.strip():
            found.append((position + 1, each(csv_row, feed, headers, record)))
        position += taken
    return found


def expect(
    feed: Feed, content: bytes, valid_times: Interval, breaks_rule: Callable[[Row], bool]
) -> tuple[dict[tuple[Any, ...], Row], list[tuple[int, str]]]:
    """Return the valid rows by their keys, and line number and reason of the others, by the harness's reader."""
    valid: dict[tuple[Any, ...], Row] = {}
    rejected = []
    for number, row in numbered(feed, content):
        if isinstance(row, RejectedError):
            rejected.append((number, str(row.args[0])))
        elif row[str(feed.time_column)] not in valid_times:
            rejected.append((number, "out_of_range"))
        elif breaks_rule(row):
            rejected.append((number, "rule"))
        elif (key := tuple(row[name] for name in feed.key)) in valid:
            rejected.append((number, "duplicate_key"))
        else:
            valid[key] = row
    return valid, rejected


@pytest.fixture
def mixed(tmp_path: Path, dsn: str) -> Feed:
    """Give the feed MIXED, with its tables."""
    feed = contract(tmp_path, "mixed", MIXED, "{property: timeColumn, value: at}", "n > -5 or up")
    create_tables(dsn, feed)
    return feed


def breaks_rule_of_events(row: Row) -> bool:
    if (row["event_type"] == "proposed") != (row["meta_data"] is not None):
        return True
    return row["meta_data"] is not None and not -(2**63) <= int(row["meta_data"].partition("_")[0]) < 2**63


def breaks_rule_of_mixed(row: Row) -> bool:
    return row["n"] is not None and row["n"] <= -5 and row["up"] is False


anyhow = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
block_sizes = st.sampled_from([7, 64, 1 << 18])
bounds = st.sampled_from([ALWAYS, Interval(START, None), Interval(None, END), Interval(END, None)])


@pytest.mark.slow
@anyhow
@given(
    content=contents(event_lines(), HEADER),
    block_bytes=block_sizes,
    members=st.sampled_from([0, 1, 2]),
    cut=st.booleans(),
    valid_times=bounds,
)
@example(content=EMBEDDED, block_bytes=64, members=0, cut=False, valid_times=ALWAYS)
@example(content=QUOTED, block_bytes=7, members=2, cut=True, valid_times=Interval(START, None))
def test_any_file_of_events(
    *,
    dsn: str,
    db: psycopg.Connection,
    tmp_path: Path,
    content: bytes,
    block_bytes: int,
    members: int,
    cut: bool,
    valid_times: Interval,
) -> None:
    path = tmp_path / "events.csv"
    parts = [content[: len(content) // 2], content[len(content) // 2 :]] if members == 2 else [content]
    path.write_bytes(b"".join(map(gzip.compress, parts)) if members else content)
    expected = expect(EVENTS, content, valid_times, breaks_rule_of_events)
    check(dsn, db, EVENTS, path, expected, block_bytes=block_bytes, cut=cut, valid_times=valid_times)


@pytest.mark.slow
@anyhow
@given(
    content=contents(mixed_lines(), b"site,at,day,n,v,up,u"),
    block_bytes=block_sizes,
    cut=st.booleans(),
    valid_times=bounds,
)
def test_any_file_of_mixed_columns(
    *,
    dsn: str,
    db: psycopg.Connection,
    tmp_path: Path,
    mixed: Feed,
    content: bytes,
    block_bytes: int,
    cut: bool,
    valid_times: Interval,
) -> None:
    path = tmp_path / "mixed.csv"
    path.write_bytes(content)
    expected = expect(mixed, content, valid_times, breaks_rule_of_mixed)
    check(dsn, db, mixed, path, expected, block_bytes=block_bytes, cut=cut, valid_times=valid_times)


def check(
    dsn: str,
    db: psycopg.Connection,
    feed: Feed,
    path: Path,
    expected: tuple[dict[tuple[Any, ...], Row], list[tuple[int, str]]],
    *,
    block_bytes: int,
    cut: bool,
    valid_times: Interval,
) -> None:
    """Load PATH, read in blocks of BLOCK_BYTES, the whole of it or CUT to an interval, and compare with EXPECTED."""
    valid, rejected = expected
    empty(db, feed)
    start, end = (START, END) if cut else (None, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_BLOCK_BYTES", block_bytes)
        options: dict[str, Any] = {"source_uri": str(path), "valid": valid_times, "max_rejected": 1}
        result = load(feed, dsn, start=start, end=end, **options)
    inside = {key: row for key, row in valid.items() if row[str(feed.time_column)] in Interval(start, end)}
    figures = result.read, result.loaded, result.rejected, result.outside
    assert figures == (len(valid) + len(rejected), len(inside), len(rejected), len(valid) - len(inside))
    found = db.execute("select line_number, reason from raw.rejected_rows order by 1").fetchall()
    assert found == rejected
    names = [column.name for column in feed.columns]
    loaded = [dict(zip(names, row, strict=True)) for row in rows(db, feed)]
    assert {tuple(row[name] for name in feed.key): row for row in loaded} == inside
    assert len(loaded) == len(inside)
