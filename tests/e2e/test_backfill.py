"""Backfills and runs by hand on a real Airflow, on the embedded target: what they load, and how often they build."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feeds.contract import CONTRACTS, read_feed, read_feeds
from feeds.interval import ALWAYS, Interval
from harness.errors import ServiceFailedError
from harness.oracle import expected_numbers
from harness.pipeline.run_checks import check_numbers
from harness.pipeline.runs import wait_until_parsed
from harness.project.environments import install
from harness.project.paths import DATA
from harness.reporting.console import Phases
from harness.targets.embedded import EmbeddedTarget
from harness.targets.options import RunOptions
from harness.targets.target import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

EVENTS = read_feed(CONTRACTS / "events.yaml")
DAILY = "events_pipeline_daily"
DAY = timedelta(days=1)
FEBRUARY = datetime(2020, 2, 1, tzinfo=UTC)
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the sample."""
    return Path(shutil.copy(DATA / "events.csv", tmp_path_factory.mktemp("events")))


@pytest.fixture(scope="module")
def deployment(events: Path) -> Iterator[Deployment]:
    """Give an Airflow whose daily DAG may run, and an empty warehouse."""
    for group in ("airflow", "dbt"):
        install(group)
    with EmbeddedTarget().up(RunOptions("embedded", uris={"events": str(events)}), Phases()) as deployment:
        wait_until_parsed(deployment.api, read_feeds())
        scheduled = deployment.api.trigger(DAILY, {"start": "1999-01-01", "end": "1999-01-02"}, replaces_scheduled=True)
        deployment.api.unpause(DAILY)
        deployment.api.follow(DAILY, scheduled, TIMEOUT_S, lambda *_: None)
        yield deployment


def check(deployment: Deployment, events: Path, interval: Interval) -> None:
    """Check that the raw table has what EVENTS has in INTERVAL, and the marts what follows from that."""
    expected = expected_numbers.compute([(EVENTS, str(events))], interval, deployment.warehouse.admin_dsn)
    check_numbers(expected, deployment.warehouse)


def builds(deployment: Deployment, run_ids: list[str]) -> list[str]:
    """Return the states of the builds of runs, sorted; each load has succeeded."""
    states = [deployment.api.task_states(DAILY, run_id) for run_id in run_ids]
    assert {run["load_events"] for run in states} == {"success"}
    return sorted(run["dbt_build"] for run in states)


def test_a_backfill_builds_for_many_loads_at_once_and_again_when_the_file_has_changed(
    deployment: Deployment, events: Path
) -> None:
    api = deployment.api
    end = FEBRUARY + 6 * DAY
    backfill_id = api.backfill(DAILY, FEBRUARY, end, max_active_runs=10)
    with pytest.raises(ServiceFailedError, match=r"409 .*There is already a running backfill for dag events_pipeline"):
        api.backfill(DAILY, FEBRUARY, end, max_active_runs=10)
    runs = api.follow_backfill(backfill_id, TIMEOUT_S)
    days = [FEBRUARY + number * DAY for number in range(6)]
    assert [(run.start, run.end) for run in runs] == [(day, day + DAY) for day in days]
    built = builds(deployment, [run.run_id for run in runs])
    assert built.count("skipped") >= 3, built  # at most two loads are the last ones, and the scheduler may be late
    assert set(built) == {"skipped", "success"}
    check(deployment, events, Interval(FEBRUARY, end))

    changed = [
        line for line in events.read_text().splitlines() if ";2020-02-03 1" not in line
    ]  # half a day is withdrawn
    events.write_text("\n".join([*changed, "90000001;created_account;9000001;2020-02-02 10:00:00;", ""]))
    again = api.backfill(
        DAILY, FEBRUARY, FEBRUARY + 3 * DAY, max_active_runs=1, reprocess="completed", run_backwards=True
    )
    first, *later = api.follow_backfill(again, TIMEOUT_S)
    assert api.task_states(DAILY, first.run_id)["dbt_build"] == "success"  # it ran last
    assert builds(deployment, [run.run_id for run in later]) == ["skipped", "skipped"]
    check(deployment, events, Interval(FEBRUARY, end))


def test_a_backfill_has_no_run_for_the_future(deployment: Deployment) -> None:
    future = datetime(2100, 1, 1, tzinfo=UTC)
    with pytest.raises(ServiceFailedError, match=r"422 .*Backfill cannot be executed for future dates"):
        deployment.api.backfill(DAILY, future, future + DAY, max_active_runs=1)


def test_a_logical_date_that_has_a_run_is_refused(deployment: Deployment) -> None:
    with pytest.raises(ServiceFailedError, match=r"409 .*Unique constraint violation"):
        deployment.api.trigger(DAILY, {}, logical_date=FEBRUARY)


def test_a_run_with_a_logical_date_in_the_future_waits_for_it(deployment: Deployment) -> None:
    api = deployment.api
    run_id = api.trigger(DAILY, {}, logical_date=datetime(2100, 1, 1, tzinfo=UTC))
    api.follow(DAILY, api.trigger(DAILY, {"end": "2015-01-01"}), TIMEOUT_S, lambda *_: None)  # a later one
    assert api.state(DAILY, run_id) == "running"
    assert set(api.task_states(DAILY, run_id).values()) == {"none"}
    api.fail(DAILY, run_id)


def test_runs_by_hand_load_the_interval_of_their_params_whatever_their_logical_date(
    deployment: Deployment, events: Path
) -> None:
    api = deployment.api
    march = FEBRUARY + 29 * DAY
    loads = {
        "without params": api.trigger(DAILY, {}, logical_date=march),
        "of another day": api.trigger(
            DAILY, {"start": "2020-02-10", "end": "2020-02-11"}, logical_date=march + 12 * DAY
        ),
        "before all data": api.trigger(DAILY, {"end": "2015-01-01"}),
        "after all data": api.trigger(DAILY, {"start": "2100-01-01"}),
    }
    for run_id in loads.values():
        api.follow(DAILY, run_id, TIMEOUT_S, lambda *_: None)
    assert builds(deployment, list(loads.values())) == ["success"] * 4
    rows = events.read_text().splitlines()[1:]
    loaded = {name: api.xcom(DAILY, run_id, "load_events")["loaded"] for name, run_id in loads.items()}
    assert loaded == {
        "without params": len(rows),
        "of another day": sum(";2020-02-10 " in row for row in rows),
        "before all data": 0,
        "after all data": 0,
    }
    check(deployment, events, ALWAYS)
