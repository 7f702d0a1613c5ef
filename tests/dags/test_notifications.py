"""Who is told of failed and late runs: what DAGs have attached, and what a message says, and to whom it goes."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseNotifier
from airflow.sdk.definitions.callback import AsyncCallback, SyncCallback
from airflow.sdk.definitions.deadline import DeadlineReference
from airflow.sdk.exceptions import AirflowTaskTimeout

from feeds import errors, notifications
from feeds.dbt_task import DbtEndedError, DbtFailedError
from feeds.notifications import Notifier, failed, late, leave_reason
from tests.servers import Handler, serving

DAGS = Path(__file__).parents[2] / "airflow" / "dags"
SECRET = "s3cr3t-t0ken"  # noqa: S105 - of no server
RUN = {"dag_id": "orders_pipeline_daily", "dag_run_id": "manual__2026-01-02T03:04:05+00:00", "state": "running"}
LATE = {
    "dag_run": {**RUN, "run_type": "manual"},
    "deadline": {"id": "1", "deadline_time": "2026-01-02T05:04:05.678901+00:00"},
}
LINK = "https://airflow.example.com/x/dags/orders_pipeline_daily/runs/manual__2026-01-02T03%3A04%3A05%2B00%3A00"


@pytest.fixture(autouse=True)
def base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFIER", "NOTIFIER_OPTIONS", "AIRFLOW_CONN_NOTIFICATIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/x/")


def load_dags() -> dict[str, Any]:
    bag = DagBag(dag_folder=str(DAGS))
    assert bag.import_errors == {}
    return {dag_id: dag for dag_id, dag in bag.dags.items() if Path(dag.fileloc).name == "pipelines.py"}


@pytest.fixture
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with the contract of `orders`, and one that is invalid."""
    contract = (DAGS.parent / "feeds" / "events.yaml").read_text().replace("events", "orders")
    contract += "slaProperties: [{property: retention, value: 1, unit: y}, {property: latency, value: 1.5, unit: d}]\n"
    (tmp_path / "orders.yaml").write_text(contract)
    (tmp_path / "broken.yaml").write_text("name: [")
    monkeypatch.setattr("feeds.contract.CONTRACTS", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("contracts")
def test_without_a_notifier_dags_have_no_callback() -> None:
    dags = load_dags()
    assert len(dags) == 6
    for dag in dags.values():
        assert (dag.on_failure_callback, dag.has_on_failure_callback, dag.deadline) == (None, False, None)
        assert {tuple(task.on_failure_callback) for task in dag.tasks} == {()}


@pytest.mark.usefixtures("contracts")
@pytest.mark.parametrize("variable", ["NOTIFIER", "AIRFLOW_CONN_NOTIFICATIONS"])
@pytest.mark.parametrize(
    ("executor", "kind"),
    [("LocalExecutor", SyncCallback), ("KubernetesExecutor", AsyncCallback), ("CeleryExecutor", SyncCallback)],
)
def test_with_a_notifier_each_dag_tells_of_failed_runs_and_the_pipelines_of_late_ones(
    monkeypatch: pytest.MonkeyPatch, variable: str, executor: str, kind: type
) -> None:
    monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    monkeypatch.setenv("DBT_IMAGE", "dbt:1" * (executor == "KubernetesExecutor"))
    dags = load_dags()
    assert set(dags) == {
        f"{feed}_pipeline_{c}" for feed in ("orders", "broken") for c in ("daily", "weekly", "monthly")
    }
    for dag_id, dag in dags.items():
        assert (type(dag.on_failure_callback), dag.has_on_failure_callback) == (Notifier, True)
        assert {tuple(task.on_failure_callback) for task in dag.tasks} == {(leave_reason,)}
        if dag_id.startswith("broken"):
            assert dag.deadline is None
            continue
        assert {(task.retries, task.execution_timeout) for task in dag.tasks} == {(3, timedelta(hours=1))}
        [deadline] = dag.deadline
        assert deadline.reference is DeadlineReference.DAGRUN_QUEUED_AT
        assert deadline.interval == timedelta(days=1, hours=12)
        assert deadline.callback == kind(Notifier)
        assert deadline.callback.path == "feeds.notifications.Notifier"


def test_the_executor_of_a_cluster_runs_no_callbacks_so_that_a_triggerer_is_needed() -> None:
    from airflow.executors.local_executor import LocalExecutor
    from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor

    assert (LocalExecutor.supports_callbacks, KubernetesExecutor.supports_callbacks) == (True, False)


def test_a_run_is_late_after_two_hours_unless_the_contract_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFIER", "x")
    [deadline] = load_dags()["events_pipeline_daily"].deadline
    assert deadline.interval == timedelta(hours=2)


# --- what a message says --------------------------------------------------------------------------------------------


class Task:
    """A task instance with the XComs that were pushed."""

    def __init__(self, task_id: str = "load_orders") -> None:
        self.task_id, self.pushed = task_id, {}  # type: ignore[var-annotated]

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: None) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, None)
        return self.pushed.get(key, [])


