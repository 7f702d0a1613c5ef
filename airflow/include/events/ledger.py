"""The ledger, `raw.loads`: a row for each load, from its beginning; and the quarantine that goes with it."""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from events.errors import EventsError
from events.interval import Interval
from events.source import redacted

_LOAD_LOCK = 0x6C6F6164  # "load": with the load's id, held by each load's connection for as long as it lives
_COUNTS = ("read", "loaded", "rejected", "outside", "replaced")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadResult:
    """What a load did, in rows.

    Attributes:
        load_id: the load's row in `raw.loads`.
        read: rows in the file, `loaded + rejected + outside`.
        loaded: rows of it that are now in `raw.events`.
        rejected: rows of it that are now in `raw.rejected_events`.
        outside: valid rows outside the interval.
        replaced: rows that were in `raw.events` before and had to go: the interval's, and those that moved into it.
        reasons: how many rows were rejected, by reason.
        same_as_load_id: the load that had brought the same and still stood, so that nothing had to be done.
        seconds: how long it took.
    """

    load_id: int
    read: int
    loaded: int
    rejected: int
    outside: int
    replaced: int
    reasons: dict[str, int] = field(default_factory=dict)
    same_as_load_id: int | None = None
    seconds: float = field(default=0.0, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {getattr(self, name):,}" for name in _COUNTS)
        same = f", the same as load {self.same_as_load_id}, which still stands" if self.same_as_load_id else ""
        return f"{counts}{same}, in {self.seconds:.1f} s"


@dataclass(frozen=True)
class Earlier:
    """A load that has succeeded, and how to tell whether its rows are still as it left them."""

    load_id: int
    transaction_id: str
    sha256: str
    read: int
    loaded: int
    rejected: int
    outside: int


def begin(connection: psycopg.Connection, source_uri: str, interval: Interval, run_id: str | None) -> int:
    """Enter a load into the ledger and return its id."""
    with connection.transaction():
        [(load_id,)] = connection.execute(
            "insert into raw.loads (source_uri, interval_start, interval_end, run_id, status)"
            " values (%s, %s, %s, %s, 'running') returning load_id",
            (redacted(source_uri), interval.start, interval.end, run_id),
        )
        # Of the session, not of the transaction: who can take it later knows that this connection is gone.
        connection.execute("select pg_advisory_lock(%s, %s::int)", (_LOAD_LOCK, load_id))
    return int(load_id)


def bury(connection: psycopg.Connection) -> None:
    """Note in the ledger which loads were killed: those that run there and whose connection is gone.

    Of such a load there is nothing else left: what it had written was never committed.
    """
    connection.execute(
        "update raw.loads set status = 'failed', failure = 'Its process was killed.', ended_at = clock_timestamp()"
        " where status = 'running' and pg_try_advisory_xact_lock(%s, load_id::int)",
        (_LOAD_LOCK,),
    )


def find_earlier(
    connection: psycopg.Connection, source_uri: str, size_bytes: int | None, interval: Interval
) -> Earlier | None:
    """Return the latest load of a file of that size for that interval whose rejects would be this one's, too."""
    found = connection.execute(
        "select load_id, transaction_id::text, source_sha256, rows_read, rows_loaded, rows_rejected, rows_outside"
        " from raw.loads where status = 'succeeded' and same_as_load_id is null and transaction_id is not null"
        " and source_size_bytes = %s and (source_uri = %s or rows_rejected = 0)"
        " and interval_start is not distinct from %s and interval_end is not distinct from %s"
        " order by load_id desc limit 1",
        (size_bytes, redacted(source_uri), interval.start, interval.end),
    ).fetchone()
    return Earlier(*found) if found else None


def close(
    connection: psycopg.Connection,
    load_id: int,
    source: tuple[int, str],
    outcome: LoadResult | tuple[EventsError, dict[str, int]],
    moved_from: str | None = None,
) -> None:
    """Write a load's OUTCOME into the ledger: what it did, or why it was refused and what of its rows is known.

    MOVED_FROM is the earliest time that an event had which moved into the interval.
    """
    if isinstance(outcome, LoadResult):
        status, failure, counts = "succeeded", None, {name: getattr(outcome, name) for name in _COUNTS}
        same_as = outcome.same_as_load_id
    else:
        status, failure, counts, same_as = "failed", str(outcome[0]), outcome[1], None
    connection.execute(
        "update raw.loads set status = %s, failure = %s, ended_at = clock_timestamp(),"
        " source_size_bytes = %s, source_sha256 = %s, same_as_load_id = %s, transaction_id = pg_current_xact_id(),"
        " rows_read = %s, rows_loaded = %s, rows_rejected = %s, rows_outside = %s, rows_replaced = %s,"
        " moved_from = %s"
        " where load_id = %s",
        (status, failure, *source, same_as, *(counts.get(name) for name in _COUNTS), moved_from, load_id),
    )


def record_failure(dsn: str, load_id: int, error: BaseException) -> None:
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
