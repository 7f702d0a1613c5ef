"""Swap the partitions that a load has made for those that they replace, all at once."""

import secrets
import time

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable, QueryCanceled

from feeds.partitions import attach, current_generation, detach, make_table, retire
from feeds.ranges import Partition
from feeds.replacement import Replacement
from feeds.table import RawTable

_LOCK_TIMEOUT_MS = 40  # readers that arrive while we wait for the table wait behind us
_TIMEOUT_MS = 150  # the longest time that readers may have to wait, except for the commit
_MAX_PAUSE_S = 0.5


def swap_statement(replacement: Replacement) -> sql.Composed:
    """Return the statement that swaps the partitions which REPLACEMENT has made for those that they replace.

    Of two ways it takes the one with fewer changes while readers wait: exchange partitions of the current generation,
    or exchange the generation itself for one that already has the new partitions. The replaced tables are dropped
    later: a user's object may depend on one.
    """
    connection, replaced = replacement.connection, replacement.replaced
    raw = replacement.definition.table
    generation = current_generation(connection, raw)
    others = [partition for partition in replacement.partitions if partition not in replaced]
    renames = retire(connection, [partition.table for partition in replaced])
    if 2 * len(others) > len(replaced) + len(replacement.made):
        return sql.SQL("; ").join(
            [
                *(detach(generation, partition.table) for partition in replaced),
                *(attach(generation, partition) for partition in replacement.made),
                *renames,
            ]
        )
    renames += retire(connection, [generation])
    new = make_table(connection, replacement.definition, replacement.load_id, partitioned=True)
    for partition in replacement.made:
        connection.execute(attach(new, partition))
    statements = [detach(raw.identifier, generation)]
    for partition in others:
        statements += [detach(generation, partition.table), attach(new, partition)]
    return sql.SQL("; ").join([*statements, attach(raw.identifier, Partition(new, None, None)), *renames])


def swap(connection: psycopg.Connection, raw: RawTable, statement: sql.Composable, deadline: float) -> None:
    """Execute STATEMENT, which needs an exclusive lock on RAW, and commit; readers wait only for a moment.

    Readers go first: if the table does not become free within milliseconds, or the server is too busy to execute the
    statement in time, it is tried again a little later, until DEADLINE (of time.monotonic). Statement and commit are
    one message to the server, so that no reader waits for this process in between.

    Raises:
        LockNotAvailable: the table did not become free.
        QueryCanceled: a user cancelled the load.
    """
    block = f"begin lock table only {raw} in access exclusive mode; {statement.as_string(connection)}; end"
    pause_s, timeout_ms = 0.02, float(_TIMEOUT_MS)
    while True:
        message = sql.SQL(
            "savepoint swap; set local lock_timeout = {lock_timeout}; set local statement_timeout = {timeout};"
            " do {block}; set local statement_timeout = 0; commit"
        ).format(lock_timeout=_LOCK_TIMEOUT_MS, timeout=round(timeout_ms), block=block)
        started = time.monotonic()
        try:
            connection.execute(message)
            return
        except (LockNotAvailable, QueryCanceled) as error:
            connection.execute("rollback to savepoint swap; release savepoint swap")
            if isinstance(error, QueryCanceled):
                if 1000 * (time.monotonic() - started) < round(timeout_ms):
                    raise  # cancelled by a user, not by the timeout
                timeout_ms *= 1.1  # a server that is always this busy must not stop the load forever
            if time.monotonic() > deadline:
                raise LockNotAvailable(f"{raw} did not become free") from error
        pause = pause_s * (0.5 + secrets.randbelow(1000) / 1000)
        connection.execute("select pg_sleep(%s)", (pause,))  # on the server, where a user can cancel it
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)
