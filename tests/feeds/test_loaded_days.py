"""What the ledger and the log say of days, and of rows that no load has loaded; see `test_load_histories`, too."""

import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feeds.days import absent_text, has_late
from feeds.interval import Interval
from tests.events_feed import EVENTS, load
from tests.feeds.common import DAY, account, ledger, load_day, loaded_days, write, write_days

JANUARY_31 = datetime(2020, 1, 31, 12, tzinfo=UTC)


def daily(uri: str, dsn: str, day: datetime, **options: Any) -> Any:
    return load(uri, dsn, start=day, end=day + timedelta(days=1), **options)


def test_a_row_that_arrives_after_all_runs_of_its_time_is_named_until_the_named_run_loads_it(
    dsn: str, db: psycopg.Connection, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    days = [datetime(2020, 1, 27, 9, tzinfo=UTC) + timedelta(days=number) for number in range(8)]
    lines = [account(number, day) for number, day in enumerate(days)]
    midnights = [day.replace(hour=0) for day in days]
    for number in range(6):  # 27 January to 1 February
        assert daily(write(file, lines[: number + 1]), dsn, midnights[number]).absent == 0
    uri = write(file, lines[:7])
    load(uri, dsn, start=midnights[0], end=midnights[7])
    load(uri, dsn, start=datetime(2020, 1, 1, tzinfo=UTC), end=midnights[5])

    uri = write(file, [*lines[:7], account(99, JANUARY_31)])
    caplog.clear()
    result = daily(uri, dsn, midnights[6])
    assert (result.absent, ledger(db)[-1]["rows_absent"]) == (1, 1)
    assert loaded_days(db)[result.load_id] == {
        date(2020, 1, 31): (0, 0, 0, 0, 1, None),
        date(2020, 2, 2): (1, 0, 0, 0, 0, 1),
    }
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        f"load {result.load_id}: 1 row of 1 day is outside the interval and not in raw.events: 2020-01-31 (1 row);"
        " to load it, run a pipeline of events with start 2020-01-31 and end 2020-02-01"
    )
    assert daily(uri, dsn, midnights[6], dry_run=True).absent == 1
    again = daily(uri, dsn, midnights[6])  # the same file, which is not skipped
    assert (again.absent, again.same_as_load_id) == (1, None)

    named = load(uri, dsn, start=datetime(2020, 1, 31), end=datetime(2020, 2, 1))  # noqa: DTZ001 - UTC if naive
    assert loaded_days(db)[named.load_id] == {date(2020, 1, 31): (2, 1, 0, 0, 0, 2)}
    assert daily(uri, dsn, midnights[6]).absent == 0
    assert daily(uri, dsn, midnights[6]).same_as_load_id
    assert daily(write(file, [*lines, account(99, JANUARY_31)]), dsn, midnights[7]).absent == 0


def test_a_skip_does_not_hide_rows_that_another_load_has_removed(
    dsn: str, db: psycopg.Connection, file: Path, tmp_path: Path
) -> None:
    uri = write_days(file, 0, 1, 2)
    load(uri, dsn)
    assert load_day(uri, dsn, 1).absent == 0
    assert load_day(uri, dsn, 1).same_as_load_id
    assert load_day(write_days(tmp_path / "fewer.csv", 0, rows=7), dsn, 0).replaced == 10
    result = load_day(uri, dsn, 1)
    assert (result.same_as_load_id, result.absent) == (None, 3)
    assert loaded_days(db)[result.load_id][DAY.date()] == (0, 0, 0, 0, 3, None)


