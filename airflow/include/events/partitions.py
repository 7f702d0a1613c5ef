"""The partitions of `raw.events`: ranges of `created_at` that follow each other, each a table that loads replace whole.

They are not of one size. Where there are many events a day has a partition of its own; where there are few, many days
share one. So a load of one day rewrites no more than about that day, and there are never so many that readers feel it.

All of them belong to one *edition*, which is the only partition of `raw.events` itself. A load that replaces everything
makes a new edition, so that it changes one partition and not a hundred while readers wait.

`raw.events_partitions` records each table that a load has made. Only these are ever dropped, and only when a load has
put others in their place: a table that somebody made, renamed or detached is theirs.
"""

import logging
import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import sql
from psycopg.errors import DeadlockDetected, DependentObjectsStillExist, LockNotAvailable, QueryCanceled

from events.connection import transaction
from events.definition import EVENTS, TREE, Definition
from events.errors import TablesUnfit
from events.interval import Interval

MIN_ROWS = 50_000  # of two neighbours together; a day that has as many gets a partition of its own
MAX_PARTITIONS = 100  # roughly
_BEGINNING = datetime.min.replace(tzinfo=UTC)
# No default, nor times that Python does not have.
_BOUNDS = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'(\d{4}-[^B]+)')\) TO \((?:MAXVALUE|'(\d{4}-[^B]+)')\)")
_DROP_TIMEOUT_S = 1.0
# A table's name has a random part, so that a table of somebody else's has never the name that is recorded. One that
# somebody has taken over since, for an owner or a partitioned table of theirs, is ours no more.
_LEFTOVERS = f"""
    {TREE}
    select table_name, kept_for from raw.events_partitions
    join pg_class on oid = table_id and relname = table_name and relnamespace = 'raw'::regnamespace
    where retired_at is not null and relkind = %s and relowner = current_user::regrole
        and table_id not in (select table_id from tree)
        and not exists (
            select from pg_inherits where inhparent = table_id
                or inhrelid = table_id and inhparent not in (select ours.table_id from raw.events_partitions as ours)
        )
    order by oid
"""  # noqa: S608 - both are ours
_FORGET = "delete from raw.events_partitions where not exists (select from pg_class where oid = table_id)"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Partition:
    """A partition of `raw.events`, with the bounds of its `created_at`; None is an open bound."""

    table: sql.Composable
    start: datetime | None
    end: datetime | None

    def before(self, moment: datetime | None) -> Interval | None:
        """Return its range before MOMENT, None if there is none."""
        if moment is None or (self.start is not None and self.start >= moment):
            return None
        return Interval(self.start, moment)

    def after(self, moment: datetime | None) -> Interval | None:
        """Return its range from MOMENT on, None if there is none."""
        if moment is None or (self.end is not None and self.end <= moment):
            return None
        return Interval(moment, self.end)

    def is_cut_by(self, interval: Interval) -> bool:
        """Say whether a part of its range, but not all of it, may be in INTERVAL, which it overlaps."""
        return bool(self.before(interval.start) or self.after(interval.end))

    def overlaps(self, interval: Interval) -> bool:
        """Say whether a moment can be in both."""
        begins_before = self.start is None or interval.end is None or self.start < interval.end
        return begins_before and (self.end is None or interval.start is None or interval.start < self.end)


def make_first_partition(connection: psycopg.Connection, definition: Definition) -> None:
    """Give `raw.events`, which has none, one empty partition in one edition."""
    edition = make_edition(connection, definition, 0)
    table = make_table(connection, definition, 0)
    add_keys(connection, definition, table)
    connection.execute(attach(edition, Partition(table, None, None)))
    connection.execute(attach(EVENTS, Partition(edition, None, None)))


def make_edition(connection: psycopg.Connection, definition: Definition, load_id: int) -> sql.Composable:
    """Make a table for the load LOAD_ID that can become the one partition of `raw.events`; return its name."""
    name = _new_name(load_id)
    edition = sql.Identifier("raw", name)
    definition.create(connection, edition, partitioned=True)
    record(connection, [name], load_id)
    return edition


