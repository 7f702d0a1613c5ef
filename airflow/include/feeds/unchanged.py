"""Find a previous load of the same files whose rows are all still in place, so that there is nothing to load."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psycopg
from psycopg import sql

from feeds import ledger
from feeds.contract import Feed
from feeds.definition import read_definition
from feeds.interval import ALWAYS, Interval
from feeds.ledger import LoadedFile, PreviousLoad, together
from feeds.locks import block_writers, wait_for_turn
from feeds.replacement import Replacement
from feeds.source import digest, size
from feeds.table import RawTable

_HERE = Path(__file__).parent
# The code that decides which rows are valid, and what their values are.
_DECIDES = [
    *(_HERE / f"{name}.py" for name in ("contract", "patterns", "values", "lines")),
    *(_HERE / "formats").glob("*.py"),
]


@cache
def rules_sha256(feed: Feed, valid: Interval = ALWAYS) -> str:
    """Return the SHA-256 of what decides which rows are valid: contract, code, and the interval VALID of times."""
    code = b"".join(path.read_bytes() for path in sorted(_DECIDES))
    return hashlib.sha256(code + repr((feed, valid)).encode()).hexdigest()


def find_unchanged(
    connection: psycopg.Connection,
    raw: RawTable,
    source_uri: str,
    uris: Sequence[str],
    interval: Interval,
    *,
    rules: str,
    max_rejected: float,
    lock_timeout_s: float,
) -> tuple[PreviousLoad, list[LoadedFile]] | None:
    """Return the previous load of the files URIS that is intact, and the files as they are now.

    RULES are the present ones, see `rules_sha256`. Until the transaction ends, nobody else writes to the raw table.
    """
    sizes = [size(uri) for uri in uris]
    total = None if None in sizes else sum(number for number in sizes if number is not None)
    previous = ledger.find_previous(connection, raw.feed.name, source_uri, total, interval, rules=rules)
    if not previous or (previous.rejected and previous.rejected / previous.read > max_rejected):
        return None
    files = [LoadedFile(uri, *digest(uri)) for uri in uris]
    if together(files)[1] != previous.sha256:
        return None
    wait_for_turn(connection, lock_timeout_s)
    block_writers(connection, raw)
    if raw.feed.time_column and ledger.may_lack_rows(connection, previous):
        return None
    return (previous, files) if is_intact(connection, raw, previous, interval) else None


def is_intact(connection: psycopg.Connection, raw: RawTable, previous: PreviousLoad, interval: Interval) -> bool:
    """Return whether the tables have exactly the rows of INTERVAL that the load PREVIOUS wrote.

    A row that a user or another load has changed or added since was written by another transaction; a row that was
    deleted is missing in the count.
    """
    [rows] = connection.execute(
        sql.SQL("select count(*), count(*) filter (where xmin = {}::xid8::xid) from {} where {}").format(
            previous.transaction_id, raw.identifier, raw.within(interval)
        )
    )
    [rejects] = connection.execute(
        "select count(*), count(*) filter (where xmin = %s::xid8::xid) from only raw.rejected_rows where load_id = %s",
        (previous.transaction_id, previous.load_id),
    )
    if rows != (previous.loaded,) * 2 or rejects != (previous.rejected,) * 2:
        return False
    definition = read_definition(connection, raw)
    return Replacement(connection, definition, previous.load_id, interval).find_moved() == 0
