"""Tell people that a run of a pipeline failed, or is late: one short message each, by the notifier of their choice.

| environment variable | meaning |
| --- | --- |
| `NOTIFIER` | the import path of a notifier of Airflow; by default that of Apprise |
| `NOTIFIER_OPTIONS` | its arguments, as JSON; Airflow renders `{{ title }}` and `{{ message }}` in its templates |
| `AIRFLOW_CONN_NOTIFICATIONS` | Airflow's connection `notifications`, which Apprise takes its addresses from |

Without the first and the last, DAGs have no callbacks and nothing is sent.

A failed run is told by the DAG's callback, so once, and also if it timed out or its worker was killed. Airflow calls
that in the DAG processor, which does not know the exception: the task leaves what to say about it as an XCom.

No failure here changes a run. Messages of a notifier's libraries often quote its address, so no log has them.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.callback import AsyncCallback, SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from feeds.contract import Feed
from feeds.dbt_task import DbtEndedError, DbtFailedError
from feeds.errors import FeedError

APPRISE = "airflow.providers.apprise.notifications.apprise.AppriseNotifier"
APPRISE_OPTIONS = {
    "apprise_conn_id": "notifications",
    "title": "{{ title }}",
    "body": "{{ message }}",
    "notify_type": "failure",
}
REASON = "failure"  # the key of the XCom
LOGGERS = ("apprise", "httpx", "urllib3")  # whose lines may have an address, with its secrets
UNFINISHED = ("queued", "running")

log = logging.getLogger(__name__)


def is_on() -> bool:
    """Return whether the environment names a notifier, or addresses for Apprise."""
    return bool(os.environ.get("NOTIFIER") or os.environ.get("AIRFLOW_CONN_NOTIFICATIONS"))


def with_notifications(arguments: Mapping[str, Any], feed: Feed | None = None) -> dict[str, Any]:
    """Return ARGUMENTS of a DAG with its callbacks; FEED says after how long a run is late, None that none is."""
    if not is_on():
        return dict(arguments)
    callbacks: dict[str, Any] = {
        "on_failure_callback": Notifier(),
        "default_args": {**arguments.get("default_args", {}), "on_failure_callback": leave_reason},
    }
    if feed:
        # The KubernetesExecutor runs no callbacks (its scheduler would end with an error); a triggerer does.
        is_async = "KubernetesExecutor" in conf.get("core", "executor")
        callbacks["deadline"] = DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=feed.latency,
            callback=AsyncCallback(Notifier) if is_async else SyncCallback(Notifier),
            name="late",
        )
    return {**arguments, **callbacks}


def leave_reason(context: Mapping[str, Any]) -> None:
    """Leave what the message says of the exception of the failed task of CONTEXT, as an XCom of it."""
    if (error := context.get("exception")) is None:  # its process has ended without one
        return
    from airflow.sdk.exceptions import AirflowTaskTimeout

    task_id = context["ti"].task_id
    if isinstance(error, FeedError):
        lines = [error.what, error.why, error.next_step]
    elif isinstance(error, DbtFailedError):
        lines = [
            f"{str(error).partition('; ')[0]}.",
            "A model or a test failed, or dbt could not run.",
            f"Read the end of the log of {task_id}; correct what it names, and clear the task.",
        ]
    elif isinstance(error, DbtEndedError):
        lines = [
            f"{str(error).partition('; ')[0]}.",
            "It had too little memory, was stopped, or the warehouse was not available.",
            f"Read the end of the log of {task_id}, and clear the task to run it again.",
        ]
    elif isinstance(error, AirflowTaskTimeout):
        lines = [
            "It took longer than a task may, and was stopped.",
            "It waited for a lock or a file, or had more to do than before.",
            f"Read the log of {task_id}, and clear the task to run it again.",
        ]
    else:  # the text of an unknown exception may have a secret
        lines = [
            f"It ended with {type(error).__name__}, which this project does not foresee.",
            "Its log says more.",
            f"Read the log of {task_id}, and clear the task to run it again.",
        ]
    context["ti"].xcom_push(REASON, lines)


@dataclass(frozen=True)
class Message:
    """What is sent, as plain text."""

    title: str
    text: str


class Notifier(BaseNotifier):
    """Sends the message about the run of its context, if there is one to send; it never fails."""

    def notify(self, context: Any) -> None:
        """Send it, or log that it could not be sent."""
        try:
            message = late(context) if "deadline" in context else failed(context)
            if message and send(message, context):
                log.info("notification sent: %s", message.title)
            elif message:
                log.warning("A notification was not taken by every address. docs/operations.md says how to try it.")
        except Exception as error:  # noqa: BLE001 - whatever the notifier of a user raises
            log.warning("A notification could not be sent: %s. docs/operations.md says how to try it.", _named(error))

    async def async_notify(self, context: Any) -> None:
        """Do the same in a triggerer, from whose thread alone Airflow's connections can be read."""
        from asgiref.sync import sync_to_async

        await sync_to_async(self.notify)(context)


