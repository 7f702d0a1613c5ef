"""The ledger, `raw.loads`, with a row for each load from its start, and the quarantine, `raw.rejected_rows`."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import psycopg

from feeds.connection import connect, transaction
from feeds.errors import FeedError
from feeds.interval import Interval
from feeds.uri import shown, source_id, without_secrets

_LOAD_LOCK = 0x6C6F6164  # "load": with a load's id, the advisory lock of that load's transaction
_INT = 0x7FFFFFFF  # the largest number that such a lock's second half takes
# Whether a load that is `running` in the ledger was killed: its process holds its lock from its first second on.
IS_KILLED = f"""
    (status = 'running' and started_at < clock_timestamp() - interval '2 seconds' and not exists (
        select from pg_locks
        where locktype = 'advisory' and classid = {_LOAD_LOCK} and objid = (load_id & {_INT})::oid and objsubid = 2
            and database = (select oid from pg_database where datname = current_database())
    ))
"""  # noqa: S608 - constants
# A row that the load before has rejected of the same file, too, is moved to this load: the file may have grown. What
# that load has rejected besides stays, as its rows do.
_QUARANTINE = """
    with moved as (
        delete from only raw.rejected_rows as earlier
        using only raw.loaded_files as own, only raw.loaded_files as before
        where own.load_id = %(load)s and %(moves)s
            and before.source_id = own.source_id and before.header is not distinct from own.header
            and before.load_id = (
                select coalesce(last.same_as_load_id, last.load_id)
                from only raw.loads as last join only raw.loaded_files as read using (load_id)
                where last.feed = earlier.feed and last.status = 'succeeded' and read.source_id = own.source_id
                order by last.ended_at desc limit 1
            )
            and (earlier.load_id, earlier.file_number) = (before.load_id, before.file_number)
            and earlier.feed = (select feed from only raw.loads where load_id = %(load)s)
            and exists (
                select from pg_temp.rejects
                where (rejects.file_number, rejects.raw_text) = (own.file_number, earlier.raw_text)
            )
        returning own.file_number, earlier.raw_text, earlier.first_load_id
    )
    insert into raw.rejected_rows (
        feed, load_id, file_number, line_number, raw_text, reason, column_name, first_load_id
    )
    select
        loads.feed, loads.load_id, rejects.file_number, rejects.line_number, rejects.raw_text, rejects.reason,
        rejects.column_name, coalesce(
            (
                select min(first_load_id) from moved
                where (moved.file_number, moved.raw_text) = (rejects.file_number, rejects.raw_text)
            ),
            loads.load_id
        )
    from pg_temp.rejects join only raw.loads on loads.load_id = %(load)s
    order by rejects.file_number, rejects.line_number limit %(limit)s
"""
# What loads of the same file rejected is forgotten when a load replaces all of their intervals. A load that was refused
# early has not recorded its files: then the whole source counts.
_FORGET_REJECTS = """
    with held as (
        select distinct rejected_rows.load_id, file_number, first_load_id
        from only raw.rejected_rows join only raw.loads on loads.load_id = %(load)s and loads.feed = rejected_rows.feed
        where rejected_rows.load_id not in (%(load)s, %(kept)s)
    ),
    forgotten as (
        select held.*
        from held
        join only raw.loads as own on own.load_id = %(load)s
        join only raw.loads as earlier on earlier.load_id = held.load_id
        join only raw.loads as first on first.load_id = held.first_load_id
        left join only raw.loaded_files as file
            on (file.load_id, file.file_number) = (held.load_id, held.file_number)
        where (%(is_whole)s or (
            coalesce(file.source_id, earlier.source_id) in (
                select own.source_id union all select source_id from only raw.loaded_files where load_id = own.load_id
            )
            and earlier.load_id not in (select load_id from only raw.snapshot_days)
        ))
        and (earlier.status = 'failed' or (not %(is_refused)s and not exists (
            select from only raw.loads as has_rejected
            left join only raw.loaded_files as read using (load_id)
            where (has_rejected.load_id = earlier.load_id or (
                has_rejected.feed = own.feed and has_rejected.status = 'succeeded'
                and read.source_id = file.source_id
                and has_rejected.ended_at between first.ended_at and earlier.ended_at
            ))
            and (
                coalesce(own.interval_start, '-infinity') > coalesce(has_rejected.interval_start, '-infinity')
                or coalesce(own.interval_end, 'infinity') < coalesce(has_rejected.interval_end, 'infinity')
            )
        )))
    )
    delete from only raw.rejected_rows using forgotten
    where (rejected_rows.load_id, rejected_rows.file_number, rejected_rows.first_load_id)
        = (forgotten.load_id, forgotten.file_number, forgotten.first_load_id)
