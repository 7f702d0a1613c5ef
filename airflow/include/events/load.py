"""Load an events file into `raw`: afterwards an interval of `raw.events` holds exactly the file's valid rows of it.

A load has two steps, in one transaction. It copies the file's rows into tables of its own, which takes long and
disturbs nobody; then it puts these tables in the place of the partitions of its interval, one load at a time. So a load
that fails, or is killed, leaves `raw.events` as it was and nothing else behind. `raw.loads` has a row for each load,
from its beginning.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import psycopg
from psycopg.errors import LockNotAvailable, QueryCanceled

from events import ledger
from events.errors import EmptyReplacement, EventsError, SourceChanged, TooManyRejected, WarehouseBusy
from events.interval import Interval, utc
from events.ledger import Earlier, LoadResult
from events.partitions import drop_leftovers
from events.progress import Progress
from events.publishing import Replacement, swap
from events.source import digest, open_source, redacted, size
from events.staging import Staging

__all__ = ["PUBLISH_LOCK", "Interval", "LoadResult", "load"]

PUBLISH_LOCK = 0x6576656E7473  # "events": who changes raw.events, or wants it unchanged (dbt), holds this advisory lock
_SETTINGS = """
    set timezone = 'UTC';
    set datestyle = 'ISO';
    set client_connection_check_interval = '5s';
    set tcp_keepalives_idle = 30;
    set tcp_keepalives_interval = 10;
    set tcp_keepalives_count = 3
