"""The tables of the schema `raw`: the events, the rejected rows, and the ledger of loads."""

from importlib.resources import files

import psycopg

from events.errors import TablesOutdated
from events.partitions import create_events

_LOCK = 0x7461626C6573  # "tables"
_PLAIN = "select 1 from pg_class where oid = to_regclass('raw.events') and relkind <> 'p'"


def create_tables(dsn: str) -> None:
    """Make the tables of `raw` that are missing, as the role of DSN (a libpq URL); several may do so at once.

    Raises:
        TablesOutdated: `raw.events` is there and is not partitioned.
        psycopg.Error: the server is not reached, or the role may not make tables in `raw`.
    """
    with psycopg.connect(dsn) as connection:
        connection.execute("set local lock_timeout = '1min'")
        connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))  # `if not exists` alone fails in a race
        if connection.execute(_PLAIN).fetchone():
            raise TablesOutdated(
                "raw.events is a table without partitions, and loads put partitions in the place of others.",
                "An earlier version made it; it is not converted, since the events file has all that is in it.",
                "Drop the tables, then load the whole file:"
                " drop table if exists raw.events, raw.rejected_events, raw.loads cascade",
            )
        connection.execute(files("events").joinpath("tables.sql").read_bytes())
        create_events(connection)
