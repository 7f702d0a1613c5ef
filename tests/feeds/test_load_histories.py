"""After any history of loads the tables contain what a brute-force model of the files says, row by row."""

import gzip
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds import errors, partitions
from feeds.interval import ALWAYS, Interval
from feeds.ledger import LoadResult
from feeds.lines import MAX_LINE_BYTES
from tests.events_feed import load
from tests.feeds.common import DAY, HEADER, account, empty, events, ledger, rejects
from tests.feeds.test_event_lines import AGAINST_THE_RULE, REJECTED

EventRow = tuple[int, str, int, datetime, str | None]
RejectRow = tuple[int, str, str]


@dataclass(frozen=True)
class Line:
    """A line of a file: its event, or the text and the reason of its rejection, known from how it was made.

    One that a rule refuses has both: it may be out of range, too.
    """

    stored: bytes
    event: EventRow | None = None
    reject: tuple[str, str] | None = None


@dataclass(frozen=True)
class File:
    content: bytes
    lines: list[Line]

    @staticmethod
    def of(lines: Iterable[Line], end: bytes, start: bytes, last: bytes, compress: bool) -> "File":
        lines = list(lines)
        content = start + end.join([HEADER.encode(), *(line.stored for line in lines)]) + last
        return File(gzip.compress(content, 1) if compress else content, lines)

    def rows(self, valid: Interval) -> tuple[list[EventRow], list[RejectRow]]:
        """Return the valid rows, whose times are in VALID, and the rejected ones."""
        events: dict[int, EventRow] = {}
        rejected = []
        for number, line in enumerate(self.lines, 2):
            if line.event and line.event[3] not in valid:
                rejected.append((number, line.stored.decode(), "out_of_range"))
            elif line.reject:
                rejected.append((number, *line.reject))
            elif line.event and line.event[0] in events:
                rejected.append((number, line.stored.decode(), "duplicate_key"))
            elif line.event:
                events[line.event[0]] = line.event
        return list(events.values()), rejected


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
        Line(line, (1, "proposed", 1, DAY, None), (line.decode(), "only_proposals_have_metadata: rule"))
        for line in (example.replace(b"{}", b"1") for example in AGAINST_THE_RULE)
    ),
]
BLANK = Line(b" \t")

moments = st.integers(0, 8).map(lambda hours: DAY + timedelta(hours=12 * hours))
metadata = st.sampled_from(["3_a_b_1", '4_"a";_é_-0.5', "3_a\\n_\\._1", "3_a\t_\\N_1"])


@st.composite
def lines(draw: st.DrawFn) -> Line:
    if draw(st.integers(0, 9)) == 9:
        return draw(st.sampled_from([*BAD, BLANK]))
    event_id, professional_id = draw(st.integers(-1, 9)), draw(st.integers(1, 3))
    moment, meta_data = draw(moments), draw(st.none() | metadata)
    event_type = "proposed" if meta_data else draw(st.sampled_from(["created_account", "became_able_to_propose"]))
    an_hour_later = moment + timedelta(hours=1)
    written = draw(st.sampled_from([f"{moment:%Y-%m-%d %H:%M:%S}", f"{an_hour_later:%Y-%m-%dT%H:%M:%S}+01:00"]))
    quoted = '"' + (meta_data or "").replace('"', '""') + '"'
    text = f"{event_id};{event_type};{professional_id};{written};{quoted}"
    return Line(text.encode(), event=(event_id, event_type, professional_id, moment, meta_data))


files = st.builds(
    File.of,
    st.lists(lines(), min_size=5, max_size=15),
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
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(files, min_size=2, max_size=2), st.lists(steps, min_size=3, max_size=5))
@pytest.mark.parametrize("partition_rows", [2, 50_000])
def test_any_loads_in_any_order(  # noqa: PLR0917 - pytest passes them by name
    dsn: str,
    db: psycopg.Connection,
    tmp_path: Path,
    partition_rows: int,
    contents: Sequence[File],
    loads: Sequence[Step],
) -> None:
    """They include repetition, overlap, late and moved events, and corrections of the past."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "MIN_ROWS", partition_rows)
        empty(db)
        table: dict[int, EventRow] = {}
        quarantine: dict[int, list[RejectRow]] = {}
        for step in loads:
            path = tmp_path / f"{step.name}.csv"
            path.write_bytes(contents[step.file].content)
            quarantine[step.name] = contents[step.file].rows(step.valid)[1]
            table = check_step(dsn, db, path, contents[step.file], step, table)
            assert sorted(rejects(db)) == sorted(row for rows in quarantine.values() for row in rows)


def check_step(  # noqa: PLR0917 - one call
    dsn: str, db: psycopg.Connection, path: Path, content: File, step: Step, table: dict[int, EventRow]
) -> dict[int, EventRow]:
    """Load PATH, which has CONTENT, where raw.events contains TABLE; return what it contains then."""
    start, end = step.interval

    def is_inside(event: EventRow) -> bool:
        return (start is None or event[3] >= start) and (end is None or event[3] < end)

    valid, rejected_rows = content.rows(step.valid)
    new = {event[0]: event for event in valid if is_inside(event)}
    deleted = {key: event for key, event in table.items() if is_inside(event) or key in new}
    read, rejected = len(valid) + len(rejected_rows), len(rejected_rows)
    reasons = dict(Counter(reason for _, _, reason in rejected_rows))
    expected: LoadResult | type[errors.EventsError] = LoadResult(
        0, read, len(new), rejected, len(valid) - len(new), len(deleted), reasons
    )
    if rejected and rejected / read > step.max_rejected:
        expected = errors.TooManyRejected
    elif deleted and not new and not step.allow_empty:
        expected = errors.EmptyReplacement
    else:
        table = {key: event for key, event in table.items() if key not in deleted} | new

    outcome: LoadResult | type[errors.EventsError]
    try:
        result = load(
            *(str(path), dsn),
            start=start,
            end=end,
            valid=step.valid,
            max_rejected=step.max_rejected,
            allow_empty=step.allow_empty,
        )
        outcome = replace(result, load_id=0)
        if result.same_as_load_id:  # then nothing had to be deleted
            outcome = replace(outcome, same_as_load_id=None, replaced=len(deleted))
    except errors.EventsError as error:
        outcome = type(error)
    assert outcome == expected
    assert events(db) == [table[key] for key in sorted(table)]
    row = ledger(db)[-1]
    assert (row["interval_start"], row["interval_end"], row["rows_read"]) == (start, end, read)
    assert row["source_sha256"] == hashlib.sha256(content.content).hexdigest()
    assert row["source_size_bytes"] == len(content.content)
    assert row["status"] == ("succeeded" if isinstance(expected, LoadResult) else "failed")
    return table
