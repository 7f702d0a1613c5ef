"""Load a feed for a data interval, then build the models that depend on it.

**What it does:** `create_tables` makes the raw tables that are missing, `load_…` replaces the interval in the feed's
raw table with the files' rows (of a snapshot: the whole table), and `dbt_build` builds and tests every model that
depends on it, and what these models are built from. The contract, `airflow/feeds/<feed>.yaml`, says what is a valid row
and where files are.

**Interval:** a scheduled run or a run of a backfill loads its data interval. Any other run (that a user, the API or an
asset triggers) loads the interval of its params `start` and `end` (UTC, half-open), and the whole file without them,
whatever its logical date. With a logical date in the future it waits for that date, at most as long as a run may take.

**Backfill:** only the last loads of a backfill are followed by a build, which builds for all of them. The others skip
`dbt_build` (docs/backfill.md).

**Re-run:** safe at any time, also during other runs; the interval is replaced as a whole.

**Retries:** three, where another try may succeed: after a killed pod, an unreachable or busy warehouse, a file that
changed, and every 20 minutes if the file does not exist yet (not in a backfill). Rejected rows, a failing model or test
fail at once.

**Triage:** if the load failed, its log counts the rejected rows by reason; they are in `raw.rejected_rows`, and the
load is in `raw.loads`. If `dbt_build` failed, its log ends with the failing test. Fix the file or the model and
clear the task.
"""

import logging
import re
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, Param, dag, task
from airflow.timetables.interval import CronDataIntervalTimetable

from feeds.contract import CADENCES, CONTRACTS, Feed, contracts, read_feed
from feeds.dbt_task import dbt_task
from feeds.errors import ContractInvalid, SettingUnusable
from feeds.notifications import with_notifications
from feeds.pipeline_run import built_models
from feeds.retries import RETRIES
from feeds.settings import max_rejected, variable

log = logging.getLogger(__name__)

# An instant that `Interval.parse` reads, so that a form with another is refused when the run is triggered.
LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][48]|[13579][26]|[2468]0)00)"
DAY = (
    "(?!0000)([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|{LEAP_YEAR}-02-29)"
)
TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?"
INSTANT = rf"^{DAY}([T ]{TIME})?$(?!\n)"  # in Python, `$` alone matches before a line end

# What holds for every pipeline, so that a backfill of years on an empty warehouse ends well, as well as one day's run.
USUAL: dict[str, Any] = {
    "start_date": pendulum.datetime(1970, 1, 1, tz="UTC"),  # backfills go back to here
    "catchup": False,  # unpausing loads one interval, and not the history, which is a backfill's
    # `max_active_runs` is Airflow's default on purpose: with a small number, a run that waits for its file would keep
    # others queued, and a backfill leaves its build to a queued run. It does not bound a backfill, which has its own.
    # From the start of a run, not from when it is queued: a backfill may queue any number of runs.
    "dagrun_timeout": timedelta(hours=3),
    "default_args": {
        "execution_timeout": timedelta(hours=1),
        # A load reads all of its files, and its swap and a build take turns: more at once would wait for each other, in
        # a process or a pod each. Two, so that one starts while the other is in the database.
        "max_active_tis_per_dag": 2,
        **RETRIES,
    },
}


