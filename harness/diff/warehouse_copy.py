"""A copy of the raw tables of the user's own warehouse, which is only read.

The rows come in one read-only transaction, so in one snapshot, over one connection, and go into the copy as they come.
`select` on the tables is all that it takes: of a feed on the table itself, not on its partitions. The copy has the
columns, primary keys and partitions of the tables that the project has made, and nothing that others have put beside
them. So no program of PostgreSQL is needed: of what `pg_dump --schema raw` writes, views, triggers, defaults and types
of others would have to be taken out again, and it reads each partition by itself.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from feeds.contract import HISTORY, Feed
from feeds.driver_errors import not_connected, translated
from feeds.dsn import libpq_dsn
from feeds.errors import FeedError
from feeds.partitions import record
from feeds.tables import create_tables
from feeds.uri import first_line
from harness.diff.sentences import listed
from harness.errors import PostgresError
from harness.oracle.expected_numbers import MARKETPLACE
from harness.warehouse.roles import Warehouse
from harness.warehouse.server import MAJOR, OLDEST_MAJOR

OPTION = "--warehouse-dsn"
LOCK_TIMEOUT_S = 30
SHOWN = 5  # names in a note
# Besides `partitions`, which is about tables that the copy does not have; the last one is of an older version.
LEDGER = ("loads", "loaded_files", "loaded_days", "snapshot_days", "rejected_rows", "rejected_events")
RECORDS = ("partitions", "events_partitions")
MADE_BY_LOADS = re.compile(r"_\d+(_[0-9a-f]+)?(_replaced)?")  # after the feed's name
RELATIONS = """
    select relname, relkind::text, pg_get_partkeydef(oid), obj_description(oid, 'pg_class')
    from pg_class
    where relnamespace = to_regnamespace('raw') and relkind in ('r', 'p', 'v', 'm', 'f') and not relispartition
    order by relname
"""
# A domain is copied as its type; a column of another type that only this database has, or whose values are numbers of
# its objects, as text; a generated one has its values.
COLUMNS = """
    select
        attname,
        format_type(type.oid, case when own.typbasetype = 0 then atttypmod else own.typtypmod end),
        attnotnull,
        type.typnamespace = 'pg_catalog'::regnamespace and type.typname !~ '^_?reg'
    from pg_attribute
    join pg_type as own on own.oid = atttypid
    join pg_type as type on type.oid = coalesce(nullif(own.typbasetype, 0), own.oid)
    where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped
    order by attnum
"""
# The primary key of a partitioned table is that of its partitions.
PRIMARY_KEY = """
    select conname, array_agg(attname::text order by place)
    from (
        select conname, conkey, conrelid from pg_partition_tree(to_regclass(%(table)s))
        join pg_constraint on conrelid = relid where contype = 'p' and isleaf
        union all
        select conname, conkey, conrelid from pg_constraint where conrelid = to_regclass(%(table)s) and contype = 'p'
        limit 1
    ) as key
    cross join unnest(conkey) with ordinality as columns (number, place)
    join pg_attribute on attrelid = conrelid and attnum = number
    group by conname
"""
BOUNDS = """
    select pg_get_expr(relpartbound, oid) from pg_partition_tree(to_regclass(%(table)s)) join pg_class on oid = relid
    where isleaf and level > 0 order by oid
"""
# As in feeds/tables.sql: who makes partitions needs it before that runs.
PARTITIONS = """
    create table raw.partitions (
        table_id regclass primary key, table_name name not null, load_id bigint not null, retired_at timestamptz,
        kept_for text
    )
"""
ENDED_LOADS = "select clock_timestamp(), count(*) filter (where status <> 'running') from raw.loads"
HOLDERS = """
    select relation::regclass::text, pid, usename, application_name
    from pg_locks join pg_stat_activity using (pid) join pg_class on pg_class.oid = relation
    where relnamespace = to_regnamespace('raw') and mode = 'AccessExclusiveLock'
    order by granted desc, relispartition, pid limit 1
"""
SIZE = """
    select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint from pg_class
    where relnamespace = to_regnamespace('raw') and relkind in ('r', 'm')
