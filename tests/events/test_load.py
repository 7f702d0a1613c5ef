"""After a load the tables hold what a brute-force model of the file says, row by row, whatever came before."""

import gzip
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from events import errors
from events import partitions as partitions_module
from events.ledger import LoadResult
from events.load import load
from events.records import MAX_LINE_BYTES

HEADER = b"event_id;event_type;professional_id_anonymized;created_at;meta_data"
DAY = datetime(2020, 1, 1, tzinfo=UTC)

EventRow = tuple[int, str, int, datetime, str | None]
RejectRow = tuple[int, str, str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.csv"


def events(db: psycopg.Connection) -> list[tuple[Any, ...]]:
    return [row[:5] for row in db.execute("select * from raw.events order by event_id")]


def rejects(db: psycopg.Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "select line_number, raw_text, reason from raw.rejected_events order by load_id, line_number"
    ).fetchall()


def ledger(db: psycopg.Connection) -> list[dict[str, Any]]:
    return db.cursor(row_factory=dict_row).execute("select * from raw.loads order by load_id").fetchall()


def write(path: Path, *lines: str) -> str:
    path.write_bytes(b"\n".join([HEADER, *(line.encode() for line in lines)]))
    return str(path)


def account(event_id: int, moment: datetime = DAY) -> str:
    return f"{event_id};created_account;8;{moment:%Y-%m-%d %H:%M:%S};"


# --- the model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a file: the event that it is or the reason why it is none, known from how it was made."""

    stored: bytes
    event: EventRow | None = None
    reject: tuple[str, str] | None = None  # text, reason


@dataclass(frozen=True)
class File:
    """A file, and what is in it."""

    content: bytes
    valid: list[EventRow] = field(default_factory=list)
    rejected: list[RejectRow] = field(default_factory=list)

    @staticmethod
    def of(lines: Iterable[Line], end: bytes, start: bytes, last: bytes, compress: bool) -> "File":
        lines = list(lines)
        content = start + end.join([HEADER, *(line.stored for line in lines)]) + last
        file = File(gzip.compress(content, 1) if compress else content)
        seen = set()
        for number, line in enumerate(lines, 2):
            if line.event and line.event[0] in seen:
                file.rejected.append((number, line.stored.decode(), "duplicate_event_id"))
            elif line.event:
                seen.add(line.event[0])
                file.valid.append(line.event)
            elif line.reject:
                file.rejected.append((number, *line.reject))
        return file


def bad(text: str, reason: str) -> Line:
    return Line(text.encode(), reject=(text, reason))


BAD = [
    Line(
        b"1;created_account;8;2020-01-01 00:00:00;\xff",
        reject=("1;created_account;8;2020-01-01 00:00:00;\\xff", "not_utf8"),
    ),
    Line(b"a\0\xc3\xa9", reject=("a\\x00é", "nul_byte")),
    Line(b"x" * (MAX_LINE_BYTES + 1), reject=("x" * 1000 + "…", "too_long")),
    bad('1;created_account;8;2020-01-01 00:00:00;"', "quoting"),
    bad("1;created_account;8;2020-01-01 00:00:00", "field_count"),
    bad("1.0;created_account;8;2020-01-01 00:00:00;", "event_id"),
    bad("1;closed_account;8;2020-01-01 00:00:00;", "event_type"),
    bad("1;created_account;;2020-01-01 00:00:00;", "professional_id"),
    bad("1;created_account;8;2020-02-30 00:00:00;", "created_at"),
    bad("1;proposed;8;2020-01-01 00:00:00;", "metadata_missing"),
    bad("1;created_account;8;2020-01-01 00:00:00;3_a_b_1", "metadata_unexpected"),
    bad("1;proposed;8;2020-01-01 00:00:00;3_a_b", "metadata"),
    bad("1;proposed;8;2020-01-01 00:00:00;x_a_b_1", "service_id"),
    bad("1;proposed;8;2020-01-01 00:00:00;3_a_b_gratis", "lead_fee"),
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
    an_hour_on = moment + timedelta(hours=1)
    shown = draw(st.sampled_from([f"{moment:%Y-%m-%d %H:%M:%S}", f"{an_hour_on:%Y-%m-%dT%H:%M:%S}+01:00"]))
    quoted = '"' + (meta_data or "").replace('"', '""') + '"'
    text = f"{event_id};{event_type};{professional_id};{shown};{quoted}"
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


steps = st.builds(
    Step, st.integers(0, 1), st.integers(0, 1), intervals, st.booleans(), st.sampled_from([0.3, 1.0, 1.0])
)


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the sizes back that a test sets, to have small files treated as large ones are."""
    monkeypatch.setattr(partitions_module, "MIN_ROWS", partitions_module.MIN_ROWS)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(files, min_size=2, max_size=2), st.lists(steps, min_size=3, max_size=5))
@pytest.mark.parametrize("partition_rows", [2, 50_000])
def test_any_loads_in_any_order(  # noqa: PLR0917 - pytest gives them by name
    dsn: str,
    db: psycopg.Connection,
    tmp_path: Path,
    partition_rows: int,
    contents: Sequence[File],
    loads: Sequence[Step],
) -> None:
    """Repetition, overlap, late and moved events, and corrections of the past are all among these."""
    partitions_module.MIN_ROWS = partition_rows
    db.execute("truncate raw.loads, raw.events, raw.rejected_events")
    table: dict[int, EventRow] = {}
    quarantine: dict[int, list[RejectRow]] = {}
    for step in loads:
        content, (start, end) = contents[step.file], step.interval
        path = tmp_path / f"{step.name}.csv"
        path.write_bytes(content.content)

        def inside(event: EventRow, start: datetime | None = start, end: datetime | None = end) -> bool:
            return (start is None or event[3] >= start) and (end is None or event[3] < end)

        new = {event[0]: event for event in content.valid if inside(event)}
        gone = {key: event for key, event in table.items() if inside(event) or key in new}
        read, rejected = len(content.valid) + len(content.rejected), len(content.rejected)
        reasons = dict(Counter(reason for _, _, reason in content.rejected))
        expected: LoadResult | type[errors.EventsError] = LoadResult(
            0, read, len(new), rejected, len(content.valid) - len(new), len(gone), reasons
        )
        if rejected and rejected / read > step.max_rejected:
            expected = errors.TooManyRejected
        elif gone and not new and not step.allow_empty:
            expected = errors.EmptyReplacement
        else:
            table = {key: event for key, event in table.items() if key not in gone} | new
        quarantine[step.name] = content.rejected

        outcome: LoadResult | type[errors.EventsError]
        try:
            result = load(
                str(path), dsn, start=start, end=end, max_rejected=step.max_rejected, allow_empty=step.allow_empty
            )
            outcome = replace(result, load_id=0)
            if result.same_as_load_id:  # nothing had to go, and what stands is looked at below
                outcome = replace(outcome, same_as_load_id=None, replaced=len(gone))
        except errors.EventsError as error:
            outcome = type(error)
        assert outcome == expected
        assert events(db) == [table[key] for key in sorted(table)]
        assert sorted(rejects(db)) == sorted(row for rows in quarantine.values() for row in rows)
        row = ledger(db)[-1]
        assert (row["interval_start"], row["interval_end"], row["rows_read"]) == (start, end, read)
        assert row["source_sha256"] == hashlib.sha256(content.content).hexdigest()
        assert row["source_size_bytes"] == len(content.content)
        assert row["status"] == ("succeeded" if isinstance(expected, LoadResult) else "failed")


# --- one thing at a time --------------------------------------------------------------------------------------------


def test_every_reason_is_kept_with_line_and_text_and_counted_in_the_log(
    dsn: str, db: psycopg.Connection, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = [*BAD, BLANK, Line(account(1).encode()), Line(account(2).encode()), Line(account(1).encode())]
    file.write_bytes(b"\n".join([HEADER, *(line.stored for line in lines)]))
    result = load(str(file), dsn, max_rejected=0.9)
    expected = [(number, *line.reject) for number, line in enumerate(BAD, 2) if line.reject]
    assert rejects(db) == [*expected, (len(lines) + 1, account(1), "duplicate_event_id")]
    reasons = dict.fromkeys((reason for _, _, reason in rejects(db)), 1)
    assert result == LoadResult(load_id=1, read=17, loaded=2, rejected=15, outside=0, replaced=0, reasons=reasons)
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage() == "load 1: rejected 15 rows: " + ", ".join(
        f"{reason} 1" for _, _, reason in rejects(db)
    )
    closing = caplog.records[-1].getMessage()
    assert closing.startswith(f"load 1 of {file}, whole file: read 17, loaded 2, rejected 15, outside 0, replaced 0")


def test_the_first_valid_occurrence_of_an_event_id_wins(dsn: str, db: psycopg.Connection, file: Path) -> None:
    outside = account(1, DAY + timedelta(days=9))
    write(
        file,
        "1;created_account;8;not valid;",
        outside,
        account(1),
        "01;created_account;9;2020-01-01 00:00:00;",
        account(2),
    )
    result = load(str(file), dsn, end=DAY + timedelta(days=1), max_rejected=0.6)
    assert [event[0] for event in events(db)] == [2]
    assert [(line, reason) for line, _, reason in rejects(db)] == [
        *((2, "created_at"), (4, "duplicate_event_id"), (5, "duplicate_event_id"))
    ]
    assert (result.read, result.loaded, result.rejected, result.outside) == (5, 1, 3, 1)


def test_a_second_load_changes_nothing(dsn: str, db: psycopg.Connection, file: Path) -> None:
    write(file, account(1), account(2), "bad")
    first = load(str(file), dsn, max_rejected=0.5)
    before = events(db), rejects(db)
    where = "select tableoid, ctid, xmin::text from raw.events order by event_id"
    rows_before = db.execute(where).fetchall()
    second = load(str(file), dsn, max_rejected=0.5)
    assert (events(db), rejects(db)) == before
    assert db.execute(where).fetchall() == rows_before  # none was written again
    assert (first.same_as_load_id, second.same_as_load_id) == (None, first.load_id)
    assert (second.read, second.loaded, second.rejected, second.replaced) == (3, 2, 1, 0)


def test_rejects_of_another_source_stay(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    for name, row in (("a.csv", "bad"), ("b.csv", "bad"), ("a.csv", "worse")):
        load(write(tmp_path / name, row), dsn, max_rejected=1)
    assert db.execute("select load_id from raw.rejected_events order by load_id").fetchall() == [(2,), (3,)]


def test_extreme_values_arrive_unchanged(dsn: str, db: psycopg.Connection, file: Path) -> None:
    name = "n" * 500_000
    write(
        file,
        f"{2**63 - 1};created_account;{-(2**63)};9999-12-31 23:59:59.999999;",
        f"{-(2**63)};created_account;{2**63 - 1};0001-01-01 00:00:00;",
        f'0;proposed;0;2020-02-29T23:59:59.000001-13:45;"1_""\\.{name}_\\N;\t_1"',
    )
    load(str(file), dsn)
    assert events(db) == [
        (-(2**63), "created_account", 2**63 - 1, datetime(1, 1, 1, tzinfo=UTC), None),
        (0, "proposed", 0, datetime(2020, 3, 1, 13, 44, 59, 1, tzinfo=UTC), f'1_"\\.{name}_\\N;\t_1'),
        (2**63 - 1, "created_account", -(2**63), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), None),
    ]


def test_the_interval_is_half_open_and_naive_bounds_are_utc(dsn: str, db: psycopg.Connection, file: Path) -> None:
    second = timedelta(seconds=1)
    write(file, *(account(i, DAY + i * second) for i in range(-2, 3)))
    naive = DAY.replace(tzinfo=None)
    result = load(str(file), dsn, start=naive - second, end=naive + second, run_id="manual")
    assert [event[0] for event in events(db)] == [-1, 0]
    assert (result.loaded, result.outside) == (2, 3)
    [row] = ledger(db)
    assert (row["interval_start"], row["interval_end"], row["run_id"]) == (DAY - second, DAY + second, "manual")
    assert row["started_at"] < row["ended_at"]


@pytest.mark.parametrize("length", [0, -1])
def test_interval_upside_down(dsn: str, db: psycopg.Connection, file: Path, length: int) -> None:
    with pytest.raises(errors.InvertedInterval, match=r"^Invalid interval: start ") as caught:
        load(str(file), dsn, start=DAY, end=DAY + timedelta(days=length))
    assert caught.value.exit_code == 16
    assert ledger(db) == []


def test_too_many_rejected(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write(file, account(1)), dsn)
    write(file, *["bad"] * 2, *map(account, range(2, 100)))
    with pytest.raises(errors.TooManyRejected) as caught:
        load(str(file), dsn)
    assert caught.value.exit_code == 17
    assert caught.value.what == f"2 of 100 rows of {file} were rejected; at most 1% are allowed."
    assert "field_count 2" in caught.value.why
    assert [event[0] for event in events(db)] == [1]
    assert rejects(db) == [(2, "bad", "field_count"), (3, "bad", "field_count")]
    row = ledger(db)[-1]
    assert (row["status"], row["failure"]) == ("failed", str(caught.value))
    counts = [row[f"rows_{name}"] for name in ("read", "loaded", "rejected", "outside", "replaced")]
    assert counts == [100, None, 2, 0, None]
    assert load(str(file), dsn, max_rejected=0.02).loaded == 98


@pytest.mark.parametrize(("read", "rejected"), [(100, 29), (100, 57), (1000, 1)])
def test_exactly_as_many_as_may_be_rejected(dsn: str, file: Path, read: int, rejected: int) -> None:
    write(file, *["bad"] * rejected, *map(account, range(read - rejected)))
    assert load(str(file), dsn, max_rejected=rejected / read).rejected == rejected


def test_empty_replacement(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write(file, account(1), account(2, DAY + timedelta(days=1))), dsn)
    write(file, account(2, DAY + timedelta(days=1)))
    with pytest.raises(errors.EmptyReplacement) as caught:
        load(str(file), dsn, start=DAY, end=DAY + timedelta(days=1))
    assert caught.value.exit_code == 18
    assert "allow_empty" in caught.value.next_step
    assert [event[0] for event in events(db)] == [1, 2]
    assert (ledger(db)[-1]["status"], ledger(db)[-1]["failure"]) == ("failed", str(caught.value))
    result = load(str(file), dsn, start=DAY, end=DAY + timedelta(days=1), allow_empty=True)
    assert (result.loaded, result.outside, result.replaced) == (0, 1, 1)
    assert [event[0] for event in events(db)] == [2]


def test_nothing_replaces_nothing(dsn: str, file: Path) -> None:
    result = load(write(file), dsn)
    assert result == LoadResult(load_id=1, read=0, loaded=0, rejected=0, outside=0, replaced=0)


def test_a_table_changed_by_hand_is_mended(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write(file, *map(account, range(5))), dsn)
    before = events(db)
    db.execute("delete from raw.events where event_id = 1")
    db.execute("update raw.events set professional_id_anonymized = 99 where event_id = 2")
    db.execute("update raw.events set created_at = '5000-01-01' where event_id = 3")
    db.execute("update raw.events set event_id = 77 where event_id = 4")
    load(str(file), dsn, end=DAY + timedelta(days=1))
    assert events(db) == before


def test_an_fsspec_uri_is_loaded_and_its_password_is_not_shown(
    dsn: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fsspec.filesystem("memory").pipe("/user:hunter2@test_load/events.csv", HEADER + b"\n" + account(1).encode())
    load("memory://user:hunter2@test_load/events.csv", dsn)
    assert [event[0] for event in events(db)] == [1]
    assert [row["source_uri"] for row in ledger(db)] == ["memory://test_load/events.csv"]
    assert "hunter2" not in caplog.text


def test_a_source_that_fails_is_in_the_ledger(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write(file, account(1), "bad"), dsn, max_rejected=0.5)
    before = events(db), rejects(db)
    whole = gzip.compress(b"\n".join([HEADER, *(account(i).encode() for i in range(1000))]))
    file.write_bytes(whole[:-1])
    with pytest.raises(errors.SourceUnreadable):
        load(str(file), dsn)
    file.unlink()
    with pytest.raises(errors.SourceMissing):
        load(str(file), dsn)
    assert (events(db), rejects(db)) == before
    assert [(row["status"], row["rows_read"]) for row in ledger(db)] == [
        ("succeeded", 2),
        ("failed", None),
        ("failed", None),
    ]
    assert ledger(db)[1]["failure"].splitlines()[1] == "It is a damaged gzip file, or was still being written."
    assert ledger(db)[2]["failure"].splitlines()[0] == f"{file} does not exist."


@pytest.mark.parametrize(
    "statement",
    [
        "update raw.loads set rows_outside = rows_outside + 1",
        "update raw.loads set status = 'unknown'",
        "update raw.events set event_type = 'closed_account'",
        "update raw.events set meta_data = '3_a_b_1'",
        "update raw.events set event_type = 'proposed'",
        "update raw.events set created_at = 'infinity'",
        "insert into raw.events select * from raw.events",
    ],
)
def test_the_tables_refuse_what_cannot_be(dsn: str, db: psycopg.Connection, file: Path, statement: str) -> None:
    load(write(file, account(1)), dsn)
    with pytest.raises(psycopg.errors.IntegrityError):
        db.execute(statement)