def failed(context: Mapping[str, Any]) -> Message:
    """Return the message about the failed run of CONTEXT, that of a DAG's callback."""
    dag, ti, reason = context["dag"], context.get("ti"), context["reason"]
    task_id = ti.task_id if ti else "its last task"  # which the DAG has no more
    title = f"{dag.dag_id} failed" + (f" in {task_id}" if ti else "")
    if reason == "timed_out":
        hours = dag.dagrun_timeout / timedelta(hours=1)
        lines = [
            f"It was stopped because it was not done {hours:g} hours after its start.",
            f"{task_id} waited for a lock or a file, or had more to do than before.",
            f"Read the log of {task_id}; then clear the tasks that were skipped.",
        ]
    elif reason == "all_tasks_deadlocked":
        lines = [
            "None of its tasks can run any more.",
            "A task was removed from the DAG, or marked by hand.",
            "Look at its tasks, and clear those that are to run.",
        ]
    else:
        killed = [
            "Its process or pod ended without an error of its own.",
            "It was most likely killed: it had too little memory, or its node has gone.",
            f"Read the log of {task_id}, and clear the task to run it again.",
        ]
        lines = (ti and ti.xcom_pull(task_ids=task_id, key=REASON, map_indexes=None)) or killed
    return Message(title, _text(lines, dag.dag_id, context["run_id"]))


def late(context: Mapping[str, Any]) -> Message | None:
    """Return the message about the late run of CONTEXT, that of a missed deadline; None if there is nothing to tell.

    Airflow keeps the deadline of a run that failed, which was told. The runs of a backfill wait for each other.
    """
    run, due = context["dag_run"], str(context["deadline"]["deadline_time"])
    if run["state"] not in UNFINISHED or run["run_type"] == "backfill":
        return None
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    lines = [
        f"It was to be done by {due[:16].replace('T', ' ')} UTC, and is still {run['state']}.",
        "A load or a build waits for a lock, a missing file or a free worker, or has more to do than before.",
        "Look at its tasks; a load logs what it waits for.",
    ]
    return Message(f"{dag_id} is late", _text(lines, dag_id, run_id))


def send(message: Message, context: Any) -> bool:
    """Send MESSAGE by the notifier that the environment names; CONTEXT is the run's. Raises what it raises.

    Return whether every address has taken it.
    """
    from airflow.sdk._shared.module_loading import import_string

    path = os.environ.get("NOTIFIER") or APPRISE
    given = os.environ.get("NOTIFIER_OPTIONS")
    options = json.loads(given) if given else APPRISE_OPTIONS if path == APPRISE else {}
    with silent_loggers() as lines:
        notifier = import_string(path)(**options)
        notifier.render_template_fields({**context, "title": message.title, "message": message.text})
        notifier.notify(context)
    return not lines  # Apprise returns nothing if an address does not take it


@contextmanager
def silent_loggers() -> Iterator[list[int]]:
    """Keep what LOGGERS write out of the log, for good; give the levels of the warnings and errors meanwhile."""
    levels: list[int] = []

    class Levels(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            levels.append(record.levelno)

    handler = Levels(logging.WARNING)
    for name in LOGGERS:
        logging.getLogger(name).propagate = False
        logging.getLogger(name).addHandler(handler)
    try:
        yield levels
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)


def _text(lines: list[str], dag_id: str, run_id: str) -> str:
    what, why, next_step = lines
    base = (conf.get("api", "base_url", fallback=None) or "").rstrip("/")
    link = [f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id)}"] if base else []
    return "\n".join([what, why, f"Next: {next_step}", f"Run: {run_id}", *link])


def _named(error: Exception) -> str:
    """Return what may be said of ERROR: its class, and for a wrong setting which one."""
    if isinstance(error, json.JSONDecodeError):
        return "NOTIFIER_OPTIONS is no JSON"
    if isinstance(error, ImportError):
        return "NOTIFIER names nothing that can be imported"
    return type(error).__name__


def main() -> int:
    """Send a message for a user who tries the settings; return the exit code."""
    message = Message("A test of the notifications", "They arrive.")
    try:
        is_taken = send(message, {})
    except Exception as error:  # noqa: BLE001 - whatever the notifier of a user raises
        print(
            f"✗ The notification could not be sent: {_named(error)}.\n"
            "  The connection `notifications`, or an argument in NOTIFIER_OPTIONS, is missing or wrong.\n"
            "  Compare AIRFLOW_CONN_NOTIFICATIONS, NOTIFIER and NOTIFIER_OPTIONS with docs/operations.md, Being told.",
            file=sys.stderr,
        )
        return 1
    if not is_taken:
        print(
            "✗ Not every address has taken the message.\n"
            "  One is misspelt, is not reached from here, or its token is no longer valid.\n"
            "  Compare the addresses in AIRFLOW_CONN_NOTIFICATIONS with docs/operations.md, Being told.",
            file=sys.stderr,
        )
        return 1
    print(f"✓ notification sent: {message.title}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