def make_table(connection: psycopg.Connection, definition: Definition, load_id: int) -> sql.Composable:
    """Make a table that can become a partition; its rows say by default that LOAD_ID brought them; return its name."""
    name = _new_name(load_id)
    table = sql.Identifier("raw", name)
    definition.create(connection, table)
    connection.execute(sql.SQL("alter table {} alter column load_id set default {}").format(table, load_id))
    record(connection, [name], load_id)
    return table


def record(connection: psycopg.Connection, names: Iterable[str], load_id: int) -> None:
    """Record that the tables NAMES of the schema `raw` are this project's; the load LOAD_ID made them."""
    for name in names:
        connection.execute(
            "insert into raw.events_partitions (table_id, table_name, load_id)"
            " values (format('raw.%%I', %s::text)::regclass, %s, %s)",
            (name, name, load_id),
        )


def retire(connection: psycopg.Connection, tables: Sequence[sql.Composable]) -> list[sql.Composed]:
    """Note that TABLES, those of them that a load has made, are no longer partitions of `raw.events`.

    Returns:
        The statements that rename them, to be executed with the swap: who is waiting to write to one by its name then
        finds no such table, instead of writing into one that was replaced.
    """
    renamed = connection.execute(
        "update raw.events_partitions set retired_at = clock_timestamp(), table_name = relname || '_replaced'"
        " from pg_class where oid = table_id and relname = table_name and relnamespace = 'raw'::regnamespace"
        " and table_id = any(%s::text[]::regclass[]) returning relname",
        ([table.as_string(connection) for table in tables],),
    )
    return [
        sql.SQL("alter table {} rename to {}").format(sql.Identifier("raw", name), sql.Identifier(f"{name}_replaced"))
        for (name,) in renamed.fetchall()
    ]


def discard(connection: psycopg.Connection, tables: Iterable[sql.Composable]) -> None:
    """Drop TABLES, which this transaction has made."""
    for table in tables:
        connection.execute(sql.SQL("drop table {}").format(table))
    connection.execute(_FORGET)


def _new_name(load_id: int) -> str:
    return f"events_{load_id}_{secrets.token_hex(6)}"


def add_keys(connection: psycopg.Connection, definition: Definition, table: sql.Composable) -> None:
    """Make `event_id` the primary key of TABLE, which has its rows, and give it the other keys and the indexes.

    Raises:
        UniqueViolation: some event id is there twice.
    """
    connection.execute(sql.SQL("alter table {} add primary key (event_id)").format(table))
    definition.index(connection, table)


def id_ranges(connection: psycopg.Connection, tables: Sequence[sql.Composable]) -> list[tuple[int, int]]:
    """Return the lowest and the highest event id of each of TABLES; of an empty one, a range with nothing in it."""
    if not tables:
        return []
    ranges = sql.SQL(" union all ").join(
        sql.SQL("select {}, coalesce(min(event_id), 1), coalesce(max(event_id), 0) from {}").format(number, table)
        for number, table in enumerate(tables)
    )
    return [(low, high) for _, low, high in sorted(connection.execute(ranges).fetchall())]


def attach(parent: sql.Composable, partition: Partition) -> sql.Composed:
    """Return the statement that makes PARTITION one of PARENT."""
    return sql.SQL("alter table {} attach partition {} for values from ({}) to ({})").format(
        parent,
        partition.table,
        sql.SQL("minvalue") if partition.start is None else sql.Literal(str(partition.start)),
        sql.SQL("maxvalue") if partition.end is None else sql.Literal(str(partition.end)),
    )


def detach(parent: sql.Composable, table: sql.Composable) -> sql.Composed:
    """Return the statement that makes the partition TABLE of PARENT a table of its own."""
    return sql.SQL("alter table {} detach partition {}").format(parent, table)


