"""Load marketplace events for a data interval, then build the marts.

**What it does:** `create_tables` makes the raw tables that are missing, `load_events` replaces the interval in
`raw.events` with the events file's rows, and `dbt_build` builds and tests every model.

**Interval:** a scheduled run loads its data interval. A manual run loads the interval of its params `start` and `end`
(UTC, half-open), and the whole file without them.

**Re-run:** safe at any time, also during other runs; the interval is replaced as a whole.

**Triage:** if `load_events` failed, its log counts the rejected rows by reason; they are in `raw.rejected_events`, and
the load is in `raw.loads`. If `dbt_build` failed, its log ends with the failing test. Fix the file or the model and
clear the task.
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
    """Make the pipeline that runs once per CADENCE; the coarser ones load late and corrected events again."""

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
            "start": instant("first instant to load (UTC); empty: no bound"),
            "end": instant("first instant after the interval (UTC); empty: no bound"),
            "max_rejected": Param(
                float(os.environ.get("EVENTS_MAX_REJECTED", "0.01")),
                type="number",
                minimum=0,
                maximum=1,
                description="largest share of rows that may be rejected",
            ),
            "allow_empty": Param(
                False, type="boolean", description="delete the interval's events if the file has none for it"
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

        # Unit tests do not read this data; they run in `nox -s dbt`.
        build = ("build", "--exclude-resource-type", "unit_test")
        create_tables() >> load_events() >> dbt_task("dbt_build", *build)

    return pipeline()


def instant(description: str) -> Param:
    """Make an optional param for which the UI shows a calendar."""
    return Param(None, type=["null", "string"], format="date-time", pattern=INSTANT, description=description)


def interval(context: Any) -> tuple[datetime | None, datetime | None]:
    """Return the interval that a run loads: its data interval if it was scheduled, that of its params if it is manual.

    A manual run with a logical date has a data interval too, but its user did not choose that interval.
    """
    if context["dag_run"].run_type != "manual":
        return context["data_interval_start"], context["data_interval_end"]
    from events.interval import Interval

    chosen = Interval.parse(context["params"]["start"], context["params"]["end"])
    return chosen.start, chosen.end


for cadence in CADENCES:
    events_pipeline(cadence)
