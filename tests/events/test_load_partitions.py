"""How `raw.events` is cut into partitions, which loads are recognised, and tables that were edited by hand."""

import random
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from events import copying, records, seen_ids, staging, unchanged
from events import partitions as partitions_module
from events.load import load
from events.partitions import partitions
from events.records import Event, parse
from harness.project.paths import SAMPLE

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
DAY = datetime(2020, 1, 1, tzinfo=UTC)
ROWS_PER_DAY = 10
pytestmark = pytest.mark.usefixtures("small_partitions")


def write(path: Path, *days: int, professional: int = 8, rows: int = ROWS_PER_DAY, more: str = "") -> str:
    lines = []
    for day in days:
        for number in range(rows):
            moment = DAY + timedelta(days=day, minutes=number)
            lines.append(f"{day * 1000 + number};created_account;{professional};{moment:%Y-%m-%d %H:%M:%S};")
    path.write_text("\n".join([HEADER, *lines, more]))
    return str(path)


def events(db: psycopg.Connection) -> list[tuple[Any, ...]]:
    return [row[:5] for row in db.execute("select * from raw.events order by event_id, created_at")]


def bounds(db: psycopg.Connection) -> list[tuple[int | None, int | None, int]]:
    """Return, of each partition, its first day, the day it ends before, and its rows."""
    found = []
    for partition in partitions(db):
        [(rows,)] = db.execute(psycopg.sql.SQL("select count(*) from {}").format(partition.table))
        days = [None if moment is None else (moment - DAY).days for moment in (partition.start, partition.end)]
        found.append((days[0], days[1], rows))
    return found


def load_day(uri: str, dsn: str, day: int, days: int = 1) -> Any:
    return load(uri, dsn, start=DAY + timedelta(days=day), end=DAY + timedelta(days=day + days))