"""

logger = logging.getLogger(__name__)


def load(
    source_uri: str,
    dsn: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    max_rejected: float = 0.01,
    allow_empty: bool = False,
    run_id: str | None = None,
    lock_timeout_s: float = 1800.0,
    dry_run: bool = False,
    say: Callable[[str], None] = logger.info,
    say_every_s: float = 5.0,
) -> LoadResult:
    """Make `raw.events` in `[start, end)` of `created_at` hold exactly the file's valid rows of that interval.

    Args:
        source_uri: the events file, a path or any fsspec URI.
        dsn: the warehouse as the role `loader`, a libpq URL.
        start: first moment of the interval; UTC if naive; None for no bound.
        end: first moment after the interval; UTC if naive; None for no bound.
        max_rejected: the largest fraction of the rows read, 0 to 1, that may be rejected.
        allow_empty: whether events of the interval may be replaced by nothing.
        run_id: what asked for the load, for the ledger.
        lock_timeout_s: how long, in seconds, publishing waits for other loads, dbt builds and readers.
        dry_run: find out what the load would do, and leave everything as it is, the ledger too.
        say: what is told how far the load has come.
        say_every_s: how often that is said, in seconds.

    Raises:
        EventsError: as its subclasses say; `raw.events` is as it was, and the ledger says what happened.
        psycopg.Error: the warehouse failed; likewise, if it can still be written.
    """
    job = _Load(source_uri, dsn, Interval(utc(start), utc(end)), max_rejected, allow_empty, lock_timeout_s, dry_run)
    with _connected(dsn) as connection:
        if dry_run:
            connection.execute("begin")
        else:
            ledger.bury(connection)
            drop_leftovers(connection)
        load_id = ledger.begin(connection, source_uri, job.interval, run_id)
        try:
            result = job.run(connection, load_id, say, say_every_s)
        except BaseException as error:  # an interrupt too
            with suppress(psycopg.Error):
                connection.rollback()
            if not dry_run:
                ledger.record_failure(dsn, load_id, error)
            raise
    logger.info("%s of %s, %s: %s", job.name(load_id), redacted(source_uri), job.interval, result)
    return result


@dataclass(frozen=True)
class _Load:
    """One load: what was asked for, as `load` says, and its steps."""

    source_uri: str
    dsn: str
    interval: Interval
    max_rejected: float
    allow_empty: bool
    lock_timeout_s: float
    dry_run: bool
    began: float = field(default_factory=time.monotonic)

    def name(self, load_id: int) -> str:
        """Return what the log calls the load."""
        return "dry run" if self.dry_run else f"load {load_id}"

    def run(
        self, connection: psycopg.Connection, load_id: int, say: Callable[[str], None], say_every_s: float
    ) -> LoadResult:
        """Do all of it; nothing of it is there if that fails."""
        if not self.dry_run and (result := self._repeat(connection, load_id)):
            return result
        if not self.dry_run:
            connection.execute("begin")
        staging, source = self._stage(connection, load_id, say, say_every_s)
        if staging.rejected:
            reasons = _text(staging.rejected)
            logger.warning("%s: rejected %d rows: %s", self.name(load_id), staging.rejected.total(), reasons)
        deadline = time.monotonic() + self.lock_timeout_s
        if not self.dry_run:
            self._wait_for_turn(connection)
        replacement = Replacement(connection, self.dsn, load_id, self.interval)
        rows_now = replacement.rows()
        if refusal := self._refusal(staging, rows_now, load_id):
            self._refuse(connection, load_id, staging, source, refusal)
            raise refusal
        moved = replacement.find_moved([part.table for part in staging.parts])
        result = LoadResult(
            load_id,
            read=staging.read,
            loaded=staging.loaded,
            rejected=staging.rejected.total(),
            outside=staging.outside,
            replaced=rows_now + moved,
            reasons=dict(staging.rejected.most_common()),
            seconds=round(time.monotonic() - self.began, 3),
        )
        if self.dry_run:
            connection.execute("rollback")
            return result
        replacement.prepare(staging)
        self._forget_rejects(connection, load_id)
        ledger.close(connection, load_id, source, result, replacement.moved_from)
        with self._busy_warehouse():
            swap(connection, replacement.swap_statement(), deadline)
        with suppress(psycopg.Error):  # the load is published; the next one does it
            drop_leftovers(connection)
        return replace(result, seconds=round(time.monotonic() - self.began, 3))

    def _repeat(self, connection: psycopg.Connection, load_id: int) -> LoadResult | None:
        """Close the load if an earlier one brought the same and still stands; else return None."""
        earlier = ledger.find_earlier(connection, self.source_uri, size(self.source_uri), self.interval)
        if not earlier:
            return None
        source = digest(self.source_uri)
        if source[1] != earlier.sha256 or (earlier.rejected and earlier.rejected / earlier.read > self.max_rejected):
            return None
        connection.execute("begin")
        self._wait_for_turn(connection)
        if not self._stands(connection, earlier):
            connection.execute("rollback")
            return None
        reasons = connection.execute(
            "select reason, count(*) from raw.rejected_events where load_id = %s group by reason order by 2 desc",
            (earlier.load_id,),
        )
        result = LoadResult(
            load_id,
            read=earlier.read,
            loaded=earlier.loaded,
            rejected=earlier.rejected,
            outside=earlier.outside,
            replaced=0,
            reasons=dict(reasons.fetchall()),
            same_as_load_id=earlier.load_id,
            seconds=round(time.monotonic() - self.began, 3),
        )
        if result.rejected:
            logger.warning("load %d: rejected %d rows: %s", load_id, result.rejected, _text(result.reasons))
        self._forget_rejects(connection, earlier.load_id)
        ledger.close(connection, load_id, source, result)
        connection.execute("commit")
        return result

    def _stands(self, connection: psycopg.Connection, earlier: Earlier) -> bool:
        """Say whether the tables hold what EARLIER left there, nothing more and nothing less.

        A row that was changed or added since, by hand or by another load, was written by another transaction; one that
        was removed is missing in the count.
        """
        [events] = connection.execute(
            "select count(*), count(*) filter (where xmin = %s::xid8::xid) from raw.events"
            " where created_at >= %s and created_at < %s",
            (earlier.transaction_id, *self.interval.bounds),
        )
        [rejects] = connection.execute(
            "select count(*), count(*) filter (where xmin = %s::xid8::xid) from raw.rejected_events where load_id = %s",
            (earlier.transaction_id, earlier.load_id),
        )
        if events != (earlier.loaded,) * 2 or rejects != (earlier.rejected,) * 2:
            return False
        return Replacement(connection, self.dsn, earlier.load_id, self.interval).find_moved() == 0

    def _stage(
        self, connection: psycopg.Connection, load_id: int, say: Callable[[str], None], say_every_s: float
    ) -> tuple[Staging, tuple[int, str]]:
        staging = Staging(connection, load_id, self.interval)
        with open_source(self.source_uri) as source:
            progress = Progress(source.total_bytes, say, say_every_s)
            staging.stage(source, lambda rows: progress.advance(rows, source.size_bytes))
            what = source.size_bytes, source.sha256
        if staging.settle_duplicates(self.source_uri) not in (None, what[1]):
            raise SourceChanged(
                f"{redacted(self.source_uri)} changed while it was read.",
                "It was read twice, since it has the same event id twice, and another export came in between.",
                "Run the load again; nothing was changed.",
            )
        return staging, what

    def _wait_for_turn(self, connection: psycopg.Connection) -> None:
        """Wait until no other load publishes and no dbt build runs, then keep others from writing to raw.events."""
        timeout_ms = max(1, round(self.lock_timeout_s * 1000))  # 0 would be no timeout
        with self._busy_warehouse():
            connection.execute("select set_config('lock_timeout', %s, true)", (f"{timeout_ms}ms",))
            [(is_free,)] = connection.execute("select pg_try_advisory_xact_lock(%s)", (PUBLISH_LOCK,))
            if not is_free:
                logger.info("waiting for another load or a dbt build, at most %g s", self.lock_timeout_s)
                connection.execute("select pg_advisory_xact_lock(%s)", (PUBLISH_LOCK,))
            connection.execute("lock table only raw.events in share row exclusive mode")

    @contextmanager
    def _busy_warehouse(self) -> Iterator[None]:
        try:
            yield
        except (LockNotAvailable, QueryCanceled) as error:
            raise WarehouseBusy(
                f"The warehouse did not become free within {self.lock_timeout_s:g} s.",
                "Another load or a dbt build is taking long, or somebody has left a transaction open.",
                "See who: select * from pg_stat_activity where datname = current_database(); then run the load again.",
            ) from error

    def _refusal(self, staging: Staging, rows_now: int, load_id: int) -> EventsError | None:
        """Return why the load must not be published, if so."""
        uri, rejected = redacted(self.source_uri), staging.rejected.total()
        if rejected and rejected / staging.read > self.max_rejected:
            look = f"Look at the rows of load {load_id} in raw.rejected_events"
            return TooManyRejected(
                f"{rejected} of {staging.read} rows of {uri} were rejected;"
                f" at most {self.max_rejected * 100:g}% may be.",
                f"The file is most likely damaged, or its format has changed: {_text(staging.rejected)}.",
                f"{'Load it to see the rows' if self.dry_run else look}; a larger max_rejected allows them.",
            )
        if rows_now and not staging.loaded and not self.allow_empty:
            return EmptyReplacement(
                f"The load of {uri} would replace the events of {self.interval} by nothing.",
                "The file is most likely another one, or is not complete.",
                "Check the file; if the interval is to be empty, load it again with allow_empty.",
            )
        return None

    def _refuse(
        self,
        connection: psycopg.Connection,
        load_id: int,
        staging: Staging,
        source: tuple[int, str],
        refusal: EventsError,
    ) -> None:
        """Leave the rejected rows and the reason, and nothing else of the load."""
        if self.dry_run:
            return
        staging.drop()
        self._forget_rejects(connection, load_id)
        counts = {"read": staging.read, "rejected": staging.rejected.total(), "outside": staging.outside}
        ledger.close(connection, load_id, source, (refusal, counts))
        connection.execute("commit")

    def _forget_rejects(self, connection: psycopg.Connection, kept_load_id: int) -> None:
        """Remove the rejected rows of earlier loads of the same source."""
        connection.execute(
            "delete from raw.rejected_events using raw.loads where loads.load_id = rejected_events.load_id"
            " and loads.source_uri = %s and loads.load_id <> %s",
            (redacted(self.source_uri), kept_load_id),
        )


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection]:
    """Connect for a load: this process may go away at any moment, and then the server is to notice."""
    with closing(
        psycopg.connect(
            dsn,
            autocommit=True,
            prepare_threshold=None,  # a prepared statement is one statement; some messages here are several
            client_encoding="utf8",
            connect_timeout=30,
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
    ) as connection:
        connection.execute(_SETTINGS)
        yield connection


def _text(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
