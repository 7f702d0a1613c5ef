"""What a load does, one thing at a time: rows, rejected rows, intervals, refusals, the ledger, dry runs."""

import gzip
import logging
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feeds import errors
from feeds.ledger import LoadResult
from feeds.load import load as load_feed
from tests.events_feed import EVENTS, load
from tests.feeds.common import DAY, HEADER, account, events, ids, ledger, load_day, names, rejects, write, write_days
from tests.feeds.test_load_histories import BAD, BLANK, Line

TOMORROW = DAY + timedelta(days=1)


def test_each_rejected_row_is_kept_with_its_reason_which_the_log_counts(
    dsn: str, db: psycopg.Connection, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = [*BAD, BLANK, *(Line(account(number).encode()) for number in (1, 2, 1))]
    file.write_bytes(b"\n".join([HEADER.encode(), *(line.stored for line in lines)]))
    result = load(str(file), dsn, max_rejected=0.95)
    expected = [(number, *line.reject) for number, line in enumerate(BAD, 2) if line.reject]
    assert rejects(db) == [*expected, (len(lines) + 1, account(1), "duplicate_key")]
    reasons = dict(Counter(reason for _, _, reason in rejects(db)))
    assert result == LoadResult(
        load_id=1, read=24, loaded=2, rejected=22, outside=0, replaced=0, reasons=reasons, absent=0
    )
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    counts = [f"{reason} {count}" for reason, count in result.reasons.items()]
    assert warning.getMessage() == f"load 1: rejected 22 rows: {', '.join(counts)}"
    assert counts[0] == "only_proposals_have_metadata: rule 4"  # the most frequent first
    assert caplog.messages[-1].startswith(
        f"load 1 of {file}, whole file: read 24, loaded 2, rejected 22, outside 0, replaced 0"
    )


def test_extreme_values_arrive_unchanged(dsn: str, db: psycopg.Connection, file: Path) -> None:
    name = "n" * 500_000
    write(
        file,
        [
            f"{2**63 - 1};created_account;{-(2**63)};9999-12-31 23:59:59.999999;",
            f"{-(2**63)};created_account;{2**63 - 1};0001-01-01 00:00:00;",
            f'0;proposed;0;2020-02-29T23:59:59.000001-13:45;"1_""\\.{name}_\\N;\t_1"',
        ],
    )
    load(str(file), dsn)
    assert events(db) == [
        (-(2**63), "created_account", 2**63 - 1, datetime(1, 1, 1, tzinfo=UTC), None),
        (0, "proposed", 0, datetime(2020, 3, 1, 13, 44, 59, 1, tzinfo=UTC), f'1_"\\.{name}_\\N;\t_1'),
        (2**63 - 1, "created_account", -(2**63), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), None),
    ]


def test_an_interval_is_half_open_and_naive_bounds_are_utc(dsn: str, db: psycopg.Connection, file: Path) -> None:
    second = timedelta(seconds=1)
    write(file, (account(i, DAY + i * second) for i in range(-2, 3)))
    naive = DAY.replace(tzinfo=None)
    result = load(str(file), dsn, start=naive - second, end=naive + second, run_id="manual")
    assert ids(db) == [-1, 0]
    assert (result.loaded, result.outside) == (2, 3)
    [row] = ledger(db)
    assert (row["interval_start"], row["interval_end"], row["run_id"]) == (DAY - second, DAY + second, "manual")
    assert row["started_at"] < row["ended_at"]


@pytest.mark.parametrize(("days", "relation"), [(0, "equals"), (-1, "is after")])
def test_a_start_that_is_not_before_the_end_is_refused_before_connecting(days: int, relation: str) -> None:
    end = DAY + timedelta(days=days)
    with pytest.raises(errors.InvertedInterval) as caught:
        load("events.csv", "postgresql://nowhere", start=DAY, end=end)
    assert caught.value.what == f"Invalid interval: start {DAY} {relation} end {end}."
    assert caught.value.exit_code == 16


