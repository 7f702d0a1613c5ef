"""Load marketplace events for a data interval, then build the marts.

**What it does:** `create_tables` makes the raw tables where they are missing, `load_events` replaces the interval in
`raw.events` by what the events file says now, `dbt_build` builds and tests every model.

**Interval:** a scheduled run takes its data interval. A manual run takes the params `start` and `end` (UTC,
half-open) and without them the whole file.

**Re-run:** safe at any time, beside any other run; the interval is replaced as a whole.

**Triage:** red `load_events`: its log counts the rejects by reason; the rows are in `raw.rejected_events`, the load in
`raw.loads`. Red `dbt_build`: its log ends with the failing test. Fix the file or the model and clear the task.
"""

import os
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, Param, dag, task
from airflow.timetables.interval import CronDataIntervalTimetable

from events.dbt_task import dbt_task

CADENCES = ("daily", "weekly", "monthly")
INSTANT = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?$"


def events_pipeline(cadence: str) -> DAG:
    """Make the pipeline that runs once per CADENCE; the coarser ones re-read what came late or was corrected."""

    @dag(
        dag_id=f"events_pipeline_{cadence}",
        schedule=CronDataIntervalTimetable(f"@{cadence}", timezone="UTC"),
        start_date=pendulum.datetime(2020, 1, 1, tz="UTC"),
        catchup=False,
        doc_md=__doc__,
        tags=["events", cadence],
        default_args={"execution_timeout": timedelta(hours=1)},
        dagrun_timeout=timedelta(hours=3),
        params={
            "start": instant("first instant to load (UTC); empty: from the file's beginning"),
            "end": instant("first instant not to load any more (UTC); empty: to the file's end"),
            "max_rejected": Param(
                float(os.environ.get("EVENTS_MAX_REJECTED", "0.01")),
                type="number",
                minimum=0,
                maximum=1,
                description="share of rows that may be rejected",
            ),
            "allow_empty": Param(
                False, type="boolean", description="replace an interval's events by none, if the file says so"
            ),
        },
    )
    def pipeline() -> None:
        @task
        def create_tables() -> None:
            from airflow.sdk import Connection

            from events.tables import create_tables

            create_tables(Connection.get("warehouse_loader").get_uri())

        @task
        def load_events() -> dict[str, Any]:
            from airflow.sdk import Connection, get_current_context

            from events.load import load

            context: Any = get_current_context()
            start, end = interval(context)
            result = load(
                os.environ["EVENTS_URI"],
                Connection.get("warehouse_loader").get_uri(),
                start=start,
                end=end,
                max_rejected=context["params"]["max_rejected"],
                allow_empty=context["params"]["allow_empty"],
                run_id=f"{context['dag_run'].dag_id} {context['dag_run'].run_id}",
            )
            return result.as_dict()

        # Unit tests feed models rows of their own: they say nothing about the data here, and run in `nox -s dbt`.
        build = ("build", "--exclude-resource-type", "unit_test")
        create_tables() >> load_events() >> dbt_task("dbt_build", *build)

    return pipeline()


def instant(description: str) -> Param:
    """Make an optional param that the UI asks for with a calendar."""
    return Param(None, type=["null", "string"], format="date-time", pattern=INSTANT, description=description)


def interval(context: Any) -> tuple[datetime | None, datetime | None]:
    """Return what a run loads: its data interval if it was scheduled, what its params say if it was triggered by hand.

    A manual run may have a data interval too, when it was given a logical date; nobody asked to load only that.
    """
    if context["dag_run"].run_type != "manual":
        return context["data_interval_start"], context["data_interval_end"]
    from events.load import Interval

    asked_for = Interval.parse(context["params"]["start"], context["params"]["end"])
    return asked_for.start, asked_for.end


for cadence in CADENCES:
    events_pipeline(cadence)
