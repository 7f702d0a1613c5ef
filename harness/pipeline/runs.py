"""Run the project's DAGs on a deployment, and follow their tasks."""

import time
from collections.abc import Mapping

from events.interval import Interval
from harness.errors import DagRunFailedError
from harness.pipeline.airflow_api import AirflowApi
from harness.reporting.console import Phases, group, say

DAG_IDS = ("events_pipeline_daily", "events_pipeline_weekly", "events_pipeline_monthly")
PARSED_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 1800.0  # of one DAG run, on a file of any size


def check_imports(api: AirflowApi) -> None:
    """Raise DagRunFailedError if a DAG file cannot be imported."""
    if errors := api.import_errors():
        raise DagRunFailedError(
            f"A DAG file cannot be imported: {errors[0]}",
            "The file, or a module that it imports, is broken.",
            "See the whole error: nox -s dags",
        )


def wait_until_parsed(api: AirflowApi) -> None:
    """Wait until Airflow has parsed exactly the project's DAGs; raise DagRunFailedError if it does not."""
    deadline = time.monotonic() + PARSED_TIMEOUT_S
    while (found := api.dag_ids()) != set(DAG_IDS) or api.import_errors():
        check_imports(api)
        if time.monotonic() > deadline:
            raise DagRunFailedError(
                f"The DAGs are {', '.join(sorted(found)) or 'none'} and should be {', '.join(DAG_IDS)}.",
                "A DAG was renamed or added, or the DAG processor does not see the folder.",
                "Compare the DAGs with what the tests expect: nox -s dags",
            )
        time.sleep(0.5)


def wait_until_parsed_again(api: AirflowApi, parsed_at: Mapping[str, str]) -> None:
    """Wait until each DAG was parsed later than PARSED_AT, by its id, or is gone; may raise DagRunFailedError."""
    deadline = time.monotonic() + PARSED_TIMEOUT_S
    while any(parsed_at.get(dag_id) == time_ for dag_id, time_ in api.parsed_at().items()):
        check_imports(api)
        if time.monotonic() > deadline:
            raise DagRunFailedError(
                f"The DAGs were not parsed again within {PARSED_TIMEOUT_S:.0f} s.",
                "The DAG processor does not run, or is busy.",
                "Read its log: nox -s cluster -- logs dag-processor",
            )
        time.sleep(0.2)
    check_imports(api)


def run_ids(api: AirflowApi) -> set[str]:
    """Return the ids of the runs of all DAGs."""
    return {run_id for dag_id in DAG_IDS for run_id in api.runs(dag_id)}


def run_dag(
    api: AirflowApi, dag_id: str, interval: Interval, phases: Phases, phase_name: str, *, replaces_scheduled: bool
) -> str:
    """Run a DAG on INTERVAL and unpause it, print each task's states; return the run's id, or raise DagRunFailedError.

    Unpausing schedules a run of the last interval beside it, unless this run REPLACES_SCHEDULED.
    """
    bounds = {"start": interval.start, "end": interval.end}
    conf = {name: bound.isoformat() for name, bound in bounds.items() if bound}
    with group(dag_id), phases.phase(phase_name) as phase:
        phase.text = f"{phase_name} succeeded"
        started = time.monotonic()

        def changed(task_id: str, state: str) -> None:
            say(f"  {time.monotonic() - started:5.1f} s  {task_id:<14} {state}")

        run_id = api.trigger(dag_id, conf, replaces_scheduled=replaces_scheduled)
        api.unpause(dag_id)
        api.follow(dag_id, run_id, RUN_TIMEOUT_S, changed)
    return run_id


def wait_for_scheduled_runs(api: AirflowApi, before: set[str]) -> None:
    """Wait for the runs, those BEFORE aside, that unpausing has scheduled; raise DagRunFailedError if one fails."""
    for dag_id in DAG_IDS:
        for run_id in api.runs(dag_id).keys() - before:
            api.follow(dag_id, run_id, RUN_TIMEOUT_S, lambda *_: None)