def failure(
    reason: str = "task_failure", exception: BaseException | None = None, **context: Any
) -> tuple[str, list[str]]:
    """Return title and lines of the message about a run that failed for REASON, after a task with EXCEPTION."""
    ti = Task()
    leave_reason({"ti": ti} | ({"exception": exception} if exception else {}))
    dag = SimpleNamespace(dag_id=RUN["dag_id"], dagrun_timeout=timedelta(hours=3))
    message = failed({"dag": dag, "run_id": RUN["dag_run_id"], "reason": reason, "ti": ti} | context)
    return message.title, message.text.splitlines()


@pytest.mark.parametrize("kind", errors.FeedError.__subclasses__())
def test_a_foreseen_error_is_told_in_its_three_lines(kind: type[errors.FeedError]) -> None:
    title, lines = failure(exception=kind("what {{ 7 * 6 }}", "why", "next\nstep"))
    assert title == "orders_pipeline_daily failed in load_orders"
    assert lines == ["what {{ 7 * 6 }}", "why", "Next: next step", f"Run: {RUN['dag_run_id']}", LINK]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (
            DbtFailedError("dbt ended with exit code 1 in the pod p; see the lines above"),
            [
                "dbt ended with exit code 1 in the pod p.",
                "A model or a test failed, or dbt could not run.",
                "Next: Read the end of the log of load_orders; correct what it names, and clear the task.",
            ],
        ),
        (
            DbtEndedError("dbt ended by SIGKILL in the pod p (OOMKilled); see the lines above"),
            [
                "dbt ended by SIGKILL in the pod p (OOMKilled).",
                "It had too little memory, was stopped, or the warehouse was not available.",
                "Next: Read the end of the log of load_orders, and clear the task to run it again.",
            ],
        ),
        (
            AirflowTaskTimeout("Timeout, PID: 7"),
            [
                "It took longer than a task may, and was stopped.",
                "It waited for a lock or a file, or had more to do than before.",
                "Next: Read the log of load_orders, and clear the task to run it again.",
            ],
        ),
        (
            OSError(f"https://hooks.example.com/{SECRET}"),
            [
                "It ended with OSError, which this project does not foresee.",
                "Its log says more.",
                "Next: Read the log of load_orders, and clear the task to run it again.",
            ],
        ),
        (
            None,
            [
                "Its process or pod ended without an error of its own.",
                "It was most likely killed: it had too little memory, or its node has gone.",
                "Next: Read the log of load_orders, and clear the task to run it again.",
            ],
        ),
    ],
)
def test_other_errors_are_told_without_their_texts(error: BaseException | None, lines: list[str]) -> None:
    assert failure(exception=error) == (
        "orders_pipeline_daily failed in load_orders",
        [*lines, f"Run: {RUN['dag_run_id']}", LINK],
    )


