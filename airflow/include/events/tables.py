"""The tables of the schema `raw`: the events, the rejected rows, and the ledger of loads."""

from importlib.resources import files

import psycopg

from events.partitions import create_events

_LOCK = 0x7461626C6573  # "tables"


def create_tables(dsn: str) -> None:
    """Make the tables of `raw` that are missing, as the role of DSN (a libpq URL); several may do so at once.

    Raises:
        psycopg.Error: the server is not reached, or the role may not make tables in `raw`.
    """
    with psycopg.connect(dsn) as connection:
        connection.execute("set local lock_timeout = '1min'")
        connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))  # `if not exists` alone fails in a race
        connection.execute(files("events").joinpath("tables.sql").read_bytes())
        create_events(connection)
