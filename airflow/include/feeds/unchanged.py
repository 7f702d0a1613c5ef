"""Find a previous load of the same file whose rows are all still in place, so that there is nothing to load."""

import hashlib
from functools import cache
from pathlib import Path

import psycopg

from feeds import ledger, records
from feeds.definition import read_definition
from feeds.interval import ALWAYS, Interval
from feeds.ledger import PreviousLoad
from feeds.locks import block_writers, wait_for_turn
from feeds.replacement import Replacement
from feeds.source import digest, size


@cache
def rules_sha256(valid: Interval = ALWAYS) -> str:
    """Return the SHA-256 of what decides which rows are valid: the code, and the interval VALID of their times."""
    return hashlib.sha256(Path(records.__file__).read_bytes() + str(valid).encode()).hexdigest()


def find_unchanged(
    connection: psycopg.Connection,
    source_uri: str,
    interval: Interval,
    rules: str,
    *,
    max_rejected: float,
    lock_timeout_s: float,
) -> tuple[PreviousLoad, tuple[int, str]] | None:
    """Return the previous load of the same file that is intact, and the file's size in bytes and SHA-256.

    RULES are the present ones, see `rules_sha256`. Until the transaction ends, nobody else writes to `raw.events`.
    """
    previous = ledger.find_previous(connection, source_uri, size(source_uri), interval, rules)
    if not previous or (previous.rejected and previous.rejected / previous.read > max_rejected):
        return None
    source = digest(source_uri)
    if source[1] != previous.sha256:
        return None
    wait_for_turn(connection, lock_timeout_s)
    block_writers(connection)
    return (previous, source) if is_intact(connection, previous, interval) else None


def is_intact(connection: psycopg.Connection, previous: PreviousLoad, interval: Interval) -> bool:
    """Return whether the tables have exactly the rows of INTERVAL that the load PREVIOUS wrote.

    A row that a user or another load has changed or added since was written by another transaction; a row that was
    deleted is missing in the count.
    """
    [events] = connection.execute(
        "select count(*), count(*) filter (where xmin = %s::xid8::xid) from raw.events"
        " where created_at >= %s and created_at < %s",
        (previous.transaction_id, *interval.bounds),
    )
    [rejects] = connection.execute(
        "select count(*), count(*) filter (where xmin = %s::xid8::xid) from only raw.rejected_events"
        " where load_id = %s",
        (previous.transaction_id, previous.load_id),
    )
    if events != (previous.loaded,) * 2 or rejects != (previous.rejected,) * 2:
        return False
    definition = read_definition(connection)
    return Replacement(connection, definition, previous.load_id, interval).find_moved() == 0
