"""The ledger, `raw.loads`: a row for each load, from its beginning; and the quarantine that goes with it."""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from events.connection import connect, transaction
from events.errors import EventsError
from events.interval import Interval
from events.uri import shown, source_id, without_secrets

_LOAD_LOCK = 0x6C6F6164  # "load": with the load's id, held by the transaction of each load that is under way
_INT = 0x7FFFFFFF  # the largest: such a lock has two of four bytes
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
    [(load_id,)] = connection.execute(
        "insert into raw.loads (source_uri, source_id, interval_start, interval_end, run_id, status)"
        " values (%s, %s, %s, %s, %s, 'running') returning load_id",
        (_writable(shown(source_uri)), source_id(source_uri), interval.start, interval.end, run_id),
    )
    return int(load_id)


def hold(connection: psycopg.Connection, load_id: int) -> None:
    """Show, until the transaction ends, that the load is under way: who can take this lock knows that it is not."""
    connection.execute("select pg_advisory_xact_lock(%s, %s)", (_LOAD_LOCK, load_id & _INT))


def tidy(connection: psycopg.Connection) -> None:
    """Note which loads were killed, and take out the secrets that an earlier version let through.

    A load was killed if its row says that it is running and nobody holds its lock. Nothing else is left of such a load:
    what it had written was never committed.
    """
    connection.execute(
        "update only raw.loads set status = 'failed', failure = 'Its process was killed.', ended_at = clock_timestamp()"
        " where status = 'running' and pg_try_advisory_xact_lock(%s, (load_id & %s)::int)",
        (_LOAD_LOCK, _INT),
    )
    found = connection.execute(
        "select load_id, source_uri, failure from only raw.loads where source_id is null for update skip locked"
    )
    for load_id, uri, failure in found.fetchall():
        connection.execute(
            "update only raw.loads set source_uri = %s, source_id = %s, failure = %s where load_id = %s",
            (shown(uri), source_id(uri), failure and without_secrets(failure), load_id),
        )


def find_earlier(
    connection: psycopg.Connection, source_uri: str, size_bytes: int | None, interval: Interval, rules: str
) -> Earlier | None:
    """Return the latest load of a file of that size for that interval, by the same RULES, with the rejects of this."""
    found = connection.execute(
        "select load_id, transaction_id::text, source_sha256, rows_read, rows_loaded, rows_rejected, rows_outside"
        " from only raw.loads where status = 'succeeded' and same_as_load_id is null and transaction_id is not null"
        " and rules_sha256 = %s and source_size_bytes = %s and (source_id = %s or rows_rejected = 0)"
        " and interval_start is not distinct from %s and interval_end is not distinct from %s"
        " order by load_id desc limit 1",
        (rules, size_bytes, source_id(source_uri), interval.start, interval.end),
    ).fetchone()
    return Earlier(*found) if found else None


def forget_rejects(connection: psycopg.Connection, source_uri: str, kept_load_id: int) -> None:
    """Remove the rejected rows of the other loads of the same source."""
    connection.execute(
        "delete from only raw.rejected_events using only raw.loads where loads.load_id = rejected_events.load_id"
        " and loads.source_id = %s and loads.load_id <> %s",
        (source_id(source_uri), kept_load_id),
    )


def close(
    connection: psycopg.Connection,
    load_id: int,
    source: tuple[int | None, str | None],
    outcome: LoadResult | tuple[EventsError, dict[str, int]],
    *,
    rules: str | None = None,
    moved_from: str | None = None,
) -> None:
    """Write a load's OUTCOME into the ledger: what it did, or why it was refused and what of its rows is known.

    SOURCE is the file's size and SHA-256, RULES what decided which rows are valid, MOVED_FROM the earliest time that an
    event had which moved into the interval.
    """
    if isinstance(outcome, LoadResult):
        status, failure, counts = "succeeded", None, {name: getattr(outcome, name) for name in _COUNTS}
        same_as = outcome.same_as_load_id
    else:
        status, failure, counts, same_as = "failed", str(outcome[0]), outcome[1], None
    connection.execute(
        "update only raw.loads set status = %s, failure = %s, ended_at = clock_timestamp(),"
        " source_size_bytes = %s, source_sha256 = %s, same_as_load_id = %s, transaction_id = pg_current_xact_id(),"
        " rows_read = %s, rows_loaded = %s, rows_rejected = %s, rows_outside = %s, rows_replaced = %s,"
        " rules_sha256 = %s, moved_from = %s"
        " where load_id = %s",
        (status, failure, *source, same_as, *(counts.get(name) for name in _COUNTS), rules, moved_from, load_id),
    )


def record_failure(dsn: str, role: str | None, load_id: int, source_uri: str, error: BaseException) -> None:
    """Write ERROR into the ledger, over a connection of its own as ROLE, unless the load has ended there."""
    failure = str(error) if isinstance(error, EventsError) else f"{type(error).__name__} {error}".strip()
    failure = without_secrets(failure, source_uri, dsn)
    try:
        with connect(dsn) as connection, transaction(connection, role):
            connection.execute(
                "update only raw.loads set status = 'failed', failure = %s, ended_at = clock_timestamp()"
                " where load_id = %s and status <> 'succeeded'",  # another load may take it for killed meanwhile
                (_writable(failure), load_id),
            )
    except psycopg.Error as second:
        logger.warning(
            "load %d: its failure could not be recorded; the next load will do it: %s",
            load_id,
            without_secrets(str(second), dsn),
        )


def _writable(text: str) -> str:
    """Return TEXT as PostgreSQL takes it: a path may have any byte in it."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
