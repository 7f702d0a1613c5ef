"""Play a delivery script through Airflow, whose scheduler, backfills and retries run the pipelines.

The simulated clock is the data interval, and the last day of the script is yesterday. The first week is the past: one
backfill loads it after all of its deliveries. On each later day a backfill makes the runs that the script names, all at
once. The scheduler makes a run for the latest interval of each pipeline as soon as it is unpaused, which is before the
interval's file has come. After the last delivery these runs are cleared, and so run again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import NamedTuple

import psycopg

from feeds.contract import Feed
from feeds.interval import Interval
from harness.errors import ChecksFailedError, DagRunFailedError
from harness.pipeline.runs import wait_until_parsed
from harness.replay.comparison import Comparison, When, compare
from harness.replay.delivered_file import DeliveredFile, Line
from harness.replay.expected_table import ExpectedTable
from harness.replay.script import Cadence, Delivery, Run, Script, interval_of
from harness.targets.target import Deployment

DAYS = 14
PAST = 7  # of them
RUNS_AT_ONCE = 2  # of one backfill
TIMEOUT_S = 600.0
POLL_INTERVAL_S = 0.5
DAY = timedelta(days=1)
UNREADABLE = b"\x1f\x8b, and nothing that can be unpacked"


class PlannedRun(NamedTuple):
    """A run of a pipeline, and the interval that it must load."""

    cadence: Cadence
    interval: Interval


@dataclass
class AirflowPlayer:
    """Plays a script of FEED on DEPLOYMENT, whose tasks read its file at URI.

    Attributes:
        progress: called with a line after each delivery's runs.
        run_ids: the runs that Airflow has made.
    """

    deployment: Deployment
    feed: Feed
    uri: str
    progress: Callable[[str], None]
    run_ids: dict[PlannedRun, str] = field(default_factory=dict)
    last_load_id: int = 0  # of which everything was checked
    day: date | None = None  # of the delivery
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))  # its runs

    def __post_init__(self) -> None:
        self.api = self.deployment.api
        self.file = DeliveredFile(self.feed)
        self.table = ExpectedTable(self.feed)
        self.comparison = Comparison(self.feed, self.deployment.warehouse)

    def play(self, script: Script) -> None:
        """Play SCRIPT, one that `for_airflow` has returned; raise Difference if a table is wrong after a delivery."""
        wait_until_parsed(self.api, [self.feed.name])
        first, last = script.deliveries[0].day, script.deliveries[-1].day
        scheduled = [PlannedRun(cadence, latest(cadence, last + DAY)) for cadence in self.feed.properties.cadences]
        for delivery in script.deliveries:
            self.day, self.begun = delivery.day, datetime.now(UTC)
            lines = self.file.change(delivery)
            content = None if lines is None else self.file.content(delivery, lines)
            self.deployment.put(content, self.uri)
            number = (delivery.day - first).days + 1
            if number == PAST:
                for cadence in self.feed.properties.cadences:
                    self.api.unpause(self._dag_id(cadence))
                self.run_ids |= {run: self._wait_for_scheduled(run) for run in scheduled}
                past = [PlannedRun("daily", interval_of(Run(cadence="daily"), first + n * DAY)) for n in range(PAST)]
                self._run(delivery, past, lines, beside=scheduled)
            elif delivery.day == last:
                self._run(delivery, scheduled, lines)
            elif number > PAST:
                runs = [PlannedRun(run.cadence, interval_of(run, delivery.day)) for run in delivery.runs]
                breaks = any(run.outcome == "retried" for run in delivery.runs)
                self._run(delivery, list(dict.fromkeys(runs)), lines, breaks=breaks)

    def _run(
        self,
        delivery: Delivery,
        runs: Sequence[PlannedRun],
        lines: list[Line] | None,
        beside: Sequence[PlannedRun] = (),
        *,
        breaks: bool = False,
    ) -> None:
        """Make RUNS at the same time, also with those BESIDE that run already, and check everything at their end.

        With BREAKS the file cannot be read until Airflow waits to try the loads again.
        """
        if breaks:
            self.deployment.put(UNREADABLE, self.uri)
        again = [run for run in runs if run in self.run_ids]
        for run in again:
            self.api.clear(self._dag_id(run.cadence), self.run_ids[run])
        new = [run for run in runs if run not in again]
        backfill_ids = self._backfill(new)
        if breaks:
            for run in runs:
                self._wait_until_load_is(run, "up_for_retry")
            self.deployment.put(self.file.content(delivery, lines or []), self.uri)
        errors = self._wait_for([*beside, *again], backfill_ids)
        when = (delivery.day, " and ".join(sorted({run.cadence for run in runs})))
        every = [*beside, *runs]
        may_fail = self._check_loads(when, every, lines, breaks=breaks)
        failed = [run for run in every if self.api.state(self._dag_id(run.cadence), self.run_ids[run]) == "failed"]
        if errors and set(failed) - may_fail:
            raise errors[0]
        compare(when, "the failed DAG runs", {(run,) for run in may_fail}, [(run,) for run in failed])
        self.comparison.check(when, self.table, self.table.rows)
        self.progress(f"{delivery.day}: {len(every)} runs ({when[1]}), every table right after them")

    def _wait_for(self, runs: Sequence[PlannedRun], backfill_ids: Sequence[int]) -> list[DagRunFailedError]:
        """Wait until RUNS and backfills have ended, and return the errors of runs that have failed."""
        errors = []
        waits: list[Callable[[], object]] = []
        for run in runs:
            dag_id, run_id = self._dag_id(run.cadence), self.run_ids[run]
            waits.append(partial(self.api.follow, dag_id, run_id, TIMEOUT_S, ignore))
        waits += [partial(self.api.follow_backfill, backfill_id, TIMEOUT_S) for backfill_id in backfill_ids]
        for wait in waits:
            try:
                wait()
            except DagRunFailedError as error:
                if error.task_id is None:  # it has not ended
                    raise
                errors.append(error)
        return errors

    def _check_loads(
        self, when: When, runs: Sequence[PlannedRun], lines: list[Line] | None, *, breaks: bool
    ) -> set[PlannedRun]:
        """Load into the expected table what RUNS have loaded, in their order; return the runs that must have failed."""
        by_id = {f"{self._dag_id(run.cadence)} {self.run_ids[run]}": run for run in runs}
        query = "select load_id, run_id, status from raw.loads where load_id > %s order by ended_at"
        with psycopg.connect(self.deployment.warehouse.loader_dsn) as connection:
            loads = connection.execute(query, (self.last_load_id,)).fetchall()
        self.last_load_id = max((load_id for load_id, *_ in loads), default=self.last_load_id)
        if lines is None:
            return set(runs)
        refused = set()
        for _, run_id, status in loads:
            if breaks and status == "failed":  # its file could not be read
                continue
            expected = self.table.load(lines, by_id[run_id].interval)
            self.comparison.check_ledger(when, run_id, expected)
            if expected.is_refused:
                refused.add(by_id[run_id])
        return refused

    def _backfill(self, runs: Sequence[PlannedRun]) -> list[int]:
        """Start a backfill of each pipeline for its RUNS, note the runs that Airflow makes, and return its id."""
        backfill_ids = []
        for cadence in dict.fromkeys(run.cadence for run in runs):
            own = [run for run in runs if run.cadence == cadence]
            starts = [run.interval.start for run in own if run.interval.start]
            dag_id = self._dag_id(cadence)
            backfill_id = self.api.backfill(dag_id, min(starts), max(starts) + DAY, RUNS_AT_ONCE)
            backfill_ids.append(backfill_id)
            made = self.api.backfill_runs(backfill_id)
            found = [Interval(run.start, run.end) for run in made]
            if found != [run.interval for run in own]:
                raise ChecksFailedError(
                    f"A backfill of {dag_id} has runs {'; '.join(map(str, found)) or 'for no interval'}.",
                    f"It should have runs {'; '.join(str(run.interval) for run in own)}.",
                    "Compare the schedule in airflow/dags/pipelines.py.",
                )
            self.run_ids |= {run: each.run_id for run, each in zip(own, made, strict=True)}
        return backfill_ids

    def _wait_for_scheduled(self, run: PlannedRun) -> str:
        """Return the id of the RUN that the scheduler makes; raise ChecksFailedError if it makes others."""
        dag_id, deadline = self._dag_id(run.cadence), time.monotonic() + TIMEOUT_S
        while not (runs := self.api.runs_of_type(dag_id, "scheduled")) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
        found = [Interval(each.start, each.end) for each in runs]
        if found != [run.interval]:
            raise ChecksFailedError(
                f"The scheduler has made runs of {dag_id} {'; '.join(map(str, found)) or 'for no interval'}.",
                f"It should make one {run.interval}.",
                "Compare the schedule in airflow/dags/pipelines.py.",
            )
        return runs[0].run_id

    def _wait_until_load_is(self, run: PlannedRun, state: str) -> None:
        """Wait until the task of RUN that loads has STATE."""
        dag_id, deadline = self._dag_id(run.cadence), time.monotonic() + TIMEOUT_S
        while (found := self.api.task_states(dag_id, self.run_ids[run])[f"load_{self.feed.name}"]) != state:
            if time.monotonic() > deadline:
                raise ChecksFailedError(
                    f"load_{self.feed.name} of {dag_id} is {found}, and not {state}, after {TIMEOUT_S:.0f} s.",
                    "Its file cannot be read at first, which Airflow should try again.",
                    "Compare airflow/include/feeds/retries.py.",
                )
            time.sleep(POLL_INTERVAL_S)

    def _dag_id(self, cadence: str) -> str:
        return f"{self.feed.name}_pipeline_{cadence}"


def ignore(_task_id: str, _state: str) -> None:
    """Print no task's state: a replay has too many."""


