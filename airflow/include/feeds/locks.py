"""The locks by which loads, dbt builds and writers wait for each other."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from feeds.connection import connect, transaction
from feeds.table import RawTable

SWAP_LOCK = (
    0x6576656E7473  # "events": the advisory lock of a load that swaps partitions, of any feed, and of a dbt build
)

logger = logging.getLogger(__name__)


def wait_for_turn(connection: psycopg.Connection, lock_timeout_s: float) -> None:
    """Take SWAP_LOCK until the transaction ends: wait until no other load swaps partitions and no dbt build runs."""
    [(is_free,)] = connection.execute("select pg_try_advisory_xact_lock(%s)", (SWAP_LOCK,))
    if not is_free:
        logger.info("waiting for another load or a dbt build, at most %g s", lock_timeout_s)
        connection.execute("select pg_advisory_xact_lock(%s)", (SWAP_LOCK,))


def block_writers(connection: psycopg.Connection, raw: RawTable) -> None:
    """Let nobody else write to RAW or, by their names, to its partitions until the transaction ends."""
    connection.execute(sql.SQL("lock table {} in share row exclusive mode").format(raw.identifier))


@contextmanager
def reader(
    dsn: str, role: str | None, lock_timeout_s: float, tables: Sequence[sql.Composable]
) -> Iterator[psycopg.Connection]:
    """Open a second connection that reads TABLES, from which a load keeps rows.

    It takes its locks before the load blocks writers. Otherwise a user who waits for the load to get an exclusive lock
    on a partition would block the reader, for which the load waits.
    """
    with connect(dsn) as connection, transaction(connection, role, lock_timeout_s):
        for table in tables:
            connection.execute(sql.SQL("lock table only {} in access share mode").format(table))
        yield connection
