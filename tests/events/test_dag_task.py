"""The DAG's tasks in Airflow's environment: they load what the run asks for, and return what the log says."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.project.environments import install
from harness.project.paths import ROOT
from tests.events.common import ids, write

ROWS = (
    "1;created_account;7;2020-01-01 09:00:00;",
    "2;became_able_to_propose;7;2020-01-02 10:00:00;",
    "3;created_account;8;2020-01-02 11:00:00;",
    "4;created_account;8;2020-01-02 11:00:00",
    "3;created_account;9;2020-01-03 11:00:00;",
)
RUN_TASKS = """
import json, sys
from types import SimpleNamespace
from unittest import mock

import events_pipeline

dag = events_pipeline.events_pipeline("daily")
params = {"start": None, "end": "2020-01-02T11:00:00Z", "max_rejected": 0.5, "allow_empty": False}
run = SimpleNamespace(run_type="manual", dag_id=dag.dag_id, run_id="manual__1")
dag.get_task("create_tables").python_callable()
with mock.patch("airflow.sdk.get_current_context", return_value={"dag_run": run, "params": params}):
    results = [dag.get_task("load_events").python_callable() for _ in range(2)]
with open(sys.argv[1], "w") as file:
    json.dump(results, file)
"""


@pytest.mark.slow
def test_the_load_task_returns_the_figures_of_its_log(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    uri = write(tmp_path / "events.csv", ROWS)
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "airflow" / "include", ROOT / "airflow" / "dags"))),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_WAREHOUSE_LOADER": dsn,
        "EVENTS_URI": uri,
    }
    command: list[str | Path] = [install("airflow"), "-c", RUN_TASKS, tmp_path / "results.json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "results.json").read_text())
    expected: dict[str, Any] = {
        "load_id": 1,
        "read": 5,
        "loaded": 2,
        "rejected": 2,
        "outside": 1,
        "replaced": 0,
        "reasons": {"field_count": 1, "duplicate_event_id": 1},
        "same_as_load_id": None,
    }
    seconds = [result.pop("seconds") for result in (first, second)]
    assert all(0 < figure < 600 for figure in seconds)
    assert first == expected
    assert second == expected | {"load_id": 2, "same_as_load_id": 1}
    for number, figure in enumerate(seconds, 1):
        assert f"load {number}: rejected 2 rows: " in done.stdout
        figures = "read 5, loaded 2, rejected 2, outside 1, replaced 0"
        same = ", unchanged since load 1" if number == 2 else ""
        interval = "until 2020-01-02 11:00:00+00:00"
        assert f"load {number} of {uri}, {interval}: {figures}{same}, in {figure:.1f} s" in done.stdout
    assert ids(db) == [1, 2]
    assert db.execute("select distinct run_id from raw.loads").fetchall() == [("events_pipeline_daily manual__1",)]