def current_edition(connection: psycopg.Connection) -> sql.Composable:
    """Return the one partition of `raw.events`, which has all the others.

    Raises:
        TablesUnfit: it is not one that a load has made.
    """
    found = connection.execute(
        "select nspname, relname from pg_inherits join pg_class on pg_class.oid = inhrelid"
        " join pg_namespace on pg_namespace.oid = relnamespace join raw.events_partitions on table_id = inhrelid"
        " where inhparent = 'raw.events'::regclass"
    ).fetchall()
    if len(found) == 1:
        return sql.Identifier(*found[0])
    raise TablesUnfit(
        "raw.events is not this project's: its partitions are none that a load has made.",
        "Somebody else made the table, or has changed its partitions by hand; it is left as it is.",
        "Keep it under another name, then load the whole file: alter table raw.events rename to events_kept",
    )


def partitions(connection: psycopg.Connection) -> list[Partition]:
    """Return the partitions of `raw.events` that have the rows, in the order of their times.

    Raises:
        TablesUnfit: somebody has put one there that has no range of times as loads have them, or has half detached one.
    """
    found = []
    edition = current_edition(connection).as_string(connection)
    for schema, name, bounds, is_pending, table in connection.execute(
        "select nspname, relname, pg_get_expr(relpartbound, pg_class.oid), inhdetachpending, inhrelid::regclass::text"
        " from pg_inherits join pg_class on pg_class.oid = inhrelid"
        " join pg_namespace on pg_namespace.oid = relnamespace where inhparent = %s::regclass",
        (edition,),
    ):
        match = _BOUNDS.fullmatch(bounds)
        if match is None or is_pending:
            finalize = " finalize" if is_pending else ""
            raise TablesUnfit(
                f"{table}, a partition of raw.events, is none that a load can replace: {bounds}.",
                "Somebody has attached it, or has begun to detach it; its rows stay where they are.",
                f"Detach it: alter table {edition} detach partition {table}{finalize}",
            )
        start, end = (datetime.fromisoformat(bound) if bound else None for bound in match.groups())
        found.append(Partition(sql.Identifier(schema, name), start, end))
    return sorted(found, key=lambda partition: (partition.start is not None, partition.start or _BEGINNING))


def drop_leftovers(connection: psycopg.Connection, role: str | None) -> None:
    """Drop, as ROLE, the tables that loads have replaced.

    One that somebody reads stays for now. One that others depend on, a view say, or that an event trigger lets nobody
    drop, stays as long as that is so; the log names it once. One that was given to another role is theirs.
    """
    for kind in ("r", "p"):  # an edition goes when its partitions have gone
        found = []
        with suppress(LockNotAvailable), transaction(connection, role, _DROP_TIMEOUT_S):
            connection.execute(_FORGET)
            found = connection.execute(_LEFTOVERS, (kind,)).fetchall()
        for name, kept_for in found:
            _drop(connection, role, name, kept_for)


def _drop(connection: psycopg.Connection, role: str | None, name: str, kept_for: str | None) -> None:
    try:
        with transaction(connection, role, _DROP_TIMEOUT_S):
            connection.execute(sql.SQL("drop table if exists {}").format(sql.Identifier("raw", name)))
            connection.execute(_FORGET)
    except (LockNotAvailable, DeadlockDetected):
        pass
    except psycopg.Error as error:  # an event trigger may raise any
        if connection.closed or isinstance(error, QueryCanceled):
            raise
        is_depended_on = isinstance(error, DependentObjectsStillExist)
        why = "others depend on it" if is_depended_on else "it may not be dropped"
        reason = (error.diag.message_detail if is_depended_on else error.diag.message_primary) or ""
        if reason != kept_for:
            logger.warning("raw.%s was replaced and stays, since %s: %s", name, why, reason)
            with suppress(LockNotAvailable), transaction(connection, role, _DROP_TIMEOUT_S):
                connection.execute(
                    "update raw.events_partitions set kept_for = %s where table_name = %s", (reason, name)
                )