def test_a_day_with_many_events_has_a_partition_of_its_own(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    load(write(tmp_path / "events.csv", 0, 1, 2), dsn)
    assert bounds(db) == [(None, 1, 10), (1, 2, 10), (2, None, 10)]


def test_days_with_few_events_share_one(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    load(write(tmp_path / "events.csv", *range(9), rows=4), dsn)
    assert bounds(db) == [(None, 3, 12), (3, 6, 12), (6, None, 12)]


def test_a_day_is_replaced_and_the_rest_is_not_touched(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    load(write(tmp_path / "events.csv", 0, 1, 2), dsn)
    before = [partition.table for partition in partitions(db)]
    result = load_day(write(tmp_path / "day.csv", 1, professional=9, rows=12), dsn, 1)
    assert (result.loaded, result.replaced) == (12, 10)
    after = [partition.table for partition in partitions(db)]
    assert (before[0], before[2]) == (after[0], after[2])
    assert before[1] != after[1]
    assert bounds(db) == [(None, 1, 10), (1, 2, 12), (2, None, 10)]


def test_rows_before_and_after_all_that_python_counts_stay(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    """The first and the last moment that an interval can name are not open bounds."""
    uri = write(tmp_path / "events.csv", 0, 1, 2)
    db.execute(
        "insert into raw.events select number, 'created_account', 9, moment::timestamptz, null, 0"
        " from (values (-1, '0044-03-15 BC'), (-2, '20000-01-01')) as far (number, moment)"
    )
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert load(uri, dsn, start=first, end=last).replaced == 0
    assert load(uri, dsn, start=first, end=last, force=True).replaced == 30
    assert load(uri, dsn, start=last, allow_empty=True).replaced == 1
    assert load(uri, dsn, end=first, allow_empty=True).replaced == 1
    assert [event_id for event_id, *_ in events(db)] == [
        day * 1000 + number for day in range(3) for number in range(ROWS_PER_DAY)
    ]


def test_days_that_are_added_one_by_one(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    for day in range(4):
        load_day(write(tmp_path / "events.csv", *range(day + 1)), dsn, day)
    assert bounds(db) == [(None, 0, 0), (0, 1, 10), (1, 2, 10), (2, 3, 10), (3, 4, 10), (4, None, 0)]
    assert len(events(db)) == 40


def test_small_days_that_are_added_in_any_order_share_partitions(
    dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    for day in (5, 2, 7, 0, 6, 1, 3, 4):
        load_day(write(tmp_path / "events.csv", day, rows=3), dsn, day)
    assert [(day * 1000 + number) for day in range(8) for number in range(3)] == [row[0] for row in events(db)]
    cut = bounds(db)
    assert (cut[0][0], cut[-1][1], sum(rows for *_, rows in cut)) == (None, None, 24)
    assert all(end == start for (_, end, _), (start, _, _) in pairwise(cut))
    assert len(cut) <= 2 * 24 / ROWS_PER_DAY + 1


def test_a_large_partition_is_cut_when_a_day_of_it_is_replaced(
    dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    """As a file in no order makes one: its later days come first."""
    load(write(tmp_path / "events.csv", 4, 3, 2, 1, 0), dsn)
    assert bounds(db) == [(None, None, 50)]
    load_day(str(tmp_path / "events.csv"), dsn, 2)
    assert bounds(db) == [(None, 1, 10), (1, 2, 10), (2, 3, 10), (3, 4, 10), (4, None, 10)]
    assert len(events(db)) == 50


def test_an_event_that_moves_to_another_day(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    load(write(tmp_path / "events.csv", 0, 1, 2), dsn)
    moved = f"2003;created_account;7;{DAY + timedelta(days=1, hours=5):%Y-%m-%d %H:%M:%S};"
    result = load_day(write(tmp_path / "day.csv", 1, more=moved), dsn, 1)
    assert (result.loaded, result.replaced) == (11, 11)
    assert [row[0] for row in events(db)].count(2003) == 1
    assert (2003, "created_account", 7, DAY + timedelta(days=1, hours=5), None) in events(db)


def test_the_ledger_says_from_when_on_days_outside_the_interval_have_changed(
    dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    load(write(tmp_path / "events.csv", 0, 1, 2, 3), dsn)
    noon = f"{DAY + timedelta(days=2, hours=12):%Y-%m-%d %H:%M:%S}"
    moves = {"": None, "3004": DAY + timedelta(days=3, minutes=4), "3005 4 5": DAY + timedelta(minutes=4)}
    for ids in moves:
        moved = "\n".join(f"{event_id};created_account;7;{noon};" for event_id in ids.split())
        load_day(write(tmp_path / "day.csv", 2, professional=9, more=moved), dsn, 2)
    ledger = db.execute("select interval_start, moved_from from raw.loads order by load_id").fetchall()
    assert ledger == [(None, None), *((DAY + timedelta(2), moved_from) for moved_from in moves.values())]


def test_an_event_that_moves_within_a_partition_that_is_cut(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    load(write(tmp_path / "events.csv", 0, 1, 2, rows=2), dsn)
    moved = f"2001;created_account;7;{DAY + timedelta(days=1, hours=5):%Y-%m-%d %H:%M:%S};"
    assert bounds(db) == [(None, None, 6)]
    assert load_day(write(tmp_path / "day.csv", 1, rows=2, more=moved), dsn, 1).replaced == 3
    assert [row[0] for row in events(db)] == [0, 1, 1000, 1001, 2000, 2001]


def test_duplicates_far_from_each_other(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    """In one partition, in two, outside the interval, and written in another way."""
    lines = [
        "0;created_account;1;2020-01-03 00:00:00;",
        "1000;created_account;2;2020-01-02 12:00:00;",
        '"02000";created_account;3;2020-01-01 12:00:00;',
        "77;created_account;4;2020-01-09 00:00:00;",
        "-0;created_account;5;2020-01-09 00:00:00;",
        "77;created_account;6;2020-01-01 00:00:00;",
    ]
    uri = write(tmp_path / "events.csv", 0, 1, 2, more="\n".join(lines))
    result = load(uri, dsn, end=DAY + timedelta(days=5), max_rejected=0.5)
    assert (result.read, result.loaded, result.rejected, result.outside) == (36, 30, 5, 1)
    rejected = db.execute("select line_number, raw_text, reason from raw.rejected_events order by 1").fetchall()
    assert rejected == [(32 + n, lines[n], "duplicate_event_id") for n in (0, 1, 2, 4, 5)]
    assert {row[2] for row in events(db)} == {8}


@pytest.mark.parametrize("seed", range(4))
def test_event_ids_in_no_order(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Many partitions whose ids lie among each other; some ids are in two or three of them."""
    monkeypatch.setattr(partitions_module, "MIN_ROWS", 1_000)
    monkeypatch.setattr(seen_ids, "_SLOTS", (65_521,))  # some ids share one
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    ids = [chance.randrange(-(2**63), 2**63) for _ in range(9_000)] + [-(2**63), 2**63 - 1, 0, -1]
    if seed % 2:  # a log, whose ids rise with time, but for some
        ids.sort()
    for _ in range(60):
        ids[chance.randrange(len(ids))] = chance.choice(ids)
    lines, wanted, rejected = [], {}, []
    for number, event_id in enumerate(ids):
        moment = DAY + timedelta(days=12 * number // len(ids), seconds=number)
        line = f"{event_id};created_account;{number};{moment:%Y-%m-%d %H:%M:%S};"
        if chance.random() < 0.01:  # one that is parsed by itself, and of which COPY would make something else
            line = f'"{event_id}";"created_account";{number};{moment:%Y-%m-%d %H:%M:%S};""'
        lines.append(line)
        if event_id in wanted:
            rejected.append((number + 2, line))
        else:
            wanted[event_id] = (event_id, "created_account", number, moment, None)
    path = tmp_path / "events.csv"
    path.write_text("\n".join([HEADER, *lines]))

    result = load(str(path), dsn, start=DAY + timedelta(days=1), max_rejected=1)

    inside = {event_id: event for event_id, event in wanted.items() if event[3] >= DAY + timedelta(days=1)}
    assert len(bounds(db)) > 6
    assert events(db) == [inside[event_id] for event_id in sorted(inside)]
    assert db.execute("select line_number, raw_text from raw.rejected_events order by 1").fetchall() == rejected
    assert (result.loaded, result.outside, result.rejected) == (len(inside), len(wanted) - len(inside), len(rejected))


def test_more_duplicates_than_are_fetched_at_once(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_FETCHED_AT_ONCE", 7)
    path = tmp_path / "events.csv"
    once = write(path, 0, 1, 2)
    twice = Path(once).read_text()
    path.write_text(twice + "\n" + twice.partition("\n")[2])
    result = load(str(path), dsn, max_rejected=0.5)
    assert (result.read, result.loaded, result.rejected) == (60, 30, 30)
    assert [line for (line,) in db.execute("select line_number from raw.rejected_events order by 1")] == [
        *range(33, 63)
    ]


@pytest.mark.parametrize("waiting_bytes", [0, 1000, 1 << 22])
def test_the_sample_arrives_row_by_row(
    dsn: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, waiting_bytes: int
) -> None:
    monkeypatch.setattr(copying, "_WAITING_BYTES", waiting_bytes)
    monkeypatch.setattr(copying, "_ALL_WAITING_BYTES", 2 * waiting_bytes)
    result = load(str(SAMPLE), dsn)
    with SAMPLE.open("rb") as file:
        next(file)
        expected = [parse(line.rstrip(b"\n")) for line in file]
    assert all(isinstance(event, Event) for event in expected)
    assert events(db) == sorted(expected)
    assert result.loaded == len(expected)
    assert len(bounds(db)) > 50


def test_rows_that_postgresql_counts_otherwise_are_not_loaded(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a fault of a regular expression takes two lines for one."""
    load(write(tmp_path / "events.csv", 0), dsn)
    monkeypatch.setattr(staging, "_AFTER_ID", re.compile(rb";[^\n]*\n[^\n]*\n"))
    with pytest.raises(RuntimeError, match=r"^PostgreSQL copied 10 rows, but the load counted 5"):
        load(write(tmp_path / "events.csv", 0, professional=9), dsn)
    assert {row[2] for row in events(db)} == {8}


# --- recognised -----------------------------------------------------------------------------------------------------

EDITS = {
    "a row removed": "delete from raw.events where event_id = 1003",
    "a row changed": "update raw.events set professional_id_anonymized = 99 where event_id = 1003",
    "a row changed and changed back": "update raw.events set professional_id_anonymized = 8 where event_id = 1003",
    "a row moved away": "update raw.events set created_at = '5000-01-01' where event_id = 1003",
    "a row given another id": "update raw.events set event_id = 77777 where event_id = 1003",
    "a row added": "insert into raw.events values (77777, 'created_account', 1, '2020-01-02 03:04', null, 1)",
    "one removed and one added": "delete from raw.events where event_id = 1003;"
    " insert into raw.events values (77777, 'created_account', 1, '2020-01-02 03:04', null, 1)",
    "two exchanged": "update raw.events set meta_data = null, professional_id_anonymized = event_id"
    " where event_id in (1003, 1004)",
    "all removed": "truncate raw.events",
    "the same id elsewhere": "insert into raw.events values (1003, 'created_account', 1, '2021-01-02 03:04', null, 1)",
    "a reject removed": "delete from raw.rejected_events",
    "a reject changed": "update raw.rejected_events set reason = 'too_long'",
    "vacuumed afterwards": "delete from raw.events where event_id = 1003",
}


@pytest.mark.parametrize("whole", [True, False], ids=["whole file", "one day"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_by_hand_is_mended(dsn: str, db: psycopg.Connection, tmp_path: Path, edit: str, *, whole: bool) -> None:
    uri = write(tmp_path / "events.csv", 0, 1, 2, more="not an event")
    interval: dict[str, Any] = {} if whole else {"start": DAY + timedelta(days=1), "end": DAY + timedelta(days=2)}
    load(uri, dsn, max_rejected=0.5)
    load(uri, dsn, max_rejected=0.5, **interval)
    before = events(db)
    rejects = db.execute("select line_number, raw_text, reason from raw.rejected_events").fetchall()
    again = load(uri, dsn, max_rejected=0.5, **interval)
    assert again.same_as_load_id == (1 if whole else 2)
    db.execute(EDITS[edit].encode())
    if edit == "vacuumed afterwards":
        db.execute("vacuum freeze raw.events")
    result = load(uri, dsn, max_rejected=0.5, **interval)
    assert result.same_as_load_id is None
    if whole or edit != "all removed":
        assert events(db) == before
    else:
        assert events(db) == before[ROWS_PER_DAY : 2 * ROWS_PER_DAY]
    assert db.execute("select line_number, raw_text, reason from raw.rejected_events").fetchall() == rejects


def test_what_is_recognised(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    uri = write(path, 0, 1, 2)
    day: dict[str, Any] = {"start": DAY, "end": DAY + timedelta(days=1)}
    assert load(uri, dsn).same_as_load_id is None
    assert load(uri, dsn, **day).same_as_load_id is None  # another interval
    assert load(uri, dsn, **day).same_as_load_id == 2
    assert load(uri, dsn, **day).same_as_load_id == 2
    assert load(uri, dsn).same_as_load_id is None  # load 2 wrote rows since
    content = path.read_text()
    path.write_text(content.replace(";8;", ";9;"))
    assert load(uri, dsn).same_as_load_id is None  # another content of the same size
    other = tmp_path / "another.csv"
    other.write_text(path.read_text())
    assert load(str(other), dsn).same_as_load_id == 6
    rows = db.execute("select load_id, same_as_load_id, rows_read, rows_replaced from raw.loads order by 1").fetchall()
    assert rows == [
        *((1, None, 30, 0), (2, None, 30, 10), (3, 2, 30, 0), (4, 2, 30, 0), (5, None, 30, 30)),
        *((6, None, 30, 30), (7, 6, 30, 0)),
    ]


def test_the_same_file_by_other_rules_is_another_load(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = write(tmp_path / "events.csv", 0, 1, 2)
    load(uri, dsn)
    changed = Path(records.__file__).read_text().replace('"created_account", ', "")
    (tmp_path / "records.py").write_text(changed)
    monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
    unchanged.rules_sha256.cache_clear()
    assert load(uri, dsn).same_as_load_id is None
    assert load(uri, dsn).same_as_load_id == 2
    forced = load(uri, dsn, force=True)
    assert (forced.same_as_load_id, forced.replaced) == (None, 30)
    rules = db.execute("select count(distinct rules_sha256), count(rules_sha256) from raw.loads").fetchall()
    assert rules == [(2, 4)]
    unchanged.rules_sha256.cache_clear()


def test_a_dry_run_says_what_a_load_would_do_and_does_nothing(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    load(write(tmp_path / "events.csv", 0, 1, 2), dsn)
    before = events(db), bounds(db)
    uri = write(tmp_path / "day.csv", 1, 2, professional=9, rows=12, more="not an event")
    interval: dict[str, Any] = {"start": DAY + timedelta(days=1), "end": DAY + timedelta(days=2)}
    dry = load(uri, dsn, dry_run=True, max_rejected=0.1, **interval)
    assert (dry.read, dry.loaded, dry.rejected, dry.outside, dry.replaced) == (25, 12, 1, 12, 10)
    assert dry.reasons == {"field_count": 1}
    assert (events(db), bounds(db)) == before
    assert db.execute("select count(*) from raw.loads").fetchone() == (1,)
    assert db.execute("select count(*) from raw.rejected_events").fetchone() == (0,)
    wet = load(uri, dsn, max_rejected=0.1, **interval)
    assert (wet.read, wet.loaded, wet.rejected, wet.outside, wet.replaced) == (25, 12, 1, 12, 10)
