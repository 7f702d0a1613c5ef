"""The DAGs: their ids, schedules, tasks and params, and the cost of parsing them."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from feeds.contract import CONTRACTS, read_feed, read_feeds
from feeds.errors import ContractInvalid, IntervalUnreadable, SettingUnusable
from feeds.interval import Interval
from feeds.ledger import LoadResult
from feeds.pipeline_run import interval
from feeds.retries import RetryPolicy

DAGS = Path(__file__).parents[2] / "airflow" / "dags"
CADENCES = {"daily": "0 0 * * *", "weekly": "0 0 * * 0", "monthly": "0 0 1 * *"}
DAG_IDS = {f"events_pipeline_{cadence}" for cadence in CADENCES}
ORDERS = """
apiVersion: v3.1.0
kind: DataContract
id: orders
name: orders
version: 1.0.0
status: active
servers: [{server: files, type: local, path: orders.csv, format: csv}]
customProperties:
  - {property: cadences, value: [weekly]}
  - {property: maxRejected, value: 0.2}
schema:
  - name: orders
    properties:
      - {name: order_id, logicalType: integer, required: true, primaryKey: true}
"""


def load_dags() -> dict[str, Any]:
    bag = DagBag(dag_folder=str(DAGS))
    assert bag.import_errors == {}
    return dict(bag.dags)


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    """Give the DAGs as they are without a cluster."""
    return load_dags()


@pytest.fixture
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with the contracts of `orders`, once a week, and of `events`."""
    (tmp_path / "orders.yaml").write_text(ORDERS)
    shutil.copy(CONTRACTS / "events.yaml", tmp_path)
    monkeypatch.setattr("feeds.contract.CONTRACTS", tmp_path)
    return tmp_path


def test_the_dag_ids_are_those_of_the_contracts(dags: dict[str, Any]) -> None:
    made = {dag_id for dag_id, dag in dags.items() if Path(dag.fileloc).name == "pipelines.py"}
    assert made == {
        f"{feed.name}_pipeline_{cadence}" for feed in read_feeds().values() for cadence in feed.properties.cadences
    }
    assert made >= DAG_IDS


@pytest.mark.usefixtures("contracts")
def test_a_contract_is_all_that_a_pipeline_needs() -> None:
    dags = load_dags()
    assert set(dags) == {*DAG_IDS, "orders_pipeline_weekly"}
    dag = dags["orders_pipeline_weekly"]
    chain = {"create_tables": {"load_orders"}, "load_orders": {"dbt_build"}, "dbt_build": set()}
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == chain
    assert dag.tags == {"orders", "weekly"}
    assert dag.timetable.summary == CADENCES["weekly"]
    assert dag.params["max_rejected"] == 0.2
    assert [outlet.name for outlet in dag.get_task("load_orders").outlets] == ["raw.orders"]
    assert dbt_arguments(dag)[-2:] == ["@source:raw.orders", "+feed_days"]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("orders.yaml", ORDERS.replace("order_id, logicalType: integer", "order_id, logicalType: money"), "is 'money'"),
        ("orders.yaml", "name: [", "it is not YAML"),
        ("Orders 2!.yaml", ORDERS, "cannot be named 'Orders 2!'"),
    ],
)
def test_an_invalid_contract_breaks_only_its_own_dags_which_fail_with_its_three_lines(
    contracts: Path, name: str, text: str, what: str
) -> None:
    (contracts / "orders.yaml").unlink()
    (contracts / name).write_text(text)
    dags = load_dags()
    stem = name.removesuffix(".yaml").replace(" ", "_").replace("!", "_")
    broken = {f"{stem}_pipeline_{cadence}" for cadence in CADENCES}
    assert set(dags) == {*DAG_IDS, *broken}
    for dag_id in broken:
        assert dags[dag_id].timetable.summary == CADENCES[dag_id.rpartition("_")[2]]  # it fails when a run is due
        [task] = dags[dag_id].tasks
        with pytest.raises(ContractInvalid) as caught:
            task.python_callable()
        assert what in caught.value.what
        assert dags[dag_id].doc_md == str(caught.value)


def dbt_arguments(dag: Any) -> list[str]:
    """Return the arguments of dbt in DAG."""
    called: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("feeds.dbt_task.run_process", lambda argv, _: called.append(argv))
        patched.setenv("DBT_PYTHON", "python")
        patched.setenv("DBT_PROJECT_DIR", "/dbt")
        dag.get_task("dbt_build").python_callable()
    assert called[0][:2] == ["python", "/dbt/run.py"]
    return called[0][2:]