def test_a_load_with_too_many_rejected_rows_is_refused(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write(file, [account(1)]), dsn)
    write(file, [*["bad"] * 2, *map(account, range(2, 100))])
    with pytest.raises(errors.TooManyRejected) as caught:
        load(str(file), dsn)
    assert caught.value.exit_code == 17
    assert caught.value.what == f"2 of 100 rows of {file} were rejected; at most 1% are allowed."
    assert "field_count 2" in caught.value.why
    assert ids(db) == [1]
    assert rejects(db) == [(2, "bad", "field_count"), (3, "bad", "field_count")]
    row = ledger(db)[-1]
    assert (row["status"], row["failure"]) == ("failed", str(caught.value))
    counts = [row[f"rows_{name}"] for name in ("read", "loaded", "rejected", "outside", "replaced")]
    assert counts == [100, None, 2, 0, None]
    assert load(str(file), dsn, max_rejected=0.02).loaded == 98


def test_a_load_with_exactly_as_many_rejected_rows_as_allowed_succeeds(dsn: str, file: Path) -> None:
    for read, rejected in ((100, 29), (100, 57), (1000, 1)):
        write(file, [*["bad"] * rejected, *map(account, range(read - rejected))])
        assert load(str(file), dsn, max_rejected=rejected / read).rejected == rejected


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_large_file_of_another_format_is_refused_early_with_examples(
    dsn: str, db: psycopg.Connection, file: Path, is_compressed: bool
) -> None:
    lines = 200_000
    write(file, (f"{number},created_account,8,2020-01-01" for number in range(lines)))
    if is_compressed:  # how many rows follow is not known then
        file.write_bytes(gzip.compress(file.read_bytes(), 1))
    with pytest.raises(errors.TooManyRejected) as caught:
        load(str(file), dsn)
    [row] = ledger(db)
    read = row["rows_read"]
    assert row["rows_rejected"] == read < lines / 5
    assert (row["rows_loaded"], row["rows_outside"]) == (None, 0)
    assert caught.value.what.startswith(f"{read} of the first {read} rows of ")
    assert f"field_count {read}" in caught.value.why
    assert [row[:2] for row in rejects(db)] == [
        (number + 2, f"{number},created_account,8,2020-01-01") for number in range(1000)
    ]


def test_a_file_whose_valid_rows_come_last_is_not_refused_early(dsn: str, file: Path) -> None:
    """Its valid rows have as few bytes as possible: until its end the rest of the file could suffice."""
    good = [f"{number};proposed;1;2020-01-01 00:00:00;1_a_b_1" for number in range(10_000)]
    write(file, [*["x"] * 5_000, *good])
    assert load(str(file), dsn, max_rejected=1 / 3).loaded == 10_000
    with pytest.raises(errors.TooManyRejected, match=r"^5000 of the first 14999 rows "):
        load(str(file), dsn, max_rejected=1 / 3 - 0.0001)


def test_a_load_that_would_only_delete_is_refused(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write(file, [account(1), account(2, TOMORROW)]), dsn)
    write(file, [account(2, TOMORROW)])
    with pytest.raises(errors.EmptyReplacement) as caught:
        load_day(str(file), dsn, 0)
    assert caught.value.exit_code == 18
    assert caught.value.what == (f"The load of {file} would delete 1 rows and load none (from {DAY} until {TOMORROW}).")
    assert "allow_empty" in caught.value.next_step
    assert ids(db) == [1, 2]
    assert (ledger(db)[-1]["status"], ledger(db)[-1]["failure"]) == ("failed", str(caught.value))
    result = load_day(str(file), dsn, 0, allow_empty=True)
    assert (result.loaded, result.outside, result.replaced) == (0, 1, 1)
    assert ids(db) == [2]


