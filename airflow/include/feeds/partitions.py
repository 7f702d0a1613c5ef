"""The partitions of a raw table: consecutive ranges of the time column, which loads replace as a whole.

Their sizes differ. A day with many rows has a partition to itself; many days with few rows share one. A snapshot has
one. So a load of one day rewrites about that day, and there are never so many partitions that queries become slower.

All of them belong to one *generation*, the only partition of the raw table itself. A load that replaces everything
makes a new generation: it then changes one partition and not a hundred while readers wait.

`raw.partitions` records each table that a load has made. Loads drop only these, and only after they have
replaced them: a table that a user made, renamed or detached belongs to that user.
"""

import logging
import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
from psycopg import sql
from psycopg.errors import DeadlockDetected, DependentObjectsStillExist, LockNotAvailable, QueryCanceled

from feeds.connection import transaction
from feeds.definition import TREE, Definition
from feeds.errors import TablesUnfit
from feeds.interval import Interval
from feeds.ranges import Partition
from feeds.table import RawTable
from feeds.values import moment_of

MIN_ROWS = 50_000  # of two neighbours together; a day with as many gets a partition to itself
MAX_PARTITIONS = 100  # roughly
_BEGINNING = datetime.min.replace(tzinfo=UTC)
# Neither a default partition nor times that Python cannot represent.
_BOUNDS = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'(\d{4}-[^B]+)')\) TO \((?:MAXVALUE|'(\d{4}-[^B]+)')\)")
_DROP_TIMEOUT_S = 1.0
# Names have a random part, so that no user's table has a recorded name by chance. A table that was since given to
# another owner, or attached to another partitioned table, is not ours any more.
_REPLACED = (
    TREE  # noqa: S608 - constants
    + """
    select table_name, kept_for from raw.partitions
    join pg_class on oid = table_id and relname = table_name and relnamespace = 'raw'::regnamespace
    where retired_at is not null and relkind = %s and pg_get_userbyid(relowner) = current_user
        and table_id not in (select table_id from tree)
        and not exists (
            select from pg_inherits where inhparent = table_id
                or inhrelid = table_id and inhparent not in (select ours.table_id from raw.partitions as ours)
        )
    order by oid
"""
)
_FORGET = "delete from raw.partitions where not exists (select from pg_class where oid = table_id)"

logger = logging.getLogger(__name__)


