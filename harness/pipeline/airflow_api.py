"""Drive Airflow over its REST API: the same client for every target."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from events.errors import EventsError
from harness.errors import DagRunFailedError, ServiceFailedError
from harness.reporting.summary import code, details

REQUEST_TIMEOUT_S = 30.0
RETRY_FOR_S = 60.0  # 429 and 5xx, and connections that are refused
POLL_INTERVAL_S = 0.5
LOG_LINES = 30  # of a failed task's log, that are shown
ENTRY_LINES = 4  # of one entry: an error of ours has three
COMPONENTS = ("metadatabase", "scheduler", "dag_processor")  # that report their health, the API server apart
ERROR_MARK = "\N{CROSS MARK} "  # between a log line's text and the error that it carries

DBT_DECORATION = re.compile(
    r"^(\[base\] )?\d\d:\d\d:\d\d +(\d+ of \d+ )?| \.{3,} \[.*\]$"
)  # its pod, time, progress, dots

TaskListener = Callable[[str, str], None]


@dataclass
class AirflowApi:
    """A client of Airflow's REST API v2 that logs in by itself.

    Attributes:
        address: `http://host:port`, without a path.
        watch: called again and again while something is waited for; raises where waiting has become pointless.
    """

    address: str
    username: str
    password: str = field(repr=False)
    watch: Callable[[], None] = field(default=lambda: None, repr=False)

    def __post_init__(self) -> None:
        # Not the environment's proxies: the address is this machine's or the cluster's own.
        self._http = httpx.Client(base_url=self.address, timeout=REQUEST_TIMEOUT_S, trust_env=False)

    def healthy(self) -> dict[str, bool]:
        """Say for each component that reports whether it is healthy; empty while the API server does not answer."""
        try:
            components = self._http.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return {}
        return {name: told["status"] == "healthy" for name, told in components.items() if told["status"] is not None}

    def wait_until_healthy(self, timeout_s: float) -> str | None:
        """Wait until every component reports that it is healthy; return the one that does not in TIMEOUT_S seconds."""
        deadline = time.monotonic() + timeout_s
        while True:
            healthy = self.healthy()
            if late := next((name for name in COMPONENTS if not healthy.get(name)), None):
                self.watch()
                if time.monotonic() > deadline:
                    return late.replace("_", "-") if healthy else "api-server"
                time.sleep(0.25)
            else:
                return None

    def import_errors(self) -> list[str]:
        """Return `file: last line of the traceback` for each DAG file that could not be imported."""
        errors = self._request("GET", "/api/v2/importErrors").json()["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in errors]

    def dag_ids(self) -> set[str]:
        """Return the ids of the DAGs that are parsed."""
        return {dag["dag_id"] for dag in self._request("GET", "/api/v2/dags", params={"limit": 1000}).json()["dags"]}

    def unpause(self, dag_id: str) -> None:
        """Unpause a DAG, which also makes one scheduled run of its last interval."""
        self._request("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Trigger a run without a logical date and return its id; CONF overrides the DAG's params."""
        body = {"logical_date": None, "conf": conf}
        return str(self._request("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body).json()["dag_run_id"])

    def runs(self, dag_id: str) -> dict[str, str]:
        """Return the state of each run of a DAG, by run id, the latest 100, the latest first."""
        latest = {"limit": 100, "order_by": "-id"}
        runs = self._request("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=latest).json()["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in runs}

    def end(self, dag_id: str, run_id: str) -> None:
        """End a run as failed, and with it what it still runs."""
        self._request("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})

    def version(self) -> str:
        """Return Airflow's version, `3.3.2` say."""
        return str(self._request("GET", "/api/v2/version").json()["version"])

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of each task of a run, by task id; `none` before it is scheduled."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return {
            task["task_id"]: task["state"] or "none" for task in self._request("GET", path).json()["task_instances"]
        }

    def task_log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> list[str]:
        """Return the lines of a task's log."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        content = self._request("GET", path, params={"full_content": True}).json()["content"]
        return [log_line(entry) for entry in content]

    def returned(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned, as XCom has it."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._request("GET", path, params={"stringify": False}).json()["value"]

    def follow(self, dag_id: str, run_id: str, timeout_s: float, changed: TaskListener) -> None:
        """Wait for a run to end, calling CHANGED with task id and state each time that a task changes state.

        Raises:
            DagRunFailedError: it failed, or did not end in TIMEOUT_S seconds.
        """
        deadline = time.monotonic() + timeout_s
        seen: dict[str, str] = {}
        while True:
            state = self.runs(dag_id).get(run_id, "gone")  # before the tasks: when it has ended they have, too
            states = self.task_states(dag_id, run_id)
            for task_id, task_state in states.items():
                if task_state != "none" and seen.get(task_id) != task_state:
                    changed(task_id, task_state)
            seen = states
            if state == "success":
                return
            if state in ("failed", "gone"):
                raise self._failed(dag_id, run_id, states)
            self.watch()
            if time.monotonic() > deadline:
                raise DagRunFailedError(
                    f"{dag_id} did not end within {timeout_s:.0f} s; its tasks: {_told(states)}.",
                    "The machine is most likely too slow or the scheduler is stuck.",
                    "Look at the scheduler's log.",
                )
            time.sleep(POLL_INTERVAL_S)

    def _failed(self, dag_id: str, run_id: str, states: dict[str, str]) -> DagRunFailedError:
        failed = [task_id for task_id, state in states.items() if state == "failed"]
        if not failed:
            return DagRunFailedError(
                f"{dag_id} failed, and none of its tasks did: {_told(states)}.",
                "Somebody, or the run's own time limit, ended it.",
                "Look at the scheduler's log.",
            )
        log = self.task_log(dag_id, run_id, failed[0])
        explanation = explain(log)
        error = DagRunFailedError(
            f"{dag_id} failed in {failed[0]}: {explanation.what}",
            explanation.why,
            explanation.next_step,
            [details(f"The end of {failed[0]}'s log in {dag_id}", code(without_dumps(log), last=LOG_LINES))],
        )
        error.exit_code = explanation.exit_code
        error.task_id = failed[0]
        return error

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request; log in when that is asked for, try again where the server is busy, raise on anything else."""
        deadline = time.monotonic() + RETRY_FOR_S
        pause_s, logged_in = 0.25, False
        while True:
            try:
                response = self._http.request(method, path, **options)
                if response.status_code in (401, 403) and not logged_in:
                    self._log_in()
                    logged_in = True
                    continue
                if response.status_code != 429 and response.status_code < 500:
                    return response.raise_for_status()
                told = f"{response.status_code} {response.reason_phrase}"
            except httpx.HTTPStatusError as error:
                raise ServiceFailedError(
                    f"Airflow's API refused {method} {path}: {error.response.status_code} {error.response.text[:200]}",
                    "Another program most likely answers at its address, or Airflow's API has changed.",
                    "Look at the API server's log.",
                ) from error
            except httpx.TransportError as error:
                told = str(error) or type(error).__name__
            self.watch()
            if time.monotonic() > deadline:
                raise ServiceFailedError(
                    f"Airflow's API did not take {method} {path} for {RETRY_FOR_S:.0f} s: {told}.",
                    "The API server is most likely overloaded or has ended.",
                    "Look at its log.",
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 4)

    def _log_in(self) -> None:
        body = {"username": self.username, "password": self.password}
        token = self._http.post("/auth/token", json=body).raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"


class Explanation(NamedTuple):
    """What a failed task's log says: what happened, why most likely, what to do next; one line each."""

    what: str
    why: str
    next_step: str
    exit_code: int = DagRunFailedError.exit_code


def explain(log: list[str]) -> Explanation:
    """Explain a failed task by the lines of its log."""
    foreseen = {kind.__name__: kind.exit_code for kind in EventsError.__subclasses__()}
    for line in reversed(log):
        kind, _, text = line.partition(ERROR_MARK)[2].partition(": ")
        if kind in foreseen and text.count("\n") == 2:
            what, why, next_step = text.split("\n")
            return Explanation(what, why, next_step, foreseen[kind])
    from_dbt = [line for line in log if re.search(r"\b(FAIL \d+|ERROR creating|[A-Z]\w+ Error in|Failure in)\b", line)]
    told = from_dbt or [line for line in log if ERROR_MARK in line] or log or ["its log is empty"]
    return Explanation(
        DBT_DECORATION.sub("", told[0]).replace(ERROR_MARK, "")[:300],
        "A change to a model, or events that it does not expect; dbt's log has the rows or the statement."
        if from_dbt
        else "It was not foreseen.",
        "Read the task's whole log.",
    )


def without_dumps(log: list[str]) -> str:
    """Return a log as text; of an entry with many lines, the whole pod that failed say, the first few."""
    entries = [entry.splitlines()[:ENTRY_LINES] for entry in log if not entry.startswith("::")]
    return "\n".join("\n".join(lines) for lines in entries)


def log_line(entry: Any) -> str:
    """Return an entry of a task's log as text, with the error that it carries, not that error's causes."""
    if not isinstance(entry, dict):
        return str(entry)
    text, errors = str(entry.get("event", "")), entry.get("error_detail") or []
    return f"{text} {ERROR_MARK}{errors[0].get('exc_type')}: {errors[0].get('exc_value')}" if errors else text


def _told(states: dict[str, str]) -> str:
    return ", ".join(f"{task_id} {state}" for task_id, state in states.items()) or "none made"
