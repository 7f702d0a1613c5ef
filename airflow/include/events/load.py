"""Load an events file into `raw`: afterwards an interval of `raw.events` holds exactly the file's valid rows of it.

A load has two steps. It copies the file's rows into a temporary table, which takes long and disturbs nobody; then it
publishes them in one short transaction, one load at a time. So a load that fails, or is killed, leaves `raw.events` as
it was. `raw.loads` has a row for each load, from its beginning.
"""

import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import psycopg
from psycopg.errors import LockNotAvailable

from events.errors import (
    EmptyReplacement,
    EventsError,
    IntervalUnreadable,
    IntervalUpsideDown,
    TooManyRejected,
    WarehouseBusy,
)
from events.records import COLUMNS, DUPLICATE, Event, Reject, parse, raw_text
from events.source import open_source, redacted

PUBLISH_LOCK = 0x6576656E7473  # "events": who changes raw.events, or wants it unchanged (dbt), holds this advisory lock
_LOAD_LOCK = 0x6C6F6164  # "load": with the load's id, held by each load's connection for as long as it lives

_CREATE_INCOMING = """
    create temporary table incoming (
        line_number bigint not null,
        event_id bigint,
        event_type text,
        professional_id_anonymized bigint,
        created_at timestamptz,
        meta_data text,
        raw_text text,
        reason text
    )
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interval:
    """A half-open interval of time, `[start, end)`, in UTC; None is an open bound.

    Raises:
        IntervalUpsideDown: `end` is not after `start`.
    """

    start: datetime | None
    end: datetime | None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise IntervalUpsideDown(
                f"The interval {self} has nothing in it: its end is not after its start.",
                "Start and end are most likely swapped, or the same; the end itself is not part of an interval.",
                "Give an end that is after the start, or leave either out.",
            )

    def __contains__(self, moment: datetime) -> bool:
        return (self.start is None or self.start <= moment) and (self.end is None or moment < self.end)

    @classmethod
    def parse(cls, start: str | None, end: str | None) -> "Interval":
        """Return the interval between two instants as people write them: ISO 8601, in UTC where they do not say.

        Raises:
            IntervalUnreadable, IntervalUpsideDown: see there.
        """
        return cls(_instant(start), _instant(end))

    @property
    def bounds(self) -> tuple[datetime | str, datetime | str]:
        """The bounds as PostgreSQL takes them."""
        return self.start or "-infinity", self.end or "infinity"

    def __str__(self) -> str:
        return f"[{self.start or 'the beginning'}, {self.end or 'the end'})"


@dataclass(frozen=True)
class LoadResult:
    """What a load did, in rows.

    Attributes:
        load_id: the load's row in `raw.loads`.
        read: rows in the file, `loaded + rejected + outside`.
        loaded: rows that are now in `raw.events`.
        rejected: rows that are now in `raw.rejected_events`.
        outside: valid rows outside the interval.
        replaced: rows that were in `raw.events` before and had to go: the interval's, and those that moved into it.
    """

    load_id: int
    read: int
    loaded: int
    rejected: int
    outside: int
    replaced: int

    def as_counts(self) -> dict[str, int]:
        """Return the fields by name."""
        return asdict(self)


@dataclass
class _Staged:
    """What is in the temporary table `incoming`, and the file it came from."""

    load_id: int
    source_uri: str
    interval: Interval
    valid: int = 0
    outside: int = 0
    rejected_by_reason: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0
    sha256: str = ""

    @property
    def rejected(self) -> int:
        return self.rejected_by_reason.total()

    @property
    def read(self) -> int:
        return self.valid + self.outside + self.rejected

    @property
    def reasons(self) -> str:
        return ", ".join(f"{reason} {count}" for reason, count in self.rejected_by_reason.most_common())


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
        lock_timeout_s: how long, in seconds, publishing waits for other loads and dbt builds.

    Raises:
        EventsError: as its subclasses say; `raw.events` is as it was, and the ledger says what happened.
        psycopg.Error: the warehouse failed; likewise, if it can still be written.
    """
    interval = Interval(_utc(start), _utc(end))
    began = time.monotonic()
    with psycopg.connect(dsn, autocommit=True, client_encoding="utf8") as connection:
        staged = _Staged(_begin(connection, source_uri, interval, run_id), redacted(source_uri), interval)
        try:
            _stage(connection, source_uri, staged)
            if staged.rejected:
                logger.warning("load %d: rejected %d rows: %s", staged.load_id, staged.rejected, staged.reasons)
            result = _publish(
                connection, staged, max_rejected=max_rejected, allow_empty=allow_empty, lock_timeout_s=lock_timeout_s
            )
        except BaseException as error:  # an interrupt too
            _record_failure(dsn, staged.load_id, error)
            raise
    counts = ", ".join(f"{name} {count}" for name, count in result.as_counts().items() if name != "load_id")
    logger.info(
        "load %d of %s, %s: %s, in %.1f s",
        *(result.load_id, staged.source_uri, interval, counts, time.monotonic() - began),
    )
    return result