def test_with_a_file_per_day_the_named_run_reads_the_file_with_the_late_row(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = str(tmp_path / "{start:%Y-%m-%d}.csv")
    for number in range(3):
        write_days(tmp_path / f"2020-01-0{number + 1}.csv", number)
        load_day(uri, dsn, number)
    write_days(tmp_path / "2020-01-03.csv", 2, more=[account(99, DAY)])
    caplog.clear()
    assert load_day(uri, dsn, 2).absent == 1
    assert caplog.messages[0].endswith(
        "2020-01-01 (1 row); to load it, run a pipeline of events with start 2020-01-01 and end 2020-01-04"
    )
    assert load_day(uri, dsn, 0).loaded == 10  # this day's file does not have it
    assert load(uri, dsn, start=DAY, end=DAY + timedelta(days=3)).loaded == 31
    assert load_day(uri, dsn, 2).absent == 0


def test_rows_after_the_interval_come_with_later_runs_and_are_no_warning(
    dsn: str, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert load_day(uri, dsn, 0).absent == 20
    [record] = [record for record in caplog.records if "not in raw.events" in record.getMessage()]
    assert record.levelno == logging.INFO
    assert load_day(uri, dsn, 2).absent == 10
    assert caplog.records[-2].levelno == logging.WARNING  # no run has loaded the day between


@pytest.mark.parametrize(
    ("hours", "days", "is_late"),
    [
        ((0, 24), ["2020-01-02"], False),
        ((0, 24), ["2020-01-02", "2020-01-05"], False),
        ((0, 24), ["2019-12-31", "2020-01-02"], True),
        ((6, 12), ["2020-01-01"], True),  # of 3:00, or of 15:00: the day alone does not say
        ((6, 12), ["2020-01-02"], False),
        ((6, 36), ["2020-01-02"], True),
        ((6, None), ["2020-01-01"], True),
    ],
)
def test_later_runs_bring_only_days_that_begin_after_the_interval(
    hours: tuple[int, int | None], days: list[str], is_late: bool
) -> None:
    start, end = (None if each is None else DAY + timedelta(hours=each) for each in hours)
    assert has_late(dict.fromkeys(days, 1), Interval(start, end)) == is_late


def test_rows_before_an_interval_within_a_day_are_a_warning(
    dsn: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = write(file, [account(number, DAY + timedelta(hours=number)) for number in (3, 9)])
    assert load(uri, dsn, start=DAY + timedelta(hours=6), end=DAY + timedelta(hours=12)).absent == 1
    assert caplog.messages[-1].endswith(
        "not in raw.events: 2020-01-01 (1 row); to load it, run a pipeline of events with start 2020-01-01 and"
        " end 2020-01-02"
    )


@pytest.mark.parametrize(
    ("absent", "needed", "end"),
    [
        ({"2020-01-01": 1, "2020-01-03": 2}, None, "with start 2020-01-01 and end 2020-01-04"),
        ({"9999-12-31": 1}, None, "with start 9999-12-31"),
        (
            {"2020-01-01": 2},
            Interval(DAY + timedelta(days=1), DAY + timedelta(days=1, hours=6)),
            "with start 2020-01-01 and end 2020-01-02T06:00:00Z",
        ),
        ({"2020-01-01": 2}, Interval(DAY + timedelta(days=1), None), "with start 2020-01-01"),
        ({"2020-01-09": 2}, Interval(None, DAY + timedelta(days=1)), "with end 2020-01-10"),
    ],
)
def test_the_run_that_loads_absent_rows(absent: dict[str, int], needed: Interval | None, end: str) -> None:
    assert absent_text(EVENTS, absent, {}, needed).endswith(f"run a pipeline of events {end}")


def test_far_days_are_named_apart_from_the_run() -> None:
    days = {f"2020-01-0{number}": 1000 for number in range(1, 8)}
    text = absent_text(EVENTS, {**days, "5000-01-01": 1}, {}, None)
    assert text.startswith(
        "7,001 rows of 8 days are outside the interval and not in raw.events: 2020-01-01 (1,000 rows),"
        " 2020-01-02 (1,000 rows), 2020-01-03 (1,000 rows), 2020-01-04 (1,000 rows), 2020-01-05 (1,000 rows) and 3"
        " more; to load them, run a pipeline of events with start 2020-01-01 and end 2020-01-08;"
        " days more than a year from all others: 5000-01-01 (1 row); "
    )