def pipeline(feed: Feed, cadence: str) -> DAG:
    """Make the pipeline of FEED that runs once per CADENCE; the coarser ones load late and corrected rows again."""

    @dag(
        dag_id=f"{feed.name}_pipeline_{cadence}",
        schedule=CronDataIntervalTimetable(f"@{cadence}", timezone="UTC"),
        doc_md=__doc__,
        tags=[feed.name, cadence],
        **with_notifications(USUAL, feed),
        params={
            "start": instant("first instant to load (UTC); empty: no bound"),
            "end": instant("first instant after the interval (UTC); empty: no bound"),
            "max_rejected": Param(
                default_share(feed),
                type=["null", "number"],
                minimum=0,
                maximum=1,
                description=f"largest share of rejected rows; empty: that of {variable(feed, 'MAX_REJECTED')}",
            ),
            "allow_empty": Param(
                False, type="boolean", description="delete the interval's rows if the files have none for it"
            ),
        },
    )
    def tasks() -> None:
        @task
        def create_tables() -> None:
            from feeds.dsn import warehouse_dsn
            from feeds.tables import create_others, create_tables

            create_tables(warehouse_dsn(), feed)
            create_others(warehouse_dsn(), (other for other in FEEDS if other != feed))

        # One XCom, not one more for each figure.
        @task(task_id=f"load_{feed.name}", outlets=[Asset(f"raw.{feed.name}")], multiple_outputs=False)
        def load() -> dict[str, Any]:
            from airflow.sdk import get_current_context
            from airflow.sdk.exceptions import DownstreamTasksSkipped

            from feeds.dsn import warehouse_dsn
            from feeds.pipeline_run import load_run

            context: Any = get_current_context()
            result = load_run(feed, warehouse_dsn(), context)
            if another_load_follows(context):
                log.info("no build now: another load of this DAG follows, and its run builds for this one, too")
                context["ti"].xcom_push("return_value", result.as_dict())
                raise DownstreamTasksSkipped(tasks=["dbt_build"])  # type: ignore[no-untyped-call]
            return result.as_dict()

        # Unit tests do not read this data; they run in `nox -s dbt`.
        build = ("build", "--exclude-resource-type", "unit_test", "--select", *built_models(feed))
        create_tables() >> load() >> dbt_task("dbt_build", *build)

    return tasks()


def broken_pipelines(name: str, error: ContractInvalid) -> None:
    """Make the DAGs of the feed NAME whose contract is invalid: each fails with ERROR when its next run is due."""

    def broken_pipeline(cadence: str) -> None:
        @dag(
            dag_id=f"{name}_pipeline_{cadence}",
            schedule=CronDataIntervalTimetable(f"@{cadence}", timezone="UTC"),
            **with_notifications({"start_date": USUAL["start_date"], "catchup": False}),
            doc_md=str(error),
            tags=["invalid contract", cadence],
        )
        def tasks() -> None:
            @task
            def read_contract() -> None:
                raise error

            read_contract()

        tasks()

    for cadence in CADENCES:
        broken_pipeline(cadence)


def default_share(feed: Feed) -> float | None:
    """Return the share in <FEED>_MAX_REJECTED, by default the contract's; None if invalid, which the load reports."""
    with suppress(SettingUnusable):
        return max_rejected(feed)
    return None


def instant(description: str) -> Param:
    """Make an optional param for which the UI shows a calendar."""
    return Param(None, type=["null", "string"], format="date-time", pattern=INSTANT, description=description)


def another_load_follows(context: Any) -> bool:
    """Return whether, in a backfill, a load of another run of the DAG is to start; call it after this run's commit.

    The run of that load builds what this one has loaded, or leaves it to a load that starts even later. A load that
    waits for its next try does not count: it has failed once. See docs/adr/0009.
    """
    run = context["dag_run"]
    if run.run_type != "backfill":
        return False
    ti = context["ti"]
    waiting = ["scheduled", "queued"]
    return bool(
        ti.get_dr_count(run.dag_id, states=["queued"])
        or ti.get_ti_count(run.dag_id, task_ids=[ti.task_id], states=waiting)
        or ti.get_ti_count(run.dag_id, task_ids=["create_tables"], states=[*waiting, "running"])
    )


FEEDS: list[Feed] = []
for path in contracts(CONTRACTS):
    try:
        FEEDS.append(read_feed(path))
    except ContractInvalid as invalid:
        if (
            path.with_suffix(".yaml") == path or not path.with_suffix(".yaml").exists()
        ):  # else the other one has the ids
            broken_pipelines(re.sub(r"[^a-zA-Z0-9_.-]", "_", path.stem), invalid)
for found in FEEDS:
    for each in found.properties.cadences:
        pipeline(found, each)