def test_dbt_builds_what_depends_on_the_feed_and_what_that_is_built_from(dags: dict[str, Any]) -> None:
    arguments = dbt_arguments(dags["events_pipeline_daily"])
    assert arguments == [
        "build",
        "--exclude-resource-type",
        "unit_test",
        "--select",
        "@source:raw.events",
        "+feed_days",
    ]


def broken_policies(dag: Any) -> list[str]:
    """Return a line for each policy that DAG breaks; they hold for every DAG in the folder."""
    policies = {
        "its documentation has no **Re-run:**": "**Re-run:**" in (dag.doc_md or ""),
        "its documentation has no **Triage:**": "**Triage:**" in (dag.doc_md or ""),
        "it has no dagrun_timeout": dag.dagrun_timeout is not None,
        "a task has no execution_timeout": all(task.execution_timeout is not None for task in dag.tasks),
        "it runs for the past: catchup": dag.catchup is False,
    }
    return [line for line, holds in policies.items() if not holds]


def test_every_dag_follows_the_policies(dags: dict[str, Any]) -> None:
    assert {dag_id: broken for dag_id, dag in dags.items() if (broken := broken_policies(dag))} == {}


def test_a_dag_that_breaks_every_policy_is_noticed() -> None:
    from airflow.sdk import DAG
    from airflow.sdk.bases.operator import BaseOperator

    with DAG("careless", schedule=None, catchup=True) as dag:
        BaseOperator(task_id="task", execution_timeout=None)
    assert len(broken_policies(dag)) == 5


def test_the_example_of_a_dag_in_the_documentation_follows_the_policies(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "add-a-dag.md").read_text()
    [example] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "freshness.py").write_text(example)
    bag = DagBag(dag_folder=str(tmp_path))
    assert bag.import_errors == {}
    assert {dag_id: broken_policies(dag) for dag_id, dag in bag.dags.items()} == {"freshness": []}


