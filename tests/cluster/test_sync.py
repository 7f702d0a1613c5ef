"""`nox -s cluster -- sync` brings changed code into a cluster that is up, and `up` replaces it by images."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.runs import wait_until_parsed_again
from harness.processes.supervisor import Supervisor
from harness.targets import code_sync
from harness.targets.cluster_deployment import connect
from tests.cluster.conftest import KIND, Cluster
from tests.harness_command import run

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

DAG_ID = "events_pipeline_daily"
DAG, LOAD, MODEL = "airflow/dags/pipelines.py", "airflow/include/feeds/load.py", "dbt/models/marker.sql"
TASKS = {"create_tables": "the DAG is synced", "load_events": "the load is synced", "dbt_build": "marker"}


@pytest.fixture
def api(cluster: Cluster) -> Iterator[AirflowApi]:  # noqa: ARG001 - it must be up
    with Supervisor.launch() as supervisor:
        yield connect(KIND, supervisor)[1]


def changed_code(folder: Path) -> dict[str, Path]:
    """Return the code with a changed DAG, a changed load and a new model, which are in FOLDER."""
    code = code_sync.all_code()
    task = "def create_tables() -> None:\n"
    dag = code[DAG].read_text().replace(task, f'{task}            print("the DAG is synced")\n')
    load = code[LOAD].read_text() + '\nlogger.info("the load is synced")\n'
    for path, text in ((DAG, dag), (LOAD, load), (MODEL, "select 1 as one")):
        code[path] = folder / Path(path).name
        code[path].write_text(text)
    return code


def status() -> str:
    code, output = run("cluster", "status")
    assert code == 0, output
    return output


def test_sync_brings_a_changed_dag_load_and_model(cluster: Cluster, api: AirflowApi, tmp_path: Path) -> None:
    code, output = run("cluster", "sync")
    assert (code, output) == (0, f"✓ {KIND.title} has all code already\n")

    parsed_at = api.parsed_at()
    code_sync.sync(cluster.kubectl, [DAG, LOAD, MODEL], changed_code(tmp_path))
    wait_until_parsed_again(api, parsed_at)
    assert re.search(rf"^  synced +{DAG}, {LOAD}, {MODEL}, at ", status(), re.MULTILINE)
    run_id = api.trigger(DAG_ID, {}, replaces_scheduled=True)
    api.unpause(DAG_ID)
    api.follow(DAG_ID, run_id, 180, lambda *_: None)
    for task_id, marker in TASKS.items():
        assert any(marker in line for line in api.task_log(DAG_ID, run_id, task_id)), task_id

    code, output = run("cluster", "up")
    assert code == 0, output
    assert "  synced" not in status()
    assert code_sync.find_changes(KIND, cluster.kubectl) == code_sync.Changes([], [])
    assert all("the DAG is synced" not in source for source in sources(cluster))


def sources(cluster: Cluster) -> list[str]:
    """Return the DAG file in each pod of the DAG processor."""
    pods = cluster.kubectl.items("pods", selector="component=dag-processor")
    argv = ("--container", "dag-processor", "--", "cat", "/tmp/code/dags/pipelines.py")  # noqa: S108 - in the pod
    return [cluster.kubectl.run("exec", pod["metadata"]["name"], *argv) for pod in pods]
