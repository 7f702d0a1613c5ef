"""A load of any file does what `docs/events-format.md` says, by the harness's reader, which shares no code with it.

Runs of clean lines, which COPY gets unchanged, are mixed with other lines, and blocks end anywhere.
"""

import gzip
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from feeds import source
from feeds.interval import ALWAYS, Interval
from tests.events_feed import load
from tests.feeds import common, events_file
from tests.feeds.common import empty, events

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
def lines(draw: st.DrawFn) -> bytes:
    """Draw a line: clean, with some wild fields, quoted correctly or not, or anything."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from(OTHER_LINES))
    fields = list(draw(plain))
    if kind > 4:
        different = draw(wild)
        changed = draw(st.sampled_from([(0,), (1, 4), (2,), (3,), (4,), (0, 3), (0, 1, 2, 3, 4)]))
        fields = [different[n] if n in changed else fields[n] for n in range(5)]
    quoted = draw(st.sampled_from([(), (), (4,), (0, 1, 2, 3, 4)]))
    double = draw(st.sampled_from([True, True, True, False]))
    fields = [
        '"' + (text.replace('"', '""') if double else text) + '"' if n in quoted else text
        for n, text in enumerate(fields)
    ]
    stored = ";".join(fields).encode()
    if draw(st.integers(0, 19)) == 0:
        at = draw(st.integers(0, len(stored)))
        stored = stored[:at] + draw(st.sampled_from([b"\0", b"\xff", b"\xc3", b";", b'"', b"\r", b"\n"])) + stored[at:]
    return stored


def content_of(stored: Sequence[bytes], ends: Sequence[bytes], start: bytes, has_last_end: bool) -> bytes:
    whole = [HEADER, *stored]
    text = b"".join(line + ends[number % len(ends)] for number, line in enumerate(whole))
    return start + (text if has_last_end else text.removesuffix(ends[(len(whole) - 1) % len(ends)]))


contents = st.builds(
    content_of,
    st.lists(lines(), max_size=25),
    st.sampled_from([[b"\n"], [b"\r\n"], [b"\n", b"\r\n"]]),
    st.sampled_from([b"", BOM, BOM + b"\n", b"\r\n \n"]),
    st.booleans(),
)


EMBEDDED = content_of([b'1;proposed;1;2020-01-01 00:00:00;"3_a\nb_c_1"'], [b"\n"], b"", True)
QUOTED = content_of([b'"1";proposed;1;2020-01-01 00:00:00;"3_a;b_""c""_1"'] * 2, [b"\r\n"], BOM, True)


def expect(content: bytes, valid_times: Interval) -> tuple[common.Rows, list[tuple[int, str]]]:
    """Return the valid rows, and line number and reason of the others, by the harness's reader line by line."""
    valid: common.Rows = []
    rejected, seen = [], set()
    header_seen = False
    for number, stored in enumerate(content.removeprefix(BOM).split(b"\n"), 1):
        for line in events_file.read_lines(io.BytesIO(b"\n" + stored)):  # none for a blank line
            if not header_seen:
                header_seen = True
                continue
            try:
                event = events_file.parse(line)
                if event.created_at not in valid_times:
                    raise events_file.UnreadableError("out_of_range")
                if event.event_id in seen:
                    raise events_file.UnreadableError("duplicate_event_id")
            except events_file.UnreadableError as error:
                rejected.append((number, str(error)))
                continue
            seen.add(event.event_id)
            valid.append(tuple(event))
    return valid, rejected


@pytest.mark.slow
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    content=contents,
    block_bytes=st.sampled_from([7, 64, 1 << 18]),
    members=st.sampled_from([0, 1, 2]),
    cut=st.booleans(),
    valid_times=st.sampled_from([ALWAYS, Interval(START, None), Interval(None, END), Interval(END, None)]),
)
@example(content=EMBEDDED, block_bytes=64, members=0, cut=False, valid_times=ALWAYS)
@example(content=QUOTED, block_bytes=7, members=2, cut=True, valid_times=Interval(START, None))
def test_any_file(
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
    valid, rejected = expect(content, valid_times)
    path = tmp_path / "events.csv"
    parts = [content[: len(content) // 2], content[len(content) // 2 :]] if members == 2 else [content]
    path.write_bytes(b"".join(map(gzip.compress, parts)) if members else content)
    empty(db)
    start, end = (START, END) if cut else (None, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_BLOCK_BYTES", block_bytes)
        result = load(str(path), dsn, start=start, end=end, valid=valid_times, max_rejected=1)
    inside = [row for row in valid if not cut or START <= row[3] < END]
    figures = result.read, result.loaded, result.rejected, result.outside
    assert figures == (len(valid) + len(rejected), len(inside), len(rejected), len(valid) - len(inside))
    found = db.execute("select line_number, reason from raw.rejected_rows order by 1").fetchall()
    assert found == rejected
    assert events(db) == sorted(inside)
