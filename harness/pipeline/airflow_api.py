"""A client of Airflow's REST API, the same for every target."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

import httpx

from harness.errors import DagRunFailedError, ServiceFailedError
from harness.pipeline.task_failure import log_line, task_failed

REQUEST_TIMEOUT_S = 30.0
RETRY_FOR_S = 60.0  # 429 and 5xx, and connections that are refused
POLL_INTERVAL_S = 0.5
COMPONENTS = ("metadatabase", "scheduler", "dag_processor")  # they report their health; the API server answers or not

PAGE = 100  # of the runs of a backfill

Reprocess = Literal["none", "failed", "completed"]
TaskListener = Callable[[str, str], None]


class IntervalRun(NamedTuple):
    """A run of a schedule or of a backfill: its id and state, and its data interval in UTC."""

    run_id: str
    state: str
    start: datetime
    end: datetime


@dataclass
class AirflowApi:
    """A client of Airflow's REST API v2; it logs in at the first request.

    Attributes:
        address: `http://host:port`, without a path.
        watch: called repeatedly while the client waits; raises when waiting longer is pointless.
    """

    address: str
    username: str
    password: str = field(repr=False)
    watch: Callable[[], None] = field(default=lambda: None, repr=False)

    def __post_init__(self) -> None:
        # Without the environment's proxies: the address is on this machine.
        self._http = httpx.Client(base_url=self.address, timeout=REQUEST_TIMEOUT_S, trust_env=False)

    def healthy(self) -> dict[str, bool]:
        """Return whether each component is healthy, by name; empty while the API server does not answer."""
        try:
            components = self._http.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return {}
        return {name: c["status"] == "healthy" for name, c in components.items() if c["status"] is not None}

    def wait_until_healthy(self, timeout_s: float) -> str | None:
        """Wait until every component is healthy; return one that is not after TIMEOUT_S seconds, or None."""
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

    def import_errors(self, earlier: Mapping[str, str] | None = None) -> list[str]:
        """Return `file: last line of the traceback` for each DAG file that could not be imported.

        EARLIER, as `parsed_at` returns it, leaves out the errors of files that were not parsed since.
        """
        return [
            f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}"
            for error in self._import_errors()
            if (earlier or {}).get(error["filename"]) != error["timestamp"]
        ]

    def _import_errors(self) -> list[dict[str, Any]]:
        errors: list[dict[str, Any]] = self._request("GET", "/api/v2/importErrors").json()["import_errors"]
        return errors

    def dags(self) -> list[dict[str, Any]]:
        """Return the DAGs that are parsed, by id."""
        dags: list[dict[str, Any]] = []
        while True:
            page = self._request("GET", "/api/v2/dags", params={"order_by": "dag_id", "offset": len(dags)}).json()
            dags += page["dags"]
            if len(dags) >= page["total_entries"] or not page["dags"]:
                return dags

    def dag_ids(self) -> set[str]:
        """Return the ids of the DAGs that are parsed."""
        return {dag["dag_id"] for dag in self.dags()}

    def parsed_at(self) -> dict[str, str]:
        """Return when each DAG, by its id, and each file with an import error, by its name, was last parsed."""
        failed = {error["filename"]: error["timestamp"] for error in self._import_errors()}
        return failed | {dag["dag_id"]: dag["last_parsed_time"] for dag in self.dags()}

    def task_ids(self, dag_id: str) -> set[str]:
        """Return the ids of a DAG's tasks."""
        return {task["task_id"] for task in self._request("GET", f"/api/v2/dags/{dag_id}/tasks").json()["tasks"]}

    def unpause(self, dag_id: str) -> None:
        """Unpause a DAG; its last interval then gets a scheduled run."""
        self._request("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def trigger(
        self,
        dag_id: str,
        conf: dict[str, Any],
        *,
        logical_date: datetime | None = None,
        replaces_scheduled: bool = False,
    ) -> str:
        """Trigger a run, by default without a logical date, and return its id; CONF overrides the DAG's params.

        With REPLACES_SCHEDULED the run has the logical date of the scheduled run that is due, if one is, so that the
        scheduler creates none.
        """
        body = {"logical_date": logical_date and logical_date.isoformat(), "conf": conf}
        if replaces_scheduled:
            dag = self._request("GET", f"/api/v2/dags/{dag_id}").json()
            due = dag["next_dagrun_run_after"]
            if due and datetime.fromisoformat(due) <= datetime.now(UTC):
                names = ("logical_date", "data_interval_start", "data_interval_end")
                body |= {name: dag[f"next_dagrun_{name}"] for name in names}
        return str(self._request("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body).json()["dag_run_id"])

    def backfill(
        self,
        dag_id: str,
        start: datetime,
        end: datetime,
        max_active_runs: int,
        *,
        reprocess: Reprocess = "none",
        run_backwards: bool = False,
    ) -> int:
        """Start a backfill of a DAG that is not paused, and return its id.

        It has a run for each data interval that begins in [START, END) and has passed; where such a run has ended,
        REPROCESS says whether it runs again: never, if it failed, or always.
        """
        body = {
            "dag_id": dag_id,
            "from_date": start.isoformat(),
            "to_date": (end - timedelta(microseconds=1)).isoformat(),  # Airflow's is the last logical date
            "max_active_runs": max_active_runs,
            "reprocess_behavior": reprocess,
            "run_backwards": run_backwards,
        }
        return int(self._request("POST", "/api/v2/backfills", json=body).json()["id"])

    def backfill_runs(self, backfill_id: int) -> list[IntervalRun]:
        """Return the runs of a backfill by their data intervals.

        Airflow's API does not say which backfill made a run: these are all runs by a backfill of the same intervals.
        """
        backfill = self._request("GET", f"/api/v2/backfills/{backfill_id}").json()
        dates = {"logical_date_gte": backfill["from_date"], "logical_date_lte": backfill["to_date"]}
        return self.runs_of_type(backfill["dag_id"], "backfill", **dates)

    def runs_of_type(self, dag_id: str, run_type: str, **query: str) -> list[IntervalRun]:
        """Return the runs of RUN_TYPE of a DAG, which have data intervals, by these; QUERY chooses among them."""
        runs: list[IntervalRun] = []
        while True:
            params = {"run_type": run_type, "order_by": "logical_date", "limit": PAGE, "offset": len(runs), **query}
            page = self._request("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=params).json()
            for run in page["dag_runs"]:
                bounds = (datetime.fromisoformat(run[f"data_interval_{bound}"]) for bound in ("start", "end"))
                runs.append(IntervalRun(run["dag_run_id"], run["state"], *bounds))
            if len(runs) >= page["total_entries"] or not page["dag_runs"]:
                return runs

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear a run that has ended, so that all of its tasks run again."""
        self._request("POST", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/clear", json={"dry_run": False})

    def follow_backfill(self, backfill_id: int, timeout_s: float) -> list[IntervalRun]:
        """Wait until a backfill has ended, and return its runs; raise DagRunFailedError if one failed or it did not."""
        deadline = time.monotonic() + timeout_s
        while (backfill := self._request("GET", f"/api/v2/backfills/{backfill_id}").json())["completed_at"] is None:
            self.watch()
            if time.monotonic() > deadline:
                states = Counter(run.state for run in self.backfill_runs(backfill_id))
                listed = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
                raise DagRunFailedError(
                    f"The backfill of {backfill['dag_id']} did not end within {timeout_s:.0f} s; its runs: {listed}.",
                    "The DAG or the backfill is paused, the machine is too slow, or the scheduler is stuck.",
                    "Look at the scheduler's log.",
                )
            time.sleep(POLL_INTERVAL_S)
        runs = self.backfill_runs(backfill_id)
        for run in runs:
            if run.state == "failed":
                states_of_tasks = self.task_states(backfill["dag_id"], run.run_id)
                raise self._run_failed(backfill["dag_id"], run.run_id, states_of_tasks)
        return runs

    def runs(self, dag_id: str) -> dict[str, str]:
        """Return the states of a DAG's latest 100 runs by run id, the latest first."""
        latest = {"limit": 100, "order_by": "-id"}
        runs = self._request("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=latest).json()["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in runs}

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self._request("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").json()["state"])

    def fail(self, dag_id: str, run_id: str) -> None:
        """Mark a run as failed, which ends its running tasks."""
        self._request("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})

    def version(self) -> str:
        """Return Airflow's version, `3.3.2` for example."""
        return str(self._request("GET", "/api/v2/version").json()["version"])

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of each task of a run, by task id; `none` before it is scheduled."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        tasks = self._request("GET", path).json()["task_instances"]
        return {task["task_id"]: task["state"] or "none" for task in tasks}

    def task_instances(self) -> list[dict[str, Any]]:
        """Return the latest tries of the tasks of all runs by their start, with their times as datetimes or None."""
        path, tasks = "/api/v2/dags/~/dagRuns/~/taskInstances", list[dict[str, Any]]()
        while True:
            page = self._request("GET", path, params={"limit": PAGE, "offset": len(tasks), "order_by": "id"}).json()
            tasks += page["task_instances"]
            if len(tasks) >= page["total_entries"] or not page["task_instances"]:
                break
        for task in tasks:
            for name in ("queued_when", "start_date", "end_date"):
                task[name] = task[name] and datetime.fromisoformat(task[name])
        last = datetime.max.replace(tzinfo=UTC)
        return sorted(tasks, key=lambda task: task["start_date"] or task["queued_when"] or last)

    def task_log(self, dag_id: str, run_id: str, task_id: str) -> list[str]:
        """Return the lines of the log of a task's latest try."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        latest = max(1, self._request("GET", path).json()["try_number"])
        content = self._request("GET", f"{path}/logs/{latest}", params={"full_content": True}).json()["content"]
        return [log_line(entry) for entry in content]

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return the value that a task returned, from XCom."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._request("GET", path, params={"stringify": False}).json()["value"]

    def follow(self, dag_id: str, run_id: str, timeout_s: float, changed: TaskListener) -> None:
        """Wait until a run succeeds, and call CHANGED with each new state of a task; else raise DagRunFailedError."""
        deadline = time.monotonic() + timeout_s
        seen: dict[str, str] = {}
        while True:
            state = self.state(dag_id, run_id)  # before the tasks' states: a run ends after its tasks
            states = self.task_states(dag_id, run_id)
            for task_id, task_state in states.items():
                if task_state != "none" and seen.get(task_id) != task_state:
                    changed(task_id, task_state)
            seen = states
            if state == "success":
                return
            if state == "failed":
                raise self._run_failed(dag_id, run_id, states)
            self.watch()
            if time.monotonic() > deadline:
                raise DagRunFailedError(
                    f"{dag_id} did not end within {timeout_s:.0f} s; its tasks: {_listed(states)}.",
                    "The machine is most likely too slow, or the scheduler is stuck.",
                    "Look at the scheduler's log.",
                )
            time.sleep(POLL_INTERVAL_S)

    def _run_failed(self, dag_id: str, run_id: str, states: dict[str, str]) -> DagRunFailedError:
        failed = [task_id for task_id, state in states.items() if state == "failed"]
        if not failed:
            return DagRunFailedError(
                f"{dag_id} failed, and none of its tasks did: {_listed(states)}.",
                "Somebody ended it, or it reached its own time limit.",
                "Look at the scheduler's log.",
            )
        return task_failed(dag_id, failed[0], self.task_log(dag_id, run_id, failed[0]))

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request; log in if asked to, try again while the server is busy, and then raise ServiceFailedError."""
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
                failure = f"{response.status_code} {response.reason_phrase}"
            except httpx.HTTPStatusError as error:
                raise ServiceFailedError(
                    f"Airflow's API refused {method} {path}: {error.response.status_code} {error.response.text[:200]}",
                    "Another program most likely answers at this address, or Airflow's API has changed.",
                    "Look at the API server's log.",
                ) from error
            except httpx.TransportError as error:
                failure = str(error) or type(error).__name__
            self.watch()
            if time.monotonic() > deadline:
                raise ServiceFailedError(
                    f"Airflow's API did not answer {method} {path} for {RETRY_FOR_S:.0f} s: {failure}.",
                    "The API server is most likely overloaded, or has ended.",
                    "Look at its log.",
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 4)

    def _log_in(self) -> None:
        body = {"username": self.username, "password": self.password}
        token = self._http.post("/auth/token", json=body).raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"


def _listed(states: dict[str, str]) -> str:
    return ", ".join(f"{task_id} {state}" for task_id, state in states.items()) or "none"