"""


@dataclass(frozen=True)
class Source:
    """The user's warehouse.

    Attributes:
        dsn: libpq's parameters, those from its variables and files too: what starts a server here forgets these.
        raw_bytes: the size of its schema raw, with indexes, in bytes.
    """

    dsn: str = field(repr=False)
    raw_bytes: int

    def connect(self) -> psycopg.Connection:
        """Connect for transactions that read only, in one snapshot each."""
        # A pooler may be between. Rows are read in the encoding in which they are written.
        connection = psycopg.connect(self.dsn, prepare_threshold=None, client_encoding="utf8")
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return connection


@dataclass(frozen=True)
class Copied:
    """What was copied.

    Attributes:
        rows: the number of rows of each feed that the warehouse has.
        notes: what a reader of the comparison must know; each has three lines.
    """

    rows: dict[str, int]
    notes: list[list[str]]


class Relation(NamedTuple):
    """A table, or what others have, in the schema raw; `partition_key` is SQL, `RANGE (created_at)`."""

    name: str
    kind: str
    partition_key: str | None
    comment: str | None

    def __str__(self) -> str:
        return f"raw.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """Its name in SQL."""
        return sql.Identifier("raw", self.name)


class Relations(NamedTuple):
    """What is in the schema raw: the tables to copy, those of them that are of feeds, and the names of the others."""

    copied: list[Relation]
    feeds: set[str]
    others: list[str]


class Column(NamedTuple):
    """A column; `type` is SQL."""

    name: str
    type: str
    is_required: bool
    is_portable: bool


def find_source(dsn: str) -> Source:
    """Return the warehouse at DSN, the value of --warehouse-dsn.

    Raises PostgresError if it cannot be reached, has another major version, has no ledger, or may not be read.
    """
    try:
        with psycopg.connect(
            libpq_dsn(dsn, OPTION), connect_timeout=10, fallback_application_name="nox -s diff"
        ) as found:
            info = found.info
            parameters = {name: value for name, value in info.get_parameters().items() if name != "service"}
            complete = make_conninfo("", **parameters, password=info.password or None)
            version, database = info.server_version // 10_000, info.dbname
    except (psycopg.Error, UnicodeError) as error:
        failure = not_connected(error, dsn)
        raise PostgresError(f"{OPTION}: {failure.what}", failure.why, failure.next_step) from None
    if not OLDEST_MAJOR <= version <= MAJOR:
        raise PostgresError(
            f"The PostgreSQL server of {OPTION} has version {version}; the project is tested on"
            f" {OLDEST_MAJOR} to {MAJOR}.",
            "Another major version may have other catalogs and types.",
            "Name a server of one of these versions, or compare with files: --events, --feed",
        )
    with reading(Source(complete, 0)) as connection:
        if "loads" not in {name for name, kind, *_ in connection.execute(RELATIONS) if kind == "r"}:
            raise PostgresError(
                f"The database {database} of {OPTION} has no ledger, raw.loads.",
                "The DSN most likely names another database, or no pipeline has loaded into this one yet.",
                "List the server's databases with psql --list, and name the warehouse.",
            )
        [(size,)] = connection.execute(SIZE).fetchall()
    return Source(complete, size)


def copy_raw(source: Source, warehouse: Warehouse, feeds: Mapping[str, Feed]) -> Copied:
    """Copy the raw tables of SOURCE into WAREHOUSE, whose schema raw is empty, and bring them along to FEEDS.

    The loads of the ledger are now of a transaction of the copy's server: models compare it with what they have seen.

    Raises PostgresError if a table may not be read, is locked by somebody for long, or cannot follow its contract.
    """
    as_text: list[str] = []
    # Closed, and not rolled back: after an interrupt the connections may be busy.
    with reading(source) as reader, closing(psycopg.connect(warehouse.loader_dsn, client_encoding="utf8")) as writer:
        relations = find_relations(reader, feeds)
        begin(reader)
        locked = sql.SQL("lock table {} in access share mode")
        reader.execute(locked.format(sql.SQL(", ").join(each.identifier for each in relations.copied)))
        [(began_at, ended)] = reader.execute(ENDED_LOADS).fetchall()
        writer.execute("set timezone = 'UTC'")
        writer.execute(PARTITIONS)
        rows = {each.name: copy_table(reader, writer, each, as_text) for each in relations.copied}
        begin(reader)  # who waits for a lock on the tables goes on
        [(_, ended_later)] = reader.execute(ENDED_LOADS).fetchall()
        writer.execute("update raw.loads set transaction_id = pg_current_xact_id() where transaction_id is not null")
        if "rejected_events" in rows:  # the upgrade expects the names of its version
            writer.execute("alter table raw.partitions rename to events_partitions")
        for relation in relations.copied:
            writer.execute(sql.SQL("analyze {}").format(relation.identifier))
        writer.commit()
    for feed in feeds.values():
        follow_contract(warehouse, feed)
    notes = []
    if (later := ended_later - ended) > 0:
        notes.append(
            [
                f"{later} load{'s' if later > 1 else ''} ended while the warehouse was copied.",
                f"The copy holds what was there when it began, at {began_at:%H:%M:%S} UTC.",
                "Run it again to compare with what came later.",
            ]
        )
    if relations.others:
        notes.append(
            [
                f"Not copied from the warehouse: {listed([f'raw.{name}' for name in relations.others], SHOWN)}.",
                "No load has made them.",
                f"Models that read them do not build with {OPTION}.",
            ]
        )
    if as_text:
        notes.append(
            [
                f"Copied as text: {listed(as_text, SHOWN)}.",
                "Their types are of an extension, or somebody made them; the copy does not have them.",
                "Models that need the type do not build, or may give other rows than in the warehouse.",
            ]
        )
    return Copied({name: count for name, count in rows.items() if name in relations.feeds}, notes)


@contextmanager
def reading(source: Source) -> Iterator[psycopg.Connection]:
    """Connect to SOURCE and begin; raise PostgresError where the block fails as it may."""
    try:
        with closing(source.connect()) as reader:
            begin(reader)
            yield reader
    except psycopg.Error as error:
        if (failure := failed(error, source)) is None:
            raise
        raise failure from error


def begin(reader: psycopg.Connection) -> None:
    """Begin a transaction, whose snapshot is that of the first query after this."""
    settings = {
        "statement_timeout": "0",
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": "0",
        "timezone": "UTC",
        "datestyle": "ISO",
        "search_path": "pg_catalog",
        "row_security": "off",  # fail where a policy would hide rows
    }
    if reader.info.server_version >= 170_000:
        settings["transaction_timeout"] = "0"
    reader.rollback()
    for name, value in settings.items():  # a query, as of set_config, would take the snapshot before the locks
        reader.execute(sql.SQL("set local {} = {}").format(sql.Identifier(name), value))


def find_relations(reader: psycopg.Connection, feeds: Iterable[str]) -> Relations:
    """Return the tables to copy: the ledger's, and those of FEEDS and of the feeds that the ledger knows."""
    found = [Relation(*each) for each in reader.execute(RELATIONS)]
    known = {MARKETPLACE, *feeds}  # an older ledger, whose loads have no feed, is of events
    if "feed" in {column.name for column in read_columns(reader, "raw.loads")}:
        known |= {feed for (feed,) in reader.execute("select distinct feed from raw.loads")}
    tables = {each.name: each for each in found if each.kind in "rp"}
    ledger = [tables[name] for name in LEDGER if name in tables]
    of_feeds = [tables[name] for name in sorted(known) if name in tables and tables[name].kind == "p"]
    histories = [tables[feed + HISTORY] for feed in sorted(known) if feed + HISTORY in tables]
    copied = [*ledger, *of_feeds, *histories]
    others = [
        each.name
        for each in found
        if each not in copied
        and each.name not in RECORDS
        and not any(MADE_BY_LOADS.fullmatch(each.name.removeprefix(feed)) for feed in known)
    ]
    return Relations(copied, {each.name for each in of_feeds}, others)