def rows_per_partition(rows: int) -> int:
    """Return the number of rows from which a partition of a table with ROWS is large enough."""
    return max(MIN_ROWS, rows // MAX_PARTITIONS)


def make_first_partition(connection: psycopg.Connection, definition: Definition) -> None:
    """Give the raw table, which has no partition, a generation with one empty partition."""
    generation = make_table(connection, definition, 0, partitioned=True)
    table = make_table(connection, definition, 0)
    add_keys(connection, definition, table)
    connection.execute(attach(generation, Partition(table, None, None)))
    connection.execute(attach(definition.table.identifier, Partition(generation, None, None)))


def make_table(
    connection: psycopg.Connection, definition: Definition, load_id: int, *, partitioned: bool = False
) -> sql.Composable:
    """Make a table that can become a partition, whose rows have LOAD_ID by default; return its name.

    A PARTITIONED one can become a generation.
    """
    name = f"{definition.table.feed.name}_{load_id}_{secrets.token_hex(6)}"
    table = sql.Identifier("raw", name)
    definition.create(connection, table, partitioned=partitioned)
    if not partitioned:
        connection.execute(sql.SQL("alter table {} alter column load_id set default {}").format(table, load_id))
    record(connection, [name], load_id)
    return table


def record(connection: psycopg.Connection, names: Iterable[str], load_id: int) -> None:
    """Record that the load LOAD_ID has made the tables NAMES of the schema `raw`."""
    for name in names:
        connection.execute(
            "insert into raw.partitions (table_id, table_name, load_id)"
            " values (format('raw.%%I', %s::text)::regclass, %s, %s)",
            (name, name, load_id),
        )


def retire(connection: psycopg.Connection, tables: Sequence[sql.Composable]) -> list[sql.Composed]:
    """Record that those of TABLES that a load has made are no longer partitions of a raw table.

    Returns:
        The statements that rename them, for the swap. A user who is waiting to write to one by its name then gets an
        error, and does not write to a replaced table.
    """
    renamed = connection.execute(
        "update raw.partitions set retired_at = clock_timestamp(), table_name = relname || '_replaced'"
        " from pg_class where oid = table_id and relname = table_name and relnamespace = 'raw'::regnamespace"
        " and table_id = any(%s::text[]::regclass[]) returning relname",
        ([table.as_string(connection) for table in tables],),
    )
    return [
        sql.SQL("alter table {} rename to {}").format(sql.Identifier("raw", name), sql.Identifier(f"{name}_replaced"))
        for (name,) in renamed.fetchall()
    ]


def discard(connection: psycopg.Connection, tables: Iterable[sql.Composable]) -> None:
    """Drop TABLES, which were made in this transaction."""
    for table in tables:
        connection.execute(sql.SQL("drop table {}").format(table))
    connection.execute(_FORGET)


def add_keys(connection: psycopg.Connection, definition: Definition, table: sql.Composable) -> None:
    """Add the primary key to TABLE, which has its rows, and the other keys and the indexes.

    Raises:
        UniqueViolation: two rows have the same key.
    """
    connection.execute(sql.SQL("alter table {} add primary key ({})").format(table, definition.table.key))
    definition.add_indexes(connection, table)


def key_ranges(connection: psycopg.Connection, column: str, tables: Sequence[sql.Composable]) -> list[tuple[int, int]]:
    """Return the lowest and the highest value of COLUMN, an integer, in each of TABLES; (1, 0) for an empty one."""
    if not tables:
        return []
    ranges = sql.SQL(" union all ").join(
        sql.SQL("select {number}, coalesce(min({column}), 1), coalesce(max({column}), 0) from {table}").format(
            number=number, column=sql.Identifier(column), table=table
        )
        for number, table in enumerate(tables)
    )
    return [(low, high) for _, low, high in sorted(connection.execute(ranges).fetchall())]


def attach(parent: sql.Composable, partition: Partition) -> sql.Composed:
    """Return the statement that attaches PARTITION to PARENT."""
    return sql.SQL("alter table {} attach partition {} for values from ({}) to ({})").format(
        parent,
        partition.table,
        sql.SQL("minvalue") if partition.start is None else sql.Literal(str(partition.start)),
        sql.SQL("maxvalue") if partition.end is None else sql.Literal(str(partition.end)),
    )


def detach(parent: sql.Composable, table: sql.Composable) -> sql.Composed:
    """Return the statement that detaches the partition TABLE from PARENT."""
    return sql.SQL("alter table {} detach partition {}").format(parent, table)


def current_generation(connection: psycopg.Connection, raw: RawTable) -> sql.Composable:
    """Return the one partition of RAW, to which all others belong.

    Raises:
        TablesUnfit: no load has made it, or there are several.
    """
    found = connection.execute(
        "select nspname, relname from pg_inherits join pg_class on pg_class.oid = inhrelid"
        " join pg_namespace on pg_namespace.oid = relnamespace join raw.partitions on table_id = inhrelid"
        " where inhparent = %s::regclass",
        (str(raw),),
    ).fetchall()
    if len(found) == 1:
        return sql.Identifier(*found[0])
    raise TablesUnfit(
        f"{raw} has partitions that no load has created.",
        "Another program made the table, or a user changed its partitions; the load did not change it.",
        raw.rebuild,
    )


def partitions(connection: psycopg.Connection, raw: RawTable) -> list[Partition]:
    """Return the partitions of RAW that contain the rows, in the order of their times.

    Raises:
        TablesUnfit: one has other bounds than those that loads make, or was only half detached.
    """
    found = []
    generation = current_generation(connection, raw).as_string(connection)
    for schema, name, bounds, is_pending, table in connection.execute(
        "select nspname, relname, pg_get_expr(relpartbound, pg_class.oid), inhdetachpending, inhrelid::regclass::text"
        " from pg_inherits join pg_class on pg_class.oid = inhrelid"
        " join pg_namespace on pg_namespace.oid = relnamespace where inhparent = %s::regclass",
        (generation,),
    ):
        match = _BOUNDS.fullmatch(bounds)
        if match is None or is_pending:
            finalize = " finalize" if is_pending else ""
            raise TablesUnfit(
                f"{table}, a partition of {raw}, cannot be replaced by a load: {bounds}.",
                "A user attached it, or began to detach it; the load did not change it.",
                f"Detach it: alter table {generation} detach partition {table}{finalize}",
            )
        start, end = (moment_of(bound) if bound else None for bound in match.groups())
        found.append(Partition(sql.Identifier(schema, name), start, end))
    return sorted(found, key=lambda partition: (partition.start is not None, partition.start or _BEGINNING))


def drop_replaced(connection: psycopg.Connection, raw: RawTable, role: str | None) -> None:
    """Drop, as ROLE, the tables that loads of RAW have replaced.

    A table that is being read is dropped later. One that an object such as a view depends on, or that an event trigger
    protects, is kept as long as that is so, and the log names it once. One of another owner is kept.
    """
    for kind in ("r", "p"):  # a generation is dropped after its partitions
        found = []
        with suppress(LockNotAvailable), transaction(connection, role, _DROP_TIMEOUT_S):
            connection.execute(_FORGET)
            if not connection.execute("select 1 from raw.partitions where retired_at is not null").fetchone():
                return
            found = connection.execute(raw.in_sql(_REPLACED), (kind,)).fetchall()
        for name, kept_for in found:
            _drop(connection, role, name, kept_for)


def _drop(connection: psycopg.Connection, role: str | None, name: str, kept_for: str | None) -> None:
    try:
        with transaction(connection, role, _DROP_TIMEOUT_S):
            connection.execute(sql.SQL("drop table if exists {}").format(sql.Identifier("raw", name)))
            connection.execute(_FORGET)
    except (LockNotAvailable, DeadlockDetected):
        pass
    except psycopg.Error as error:  # an event trigger may raise any of them
        if connection.closed or isinstance(error, QueryCanceled):
            raise
        is_depended_on = isinstance(error, DependentObjectsStillExist)
        why = "other objects depend on it" if is_depended_on else "dropping it is not allowed"
        reason = (error.diag.message_detail if is_depended_on else error.diag.message_primary) or ""
        if reason != kept_for:
            logger.warning("raw.%s was replaced and is kept, since %s: %s", name, why, reason)
            with suppress(LockNotAvailable), transaction(connection, role, _DROP_TIMEOUT_S):
                connection.execute("update raw.partitions set kept_for = %s where table_name = %s", (reason, name))


def cut_partitions(connection: psycopg.Connection, raw: RawTable, interval: Interval) -> list[sql.Composable]:
    """Return the partitions of which INTERVAL contains only a part: the rows of the other part are kept."""
    return [
        partition.table
        for partition in partitions(connection, raw)
        if partition.overlaps(interval) and partition.is_cut_by(interval)
    ]
