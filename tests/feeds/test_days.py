"""Events with an unlikely time are named, or rejected by a bound."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from feeds.__main__ import main
from feeds.days import far_days, valid_times
from feeds.errors import SettingUnusable
from feeds.interval import ALWAYS, Interval
from tests.events_feed import EVENTS, load
from tests.feeds.common import DAY, account, ids, rejects, write

MISTYPED = "1;created_account;8;0202-01-05 09:00:00;"
FAR = (
    "days more than a year from all others: 0202-01-05 (1 row), 2999-01-01 (2 rows); a model with a row per day gets"
    " one for each day in between. If these times are wrong, set EVENTS_NOT_BEFORE or EVENTS_BEFORE, so that such rows"
    " are rejected."
)


@pytest.mark.parametrize(
    ("days", "far"),
    [
        ({}, {}),
        ({"2020-01-01": 1}, {}),
        ({"2019-01-01": 1, "2020-01-02": 9}, {}),  # 366 days
        ({"2019-01-01": 1, "2020-01-03": 9}, {"2019-01-01": 1}),
        ({"2020-01-01": 5, "2020-12-31": 5, "2021-12-31": 5, "2030-01-01": 7}, {"2030-01-01": 7}),
        ({"0202-01-05": 1, "2020-01-01": 9, "9999-12-31": 2}, {"0202-01-05": 1, "9999-12-31": 2}),
        ({"2020-01-01": 1, "2025-01-01": 1}, {}),  # neither is the bulk
    ],
)  # fmt: skip
def test_far_days(days: dict[str, int], far: dict[str, int]) -> None:
    assert far_days({day.encode(): rows for day, rows in reversed(days.items())}) == far


def test_a_load_names_days_far_from_the_others(dsn: str, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    late = datetime(2999, 1, 1, tzinfo=UTC)
    write(file, [MISTYPED, *(account(number) for number in range(2, 8)), account(8, late), account(9, late)])
    load(str(file), dsn, dry_run=True)
    load(str(file), dsn)
    assert [message.partition(": ")[2] for message in caplog.messages] == [FAR] * 2
    caplog.clear()
    load(str(file), dsn, start=DAY)
    assert len(caplog.messages) == 1  # of 2999 alone
    assert "0202" not in caplog.text


def test_rows_out_of_range_are_rejected_whatever_the_interval(dsn: str, db: psycopg.Connection, file: Path) -> None:
    noon = DAY.replace(hour=12)
    write(file, [MISTYPED, account(2, DAY), account(3, noon), account(3, noon), account(4, noon.replace(year=2021))])
    valid = Interval(noon, noon.replace(year=2021))
    result = load(str(file), dsn, valid=valid, end=DAY.replace(day=2), max_rejected=1)
    assert result.reasons == {"out_of_range": 3, "duplicate_key": 1}
    assert ids(db) == [3]
    assert [(row[0], row[2]) for row in rejects(db)] == [
        (2, "out_of_range"),
        (3, "out_of_range"),
        (5, "duplicate_key"),
        (6, "out_of_range"),
    ]
    assert load(str(file), dsn, valid=valid, end=DAY.replace(day=2), max_rejected=1).same_as_load_id == 1
    assert load(str(file), dsn, end=DAY.replace(day=2), max_rejected=1).loaded == 3  # with other rules


def test_the_variables_bound_a_load_from_a_shell(
    dsn: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTS_DSN", dsn)
    monkeypatch.setenv("EVENTS_NOT_BEFORE", "2015-01-01")
    assert main(["load", "events", write(file, [MISTYPED, account(2)]), "--max-rejected", "0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 rejected: out_of_range 1"
    monkeypatch.setenv("EVENTS_NOT_BEFORE", "soon")
    assert main(["load", "events", str(file)]) == 29
    what = "✗ EVENTS_NOT_BEFORE and EVENTS_BEFORE cannot be used: 'soon' is not a time: "
    assert capsys.readouterr().err.startswith(what)


def test_empty_variables_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert valid_times(EVENTS) == ALWAYS
    monkeypatch.setenv("EVENTS_NOT_BEFORE", "")
    monkeypatch.setenv("EVENTS_BEFORE", " \n")
    assert valid_times(EVENTS) == ALWAYS
    monkeypatch.setenv("EVENTS_BEFORE", "2020-01-01\n")
    assert valid_times(EVENTS) == Interval(None, DAY)
    monkeypatch.setenv("EVENTS_NOT_BEFORE", "2021-01-01")
    with pytest.raises(SettingUnusable, match=r"start 2021-01-01 .* is after end 2020-01-01"):
        valid_times(EVENTS)