def _instant(text: str | None) -> datetime | None:
    try:
        return _utc(datetime.fromisoformat(text)) if text else None
    except ValueError as error:
        raise IntervalUnreadable(
            f"{text!r} is not a time: {error}.",
            "It is most likely misspelt, or a day that its month does not have.",
            "Write it like 2020-02-01 or 2020-02-01T09:00:00Z.",
        ) from error


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def _begin(connection: psycopg.Connection, source_uri: str, interval: Interval, run_id: str | None) -> int:
    """Enter the load into the ledger, and note there which loads were killed; return the load's id."""
    with connection.transaction():
        [(load_id,)] = connection.execute(
            "insert into raw.loads (source_uri, interval_start, interval_end, run_id, status)"
            " values (%s, %s, %s, %s, 'running') returning load_id",
            (redacted(source_uri), interval.start, interval.end, run_id),
        )
        # Of the session, not of the transaction: who can take it later knows that this connection is gone.
        connection.execute("select pg_advisory_lock(%s, %s::int)", (_LOAD_LOCK, load_id))
    connection.execute(
        "update raw.loads set status = 'failed', failure = 'Its process was killed.', ended_at = clock_timestamp()"
        " where status = 'running' and load_id <> %s and pg_try_advisory_xact_lock(%s, load_id::int)",
        (load_id, _LOAD_LOCK),
    )
    return int(load_id)


def _stage(connection: psycopg.Connection, source_uri: str, staged: _Staged) -> None:
    """Copy the file's valid rows of the interval, and its rejects, into the temporary table; count them in STAGED."""
    seen: set[int] = set()
    connection.execute(_CREATE_INCOMING)
    with open_source(source_uri) as source, connection.cursor().copy("copy incoming from stdin") as copy:
        for line_number, line in source.rows:
            row = parse(line)
            if isinstance(row, Event) and row.event_id in seen:
                row = Reject(DUPLICATE)
            if isinstance(row, Reject):
                staged.rejected_by_reason[row.reason] += 1
                copy.write_row((line_number, *[None] * len(COLUMNS), raw_text(line), row.reason))
                continue
            seen.add(row.event_id)
            if row.created_at in staged.interval:
                staged.valid += 1
                copy.write_row((line_number, *row, None, None))
            else:
                staged.outside += 1
        staged.size_bytes, staged.sha256 = source.size_bytes, source.sha256
    connection.execute("analyze incoming")


def _publish(
    connection: psycopg.Connection, staged: _Staged, *, max_rejected: float, allow_empty: bool, lock_timeout_s: float
) -> LoadResult:
    """Replace the source's rejects and the interval's events, and close the ledger's row, in one transaction.

    When the load is refused the same transaction replaces the rejects only, and the ledger's row says why.
    """
    try:
        with connection.transaction():
            _wait_for_turn(connection, lock_timeout_s)
            _replace_rejects(connection, staged)
            refusal = _refusal(connection, staged, max_rejected=max_rejected, allow_empty=allow_empty)
            outcome = refusal or _replace_events(connection, staged)
            _close_ledger_row(connection, staged, outcome)
    except LockNotAvailable as error:
        raise WarehouseBusy(
            f"The warehouse did not become free within {lock_timeout_s:g} s.",
            "Another load or a dbt build is taking long, or somebody has left a transaction open.",
            "See who: select * from pg_stat_activity where datname = current_database(); then run the load again.",
        ) from error
    if isinstance(outcome, EventsError):
        raise outcome
    return outcome


