"""Scripts for Airflow: what it can play, whatever the seed."""

from datetime import UTC, date, datetime, timedelta

import pytest

from feeds.interval import Interval
from harness.replay.airflow_player import DAYS, PAST, for_airflow, latest
from harness.replay.making import make_script
from harness.replay.script import Cadence, Run
from tests.events_feed import EVENTS

LAST_DAY = date(2020, 3, 3)
FIRST_DAY = LAST_DAY - timedelta(DAYS - 1)


def test_every_script_has_a_delivery_a_day_and_runs_of_that_day() -> None:
    retried = 0
    for seed in range(200):
        script = for_airflow(make_script(EVENTS, seed, DAYS, last_day=LAST_DAY))
        days = [delivery.day for delivery in script.deliveries]
        assert days == [FIRST_DAY + timedelta(number) for number in range(DAYS)]
        assert {script.deliveries[number - 1].file for number in (PAST, DAYS)} == {"whole"}
        for number, delivery in enumerate(script.deliveries, 1):
            assert not delivery.repeated
            assert delivery.drift == "none"
            cadences = {run.cadence for run in delivery.runs}
            assert {run.of for run in delivery.runs} <= {None}
            assert cadences <= ({"daily"} if delivery.file == "missing" else {"daily", "weekly", "monthly"})
            outcomes = {run.outcome for run in delivery.runs}
            assert outcomes in (set(), {"succeeds"}, {"retried"})
            if outcomes == {"retried"}:
                assert PAST < number < DAYS
                assert delivery.file == "whole"
                retried += 1
    assert retried == 200  # once in each


def test_no_row_is_lost_on_the_way_to_airflow() -> None:
    script = make_script(EVENTS, 1, DAYS, last_day=LAST_DAY)

    def rows(played: object) -> list[object]:
        return [row for delivery in getattr(played, "deliveries", ()) for row in delivery.rows]

    assert rows(for_airflow(script)) == rows(script)


@pytest.mark.parametrize(
    ("cadence", "today", "start", "end"),
    [
        ("daily", "2020-03-01", "2020-02-29", "2020-03-01"),
        ("weekly", "2020-03-01", "2020-02-23", "2020-03-01"),  # a Sunday
        ("weekly", "2020-03-07", "2020-02-23", "2020-03-01"),
        ("monthly", "2020-03-01", "2020-02-01", "2020-03-01"),
        ("monthly", "2021-01-31", "2020-12-01", "2021-01-01"),
    ],
)
def test_the_latest_interval(cadence: Cadence, today: str, start: str, end: str) -> None:
    bounds = (datetime.fromisoformat(bound).replace(tzinfo=UTC) for bound in (start, end))
    assert latest(cadence, date.fromisoformat(today)) == Interval(*bounds)
    assert Run(cadence=cadence).cadence == cadence
