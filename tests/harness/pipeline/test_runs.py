"""The DAGs of a deployment are found by its API, and compared with the files that should have them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import pytest

from harness.errors import DagRunFailedError
from harness.pipeline import runs
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.runs import Dags, dag_files, run_others, tasks_of, wait_until_parsed, wait_until_parsed_again
from harness.reporting.console import Phases
from tests.servers import Handler, serving

FEEDS = ["events", "customers"]
DAG_FILE = "from airflow.sdk import dag\n"
IMPORT_ERROR = {
    "filename": "new.py",
    "timestamp": "2026-01-01T00:05:00Z",
    "stack_trace": "Traceback (most recent call last):\n  …\nModuleNotFoundError: No module named 'pandas'\n",
}


class Airflow(Handler):
    """Answers with ANSWERS by the end of the path; the DAGs in pages of two."""

    answers: dict[str, Any]

    def respond(self) -> None:
        path, _, query = self.path.removeprefix("/api/v2/").partition("?")
        answer = self.answers[path]
        if path == "dags":
            offset = int(parse_qs(query)["offset"][0])
            answer = {"dags": answer["dags"][offset : offset + 2], "total_entries": len(answer["dags"])}
        self.answer(200, json.dumps(answer).encode())


def dag(dag_id: str, file: str = "pipeline.py", minute: int = 5) -> dict[str, str]:
    return {"dag_id": dag_id, "relative_fileloc": file, "last_parsed_time": f"2026-01-01T00:{minute:02}:00Z"}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowApi]:
    tasks = {
        "daily": tasks_of("events"),
        "weekly": (*tasks_of("events"), "load_others"),
        "customers": tasks_of("customers"),
        "renamed": tasks_of("events"),
        "freshness": ("source_freshness",),
    }
    answers = {f"dags/{dag_id}/tasks": {"tasks": [{"task_id": name} for name in tasks[dag_id]]} for dag_id in tasks}
    answers["importErrors"] = {"import_errors": []}
    answers["dags"] = {"dags": [dag("daily"), dag("weekly"), dag("customers"), dag("freshness", "freshness.py", 1)]}
    monkeypatch.setattr(Airflow, "answers", answers, raising=False)
    monkeypatch.setattr(runs, "PARSED_TIMEOUT_S", 0)
    with serving(Airflow) as address:
        yield AirflowApi(f"http://{address}", "admin", "password")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("pipeline.py", "freshness.py"):
        (tmp_path / name).write_text(DAG_FILE)
    (tmp_path / "names.py").write_text('"""Names, for what is beside it."""\n')
    return tmp_path


def test_dags_that_are_no_pipelines_are_told_apart(api: AirflowApi, folder: Path) -> None:
    dags = wait_until_parsed(api, FEEDS, folder)
    assert dags == ({"events": ["daily", "weekly"], "customers": ["customers"]}, ["freshness"])


def test_a_dag_that_was_renamed_is_left_out(api: AirflowApi, folder: Path) -> None:
    Airflow.answers["dags"]["dags"].append(dag("renamed", minute=4))
    assert wait_until_parsed(api, FEEDS, folder).pipelines["events"] == ["daily", "weekly"]


def test_each_batch_runs_a_pipeline_of_each_feed_and_the_last_one_each_first_again() -> None:
    dags = Dags({"a": ["a1", "a2", "a3"], "b": ["b1", "b2"], "c": ["c1"]}, [])
    assert dags.first == ["a1", "b1", "c1"]
    assert dags.later == [["a2", "b2"], ["a3", "a1", "b1", "c1"]]
    assert Dags({"a": ["a1", "a2"]}, []).later == [["a2", "a1"]]
    assert Dags({"a": ["a1"], "b": ["b1"]}, []).later == [["a1", "b1"]]


def test_a_file_that_cannot_be_imported_is_named_at_once(
    api: AirflowApi, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PARSED_TIMEOUT_S", 3600)
    Airflow.answers["importErrors"] = {"import_errors": [IMPORT_ERROR]}
    (folder / "new.py").write_text(DAG_FILE)
    with pytest.raises(DagRunFailedError) as caught:
        wait_until_parsed(api, FEEDS, folder)
    error = "new.py: ModuleNotFoundError: No module named 'pandas'"
    assert caught.value.what == f"A DAG file cannot be imported: {error}"


def test_a_file_without_a_dag_is_named(api: AirflowApi, folder: Path) -> None:
    (folder / "new.py").write_text(DAG_FILE)
    with pytest.raises(DagRunFailedError, match=r"^Airflow has no DAG of new\.py after 0 s\.\n"):
        wait_until_parsed(api, FEEDS, folder)
    (folder / ".airflowignore").write_text("# not *\nnew.*\n")
    assert dag_files(folder) == {"pipeline.py", "freshness.py"}
    assert wait_until_parsed(api, FEEDS, folder).others == ["freshness"]


def test_a_dag_whose_file_is_gone_is_named(api: AirflowApi, folder: Path) -> None:
    (folder / "freshness.py").unlink()
    with pytest.raises(DagRunFailedError, match=r"^Airflow still has DAGs of freshness\.py, which is not in "):
        wait_until_parsed(api, FEEDS, folder)


def test_dags_are_parsed_again(api: AirflowApi) -> None:
    Airflow.answers["dags"] = {"dags": [dag("daily", minute=5)]}
    Airflow.answers["importErrors"] = {"import_errors": [IMPORT_ERROR]}
    before = api.parsed_at()
    with pytest.raises(DagRunFailedError, match=r"^The DAGs were not parsed again within 0 s\.\n"):
        wait_until_parsed_again(api, before)  # the earlier error is not that of the changed file

    again = {**IMPORT_ERROR, "timestamp": "2026-01-01T00:06:00Z"}
    Airflow.answers["importErrors"] = {"import_errors": [again]}
    with pytest.raises(DagRunFailedError, match=r"^A DAG file cannot be imported: new\.py: ModuleNotFoundError"):
        wait_until_parsed_again(api, before)

    # `daily` was renamed
    Airflow.answers["dags"] = {"dags": [dag("daily", minute=5), dag("hourly", minute=6)]}
    Airflow.answers["importErrors"] = {"import_errors": []}
    wait_until_parsed_again(api, before)


def test_without_a_pipeline_nothing_could_be_checked(api: AirflowApi, folder: Path) -> None:
    Airflow.answers["dags"] = {"dags": [dag("freshness", "freshness.py")]}
    (folder / "pipeline.py").unlink()
    with pytest.raises(DagRunFailedError, match=r"^None of the DAGs is a pipeline of events: freshness\.\n"):
        wait_until_parsed(api, FEEDS, folder)


def test_the_projects_own_files() -> None:
    assert "pipelines.py" in dag_files(runs.FOLDER)


class Runs:
    """An Airflow whose DAG FAILING fails, and whose others succeed; unpausing one schedules a run."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.states: dict[str, dict[str, str]] = {}
        self.followed: list[str] = []

    def unpause(self, dag_id: str) -> None:
        self.states.setdefault(dag_id, {})[f"scheduled {dag_id}"] = "queued"

    def trigger(self, dag_id: str, conf: dict[str, Any], **_: bool) -> str:
        assert conf == {}
        self.states.setdefault(dag_id, {})[f"manual {dag_id}"] = "queued"
        return f"manual {dag_id}"

    def runs(self, dag_id: str) -> dict[str, str]:
        return self.states.get(dag_id, {})

    def follow(self, dag_id: str, run_id: str, *_: object) -> None:
        self.followed.append(run_id)
        if dag_id == self.failing:
            raise DagRunFailedError(f"{dag_id} failed", "why", "next")


def test_other_dags_are_run_once_and_said() -> None:
    api = Runs()
    lines = run_others(cast(AirflowApi, api), ["freshness", "report"], Phases())
    assert lines == ["ran, no expectations: freshness", "ran, no expectations: report"]
    assert sorted(api.followed[:2]) == ["manual freshness", "manual report"]
    assert {"scheduled freshness", "scheduled report"} <= set(api.followed)


def test_another_dag_that_fails_fails_the_run() -> None:
    with pytest.raises(DagRunFailedError, match=r"^report failed\n"):
        run_others(cast(AirflowApi, Runs("report")), ["freshness", "report"], Phases())
