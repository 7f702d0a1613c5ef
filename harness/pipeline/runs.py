"""Find the project's DAGs on a deployment, run them, and follow their tasks."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatch
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from feeds.interval import Interval
from harness.errors import DagRunFailedError
from harness.pipeline.airflow_api import AirflowApi
from harness.project.paths import ROOT
from harness.reporting.console import Phases, group, say

FOLDER = ROOT / "airflow" / "dags"
PARSED_TIMEOUT_S = 120.0
ONE_PARSE = timedelta(seconds=10)  # the DAGs of a file are stored one after the other
RUN_TIMEOUT_S = 1800.0  # of one DAG run, on a file of any size


def check_imports(api: AirflowApi, earlier: Mapping[str, str] | None = None) -> None:
    """Raise DagRunFailedError if a DAG file cannot be imported; EARLIER as in `AirflowApi.import_errors`."""
    if errors := api.import_errors(earlier):
        raise DagRunFailedError(
            f"A DAG file cannot be imported: {errors[0]}",
            "The file, or a module that it imports, is broken.",
            "See the whole error: nox -s dags",
        )


class Dags(NamedTuple):
    """The ids of the DAGs of a deployment.

    Attributes:
        pipelines: by feed, those that load it and build its models, so that the numbers after a run are known.
        others: those of which nothing is known but that they should succeed.
    """

    pipelines: Mapping[str, Sequence[str]]
    others: Sequence[str]

    @property
    def first(self) -> list[str]:
        """The first pipeline of each feed."""
        return [dag_ids[0] for dag_ids in self.pipelines.values()]

    @property
    def later(self) -> list[list[str]]:
        """The other pipelines, in batches of one of each feed; beside the last ones, each first pipeline again."""
        batches = [[dag_id for dag_id in batch if dag_id] for batch in zip_longest(*self.pipelines.values())][1:]
        return [*batches[:-1], [*(batches[-1] if batches else []), *self.first]]


def wait_until_parsed(api: AirflowApi, feeds: Iterable[str], folder: Path = FOLDER) -> Dags:
    """Wait until Airflow has parsed each file of FOLDER, and return its DAGs; raise DagRunFailedError if it does not.

    Also where one of FEEDS has no pipeline: its numbers could not be checked.
    """
    deadline = time.monotonic() + PARSED_TIMEOUT_S
    files = dag_files(folder)
    while True:
        check_imports(api)
        if parsed_files(dags := api.dags()) == files:
            break
        if time.monotonic() > deadline:
            raise not_parsed(files, parsed_files(dags))
        time.sleep(0.5)
    current = of_the_last_parse(dags)
    found = pipelines(api, current, feeds)
    if missing := [feed for feed in found if not found[feed]]:
        raise DagRunFailedError(
            f"None of the DAGs is a pipeline of {missing[0]}: {', '.join(current)}.",
            f"Such a pipeline has the tasks {', '.join(tasks_of(missing[0]))}; they were most likely renamed.",
            "Compare the DAGs with what the tests expect: nox -s dags",
        )
    known = {dag_id for dag_ids in found.values() for dag_id in dag_ids}
    return Dags(found, [dag_id for dag_id in current if dag_id not in known])


def pipelines(api: AirflowApi, dag_ids: Iterable[str], feeds: Iterable[str]) -> dict[str, list[str]]:
    """Return by feed those of DAG_IDS that load it and build its models."""
    tasks = {dag_id: api.task_ids(dag_id) for dag_id in dag_ids}
    return {feed: [dag_id for dag_id in tasks if tasks[dag_id] >= set(tasks_of(feed))] for feed in feeds}


def tasks_of(feed: str) -> tuple[str, str, str]:
    """Return the tasks of a pipeline of FEED."""
    return "create_tables", f"load_{feed}", "dbt_build"


def wait_until_parsed_again(api: AirflowApi, parsed_at: Mapping[str, str]) -> None:
    """Wait until each DAG file was parsed again, without an error; may raise DagRunFailedError.

    PARSED_AT is what `AirflowApi.parsed_at` returned before the files changed. An import error of that time may be
    corrected now; a DAG that its file no longer makes is not parsed again.
    """
    deadline = time.monotonic() + PARSED_TIMEOUT_S
    while True:
        check_imports(api, parsed_at)
        dags = api.dags()
        current = of_the_last_parse(dags)
        times = {dag["dag_id"]: dag["last_parsed_time"] for dag in dags if dag["dag_id"] in current}
        if not api.import_errors() and all(parsed_at.get(dag_id) != time_ for dag_id, time_ in times.items()):
            return
        if time.monotonic() > deadline:
            raise DagRunFailedError(
                f"The DAGs were not parsed again within {PARSED_TIMEOUT_S:.0f} s.",
                "The DAG processor does not run, or is busy.",
                "Read its log: nox -s cluster -- logs dag-processor",
            )
        time.sleep(0.2)


def dag_files(folder: Path) -> set[str]:
    """Return the files of FOLDER that Airflow takes for DAG files: they have both words, and are not to be ignored."""
    ignored = folder / ".airflowignore"
    lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.exists() else []
    patterns = [line.strip() for line in lines if not line.startswith("#")]
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if all(word in path.read_bytes().lower() for word in (b"dag", b"airflow"))
    }
    return {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)}


def parsed_files(dags: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the files of DAGS."""
    return {dag["relative_fileloc"] for dag in dags}