"""
SHOWN_CHARS = 100
_COUNTS = ("read", "loaded", "rejected", "outside", "replaced", "absent")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadResult:
    """What a load did, in rows.

    Attributes:
        load_id: the load's row in `raw.loads`.
        read: rows in the files, `loaded + rejected + outside`.
        loaded: rows of the files that are now in the raw table.
        rejected: rows of the files that are now in `raw.rejected_rows`.
        outside: valid rows outside the interval.
        replaced: rows deleted from the raw table: those of the interval, and those that moved into it.
        reasons: the number of rejected rows by column and reason.
        absent: valid rows outside the interval whose keys the table does not have after the load; None of a snapshot.
        same_as_load_id: the earlier load of the same file whose rows are unchanged, so that this one had nothing to do.
        seconds: how long the load took.
    """

    load_id: int
    read: int
    loaded: int
    rejected: int
    outside: int
    replaced: int
    reasons: dict[str, int] = field(default_factory=dict)
    absent: int | None = None
    same_as_load_id: int | None = None
    seconds: float = field(default=0.0, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        numbers = ((name, getattr(self, name)) for name in _COUNTS)
        counts = ", ".join(f"{name} {number:,}" for name, number in numbers if number is not None)
        same = f", unchanged since load {self.same_as_load_id}" if self.same_as_load_id else ""
        return f"{counts}{same}, in {self.seconds:.1f} s"


class LoadedFile(NamedTuple):
    """A file as a load has read it."""

    uri: str
    size_bytes: int
    sha256: str
    header: str | None = None


def together(files: Sequence[LoadedFile]) -> tuple[int, str]:
    """Return the size of FILES in bytes, and their SHA-256: that of the one file, or of the list of theirs."""
    size = sum(file.size_bytes for file in files)
    if len(files) == 1:
        return size, files[0].sha256
    return size, hashlib.sha256("".join(f"{file.sha256}\n" for file in files).encode()).hexdigest()


@dataclass(frozen=True)
class PreviousLoad:
    """A load that has succeeded, and the transaction whose rows show whether they were changed since."""

    load_id: int
    transaction_id: str
    sha256: str
    read: int
    loaded: int
    rejected: int
    outside: int
    absent: int | None


def begin(connection: psycopg.Connection, feed: str, source_uri: str, interval: Interval, run_id: str | None) -> int:
    """Insert a load into the ledger and return its id."""
    [(load_id,)] = connection.execute(
        "insert into raw.loads (feed, source_uri, source_id, interval_start, interval_end, run_id, status)"
        " values (%s, %s, %s, %s, %s, %s, 'running') returning load_id",
        (feed, _storable(shown(source_uri)), source_id(source_uri), interval.start, interval.end, run_id),
    )
    return int(load_id)


def lock(connection: psycopg.Connection, load_id: int) -> None:
    """Lock the load until the transaction ends, as a sign that its process is alive."""
    connection.execute("select pg_advisory_xact_lock(%s, %s)", (_LOAD_LOCK, load_id & _INT))


def mark_killed_as_failed(connection: psycopg.Connection) -> None:
    """Set the status of killed loads: those that are `running` and whose lock nobody holds.

    Their rows were never committed, so there is nothing else to clean up.
    """
    connection.execute(
        "update only raw.loads set status = 'failed', failure = 'Its process was killed.', ended_at = clock_timestamp()"
        " where status = 'running' and pg_try_advisory_xact_lock(%s, (load_id & %s)::int)",
        (_LOAD_LOCK, _INT),
    )


def remove_old_secrets(connection: psycopg.Connection) -> None:
    """Remove the secrets from rows of a version that did not hide them; these rows have no `source_id`."""
    found = connection.execute(
        "select load_id, source_uri, failure from only raw.loads where source_id is null for update skip locked"
    )
    for load_id, uri, failure in found.fetchall():
        connection.execute(
            "update only raw.loads set source_uri = %s, source_id = %s, failure = %s where load_id = %s",
            (shown(uri), source_id(uri), failure and without_secrets(failure), load_id),
        )


def find_previous(
    connection: psycopg.Connection,
    feed: str,
    source_uri: str,
    size_bytes: int | None,
    interval: Interval,
    *,
    rules: str,
) -> PreviousLoad | None:
    """Return the latest load of INTERVAL from files of SIZE_BYTES by the same RULES, with this source's rejects."""
    found = connection.execute(
        "select load_id, transaction_id::text, source_sha256, rows_read, rows_loaded, rows_rejected, rows_outside,"
        " rows_absent from only raw.loads"
        " where feed = %s and status = 'succeeded' and same_as_load_id is null and transaction_id is not null"
        " and rules_sha256 = %s and source_size_bytes = %s and (source_id = %s or rows_rejected = 0)"
        " and interval_start is not distinct from %s and interval_end is not distinct from %s"
        " order by load_id desc limit 1",
        (feed, rules, size_bytes, source_id(source_uri), interval.start, interval.end),
    ).fetchone()
    return PreviousLoad(*found) if found else None