def copy_table(reader: psycopg.Connection, writer: psycopg.Connection, relation: Relation, as_text: list[str]) -> int:
    """Make RELATION in the copy and copy its rows; return their number, and add columns to AS_TEXT that are so."""
    columns = read_columns(reader, str(relation))
    as_text += [f"raw.{relation.name}.{column.name}" for column in columns if not column.is_portable]
    leaves = make_table(reader, writer, relation, columns)
    table = relation.identifier
    selected = sql.SQL(", ").join(
        sql.SQL("{}" if column.is_portable else "{}::text").format(sql.Identifier(column.name)) for column in columns
    )
    # Both servers have the same types; the text in them is converted to this connection's encoding and from it.
    read = sql.SQL("copy (select {} from {}) to stdout (format binary)").format(selected, table)
    write = sql.SQL("copy {} ({}) from stdin (format binary)").format(table, names(column.name for column in columns))
    with reader.cursor().copy(read) as source, writer.cursor() as cursor:
        with cursor.copy(write) as target:
            for block in source:
                target.write(block)
        rows = cursor.rowcount
    for name, key in reader.execute(PRIMARY_KEY, {"table": str(relation)}):
        for leaf in leaves:
            writer.execute(sql.SQL("alter table {} add primary key ({})").format(leaf, names(key)))
        if not leaves:  # an upgrade drops one by its name
            statement = sql.SQL("alter table {} add constraint {} primary key ({})")
            writer.execute(statement.format(table, sql.Identifier(name), names(key)))
    return rows