def of_the_last_parse(dags: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of DAGS, without those that the last parse of their file did not find: they were renamed."""
    times = [(dag["relative_fileloc"], datetime.fromisoformat(dag["last_parsed_time"])) for dag in dags]
    latest = dict(sorted(times, key=lambda item: item[1]))
    return [dag["dag_id"] for dag, (file, time_) in zip(dags, times, strict=True) if latest[file] - time_ < ONE_PARSE]


def not_parsed(files: set[str], parsed: set[str]) -> DagRunFailedError:
    """Return the error for FILES that were not PARSED in time, or for DAGs whose file is gone."""
    if missing := sorted(files - parsed):
        return DagRunFailedError(
            f"Airflow has no DAG of {', '.join(missing)} after {PARSED_TIMEOUT_S:.0f} s.",
            "The file makes no DAG, or the DAG processor does not see its folder.",
            "See what it makes: nox -s dags; a file without DAGs belongs into airflow/include or .airflowignore.",
        )
    return DagRunFailedError(
        f"Airflow still has DAGs of {', '.join(sorted(parsed - files))}, which is not in airflow/dags.",
        "The file was deleted, and the deployment was not updated.",
        "Update it: nox -s cluster -- up",
    )


def run_ids(api: AirflowApi, dag_ids: Iterable[str]) -> set[str]:
    """Return the ids of the runs of DAGs."""
    return {run_id for dag_id in dag_ids for run_id in api.runs(dag_id)}


def run_dags(
    api: AirflowApi, dag_ids: Sequence[str], interval: Interval, phases: Phases, *, beside_scheduled: bool = False
) -> dict[str, str]:
    """Unpause DAGs, run them at the same time on INTERVAL, and print each task's states; return each run's id.

    Each run takes the place of the one that unpausing would schedule, or with BESIDE_SCHEDULED runs beside that one.
    Raises DagRunFailedError.
    """
    bounds = {"start": interval.start, "end": interval.end}
    conf = {name: bound.isoformat() for name, bound in bounds.items() if bound}
    name = title(dag_ids)
    with group(name), phases.phase(name) as phase:
        phase.text = f"{name} succeeded"
        started = time.monotonic()

        def changed(task_id: str, state: str) -> None:
            say(f"  {time.monotonic() - started:5.1f} s  {task_id:<14} {state}")

        run_ids = {}
        for dag_id in dag_ids:
            run_ids[dag_id] = api.trigger(dag_id, conf, replaces_scheduled=not beside_scheduled)
            api.unpause(dag_id)
        for dag_id, run_id in run_ids.items():
            api.follow(dag_id, run_id, RUN_TIMEOUT_S, changed)
    return run_ids


def title(dag_ids: Sequence[str]) -> str:
    """Return the name of the phase in which DAGs run at the same time."""
    return " beside ".join(dag_ids if len(dag_ids) <= 2 else [dag_ids[0], f"{len(dag_ids) - 1} others"])


def wait_for_scheduled_runs(api: AirflowApi, dag_ids: Iterable[str], before: set[str]) -> None:
    """Wait for the runs, those BEFORE aside, that unpausing has scheduled; raise DagRunFailedError if one fails."""
    for dag_id in dag_ids:
        for run_id in api.runs(dag_id).keys() - before:
            api.follow(dag_id, run_id, RUN_TIMEOUT_S, lambda *_: None)


def run_others(api: AirflowApi, dag_ids: Iterable[str], phases: Phases) -> list[str]:
    """Run DAGs of which only success is expected, and return a line for each; raise DagRunFailedError if one fails."""
    before = run_ids(api, dag_ids)
    for dag_id in dag_ids:
        run_dags(api, [dag_id], Interval(None, None), phases)
    wait_for_scheduled_runs(api, dag_ids, before)
    return [f"ran, no expectations: {dag_id}" for dag_id in dag_ids]
