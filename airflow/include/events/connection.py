"""Connect to the warehouse for a load, with every setting that a load depends on.

A role, a database or a server may have other defaults: another isolation level, a search path, a timeout. So each
transaction sets what it needs, for itself alone: that works through a pooler too, which gives every transaction another
connection.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql
from psycopg.errors import (
    DeadlockDetected,
    DiskFull,
    InsufficientPrivilege,
    IntegrityError,
    InvalidSchemaName,
    LockNotAvailable,
    ProgramLimitExceeded,
    QueryCanceled,
    RaiseException,
    ReadOnlySqlTransaction,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedTable,
)
from psycopg.pq import TransactionStatus

from events.errors import (
    ConstraintViolated,
    EventsError,
    LoadCancelled,
    NotAllowed,
    SettingUnusable,
    TablesUnfit,
    WarehouseBusy,
    WarehouseFull,
    WarehouseGone,
)
from events.uri import without_secrets

_SETTINGS = {
    "search_path": "pg_catalog, pg_temp",  # of others' tables none is ever meant: ours are named with their schema
    "timezone": "UTC",
    "datestyle": "ISO",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "default_table_access_method": "heap",  # whose COPY can freeze rows
    "row_security": "off",  # to fail, where a policy would hide rows from the load
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",  # a file may be slow
    # This process may go away at any moment, and then the server is to notice.
    "client_connection_check_interval": "5s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


# What a statement of a load ends in where tables are missing, or where a default, a check or an index of others fails.
_OF_WHAT_IS_THERE = (
    RaiseException,
    UndefinedTable,
    UndefinedColumn,
    UndefinedFunction,
    psycopg.DataError,
    ProgramLimitExceeded,
)
_OUR_TABLE = re.compile(r"events_\d+_[0-9a-f]{12}")  # that a load was making, to become a partition


def connect(dsn: str) -> psycopg.Connection:
    """Connect to the warehouse that DSN, a libpq URL, names; what is done there is done in a `transaction`.

    Raises:
        SettingUnusable: the DSN is none.
        psycopg.OperationalError: the warehouse is not reached.
    """
    try:
        return psycopg.connect(
            dsn,
            autocommit=True,
            prepare_threshold=None,  # a prepared statement is one statement; some messages here are several
            client_encoding="utf8",
            connect_timeout=30,
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
    except (psycopg.ProgrammingError, UnicodeError) as error:
        raise SettingUnusable(
            f"The warehouse's DSN cannot be read: {first_line(error, dsn)}",
            "It has an unknown parameter, or a password whose special characters are not percent-encoded.",
            "Write it like postgresql://loader:p%40ss@host:5432/warehouse",
        ) from None  # libpq quotes parts of it
    except psycopg.OperationalError as error:
        raise type(error)(without_secrets(str(error), dsn)) from None


@contextmanager
def transaction(
    connection: psycopg.Connection, role: str | None = None, lock_timeout_s: float = 60.0
) -> Iterator[None]:
    """Have a transaction with the settings that a load depends on, as ROLE; commit it, unless that was done already.

    It waits for others for LOCK_TIMEOUT_S at most.
    """
    lock_timeout_ms = max(1, round(lock_timeout_s * 1000))  # 0 would be no timeout
    settings = _SETTINGS | {"lock_timeout": f"{lock_timeout_ms}ms"}
    if connection.info.server_version >= 170_000:
        settings["transaction_timeout"] = "0"
    statements: list[sql.Composable] = [sql.SQL("begin isolation level read committed read write")]
    statements += [
        sql.SQL("select pg_catalog.set_config({}, {}, true)").format(name, value) for name, value in settings.items()
    ]
    if role is not None:
        statements.append(sql.SQL("set local role {}").format(sql.Identifier(role)))
    try:
        connection.execute(sql.SQL("; ").join(statements))
        yield
        if connection.info.transaction_status != TransactionStatus.IDLE:
            connection.execute("commit")
    except BaseException:
        with suppress(psycopg.Error):
            connection.rollback()
        raise


def owner(connection: psycopg.Connection) -> str | None:
    """Return the role that owns `raw.events`, or is to: the schema's owner, where this role may act as it.

    All that a load makes belongs to this role, so that who loads next may read and replace it.
    """
    with transaction(connection):
        found = connection.execute(
            "select pg_get_userbyid(relowner) from pg_class where oid = to_regclass('raw.events') union all"
            " select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'raw'"
            " and to_regclass('raw.events') is null and pg_has_role(nspowner, 'member')"
        ).fetchone()
    return found[0] if found else None


@contextmanager
def foreseen(lock_timeout_s: float | None = None) -> Iterator[None]:
    """Raise errors of the driver as what has happened to a load, where that is known; see `translated`.

    Raises:
        EventsError: as its subclasses say.
        psycopg.Error: that was not foreseen.
    """
    try:
        yield
    except psycopg.Error as error:
        if (failure := translated(error, lock_timeout_s)) is None:
            raise
        raise failure from error


def translated(error: psycopg.Error, lock_timeout_s: float | None = None) -> EventsError | None:  # noqa: PLR0911
    """Return ERROR, the driver's, as what has happened to a load; None if that is not known.

    LOCK_TIMEOUT_S is how long the load may wait for others, in seconds.
    """
    said = first_line(error)
    if isinstance(error, (LockNotAvailable, DeadlockDetected)):
        within = "" if lock_timeout_s is None else f" within {lock_timeout_s:g} s"
        return WarehouseBusy(
            f"The warehouse did not become free{within}.",
            "Another load or a dbt build is taking long, or somebody has left a transaction open.",
            "See who: select * from pg_stat_activity where datname = current_database(); then run the load again.",
        )
    if isinstance(error, QueryCanceled):
        return LoadCancelled(
            f"The load was cancelled on the server: {said}",
            "Somebody has ended its statement there, with pg_cancel_backend most likely.",
            "Run the load again; nothing was changed.",
        )
    if isinstance(error, IntegrityError):
        name, table = error.diag.constraint_name, error.diag.table_name or "its type"
        table = "events" if _OUR_TABLE.fullmatch(table) else table
        return ConstraintViolated(
            f"A row violates {f'the constraint {name}' if name else f'a constraint of {table}'}: {said}",
            f"It is a constraint of {error.diag.schema_name}.{table}; the load's rows, or those that it keeps, do not"
            " fulfil it.",
            "Correct the file or the constraint and run the load again; nothing was changed.",
        )
    if isinstance(error, InsufficientPrivilege):
        return NotAllowed(
            f"The load's role may not do what a load does: {said}",
            "It is neither the owner of the tables of raw nor a member of it, or row security is forced on them.",
            "Load as the role `loader`, or grant the right that is missing; nothing was changed.",
        )
    if isinstance(error, InvalidSchemaName):
        return NotAllowed(
            f"The warehouse has no place for the load: {said}",
            "The schema raw was never made there, or the DSN names another database.",
            "Make it for the role that loads: create schema raw authorization loader",
        )
    if isinstance(error, ReadOnlySqlTransaction):
        return NotAllowed(
            f"The warehouse takes no writes: {said}",
            "It is a standby, or was set to read only.",
            "Name the primary server in the DSN; nothing was changed.",
        )
    if isinstance(error, DiskFull):
        return WarehouseFull(
            f"The warehouse is full: {said}",
            "A load needs as much room as its rows take, before those that they replace are gone.",
            "Make room on the server and run the load again; nothing was changed.",
        )
    if isinstance(error, _OF_WHAT_IS_THERE):
        return TablesUnfit(
            f"PostgreSQL refused a statement of the load: {said}",
            "The tables of raw were never made there, or what somebody has added to them fails: a default, a check.",
            "Load once, which makes the tables, or correct what was added: its names need their schemas.",
        )
    if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08")[:2] in ("08", "28", "3D", "53", "57"):
        return WarehouseGone(
            f"The warehouse was not reached, or the connection broke: {said}",
            "PostgreSQL has ended or restarted, or the DSN names another place.",
            "Try again; what the load had done is in the ledger: python -m events loads",
        )
    return None


def first_line(error: BaseException, *about: str) -> str:
    """Return the first line of what ERROR says, without the secrets in it; ABOUT is as for `without_secrets`."""
    return without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0], *about)