def _wait_for_turn(connection: psycopg.Connection, lock_timeout_s: float) -> None:
    timeout_ms = max(1, round(lock_timeout_s * 1000))  # 0 would be no timeout
    connection.execute("select set_config('lock_timeout', %s, true)", (f"{timeout_ms}ms",))
    [(is_free,)] = connection.execute("select pg_try_advisory_xact_lock(%s)", (PUBLISH_LOCK,))
    if not is_free:
        logger.info("waiting for another load or a dbt build, at most %g s", lock_timeout_s)
        connection.execute("select pg_advisory_xact_lock(%s)", (PUBLISH_LOCK,))


def _refusal(
    connection: psycopg.Connection, staged: _Staged, *, max_rejected: float, allow_empty: bool
) -> EventsError | None:
    """Return why the load must not be published, if so."""
    if staged.rejected and staged.rejected / staged.read > max_rejected:
        return TooManyRejected(
            f"{staged.rejected} of {staged.read} rows of {staged.source_uri} were rejected;"
            f" at most {max_rejected * 100:g}% may be.",
            f"The file is most likely damaged, or its format has changed: {staged.reasons}.",
            f"Look at the rows of load {staged.load_id} in raw.rejected_events; a larger max_rejected allows them.",
        )
    some_event = "select 1 from raw.events where created_at >= %s and created_at < %s limit 1"
    if staged.valid == 0 and not allow_empty and connection.execute(some_event, staged.interval.bounds).fetchone():
        return EmptyReplacement(
            f"The load of {staged.source_uri} would replace the events of {staged.interval} by nothing.",
            "The file is most likely another one, or is not complete.",
            "Check the file; if the interval is to be empty, load it again with allow_empty.",
        )
    return None


def _replace_rejects(connection: psycopg.Connection, staged: _Staged) -> None:
    connection.execute(
        "delete from raw.rejected_events using raw.loads"
        " where loads.load_id = rejected_events.load_id and loads.source_uri = %s",
        (staged.source_uri,),
    )
    connection.execute(
        "insert into raw.rejected_events (load_id, line_number, raw_text, reason)"
        " select %s, line_number, raw_text, reason from incoming where reason is not null",
        (staged.load_id,),
    )


def _replace_events(connection: psycopg.Connection, staged: _Staged) -> LoadResult:
    of_interval = connection.execute(
        "delete from raw.events where created_at >= %s and created_at < %s", staged.interval.bounds
    )
    moved = connection.execute("delete from raw.events using incoming where incoming.event_id = events.event_id")
    loaded = connection.execute(
        "insert into raw.events (event_id, event_type, professional_id_anonymized, created_at, meta_data, load_id)"
        " select event_id, event_type, professional_id_anonymized, created_at, meta_data, %s"
        " from incoming where reason is null",
        (staged.load_id,),
    )
    return LoadResult(
        load_id=staged.load_id,
        read=staged.read,
        loaded=loaded.rowcount,
        rejected=staged.rejected,
        outside=staged.outside,
        replaced=of_interval.rowcount + moved.rowcount,
    )


def _close_ledger_row(connection: psycopg.Connection, staged: _Staged, outcome: LoadResult | EventsError) -> None:
    if isinstance(outcome, LoadResult):
        status, failure, loaded, replaced = "succeeded", None, outcome.loaded, outcome.replaced
    else:
        status, failure, loaded, replaced = "failed", str(outcome), None, None
    connection.execute(
        "update raw.loads set status = %s, failure = %s, ended_at = clock_timestamp(),"
        " source_size_bytes = %s, source_sha256 = %s,"
        " rows_read = %s, rows_rejected = %s, rows_outside = %s, rows_loaded = %s, rows_replaced = %s"
        " where load_id = %s",
        (
            *(status, failure, staged.size_bytes, staged.sha256),
            *(staged.read, staged.rejected, staged.outside, loaded, replaced, staged.load_id),
        ),
    )


def _record_failure(dsn: str, load_id: int, error: BaseException) -> None:
    """Write ERROR into the ledger over a connection of its own, unless the load has ended there."""
    failure = str(error) if isinstance(error, EventsError) else redacted(f"{type(error).__name__} {error}".strip())
    try:
        with psycopg.connect(dsn, connect_timeout=10, client_encoding="utf8") as connection:
            connection.execute(
                "update raw.loads set status = 'failed', failure = %s, ended_at = clock_timestamp()"
                " where load_id = %s and status = 'running'",
                (failure.replace("\0", "\\x00"), load_id),
            )
    except psycopg.Error as second:
        logger.warning("load %d: its failure could not be recorded; the next load will do it: %s", load_id, second)
