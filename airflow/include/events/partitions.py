"""The partitions of `raw.events`: ranges of `created_at` that follow each other, each a table that loads replace whole.

They are not of one size. Where there are many events a day has a partition of its own; where there are few, many days
share one. So a load of one day rewrites no more than about that day, and there are never so many that readers feel it.

All of them belong to one *edition*, which is the only partition of `raw.events` itself. A load that replaces everything
makes a new edition, so that it changes one partition and not a hundred while readers wait.
"""

import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable, UniqueViolation

from events.interval import Interval

EVENTS = sql.Identifier("raw", "events")
MIN_ROWS = 50_000  # of two neighbours together; a day that has as many gets a partition of its own
MAX_PARTITIONS = 100  # roughly
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)
_BOUNDS = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'(.+)')\) TO \((?:MAXVALUE|'(.+)')\)")
# Spelled out for each table: `like raw.events` would lock raw.events for as long as a load takes.
_COLUMNS = sql.SQL("""
    event_id bigint not null,
    event_type text not null,
    professional_id_anonymized bigint not null,
    created_at timestamptz not null,
    meta_data text,
    load_id bigint not null,
    constraint events_event_type check (
        event_type in ('created_account', 'became_able_to_propose', 'became_unable_to_propose', 'proposed')
    ),
    constraint events_created_at check (isfinite(created_at)),
    constraint events_check check ((event_type = 'proposed') = (meta_data is not null))
""")


@dataclass(frozen=True)
class Partition:
    """A partition of `raw.events`, with the bounds of its `created_at`; None is an open bound."""

    table: sql.Composable
    start: datetime | None
    end: datetime | None

    def before(self, moment: datetime | None) -> Interval | None:
        """Return its range before MOMENT, None if there is none."""
        if moment is None or (self.start or _BEGINNING) >= moment:
            return None
        return Interval(self.start, moment)

    def after(self, moment: datetime | None) -> Interval | None:
        """Return its range from MOMENT on, None if there is none."""
        if moment is None or (self.end or _END) <= moment:
            return None
        return Interval(moment, self.end)

    def overlaps(self, interval: Interval) -> bool:
        """Say whether a moment can be in both."""
        return (self.start or _BEGINNING) < (interval.end or _END) and (interval.start or _BEGINNING) < (
            self.end or _END
        )


def create_events(connection: psycopg.Connection) -> None:
    """Make `raw.events`, with one empty partition in one edition, where it is missing."""
    connection.execute(
        sql.SQL("create table if not exists raw.events ({}) partition by range (created_at)").format(_COLUMNS)
    )
    if not connection.execute("select 1 from pg_inherits where inhparent = 'raw.events'::regclass").fetchone():
        edition, table = sql.Identifier("raw", "events_0"), sql.Identifier("raw", "events_0_0")
        make_edition(connection, edition)
        connection.execute(sql.SQL("create table {} ({}, primary key (event_id))").format(table, _COLUMNS))
        connection.execute(attach(edition, Partition(table, None, None)))
        connection.execute(attach(EVENTS, Partition(edition, None, None)))


def make_edition(connection: psycopg.Connection, edition: sql.Composable) -> None:
    """Make EDITION, which can become the table that `raw.events` is made of."""
    connection.execute(sql.SQL("create table {} ({}) partition by range (created_at)").format(edition, _COLUMNS))


def new_table(load_id: int) -> sql.Composable:
    """Return a name for a table of the load LOAD_ID, one that no table has, even if ids began again from 1."""
    return sql.Identifier("raw", f"events_{load_id}_{secrets.token_hex(6)}")


def make_table(connection: psycopg.Connection, table: sql.Composable, load_id: int) -> None:
    """Make TABLE, which can become a partition; rows of it say by default that LOAD_ID brought them."""
    connection.execute(
        sql.SQL(
            "create table {table} ({columns}); alter table {table} alter column load_id set default {load_id}"
        ).format(table=table, columns=_COLUMNS, load_id=load_id)
    )


def add_key(connection: psycopg.Connection, table: sql.Composable) -> bool:
    """Make `event_id` the primary key of TABLE and return True; False if some event id is there twice."""
    try:
        with connection.transaction():
            connection.execute(sql.SQL("alter table {} add primary key (event_id)").format(table))
    except UniqueViolation:
        return False
    return True


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
    """Return the one partition of `raw.events`, which has all the others."""
    [edition] = _children(connection, EVENTS)
    return edition.table


def partitions(connection: psycopg.Connection) -> list[Partition]:
    """Return the partitions of `raw.events` that have the rows, in the order of their times."""
    return _children(connection, current_edition(connection))


def drop_leftovers(connection: psycopg.Connection) -> None:
    """Drop the tables that `raw.events` was made of once; one that somebody reads stays for now."""
    found = connection.execute(
        "select relname from pg_class where relnamespace = 'raw'::regnamespace and relkind in ('r', 'p')"
        " and relname ~ '^events_[0-9]' and not relispartition"
    )
    for (name,) in found.fetchall():
        with suppress(LockNotAvailable), connection.transaction():
            connection.execute("set local lock_timeout = '1s'")
            connection.execute(sql.SQL("drop table if exists {}").format(sql.Identifier("raw", name)))


def _children(connection: psycopg.Connection, parent: sql.Composable) -> list[Partition]:
    found = []
    for schema, name, bounds in connection.execute(
        "select nspname, relname, pg_get_expr(relpartbound, pg_class.oid)"
        " from pg_inherits join pg_class on pg_class.oid = inhrelid"
        " join pg_namespace on pg_namespace.oid = relnamespace where inhparent = %s::regclass",
        (parent.as_string(connection),),
    ):
        if match := _BOUNDS.fullmatch(bounds):
            start, end = (datetime.fromisoformat(bound) if bound else None for bound in match.groups())
            found.append(Partition(sql.Identifier(schema, name), start, end))
    return sorted(found, key=lambda partition: partition.start or _BEGINNING)