def make_table(
    reader: psycopg.Connection, writer: psycopg.Connection, relation: Relation, columns: Sequence[Column]
) -> list[sql.Identifier]:
    """Make RELATION in the copy, with COLUMNS; return its partitions, which have the bounds of the warehouse's own."""
    definitions = sql.SQL(", ").join(
        sql.SQL("{} {}{}").format(
            sql.Identifier(column.name),
            sql.SQL(column.type if column.is_portable else "text"),
            sql.SQL(" not null" if column.is_required else ""),
        )
        for column in columns
    )
    by = sql.SQL(f" partition by {relation.partition_key}" if relation.partition_key else "")
    writer.execute(sql.SQL("create table {} ({}){}").format(relation.identifier, definitions, by))
    if relation.comment:
        writer.execute(sql.SQL("comment on table {} is {}").format(relation.identifier, relation.comment))
    if not relation.partition_key:
        return []
    bounds = [found for (found,) in reader.execute(BOUNDS, {"table": str(relation)})]
    everything = "for values from (minvalue) to (maxvalue)"
    if not all(found.startswith("FOR VALUES FROM") for found in bounds):  # not as loads make them
        bounds, everything = ["default"], "default"
    made = [f"{relation.name}_0_{number:012x}" for number in range(len(bounds) + 1)]
    generation, *leaves = (sql.Identifier("raw", name) for name in made)
    part = "create table {} partition of {} {}"
    writer.execute(sql.SQL(part).format(generation, relation.identifier, sql.SQL(everything)) + by)
    for leaf, found in zip(leaves, bounds, strict=True):
        writer.execute(sql.SQL(part).format(leaf, generation, sql.SQL(found)))
    record(writer, made, 0)
    return leaves


def read_columns(reader: psycopg.Connection, table: str) -> list[Column]:
    """Return the columns of TABLE."""
    return [Column(*found) for found in reader.execute(COLUMNS, {"table": table})]


def note_of_changed_load(files: Sequence[str]) -> list[str]:
    """Return the note that a change of FILES, the load's code or contracts, is not in a comparison of a copy."""
    return [
        f"The load differs from the base's: {listed(files, SHOWN)}.",
        f"With {OPTION} both sides have the rows as the warehouse has them, so what that changes is not shown.",
        "Compare with files, which each side loads by its own code: --events, --feed",
    ]


def follow_contract(warehouse: Warehouse, feed: Feed) -> None:
    """Bring the tables of FEED in WAREHOUSE along to this tree's contract, as its next load would in the user's own."""
    try:
        create_tables(warehouse.loader_dsn, feed)
    except FeedError as error:
        raise PostgresError(
            f"The copy of raw.{feed.name} cannot follow the contract of this tree: {error.what}",
            f"So would a load into the warehouse itself. {error.why}",
            error.next_step,
        ) from error


def failed(error: psycopg.Error, source: Source) -> PostgresError | None:
    """Return the expected error for ERROR, with which the copy of SOURCE failed; None for a defect or a full disk."""
    message = first_line(error, source.dsn)
    if isinstance(error, errors.LockNotAvailable):
        return PostgresError(
            f"{holder(source)} for more than {LOCK_TIMEOUT_S} s.",
            "It alters, empties or vacuums the table, or has not ended its transaction after that.",
            "Run it again when that has ended: select * from pg_stat_activity shows what it does.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return PostgresError(
            f"The user of {OPTION} may not read all raw tables: {message}.",
            "It lacks a privilege on the schema raw or on a table in it, or a policy hides rows from it.",
            "Grant them: grant usage on schema raw to …; grant select on all tables in schema raw to …",
        )
    if isinstance(error, errors.CharacterNotInRepertoire | errors.UntranslatableCharacter):
        return PostgresError(
            f"A text in a raw table cannot be copied: {message}.",
            f"The encoding of the database of {OPTION} does not check its texts, and the copy has UTF-8.",
            "Correct the text, or compare with files: --events, --feed",
        )
    if isinstance(error, psycopg.OperationalError) and not isinstance(error, errors.DiskFull):
        failure = translated(error)
        return PostgresError(
            f"The copy of the warehouse broke off: {message}.",
            failure.why if failure else "One of the two servers, or the network, ended the connection.",
            f"Run it again, or compare with files: --events, --feed. Nothing was changed in the warehouse of {OPTION}.",
        )
    return None


def holder(source: Source) -> str:
    """Return which session has locked which raw table of SOURCE, for people."""
    with closing(source.connect()) as connection:
        begin(connection)
        for table, pid, user, program in connection.execute(HOLDERS):
            return f"{table} of {OPTION} is locked by {user} ({program or 'unnamed program'}, pid {pid})"
    return f"A raw table of {OPTION} was locked by another session"


def names(columns: Iterable[str]) -> sql.Composed:
    """Return the names of COLUMNS in SQL."""
    return sql.SQL(", ").join(map(sql.Identifier, columns))