def test_runs_that_fail_without_a_failed_task() -> None:
    title, (what, why, next_step, *_) = failure("timed_out")
    assert title == "orders_pipeline_daily failed in load_orders"
    assert what == "It was stopped because it was not done 3 hours after its start."
    assert why == "load_orders waited for a lock or a file, or had more to do than before."
    assert next_step == "Next: Read the log of load_orders; then clear the tasks that were skipped."
    assert failure("all_tasks_deadlocked")[1][0] == "None of its tasks can run any more."
    title, (_, _, next_step, *_) = failure(ti=None)
    assert title == "orders_pipeline_daily failed"
    assert next_step == "Next: Read the log of its last task, and clear the task to run it again."


def test_without_an_address_of_the_ui_there_is_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__API__BASE_URL")
    assert failure()[1][-1] == f"Run: {RUN['dag_run_id']}"


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_late_run(state: str) -> None:
    message = late({**LATE, "dag_run": {**LATE["dag_run"], "state": state}})
    assert message
    assert message.title == "orders_pipeline_daily is late"
    assert message.text.splitlines() == [
        f"It was to be done by 2026-01-02 05:04 UTC, and is still {state}.",
        "A load or a build waits for a lock, a missing file or a free worker, or has more to do than before.",
        "Next: Look at its tasks; a load logs what it waits for.",
        f"Run: {RUN['dag_run_id']}",
        LINK,
    ]


@pytest.mark.parametrize("change", [{"state": "failed"}, {"state": "success"}, {"run_type": "backfill"}])
def test_what_was_told_already_or_waits_on_purpose_is_not_late(change: dict[str, str]) -> None:
    assert late({**LATE, "dag_run": {**LATE["dag_run"], **change}}) is None


# --- to whom it goes ------------------------------------------------------------------------------------------------


class Chosen(BaseNotifier):
    """A notifier that a user chose."""

    template_fields = ("text",)
    sent: list[str] = []  # noqa: RUF012

    def __init__(self, text: str, channel: str = "") -> None:
        super().__init__()
        self.text, self.channel = text, channel

    def notify(self, context: Any) -> None:  # noqa: ARG002
        if self.channel == "full":
            raise ConnectionError(f"https://hooks.example.com/{SECRET} is full")
        self.sent.append(f"{self.channel}: {self.text}")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> type[Chosen]:
    monkeypatch.setenv("NOTIFIER", f"{__name__}.Chosen")
    monkeypatch.setattr("airflow.sdk._shared.module_loading.import_string", lambda _: Chosen)
    Chosen.sent.clear()
    return Chosen


def test_another_notifier_gets_its_options_with_the_message_in_them(
    monkeypatch: pytest.MonkeyPatch, chosen: type[Chosen]
) -> None:
    monkeypatch.setenv("NOTIFIER_OPTIONS", '{"text": "*{{ title }}* {{ message[:17] }}", "channel": "#data"}')
    Notifier()(LATE)
    assert chosen.sent == ["#data: *orders_pipeline_daily is late* It was to be done"]


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ('{"text": "x", "channel": "full"}', "ConnectionError"),
        ('{"url": "https://hooks.example.com/s3cr3t-t0ken"}', "TypeError"),
        ('{"text": s3cr3t-t0ken', "NOTIFIER_OPTIONS is no JSON"),
    ],
)
def test_a_notifier_that_fails_leaves_a_line_without_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, options: str, why: str
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("NOTIFIER_OPTIONS", options)
    Notifier()(LATE)
    [line] = caplog.messages
    assert line == f"A notification could not be sent: {why}. docs/operations.md says how to try it."


