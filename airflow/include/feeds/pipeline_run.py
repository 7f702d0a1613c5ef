"""What a run of a pipeline loads and builds; the DAGs' tasks call it, and so does a replay, which has no Airflow.

A run's context is a mapping, as Airflow's: `dag_run` with its ids, type and data interval, and the run's `params`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from feeds.contract import HISTORY, Feed

if TYPE_CHECKING:  # Airflow parses the DAGs often, and needs nothing of the load for that
    from feeds.ledger import LoadResult

OF_A_SCHEDULE = ("scheduled", "backfill")  # types of runs


def interval(context: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    """Return the interval that a run loads: its data interval if a schedule chose it, else that of its params.

    A manual run with a logical date has a data interval too, but its user did not choose that interval. A run that an
    asset triggers has none, and a timetable may give one of no length.
    """
    run = context["dag_run"]
    if run.run_type in OF_A_SCHEDULE and run.data_interval_start != run.data_interval_end:
        return run.data_interval_start, run.data_interval_end
    from feeds.interval import Interval

    chosen = Interval.parse(context["params"]["start"], context["params"]["end"])
    return chosen.start, chosen.end


def load_run(feed: Feed, dsn: str, context: Mapping[str, Any], **options: Any) -> "LoadResult":
    """Load FEED for the run of CONTEXT into the warehouse of DSN, from the files that the environment names.

    OPTIONS are more arguments of `feeds.load.load`. Raises FeedError as it does.
    """
    from feeds.days import valid_times
    from feeds.lineage import parents
    from feeds.load import load
    from feeds.settings import max_rejected, source_uri

    run, params = context["dag_run"], context["params"]
    start, end = interval(context)
    return load(
        feed,
        dsn,
        source_uri=source_uri(feed),
        start=start,
        end=end,
        valid=valid_times(feed),
        max_rejected=max_rejected(feed) if params["max_rejected"] is None else params["max_rejected"],
        allow_empty=params["allow_empty"],
        run_id=f"{run.dag_id} {run.run_id}",
        parent=parents(context),
        **options,
    )


def built_models(feed: Feed) -> list[str]:
    """Return dbt's selectors of the models that a run of FEED builds.

    That is what depends on the source, and what that is built from: a model of this feed may join another's, which was
    not built yet. `feed_days` is built from the ledger, whatever the feed.
    """
    tables = [feed.name] + [feed.name + HISTORY] * feed.properties.history
    return [*(f"@source:raw.{table}" for table in tables), "+feed_days"]