@pytest.mark.parametrize("cadence", CADENCES)
def test_the_schedule_has_data_intervals_in_utc(dags: dict[str, Any], cadence: str) -> None:
    timetable = dags[f"events_pipeline_{cadence}"].timetable
    assert type(timetable).__name__ == "CronDataIntervalTimetable"
    assert timetable.summary == CADENCES[cadence]
    assert str(timetable._timezone) == "UTC"


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
@pytest.mark.parametrize("image", ["", "dbt:1"])
def test_a_backfill_of_years_ends_well(dag_id: str, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_IMAGE", image)
    dag = load_dags()[dag_id]
    assert dag.catchup is False
    assert dag.start_date == datetime(1970, 1, 1, tzinfo=UTC)  # a backfill's earliest day
    assert dag.dagrun_timeout == timedelta(hours=3)
    assert dag.max_active_runs == 16  # Airflow's default; a backfill leaves its build to a run that is queued
    for task in dag.tasks:
        assert (task.max_active_tis_per_dag, task.retries, task.depends_on_past) == (2, 3, False)
        assert task.execution_timeout == timedelta(hours=1)
        assert type(task.retry_policy) is RetryPolicy


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_the_tasks_are_a_chain(dags: dict[str, Any], dag_id: str) -> None:
    downstream = {task.task_id: task.downstream_task_ids for task in dags[dag_id].tasks}
    assert downstream == {"create_tables": {"load_events"}, "load_events": {"dbt_build"}, "dbt_build": set()}


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_the_tags_name_the_cadence(dags: dict[str, Any], dag_id: str) -> None:
    assert dags[dag_id].tags == {"events", dag_id.rpartition("_")[2]}


@pytest.mark.parametrize("dag_id", sorted(DAG_IDS))
def test_the_default_params_load_the_whole_file(dags: dict[str, Any], dag_id: str) -> None:
    params = dags[dag_id].params
    params.validate()
    assert params.dump() == {"start": None, "end": None, "max_rejected": 0.01, "allow_empty": False}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start", "yesterday"),
        ("start", "2020-02-01\n"),
        ("start", "2021-02-29"),
        ("end", 5),
        ("end", "2020-02-01T24:00"),
        ("max_rejected", 1.1),
        ("allow_empty", "yes"),
    ],
)
def test_an_invalid_param_is_refused(dags: dict[str, Any], name: str, value: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = dags["events_pipeline_daily"].params.get_param(name)
    with pytest.raises(ParamValidationError):
        param.resolve(value)


def test_the_pattern_of_an_instant_accepts_exactly_the_days_that_exist() -> None:
    from pipelines import INSTANT

    for year, month, day in itertools.product((0, 1, 1900, 2000, 2019, 2020, 2100), range(14), range(33)):
        text = f"{year:04}-{month:02}-{day:02}"
        try:
            Interval.parse(text, None)
        except IntervalUnreadable:
            assert not re.search(INSTANT, text), text
        else:
            assert re.search(INSTANT, text), text


@pytest.mark.parametrize(
    ("value", "share"), [(None, 0.01), ("", 0.01), (" ", 0.01), ("0.5", 0.5), ("nan", None), ("1.1", None), ("x", None)]
)
def test_an_invalid_share_in_the_environment_is_reported_by_the_task(
    monkeypatch: pytest.MonkeyPatch, value: str | None, share: float | None
) -> None:
    monkeypatch.delenv("EVENTS_MAX_REJECTED", raising=False)
    if value is not None:
        monkeypatch.setenv("EVENTS_MAX_REJECTED", value)
    dag = load_dags()["events_pipeline_daily"]
    dag.params.validate()
    assert dag.params["max_rejected"] == share
    if share is None:
        asked = context("manual") | {"params": dag.params.dump()}
        monkeypatch.setattr("airflow.sdk.get_current_context", lambda: asked)
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_LOADER", "postgresql://loader@host/warehouse")
        with pytest.raises(SettingUnusable, match=r"^EVENTS_MAX_REJECTED is not a share from 0 to 1: "):
            dag.get_task("load_events").python_callable()


def context(run_type: str, **params: str | None) -> dict[str, Any]:
    """Return the context of a run with the data interval of 2020-01-01."""
    return {
        "dag_run": SimpleNamespace(
            run_type=run_type,
            dag_id="events_pipeline_daily",
            run_id="a_run",
            data_interval_start=datetime(2020, 1, 1, tzinfo=UTC),
            data_interval_end=datetime(2020, 1, 2, tzinfo=UTC),
        ),
        "params": {"start": None, "end": None} | params,
    }


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_a_scheduled_run_loads_its_data_interval(run_type: str) -> None:
    assert interval(context(run_type)) == (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    "run_type", ["scheduled", "manual", "operator_triggered", "asset_triggered", "asset_materialization"]
)
@pytest.mark.parametrize("moment", [None, datetime(2020, 1, 2, tzinfo=UTC)])
def test_a_run_without_a_data_interval_loads_that_of_its_params(run_type: str, moment: datetime | None) -> None:
    run = context(run_type)
    run["dag_run"].data_interval_start = run["dag_run"].data_interval_end = moment
    assert interval(run) == (None, None)
    run["params"]["start"] = "2020-02-01T00:00:00Z"
    assert interval(run) == (datetime(2020, 2, 1, tzinfo=UTC), None)


def test_a_manual_run_loads_the_interval_of_its_params() -> None:
    assert interval(context("manual")) == (None, None)
    assert interval(context("manual", start="2020-02-01T00:00:00Z")) == (datetime(2020, 2, 1, tzinfo=UTC), None)
    both = context("manual", start="2020-02-01T00:00:00+00:00", end="2020-03-01T01:00:00+01:00")
    start, end = interval(both)
    assert (start, end) == (datetime(2020, 2, 1, tzinfo=UTC), datetime(2020, 3, 1, tzinfo=UTC))


def test_the_tasks_load_the_interval_and_params_of_the_run_and_return_the_result(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    result = LoadResult(7, read=5, loaded=2, rejected=2, outside=1, replaced=0, reasons={"field_count": 2}, seconds=0.5)

    def load(*arguments: Any, **options: Any) -> LoadResult:
        calls.append((*arguments, options))
        return result

    dsn = "postgresql://loader:secret@host:5432/warehouse"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_LOADER", dsn)
    monkeypatch.setenv("EVENTS_URI", "events.csv")
    monkeypatch.setenv("EVENTS_NOT_BEFORE", "2015-01-01")
    monkeypatch.setenv("EVENTS_BEFORE", "")
    monkeypatch.setattr("feeds.tables.create_tables", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("feeds.tables.create_others", lambda dsn, feeds: calls.append((dsn, *feeds)))
    monkeypatch.setattr("feeds.load.load", load)
    asked = context("manual", end="2020-01-02T11:00:00Z")
    asked["params"] |= {"max_rejected": 0.5, "allow_empty": True}
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: asked)
    dag = dags["events_pipeline_daily"]
    assert dag.get_task("create_tables").python_callable() is None
    returned = dag.get_task("load_events").python_callable()
    assert json.loads(json.dumps(returned)) == returned == result.as_dict()
    options = {
        "source_uri": "events.csv",
        "start": None,
        "end": datetime(2020, 1, 2, 11, tzinfo=UTC),
        "valid": Interval(datetime(2015, 1, 1, tzinfo=UTC), None),
        "max_rejected": 0.5,
        "allow_empty": True,
    }
    feed = read_feed(CONTRACTS / "events.yaml")
    others = [other for other in read_feeds().values() if other != feed]
    loaded = (feed, dsn, options | {"run_id": "events_pipeline_daily a_run", "parent": {}})
    assert calls == [(dsn, feed), (dsn, *others), loaded]


def test_an_impossible_day_is_explained() -> None:
    from feeds.errors import IntervalUnreadable

    with pytest.raises(IntervalUnreadable, match="'2020-02-30T00:00:00Z' is not a time"):
        interval(context("manual", start="2020-02-30T00:00:00Z"))


def test_parsing_imports_little_beyond_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of parsing, in modules since seconds differ by machine: no driver, no cluster client, no notifier."""
    program = (
        "import sys; import airflow.sdk, airflow.timetables.interval, pendulum; before = set(sys.modules);"
        " sys.path.insert(0, sys.argv[1]); import pipelines; print(*sorted(set(sys.modules) - before))"
    )
    monkeypatch.setenv("AIRFLOW_CONN_NOTIFICATIONS", "x")  # without, it imports no more
    argv = [sys.executable, "-c", program, str(DAGS)]
    modules = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    assert "feeds.dbt_task" in modules
    heavy = {
        "psycopg",
        "psycopg2",
        "fsspec",
        "aiohttp",
        "pandas",
        "numpy",
        "dbt",
        "kubernetes",
        "feeds.load",
        "apprise",
        "asgiref",
    }
    assert heavy.isdisjoint(modules)


def test_on_a_cluster_dbt_runs_in_a_pod_of_the_same_dag(dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_IMAGE", "dbt:1")
    on_cluster = load_dags()
    assert set(on_cluster) == set(dags)
    for dag_id in DAG_IDS:
        dag = on_cluster[dag_id]
        assert {t.task_id for t in dag.tasks} == {t.task_id for t in dags[dag_id].tasks}
        pod = dag.get_task("dbt_build")
        assert type(pod).__name__ == "DbtPodOperator"
        assert pod.image == "dbt:1"
        assert pod.arguments == dbt_arguments(dags[dag_id])
        assert pod.env_from[0].secret_ref.name == "warehouse-transformer"
        assert {variable.name: variable.value for variable in pod.env_vars} == {  # nothing secret
            "POD_NAME": None,
            "DBT_FAILURES_PATH": "/var/log/dbt/$(POD_NAME)",
            "AIRFLOW_CTX_DAG_ID": "{{ dag.dag_id }}",
            "AIRFLOW_CTX_DAG_RUN_ID": "{{ run_id }}",
        }
        assert pod.on_finish_action.value == "delete_succeeded_pod"
        assert (pod.get_logs, pod.do_xcom_push, pod.deferrable, pod.random_name_suffix) == (True, False, False, True)
        assert (pod.startup_timeout_seconds, pod.active_deadline_seconds) == (300, 3600)


def test_dbts_process_gets_only_its_own_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from feeds.dbt_task import run_process

    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_LOADER", "secret")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "a run")
    monkeypatch.setenv("WAREHOUSE_HOST", "here")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGPASSWORD", "secret")
    caplog.set_level("INFO")
    program = (
        "import os; print('host', os.environ['WAREHOUSE_HOST']);"
        " print(sorted(n for n in os.environ if n.startswith(('AIRFLOW', 'PG'))))"
    )
    run_process([sys.executable, "-c", program])
    assert [record.getMessage() for record in caplog.records if record.name == "feeds.dbt_task"] == [
        "host here",
        "['AIRFLOW_CTX_DAG_RUN_ID', 'PGSSLMODE']",
    ]


def test_dbts_failure_fails_the_task(caplog: pytest.LogCaptureFixture) -> None:
    from feeds.dbt_task import run_process

    caplog.set_level("INFO")
    with pytest.raises(RuntimeError, match="dbt ended with exit code 7 in its process"):
        run_process([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(7)"])
    assert "why" in caplog.text


def test_dbt_is_terminated_when_its_task_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from feeds import dbt_task

    started: list[subprocess.Popen[str]] = []

    class Popen(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("subprocess.Popen", Popen)
    monkeypatch.setattr(dbt_task.log, "info", ended)
    with pytest.raises(KeyboardInterrupt):
        dbt_task.run_process([sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"])
    assert started[0].returncode == -15