def test_a_notifier_that_is_not_there(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("NOTIFIER", "airflow.providers.nobody.Notifier")
    Notifier()(LATE)
    assert [line.partition(". ")[0] for line in caplog.messages] == [
        "A notification could not be sent: NOTIFIER names nothing that can be imported"
    ]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Give what Apprise has sent to a server, whose address the connection has, beside one where nothing is."""
    received: list[dict[str, Any]] = []

    class Receiver(Handler):
        def respond(self) -> None:
            received.append(json.loads(self.posted()))
            self.answer(200)

    with serving(Receiver) as address:
        monkeypatch.setenv("no_proxy", "*")
        for name, place in (("LIVE", address), ("DEAD", "127.0.0.1:1")):
            monkeypatch.setenv(name, f"json://{SECRET}:{SECRET}@{place}/{SECRET}")
        yield received


def connect(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    config = [{"path": address} for address in addresses]
    monkeypatch.setenv("AIRFLOW_CONN_NOTIFICATIONS", json.dumps({"conn_type": "apprise", "extra": {"config": config}}))


def test_apprise_sends_it_and_an_address_that_is_dead_is_logged_without_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: list[dict[str, Any]]
) -> None:
    caplog.set_level("DEBUG")
    for name in notifications.LOGGERS:  # pytest listens also to loggers that others do not hear
        logging.getLogger(name).removeHandler(caplog.handler)
    connect(monkeypatch, os.environ["LIVE"])
    Notifier()(LATE)
    message = late(LATE)
    assert message
    assert [(each["title"], each["message"], each["type"]) for each in server] == [
        (message.title, message.text, "failure")
    ]
    assert caplog.messages[-1] == "notification sent: orders_pipeline_daily is late"
    for addresses in ([os.environ["DEAD"]], [f"nobody://{SECRET}@host"], [os.environ["DEAD"], os.environ["LIVE"]]):
        connect(monkeypatch, *addresses)
        Notifier()(LATE)
        assert caplog.messages[-1].startswith("A notification was not taken by every address. ")
    assert len(server) == 2
    assert SECRET not in caplog.text


def test_a_user_can_try_it(monkeypatch: pytest.MonkeyPatch, server: list[dict[str, Any]]) -> None:
    connect(monkeypatch, os.environ["LIVE"])
    argv = [sys.executable, "-m", "feeds.notifications"]
    tried = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert "notification sent: A test of the notifications" in tried.stdout + tried.stderr
    assert SECRET not in tried.stdout + tried.stderr
    assert [each["title"] for each in server] == ["A test of the notifications"]


@pytest.mark.parametrize(
    ("options", "why"), [("{", "NOTIFIER_OPTIONS is no JSON"), ('{"url": "s3cr3t-t0ken"}', "TypeError")]
)
def test_a_user_who_tries_wrong_settings_gets_three_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str, why: str
) -> None:
    monkeypatch.setenv("NOTIFIER_OPTIONS", options)
    assert notifications.main() == 1
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines), lines[0]) == (3, f"✗ The notification could not be sent: {why}.")


def test_a_user_who_tries_a_dead_address_gets_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, server: list[dict[str, Any]]
) -> None:
    connect(monkeypatch, os.environ["DEAD"])
    assert notifications.main() == 1
    assert server == []


def test_a_triggerer_sends_it_too(monkeypatch: pytest.MonkeyPatch, server: list[dict[str, Any]]) -> None:
    from airflow.triggers.callback import CallbackTrigger

    connect(monkeypatch, os.environ["LIVE"])
    trigger = CallbackTrigger(AsyncCallback(Notifier).path, {"context": LATE})

    async def states() -> list[Any]:
        return [event.payload["state"] async for event in trigger.run()]

    assert asyncio.run(states()) == ["running", "success"]
    assert [each["title"] for each in server] == ["orders_pipeline_daily is late"]


def test_an_executor_sends_it_too(monkeypatch: pytest.MonkeyPatch, server: list[dict[str, Any]]) -> None:
    import structlog
    from airflow.sdk.execution_time.callback_supervisor import execute_callback

    connect(monkeypatch, os.environ["LIVE"])
    done = execute_callback(SyncCallback(Notifier).path, {"context": LATE}, Path(), None, structlog.get_logger())
    assert done == (True, None)
    assert [each["title"] for each in server] == ["orders_pipeline_daily is late"]