def may_lack_rows(connection: psycopg.Connection, previous: PreviousLoad) -> bool:
    """Return whether rows that PREVIOUS, a load of an interval, has read outside of it may be absent now.

    They were, or it is not known, or a later load has removed rows.
    """
    if not previous.outside:
        return False
    if previous.absent != 0:
        return True
    [(has_removed,)] = connection.execute(
        "select exists (select from only raw.loads as later join only raw.loads as own using (feed)"
        " where own.load_id = %s and later.status = 'succeeded' and later.ended_at > own.ended_at"
        " and (later.rows_absent is null or exists (select from only raw.loaded_days as days"
        " where days.load_id = later.load_id and rows_removed > 0)))",
        (previous.load_id,),
    )
    return bool(has_removed)


def quarantine(connection: psycopg.Connection, load_id: int, *, moves: bool = False, limit: int | None = None) -> None:
    """Insert the first LIMIT rows of the temporary table `rejects`, or all, as rejected rows of the load.

    MOVES: whether they take the place of the same rows that the load before has rejected of the same files.
    """
    connection.execute(_QUARANTINE, {"load": load_id, "limit": limit, "moves": moves})


def forget_rejects(
    connection: psycopg.Connection, load_id: int, kept_load_id: int, *, is_refused: bool, is_whole: bool
) -> None:
    """Delete the rejected rows of loads that LOAD_ID replaces: of the same files, with intervals within its own.

    Those of KEPT_LOAD_ID stay. If LOAD_ID IS_REFUSED it replaces other refused ones only: the table has rows of those
    that succeeded. Of a snapshot with a history, each day keeps the rejected rows of its load. One without, which
    IS_WHOLE, replaces those of all earlier ones, as it does with the table.
    """
    connection.execute(
        _FORGET_REJECTS, {"load": load_id, "kept": kept_load_id, "is_refused": is_refused, "is_whole": is_whole}
    )


def close(
    connection: psycopg.Connection,
    load_id: int,
    source: tuple[int | None, str | None],
    outcome: LoadResult | tuple[FeedError, dict[str, int]],
    *,
    rules: str | None = None,
) -> None:
    """Write a load's end into the ledger.

    Args:
        connection: in the load's transaction.
        load_id: the load.
        source: the files' size in bytes and their SHA-256, if known.
        outcome: what the load did, or why it was refused and the row counts known by then.
        rules: the SHA-256 of the rules for valid rows.
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
        " rows_absent = %s, rules_sha256 = %s"
        " where load_id = %s",
        (status, failure, *source, same_as, *(counts.get(name) for name in _COUNTS), rules, load_id),
    )


def record_file(connection: psycopg.Connection, load_id: int, number: int, file: LoadedFile) -> None:
    """Write the FILE of a load, the NUMBER-th that it has read, into `raw.loaded_files`."""
    connection.execute(
        "insert into raw.loaded_files (load_id, file_number, source_uri, source_id, size_bytes, sha256, header)"
        " values (%s, %s, %s, %s, %s, %s, %s)",
        (load_id, number, _storable(shown(file.uri)), source_id(file.uri), *file[1:]),
    )


def record_failure(dsn: str, role: str | None, load_id: int, source_uri: str, error: BaseException) -> None:
    """Write ERROR into the ledger as ROLE, over a new connection, unless the load has succeeded."""
    failure = str(error) if isinstance(error, FeedError) else f"{type(error).__name__} {error}".strip()
    failure = without_secrets(failure, source_uri, dsn)
    try:
        with connect(dsn) as connection, transaction(connection, role):
            connection.execute(
                "update only raw.loads set status = 'failed', failure = %s, ended_at = clock_timestamp()"
                " where load_id = %s and status <> 'succeeded'",  # another load may have marked it as killed
                (_storable(failure), load_id),
            )
    except (psycopg.Error, FeedError) as second:
        logger.warning(
            "load %d: its failure could not be recorded; the next load will record it: %s",
            load_id,
            without_secrets(str(second), dsn),
        )


def printable(text: str) -> str:
    """Return TEXT as one short line: a rejected row may contain anything, also control codes of terminals."""
    shown = text[:SHOWN_CHARS] + "…" * (len(text) > SHOWN_CHARS)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)


def _storable(text: str) -> str:
    """Return TEXT as PostgreSQL can store it: a path may contain any byte."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
