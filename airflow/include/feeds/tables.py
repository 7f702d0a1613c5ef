"""The tables of the schema `raw`: events, rejected rows, the ledger of loads, and the record of partitions."""

from importlib.resources import files

import psycopg
from psycopg.errors import UndefinedColumn

from feeds.connection import connect, foreseen, owner, transaction
from feeds.definition import CREATE_EVENTS, read_definition
from feeds.errors import TablesUnfit
from feeds.partitions import make_first_partition, record

_LOCK = 0x7461626C6573  # "tables"
_KIND = "select relkind::text from pg_class where oid = to_regclass(%s)"
# The columns that the tables have had since their first version.
_COLUMNS = {
    "raw.loads": "load_id, source_uri, source_size_bytes, source_sha256, interval_start, interval_end, run_id, status,"
    " failure, started_at, ended_at, seconds, rows_read, rows_loaded, rows_rejected, rows_outside, rows_replaced,"
    " same_as_load_id, transaction_id",
    "raw.rejected_events": "load_id, line_number, raw_text, reason",
    "raw.events_partitions": "table_id, table_name, load_id, retired_at, kept_for",
}
# Partitions of a version that did not record them: those of one generation over all of time with the names of loads.
_UNRECORDED = """
    with tree as (
        select relname, relkind, level, pg_get_expr(relpartbound, oid) as bounds, pg_get_partkeydef(oid) as key
        from pg_partition_tree('raw.events') join pg_class on oid = relid
    )
    select relname from tree where level > 0 and to_regclass('raw.loads') is not null
        and (
            select count(*) = 1 and bool_and(key = 'RANGE (created_at)')
                and bool_and(bounds = 'FOR VALUES FROM (MINVALUE) TO (MAXVALUE)')
            from tree where level = 1
        )
        and not exists (select from tree where level > 0 and relname !~ '^events_[0-9]+(_[0-9a-f]+)?$')
"""


def create_tables(dsn: str) -> None:
    """Make the missing tables of `raw` as the role of DSN, a libpq URL; several processes may do so at once.

    Raises:
        TablesUnfit: another program made a table of the same name.
        EventsError: the server cannot be reached, or the role may not make tables in `raw`, for example.
    """
    with foreseen(), connect(dsn) as connection, transaction(connection, owner(connection)):
        connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))  # `if not exists` fails in a race
        make_missing(connection)


def make_missing(connection: psycopg.Connection) -> None:
    """Make the missing tables of `raw` in the present transaction of CONNECTION.

    Raises:
        TablesUnfit: another program made a table of the same name.
    """
    kinds = {name: connection.execute(_KIND, (name,)).fetchone() for name in ("raw.events", *_COLUMNS)}
    if kinds["raw.events"] not in (None, ("p",)):
        raise TablesUnfit(
            "raw.events has no partitions, and a load swaps partitions.",
            "An earlier version or another program made it; the load did not change it.",
            "Keep it under another name, then load the whole file: alter table raw.events rename to events_kept",
        )
    for name, columns in _COLUMNS.items():
        if not kinds[name]:
            continue
        try:
            connection.execute(f"select {columns} from {name} where false".encode())  # noqa: S608 - constants
        except UndefinedColumn as error:
            raise TablesUnfit(
                f"{name} has an unexpected structure: {error.diag.message_primary}.",
                "Another program made the table, or a user altered it; the load did not change it.",
                f"Keep it under another name, then load again: alter table {name} rename to {name.split('.')[1]}_kept",
            ) from error
    names = []
    if kinds["raw.events"] and not kinds["raw.events_partitions"]:
        names = [name for (name,) in connection.execute(_UNRECORDED)]
    connection.execute(files("feeds").joinpath("tables.sql").read_bytes())
    record(connection, names, 0)
    if not kinds["raw.events"]:
        connection.execute(CREATE_EVENTS)
        make_first_partition(connection, read_definition(connection))