def test_a_dry_run_returns_what_a_load_would_do_and_changes_nothing(
    dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    load(write_days(tmp_path / "events.csv", 0, 1, 2), dsn)
    before = events(db), names(db)
    uri = write_days(tmp_path / "day.csv", 1, 2, professional=9, rows=12, more=["not an event"])
    dry = load_day(uri, dsn, 1, dry_run=True, max_rejected=0.1)
    expected: dict[str, Any] = {"read": 25, "loaded": 12, "rejected": 1, "outside": 12, "replaced": 10, "absent": 2}
    assert dry == LoadResult(dry.load_id, **expected, reasons={"field_count": 1})
    assert (events(db), names(db)) == before
    assert (len(ledger(db)), rejects(db)) == (1, [])
    real = load_day(uri, dsn, 1, max_rejected=0.1)
    assert real == LoadResult(real.load_id, **expected, reasons={"field_count": 1})


def test_a_source_that_cannot_be_read_is_recorded(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write(file, [account(1), "bad"]), dsn, max_rejected=0.5)
    before = events(db), rejects(db)
    file.write_bytes(gzip.compress("\n".join([HEADER, *map(account, range(1000))]).encode())[:-1])
    with pytest.raises(errors.SourceUnreadable):
        load(str(file), dsn)
    file.unlink()
    with pytest.raises(errors.SourceMissing):
        load(str(file), dsn)
    assert (events(db), rejects(db)) == before
    _, damaged, missing = ledger(db)
    for row in (damaged, missing):
        assert (row["status"], row["rows_read"]) == ("failed", None)
    assert damaged["failure"].splitlines()[1] == "It is a damaged gzip file, or was still being written."
    assert missing["failure"].splitlines()[0] == f"{file} does not exist."


def test_a_rule_refuses_rows_outside_the_interval_too(dsn: str, db: psycopg.Connection, file: Path) -> None:
    """So that a load of an interval takes the rows of it that a load of the whole file takes."""
    against = f"1;proposed;8;{DAY:%Y-%m-%d %H:%M:%S};"
    write(file, [account(0), against, account(1, TOMORROW), account(0, TOMORROW)])
    for start in (None, TOMORROW):
        result = load(str(file), dsn, start=start, max_rejected=1)
        assert result.reasons == {"only_proposals_have_metadata: rule": 1, "duplicate_key": 1}
        assert ids(db) == [0, 1]


def test_files_of_one_load_may_have_other_orders_of_columns(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    drift = EVENTS.properties.drift.model_copy(update={"column_order": "accept"})
    feed = replace(EVENTS, properties=EVENTS.properties.model_copy(update={"drift": drift}))
    rows = [account(number).split(";") for number in (1, 2, 1, 3)]
    for name, order in (("a", (0, 1, 2, 3, 4)), ("b", (4, 3, 2, 1, 0)), ("c", (2, 0, 1, 4, 3))):
        lines = [[HEADER.split(";")[n] for n in order], *([row[n] for n in order] for row in rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(map(";".join, lines)))
    result = load_feed(feed, dsn, source_uri=f"{tmp_path}/*.csv", max_rejected=1)
    assert (result.loaded, result.reasons) == (3, {"duplicate_key": 9})
    assert {row[1:] for row in events(db)} == {("created_account", 8, DAY, None)}
    found = db.execute("select file_number, line_number from raw.rejected_rows order by 1, 2").fetchall()
    assert found == [(1, 4), *((file, line) for file in (2, 3) for line in (2, 3, 4, 5))]


def test_the_tables_refuse_invalid_values(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write(file, [account(1)]), dsn)
    for statement in (
        "update raw.loads set rows_outside = rows_outside + 1",
        "update raw.loads set status = 'unknown'",
        "update raw.events set event_type = null",
        "update raw.events set created_at = 'infinity'",
        "insert into raw.events select * from raw.events",
    ):
        with pytest.raises(psycopg.errors.IntegrityError):
            db.execute(statement)
