"""Load marketplace events for a data interval, then build the marts.

**What it does:** `create_tables` makes the raw tables that are missing, `load_events` replaces the interval in
`raw.events` with the events file's rows, and `dbt_build` builds and tests every model.

**Interval:** a scheduled run or a backfill loads its data interval. A run without a data interval (one that a user, the
API or an asset triggers) loads the interval of its params `start` and `end` (UTC, half-open), and the whole file
without them.

**Re-run:** safe at any time, also during other runs; the interval is replaced as a whole.

**Retries:** three, where another try may succeed: after a killed pod, an unreachable or busy warehouse, a file that
changed, and every 20 minutes if the file does not exist yet. Rejected rows, a failing model or test fail at once.

**Triage:** if `load_events` failed, its log counts the rejected rows by reason; they are in `raw.rejected_events`, and
the load is in `raw.loads`. If `dbt_build` failed, its log ends with the failing test. Fix the file or the model and
clear the task.
"""

import os
from argparse import ArgumentTypeError
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, Param, dag, task
from airflow.timetables.interval import CronDataIntervalTimetable

from feeds.arguments import share
from feeds.dbt_task import dbt_task
from feeds.retries import RETRIES

CADENCES = ("daily", "weekly", "monthly")
# An instant that `Interval.parse` reads, so that a form with another is refused when the run is triggered.
LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][48]|[13579][26]|[2468]0)00)"
DAY = (
    "(?!0000)([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|{LEAP_YEAR}-02-29)"
)
TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?"
INSTANT = rf"^{DAY}([T ]{TIME})?$(?!\n)"  # in Python, `$` alone matches before a line end


def events_pipeline(cadence: str) -> DAG:
    """Make the pipeline that runs once per CADENCE; the coarser ones load late and corrected events again."""

    @dag(
        dag_id=f"events_pipeline_{cadence}",
        schedule=CronDataIntervalTimetable(f"@{cadence}", timezone="UTC"),
        start_date=pendulum.datetime(2020, 1, 1, tz="UTC"),
        catchup=False,
        doc_md=__doc__,
        tags=["events", cadence],
        default_args={"execution_timeout": timedelta(hours=1), **RETRIES},
        dagrun_timeout=timedelta(hours=3),
        params={
            "start": instant("first instant to load (UTC); empty: no bound"),
            "end": instant("first instant after the interval (UTC); empty: no bound"),
            "max_rejected": Param(
                default_share(),
                type=["null", "number"],
                minimum=0,
                maximum=1,
                description="largest share of rows that may be rejected; empty: that of EVENTS_MAX_REJECTED",
            ),
            "allow_empty": Param(
                False, type="boolean", description="delete the interval's events if the file has none for it"
            ),
        },
    )
    def pipeline() -> None:
        @task
        def create_tables() -> None:
            from feeds.dsn import warehouse_dsn
            from feeds.tables import create_tables

            create_tables(warehouse_dsn())

        @task
        def load_events() -> dict[str, Any]:
            from airflow.sdk import get_current_context

            from feeds.days import valid_times
            from feeds.dsn import warehouse_dsn
            from feeds.errors import SettingUnusable
            from feeds.load import load
            from feeds.source import named

            context: Any = get_current_context()
            start, end = interval(context)
            max_rejected = context["params"]["max_rejected"]
            if max_rejected is None and (max_rejected := default_share()) is None:
                raise SettingUnusable(
                    f"EVENTS_MAX_REJECTED is not a share from 0 to 1: {os.environ['EVENTS_MAX_REJECTED']!r}",
                    "Somebody set it to another value in the environment of Airflow.",
                    "Set it to a number such as 0.01 there, or give the run's param max_rejected.",
                )
            result = load(
                named(os.environ.get("EVENTS_URI")),
                warehouse_dsn(),
                start=start,
                end=end,
                valid=valid_times(),
                max_rejected=max_rejected,
                allow_empty=context["params"]["allow_empty"],
                run_id=f"{context['dag_run'].dag_id} {context['dag_run'].run_id}",
            )
            return result.as_dict()

        # Unit tests do not read this data; they run in `nox -s dbt`.
        build = ("build", "--exclude-resource-type", "unit_test")
        create_tables() >> load_events() >> dbt_task("dbt_build", *build)

    return pipeline()


def default_share() -> float | None:
    """Return the share in EVENTS_MAX_REJECTED, by default 0.01; None if it is invalid, which `load_events` reports."""
    with suppress(ValueError, ArgumentTypeError):
        return share(os.environ.get("EVENTS_MAX_REJECTED", "").strip() or "0.01")
    return None


def instant(description: str) -> Param:
    """Make an optional param for which the UI shows a calendar."""
    return Param(None, type=["null", "string"], format="date-time", pattern=INSTANT, description=description)


def interval(context: Any) -> tuple[datetime | None, datetime | None]:
    """Return the interval that a run loads: its data interval if a schedule chose it, else that of its params.

    A manual run with a logical date has a data interval too, but its user did not choose that interval. A run that an
    asset triggers has none, and a timetable may give one of no length.
    """
    run = context["dag_run"]
    if run.run_type in ("scheduled", "backfill") and run.data_interval_start != run.data_interval_end:
        return run.data_interval_start, run.data_interval_end
    from feeds.interval import Interval

    chosen = Interval.parse(context["params"]["start"], context["params"]["end"])
    return chosen.start, chosen.end


for cadence in CADENCES:
    events_pipeline(cadence)
