"""In a backfill the last loads are followed by a build, and the others by none; which loads are the last ones."""

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from feeds.ledger import LoadResult

LOAD = "load_events"
Step = Iterator[Callable[[], bool]]


def free() -> bool:
    """Return that a step can be taken at any time."""
    return True


class Backfill:
    """Runs of a backfill, whose steps come in a random order; it answers what a task asks of Airflow.

    Attributes:
        is_prompt: the scheduler takes a task up as soon as it is due, and no load fails; else neither.
        unbuilt: the loads that have committed since the last build began.
    """

    def __init__(self, seed: int, *, is_prompt: bool) -> None:
        self.random, self.is_prompt = random.Random(seed), is_prompt  # noqa: S311 - nothing secret
        self.runs = ["queued"] * self.random.randint(1, 12)
        self.max_active_runs = self.random.randint(1, 12)
        self.tasks = [dict.fromkeys(("create_tables", LOAD, "dbt_build"), "") for _ in self.runs]
        self.unbuilt: set[int] = set()
        self.builds = 0

    def get_dr_count(self, dag_id: str, states: list[str]) -> int:
        assert dag_id == "events_pipeline_daily"
        return sum(state in states for state in self.runs)

    def get_ti_count(self, dag_id: str, task_ids: list[str], states: list[str]) -> int:
        assert dag_id == "events_pipeline_daily"
        return sum(tasks[task_id] in states for tasks in self.tasks for task_id in task_ids)

    def play(self) -> None:
        """Let all runs end."""
        waiting = [(steps, next(steps)) for steps in map(self.run, range(len(self.runs)))]
        while waiting:
            steps, can_go_on = waiting.pop(self.random.randrange(len(waiting)))
            if (condition := next(steps, None) if can_go_on() else can_go_on) is not None:
                waiting.append((steps, condition))

    def run(self, number: int) -> Step:
        """Take the steps of a run; before each, give the condition for it."""
        from pipelines import another_load_follows

        tasks = self.tasks[number]
        yield lambda: self.runs.count("running") < self.max_active_runs
        self.runs[number] = "running"
        yield from self.begin(tasks, "create_tables")
        tasks["create_tables"] = "success"
        yield from self.begin(tasks, LOAD)
        while not self.is_prompt and self.random.random() < 0.2:
            tasks[LOAD] = "up_for_retry"
            yield from self.begin(tasks, LOAD)
        self.unbuilt.add(number)
        yield free
        follows = another_load_follows(context("backfill", self))
        yield free
        tasks |= {"dbt_build": "skipped" if follows else "", LOAD: "success"}
        if not follows:
            yield from self.begin(tasks, "dbt_build")
            tasks["dbt_build"] = "success"
        self.runs[number] = "success"

    def begin(self, tasks: dict[str, str], task_id: str) -> Step:
        if not self.is_prompt:
            yield free
        tasks[task_id] = "scheduled"
        yield lambda: self.get_ti_count("events_pipeline_daily", [task_id], ["running"]) < 2
        tasks[task_id] = "running"
        if task_id == "dbt_build":
            self.builds += 1
            self.unbuilt.clear()
        yield free


def context(run_type: str, airflow: Any) -> dict[str, Any]:
    """Return the context of a load, whose task asks AIRFLOW."""
    ti = SimpleNamespace(task_id=LOAD, get_dr_count=airflow.get_dr_count, get_ti_count=airflow.get_ti_count)
    return {"dag_run": SimpleNamespace(run_type=run_type, dag_id="events_pipeline_daily"), "ti": ti}


@pytest.mark.parametrize("is_prompt", [True, False])
def test_a_build_follows_each_load_in_whatever_order_the_runs_go(*, is_prompt: bool) -> None:
    for seed in range(1000):
        backfill = Backfill(seed, is_prompt=is_prompt)
        backfill.play()
        assert (set(backfill.runs), backfill.unbuilt) == ({"success"}, set()), seed
        assert 1 <= backfill.builds <= (2 if is_prompt else len(backfill.runs)), seed


@pytest.mark.parametrize("run_type", ["scheduled", "manual", "asset_triggered"])
def test_another_run_is_followed_by_its_own_build(run_type: str) -> None:
    from pipelines import another_load_follows

    airflow = Backfill(0, is_prompt=True)
    assert set(airflow.runs) == {"queued"}
    assert another_load_follows(context("backfill", airflow))
    assert not another_load_follows(context(run_type, airflow))


def test_a_load_that_another_one_follows_returns_its_figures_and_skips_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.sdk.exceptions import DownstreamTasksSkipped
    from pipelines import FEEDS, pipeline

    result = LoadResult(7, read=5, loaded=2, rejected=2, outside=1, replaced=0, reasons={"field_count": 2}, seconds=0.5)
    asked = context("backfill", Backfill(0, is_prompt=True))
    pushed: list[tuple[str, Any]] = []
    asked["ti"].xcom_push = lambda *xcom: pushed.append(xcom)
    vars(asked["dag_run"]).update(run_id="a_run", data_interval_start=None, data_interval_end=None)
    asked["params"] = {"start": None, "end": None, "max_rejected": 0.5, "allow_empty": False}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_LOADER", "postgresql://loader:secret@host:5432/warehouse")
    monkeypatch.setattr("feeds.load.load", lambda *_, **__: result)
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: asked)
    [events] = [feed for feed in FEEDS if feed.name == "events"]
    load: Any = pipeline(events, "daily").get_task(LOAD)
    with pytest.raises(DownstreamTasksSkipped) as caught:
        load.python_callable()
    assert caught.value.tasks == ["dbt_build"]
    assert pushed == [("return_value", result.as_dict())]
