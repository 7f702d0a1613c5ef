"""A backfill over Airflow's API: what is asked for, its runs in pages, and how its end is reported."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest

from harness.errors import DagRunFailedError, ServiceFailedError
from harness.pipeline import airflow_api
from harness.pipeline.airflow_api import AirflowApi, IntervalRun
from tests.servers import Handler, serving

START = datetime(2020, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def run(day: int, state: str = "success", run_type: str = "backfill") -> dict[str, str]:
    """Return the run of the DAY after START as Airflow's API has it."""
    start = START + day * DAY
    bounds = {"data_interval_start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "data_interval_end": (start + DAY).isoformat()}
    return {"dag_run_id": f"run_{day}", "state": state, "run_type": run_type, **bounds}


class Airflow(Handler):
    """Has one backfill, which ends when it is asked for the third time, and RUNS; refuses what is REFUSED."""

    runs: list[dict[str, str]]
    refused: bool
    is_endless: bool
    backfill: dict[str, Any]
    asked: int

    def respond(self) -> None:
        cls = type(self)
        path, _, query = self.path.removeprefix("/api/v2/").partition("?")
        given: Any
        if self.command == "POST":
            cls.backfill = json.loads(self.posted())
            if self.refused:
                return self.answer(409, b'{"detail": "There is already a running backfill"}')
            given = {"id": 5}
        elif path == "backfills/5":
            cls.asked += 1
            has_ended = self.asked > 2 and not self.is_endless
            given = self.backfill | {"completed_at": "2026-01-01T00:00:00Z" if has_ended else None}
        elif path == "dags/daily/dagRuns":
            asked = dict(parse_qsl(query))
            assert {name: asked[name] for name in ("logical_date_gte", "logical_date_lte", "order_by")} == {
                "logical_date_gte": self.backfill["from_date"],
                "logical_date_lte": self.backfill["to_date"],
                "order_by": "logical_date",
            }
            found = [run for run in self.runs if run["run_type"] == asked["run_type"]]
            first = int(asked["offset"])
            given = {"dag_runs": found[first : first + int(asked["limit"])], "total_entries": len(found)}
        elif path.endswith("/taskInstances"):
            given = {"task_instances": [{"task_id": "load_events", "state": None}]}
        return self.answer(200, json.dumps(given).encode())


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowApi]:
    values = {"runs": [run(0), run(1, run_type="manual"), run(2), run(3)], "refused": False, "is_endless": False}
    for name, value in (values | {"backfill": {}, "asked": 0}).items():
        monkeypatch.setattr(Airflow, name, value, raising=False)
    monkeypatch.setattr(airflow_api, "POLL_INTERVAL_S", 0.001)
    monkeypatch.setattr(airflow_api, "PAGE", 2)
    with serving(Airflow) as address:
        yield AirflowApi(f"http://{address}", "admin", "password")


def start(api: AirflowApi) -> int:
    return api.backfill("daily", START, START + 4 * DAY, 3, reprocess="completed")


def test_a_backfill_is_followed_to_its_end(api: AirflowApi) -> None:
    backfill_id = start(api)
    assert Airflow.backfill == {
        "dag_id": "daily",
        "from_date": "2020-01-01T00:00:00+00:00",
        "to_date": "2020-01-04T23:59:59.999999+00:00",  # the last logical date, for Airflow
        "max_active_runs": 3,
        "reprocess_behavior": "completed",
        "run_backwards": False,
    }
    runs = api.follow_backfill(backfill_id, timeout_s=30)
    assert Airflow.asked == 4  # the last time for the interval of its runs
    days = [START + day * DAY for day in (0, 2, 3)]
    assert runs == [IntervalRun(f"run_{day.day - 1}", "success", day, day + DAY) for day in days]


def test_a_failed_run_fails_the_backfill(api: AirflowApi) -> None:
    Airflow.runs[2] = run(2, "failed")
    with pytest.raises(DagRunFailedError, match=r"^daily failed, and none of its tasks did: load_events none"):
        api.follow_backfill(start(api), timeout_s=30)


def test_a_backfill_that_does_not_end_is_reported_with_the_states_of_its_runs(api: AirflowApi) -> None:
    Airflow.is_endless = True
    Airflow.runs[2:] = [run(2, "running"), run(3, "queued"), run(4, "queued")]
    expected = r"^The backfill of daily did not end within 0 s; its runs: 2 queued, 1 running, 1 success\."
    with pytest.raises(DagRunFailedError, match=expected):
        api.follow_backfill(start(api), timeout_s=0)


def test_airflows_reason_for_a_refusal_is_shown(api: AirflowApi) -> None:
    Airflow.refused = True
    with pytest.raises(ServiceFailedError, match=r"refused POST /api/v2/backfills: 409 .*already a running backfill"):
        start(api)