def latest(cadence: Cadence, today: date) -> Interval:
    """Return the latest interval of CADENCE that has passed when TODAY begins."""
    present = interval_of(Run(cadence=cadence), today)
    assert present.start
    return interval_of(Run(cadence=cadence), present.start.date() - DAY)


def for_airflow(script: Script) -> Script:
    """Return SCRIPT as Airflow can play it: a delivery a day, and runs of that day that end well or are tried again.

    Where the runs of a day are many, the file is whole; one day's file, at least, cannot be read at first.
    """
    deliveries: list[Delivery] = []
    has_retried = False
    for number, day in enumerate(sorted({delivery.day for delivery in script.deliveries}), 1):
        own = [delivery for delivery in script.deliveries if delivery.day == day]
        is_whole = number in (PAST, DAYS) or own[-1].file == "whole"
        runs = [run for delivery in own for run in delivery.runs if is_whole or run.cadence == "daily"]
        is_retried = is_whole and PAST < number < DAYS and bool(runs) and not has_retried
        has_retried |= is_retried
        deliveries.append(
            Delivery(
                day=day,
                rows=tuple(row for delivery in own for row in delivery.rows),
                withdrawn=tuple(key for delivery in own for key in delivery.withdrawn),
                file="whole" if is_whole else own[-1].file,
                cut=own[-1].cut,
                runs=tuple(
                    Run(cadence=run.cadence, outcome="retried" if is_retried else "succeeds")
                    for run in runs
                    if run.cadence != "manual" and run.of is None
                ),
            )
        )
    return script.model_copy(update={"deliveries": tuple(deliveries)})
