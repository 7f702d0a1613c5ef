"""The tables of the schema `raw`: those of feeds, rejected rows, the ledger of loads, and the record of partitions."""

import logging
from collections.abc import Iterable
from importlib.resources import files

import psycopg
from psycopg.errors import UndefinedColumn

from feeds import history
from feeds.connection import connect, foreseen, owner, transaction
from feeds.contract import Feed
from feeds.definition import read_definition
from feeds.errors import FeedError, TablesUnfit
from feeds.migration import check_rules, migrate
from feeds.partitions import make_first_partition, record
from feeds.table import RawTable

logger = logging.getLogger(__name__)

_LOCK = 0x7461626C6573  # "tables"
_KIND = "select relkind::text from pg_class where oid = to_regclass(%s)"
# The columns that the tables have had since their first version.
_COLUMNS = {
    "raw.loads": "load_id, source_uri, source_size_bytes, source_sha256, interval_start, interval_end, run_id, status,"
    " failure, started_at, ended_at, seconds, rows_read, rows_loaded, rows_rejected, rows_outside, rows_replaced,"
    " same_as_load_id, transaction_id",
    "raw.loaded_files": "load_id, file_number, source_uri, source_id, size_bytes, sha256, header",
    "raw.loaded_days": "load_id, day, rows_loaded, rows_added, rows_changed, rows_removed, rows_absent, rows_present",
    "raw.rejected_rows": "feed, load_id, file_number, line_number, raw_text, reason, column_name",
    "raw.partitions": "table_id, table_name, load_id, retired_at, kept_for",
    "raw.snapshot_days": "feed, day, load_id",
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


def create_tables(dsn: str, feed: Feed) -> None:
    """Make the missing tables of FEED as the role of DSN, a libpq URL; several processes may do so at once.

    Tables of an earlier version are brought along.

    Raises:
        TablesUnfit: another program made a table of the same name.
        FeedError: the server cannot be reached, or the role may not make tables in `raw`, for example.
    """
    with foreseen(), connect(dsn) as connection, transaction(connection, owner(connection, feed)):
        connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))  # `if not exists` fails in a race
        make_missing(connection, RawTable(feed))


def create_others(dsn: str, feeds: Iterable[Feed]) -> None:
    """Make the raw tables of FEEDS that do not exist: models may join them with those of a feed that is loaded first.

    One that cannot be made is named in the log: its own pipeline fails.
    """
    with foreseen(), connect(dsn) as connection:
        for feed in feeds:
            if connection.execute(_KIND, (f"raw.{feed.name}",)).fetchone() is None:
                try:
                    create_tables(dsn, feed)
                except FeedError as error:
                    logger.warning("raw.%s was not made: %s", feed.name, error)


def make_missing(connection: psycopg.Connection, raw: RawTable) -> None:
    """Make the missing tables of RAW's feed in the present transaction of CONNECTION.

    Raises:
        TablesUnfit: another program made a table of the same name.
    """

    def kind(name: str) -> str | None:
        found = connection.execute(_KIND, (name,)).fetchone()
        return str(found[0]) if found else None

    if kind(str(raw)) not in (None, "p"):
        raise TablesUnfit(
            f"{raw} has no partitions, and a load swaps partitions.",
            "An earlier version or another program made it; the load did not change it.",
            raw.rebuild,
        )
    for name, columns in _COLUMNS.items():
        if not kind(name):
            continue
        try:
            connection.execute(f"select {columns} from {name} where false".encode())  # noqa: S608 - constants
        except UndefinedColumn as error:
            raise TablesUnfit(
                f"{name} has an unexpected structure: {error.diag.message_primary}.",
                "Another program made the table, or a user altered it; the load did not change it.",
                f"Keep it under another name, then load again: alter table {name} rename to {name.split('.')[1]}_kept",
            ) from error
    unrecorded = []
    if kind("raw.rejected_events") and not kind("raw.rejected_rows"):
        if kind("raw.events") == "p" and not kind("raw.events_partitions"):
            unrecorded = [name for (name,) in connection.execute(_UNRECORDED)]
        connection.execute(files("feeds").joinpath("upgrade.sql").read_bytes())
    connection.execute(files("feeds").joinpath("tables.sql").read_bytes())
    record(connection, unrecorded, 0)
    history.refuse_unfit(connection, raw)
    if is_new := kind(str(raw)) is None:
        connection.execute(raw.create())
        make_first_partition(connection, read_definition(connection, raw))
    migrate(connection, raw)  # a history may be there
    check_rules(connection, raw)
    history.begin(connection, raw, is_new=is_new)
