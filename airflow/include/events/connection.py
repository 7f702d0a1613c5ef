"""Connect to the warehouse with every setting that a load depends on, and translate its errors.

A role, a database or a server may have other defaults, such as an isolation level, a search path or a timeout. So each
transaction sets what it needs, only for itself: that works through a pooler too, which gives every transaction another
connection.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors, sql
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
    "search_path": "pg_catalog, pg_temp",  # all tables are named with their schema
    "timezone": "UTC",
    "datestyle": "ISO",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "default_table_access_method": "heap",  # whose COPY can freeze rows
    "row_security": "off",  # fail where a policy would hide rows
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",  # a file may be slow
    # So that the server notices when this process is killed.
    "client_connection_check_interval": "5s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


# Errors of missing tables, and of a default, a check or an index that a user has added.
_ERRORS_OF_TABLES = (
    errors.RaiseException,
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.UndefinedFunction,
    psycopg.DataError,
    errors.ProgramLimitExceeded,
)
_NEW_PARTITION = re.compile(r"events_\d+_[0-9a-f]{12}")


def connect(dsn: str) -> psycopg.Connection:
    """Connect to the warehouse at DSN, a libpq URL, for statements in a `transaction`.

    Raises:
        SettingUnusable: the DSN is invalid.
        psycopg.OperationalError: the warehouse cannot be reached.
    """
    try:
        return psycopg.connect(
            dsn,
            autocommit=True,
            prepare_threshold=None,  # some messages contain several statements, which cannot be prepared
            client_encoding="utf8",
            connect_timeout=30,
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
    except (psycopg.ProgrammingError, UnicodeError) as error:
        raise SettingUnusable(
            f"The warehouse's DSN is invalid: {first_line(error, dsn)}",
            "It has an unknown parameter, or a password whose special characters are not percent-encoded.",
            "Write it like postgresql://loader:p%40ss@host:5432/warehouse",
        ) from None  # libpq's message quotes parts of it
    except psycopg.OperationalError as error:
        raise type(error)(without_secrets(str(error), dsn)) from None


@contextmanager
def transaction(
    connection: psycopg.Connection, role: str | None = None, lock_timeout_s: float = 60.0
) -> Iterator[None]:
    """Begin a transaction as ROLE with the settings that a load depends on, and commit it unless the caller has.

    It waits at most LOCK_TIMEOUT_S seconds for each lock.
    """
    lock_timeout_ms = max(1, round(lock_timeout_s * 1000))  # 0 means no timeout
    settings = _SETTINGS | {"lock_timeout": f"{lock_timeout_ms}ms"}
    if connection.info.server_version >= 170_000:
        settings["transaction_timeout"] = "0"
    set_config = sql.SQL(", ").join(
        sql.SQL("pg_catalog.set_config({}, {}, true)").format(*setting) for setting in settings.items()
    )
    statements = [sql.SQL("begin isolation level read committed read write; select {}").format(set_config)]
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
    """Return the owner of `raw.events`, or of its schema if this role is a member of it; else None.

    A load makes all tables as this role, so that the next load may read and replace them.
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
    """Raise the driver's errors as `translated` returns them.

    Raises:
        EventsError: see its subclasses.
        psycopg.Error: an unforeseen error.
    """
    try:
        yield
    except psycopg.Error as error:
        if (failure := translated(error, lock_timeout_s)) is None:
            raise
        raise failure from error


def translated(error: psycopg.Error, lock_timeout_s: float | None = None) -> EventsError | None:  # noqa: PLR0911
    """Return the foreseen failure that ERROR, of the driver, means for a load; None if it means none.

    LOCK_TIMEOUT_S is how long the load may wait for a lock, in seconds.
    """
    message = first_line(error)
    if isinstance(error, (errors.LockNotAvailable, errors.DeadlockDetected)):
        within = "" if lock_timeout_s is None else f" within {lock_timeout_s:g} s"
        return WarehouseBusy(
            f"The warehouse did not become free{within}.",
            "Another load or a dbt build is taking long, or a user has left a transaction open.",
            "Find it: select * from pg_stat_activity where datname = current_database(); then run the load again.",
        )
    if isinstance(error, errors.QueryCanceled):
        return LoadCancelled(
            f"The load was cancelled on the server: {message}",
            "A user cancelled its statement there, most likely with pg_cancel_backend.",
            "Run the load again; nothing was changed.",
        )
    if isinstance(error, errors.IntegrityError):
        name, table = error.diag.constraint_name, error.diag.table_name or "its type"
        table = "events" if _NEW_PARTITION.fullmatch(table) else table
        return ConstraintViolated(
            f"A row violates {f'the constraint {name}' if name else f'a constraint of {table}'}: {message}",
            f"It is a constraint of {error.diag.schema_name}.{table}; a row of the file, or one that the load keeps,"
            " does not satisfy it.",
            "Correct the file or the constraint and run the load again; nothing was changed.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return NotAllowed(
            f"The load's role lacks a privilege: {message}",
            "The role is not the owner of the tables in raw or a member of it, or row security is forced on them.",
            "Load as the role `loader`, or grant the privilege; nothing was changed.",
        )
    if isinstance(error, errors.InvalidSchemaName):
        return NotAllowed(
            f"The warehouse has no schema for the load: {message}",
            "The schema raw was never created, or the DSN names another database.",
            "Create it for the role that loads: create schema raw authorization loader",
        )
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return NotAllowed(
            f"The warehouse is read-only: {message}",
            "It is a standby, or it was set to read-only.",
            "Name the primary server in the DSN; nothing was changed.",
        )
    if isinstance(error, errors.DiskFull):
        return WarehouseFull(
            f"The warehouse's disk is full: {message}",
            "A load needs space for its rows before it drops those that they replace.",
            "Free space on the server and run the load again; nothing was changed.",
        )
    if isinstance(error, _ERRORS_OF_TABLES):
        return TablesUnfit(
            f"PostgreSQL refused a statement of the load: {message}",
            "The tables in raw do not exist yet, or a default, a check or an index that a user added to them fails.",
            "Load once, which creates the tables, or correct what was added: it must name objects with their schemas.",
        )
    if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08")[:2] in ("08", "28", "3D", "53", "57"):
        return WarehouseGone(
            f"The warehouse cannot be reached, or the connection broke: {message}",
            "PostgreSQL stopped or restarted, or the DSN names the wrong host, port or database.",
            "Try again; the ledger shows whether the load succeeded: python -m events loads",
        )
    return None


def first_line(error: BaseException, *uris: str) -> str:
    """Return the first line of ERROR's message, without secrets; URIS as in `without_secrets`."""
    return without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0], *uris)
