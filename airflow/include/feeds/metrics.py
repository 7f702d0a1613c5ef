"""The ledger and the state of the models as metrics for Prometheus, for `python -m feeds metrics`.

Each scrape asks the warehouse, read-only and in one snapshot; between two scrapes nothing is kept but a connection. So
a restart loses no count. docs/metrics.md lists the metrics and the alerts.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIServer

import psycopg
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from feeds.connection import connect
from feeds.contract import Cadence, contracts, read_feed
from feeds.errors import ContractInvalid, FeedError
from feeds.ledger import IS_KILLED
from feeds.uri import without_secrets

TIMEOUT_S = 5.0  # of each statement, and of a connection; Prometheus itself waits 10 s for all
_CADENCES_S: dict[Cadence, int] = {"daily": 86_400, "weekly": 7 * 86_400, "monthly": 31 * 86_400}
_SETTINGS = f"""
    begin isolation level repeatable read read only;
    set local search_path = pg_catalog;
    set local statement_timeout = '{TIMEOUT_S:.0f}s';
    set local lock_timeout = '{TIMEOUT_S:.0f}s';
    set local row_security = off
"""
_MODEL_STATE = "intermediate.model_state"  # of dbt's target prod
_LOADS = f"""
    with counts as (
        select
            feed,
            count(*) filter (where status = 'succeeded') as succeeded,
            count(*) filter (where status = 'failed') as failed,
            count(*) filter (where status = 'running') as running,
            coalesce(max(load_id) filter (where status = 'failed'), 0)
            > coalesce(max(load_id) filter (where status = 'succeeded'), 0) as has_last_failed,
            max(ended_at) filter (where status = 'succeeded') as published_at
        from (
            select feed, load_id, ended_at, case when {IS_KILLED} then 'failed' else status end as status from raw.loads
        ) as ended
        group by feed
    )
    select distinct on (counts.feed)
        counts.feed, succeeded, failed, running, has_last_failed::int,
        extract(epoch from published_at)::float8 as published_at, seconds::float8 as seconds,
        rows_read as read, rows_loaded as loaded, rows_rejected as rejected, rows_outside as outside
    from counts
    left join raw.loads as last on last.feed = counts.feed and last.ended_at = published_at and status = 'succeeded'
    order by counts.feed, last.load_id desc
"""  # noqa: S608 - constants
# Loads that no model can be behind of are left out first: there are many of these, and few others.
_MODELS = f"""
    with states as (
        select
            model, built_at, feeds,
            case when server = %(server)s then snapshot end as snapshot
        from {_MODEL_STATE}
    ),
    loads as materialized (
        select feed, transaction_id, ended_at
        from raw.loads
        where status = 'succeeded' and same_as_load_id is null and transaction_id >= (
            select pg_snapshot_xmin(snapshot) as oldest from states where snapshot is not null order by oldest limit 1
        )
    )
    select
        model, extract(epoch from built_at)::float8, count(loads.feed),
        extract(epoch from min(loads.ended_at))::float8
    from states
    left join loads on loads.feed = any(feeds) and not pg_visible_in_snapshot(transaction_id, snapshot)
    group by model, built_at
    order by model
"""  # noqa: S608 - constants

logger = logging.getLogger(__name__)


class Expected(NamedTuple):
    """What a feed's contract lets one expect of its loads.

    Attributes:
        cadence_s: the time between two scheduled loads, in seconds.
        max_rejected: the largest share of rejected rows, 0 to 1.
    """

    cadence_s: int
    max_rejected: float


def expected_feeds() -> dict[str, Expected | None]:
    """Return what is expected of each feed, by name; None if its contract is not valid."""
    found: dict[str, Expected | None] = {}
    for path in contracts():
        try:
            properties = read_feed(path).properties
            found[path.stem] = Expected(min(map(_CADENCES_S.__getitem__, properties.cadences)), properties.max_rejected)
        except ContractInvalid as error:
            logger.warning("%s", error)
            found[path.stem] = None
    return found


class WarehouseCollector(Collector):
    """Asks the warehouse at DSN, a libpq URL, at each scrape.

    FEEDS are those that have a contract: others of the ledger are left out, since nobody loads them any more.
    """

    def __init__(self, dsn: str, feeds: Mapping[str, Expected | None]) -> None:
        self._dsn = dsn
        self._feeds = feeds
        self._connection: psycopg.Connection | None = None
        self._lock = threading.Lock()  # a scrape that began before another has ended

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry would otherwise ask the warehouse at its start."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; of a warehouse that does not answer, only that it does not."""
        up = GaugeMetricFamily("feeds_up", "Whether the warehouse answered this scrape.")
        with self._lock:
            try:
                loads, models = self._ask()
            except (psycopg.Error, FeedError) as error:
                is_refused = isinstance(error, psycopg.errors.InsufficientPrivilege)
                what = "refuses; docs/metrics.md says what a role must see" if is_refused else "does not answer"
                logger.warning("the warehouse %s: %s", what, without_secrets(str(error), self._dsn))
                up.add_metric((), 0)
                yield up
                return
        up.add_metric((), 1)
        yield up
        yield from self._of_contracts()
        yield from self._of_loads({feed: rest for feed, *rest in loads})
        if models is not None:
            yield from _of_models(models)

    def _ask(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]] | None]:
        """Return a row for each feed of the ledger, and for each model; no list of models where it is not known.

        A connection that was kept may be of a server that was restarted since: then a new one is tried.
        """
        if self._connection is not None:
            try:
                return self._select(self._connection)
            except psycopg.OperationalError:
                is_gone = self._connection.broken
                self._close()
                if not is_gone:
                    raise
        self._connection = connect(self._dsn, TIMEOUT_S)
        try:
            return self._select(self._connection)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _select(self, connection: psycopg.Connection) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]] | None]:
        loads: list[tuple[Any, ...]] = []
        models: list[tuple[Any, ...]] | None = []
        server = _server_of(connection)
        connection.execute(_SETTINGS)
        try:
            if _exists(connection, "raw.loads"):
                loads = connection.execute(_LOADS).fetchall()
                models = self._select_models(connection, server)
        finally:
            connection.execute("rollback")
        return loads, models

    def _select_models(self, connection: psycopg.Connection, server: str) -> list[tuple[Any, ...]] | None:
        if not _exists(connection, _MODEL_STATE):
            return []
        try:
            return connection.execute(_MODELS, {"server": server}).fetchall()
        except (psycopg.errors.UndefinedColumn, psycopg.errors.InsufficientPrivilege) as error:
            logger.warning("the state of the models is not known until the next build: %s", error)
            return None

    def _of_contracts(self) -> Iterator[Metric]:
        cadence = GaugeMetricFamily(
            "feeds_cadence_seconds", "Time between two scheduled loads, as the contract says.", labels=["feed"]
        )
        share = GaugeMetricFamily(
            "feeds_max_rejected_ratio", "Largest share of rejected rows, as the contract says.", labels=["feed"]
        )
        for feed, expected in self._feeds.items():
            if expected:
                cadence.add_metric((feed,), expected.cadence_s)
                share.add_metric((feed,), expected.max_rejected)
        yield cadence
        yield share

    def _of_loads(self, found: Mapping[str, list[Any]]) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "feeds_loads", "Loads that have ended; a killed one has failed.", labels=["feed", "status"]
        )
        running = GaugeMetricFamily("feeds_running_loads", "Loads that run.", labels=["feed"])
        failed = GaugeMetricFamily(
            "feeds_last_load_failed", "Whether the last load that ended failed.", labels=["feed"]
        )
        last = [
            GaugeMetricFamily(f"feeds_last_success_{name}", f"Of the latest successful load: {text}.", labels=["feed"])
            for name, text in (
                ("timestamp_seconds", "when it ended, as Unix time"),
                ("duration_seconds", "how long it took"),
                ("read_rows", "the rows in its files, which are those of the next three"),
                ("loaded_rows", "the rows that it put into the raw table"),
                ("rejected_rows", "the rows that it rejected"),
                ("outside_rows", "the rows outside its interval"),
            )
        ]
        for feed in self._feeds:  # also those that never loaded: a count that begins with 0 can be seen to increase
            succeeded_count, failed_count, running_count, has_last_failed, *figures = found.get(feed, [0, 0, 0, 0])
            ended.add_metric((feed, "succeeded"), succeeded_count)
            ended.add_metric((feed, "failed"), failed_count)
            running.add_metric((feed,), running_count)
            failed.add_metric((feed,), has_last_failed)
            for metric, value in zip(last, figures, strict=False):
                if value is not None:
                    metric.add_metric((feed,), value)
        yield from (ended, running, failed, *last)


def _of_models(rows: list[tuple[Any, ...]]) -> Iterator[Metric]:
    yield GaugeMetricFamily("feeds_models", "Tables of models that were ever built.", value=len(rows))
    built = GaugeMetricFamily(
        "feeds_model_last_build_timestamp_seconds",
        "When the last successful build began, as Unix time.",
        labels=["model"],
    )
    unseen = GaugeMetricFamily(
        "feeds_model_unseen_loads", "Published loads of its feeds that the model has not seen.", labels=["model"]
    )
    since = GaugeMetricFamily(
        "feeds_model_oldest_unseen_load_timestamp_seconds",
        "When the first of them ended, as Unix time.",
        labels=["model"],
    )
    for model, built_at, count, oldest in rows:
        built.add_metric((model,), built_at)
        unseen.add_metric((model,), count)
        if oldest is not None:
            since.add_metric((model,), oldest)
    yield from (built, unseen, since)


def _exists(connection: psycopg.Connection, table: str) -> bool:
    [(exists,)] = connection.execute("select to_regclass(%s) is not null", (table,))
    return bool(exists)


def _server_of(connection: psycopg.Connection) -> str:
    """Return what tells this server's transactions from another's, as dbt/macros/begin_build.sql does."""
    try:
        [(server,)] = connection.execute("select system_identifier::text from pg_catalog.pg_control_system()")
    except psycopg.errors.InsufficientPrivilege:
        [(server,)] = connection.execute(
            "select (extract(epoch from stats_reset) * 1000000)::bigint::text from pg_catalog.pg_stat_bgwriter"
        )
    return str(server)


def serve(dsn: str, address: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serve the metrics of the warehouse at DSN on ADDRESS and PORT, and return the server and its thread.

    Raises OSError if the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(WarehouseCollector(dsn, expected_feeds()))
    return start_http_server(port, address, registry)
