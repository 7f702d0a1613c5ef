"""Connect to the warehouse with every setting that a load depends on.

A role, a database or a server may have other defaults, such as an isolation level, a search path or a timeout. So each
transaction sets what it needs, only for itself: that works through a pooler too, which gives every transaction another
connection.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from feeds.contract import Feed
from feeds.driver_errors import not_connected, translated
from feeds.dsn import libpq_dsn

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


def connect(dsn: str, timeout_s: float = 30.0) -> psycopg.Connection:
    """Connect to the warehouse at DSN, a libpq URL, for statements in a `transaction`.

    Raises:
        FeedError: the DSN is invalid, the warehouse cannot be reached, or it refused the connection.
    """
    dsn = libpq_dsn(dsn)
    try:
        return psycopg.connect(
            dsn,
            autocommit=True,
            prepare_threshold=None,  # some messages contain several statements, which cannot be prepared
            client_encoding="utf8",
            connect_timeout=max(2, round(timeout_s)),  # libpq takes no less
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
    except (psycopg.OperationalError, UnicodeError) as error:
        raise not_connected(error, dsn) from None  # libpq's message quotes parts of the DSN


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


def owner(connection: psycopg.Connection, feed: Feed) -> str | None:
    """Return the owner of FEED's raw table, or of its schema if this role is a member of it; else None.

    A load makes all tables as this role, so that the next load may read and replace them.
    """
    with transaction(connection):
        found = connection.execute(
            "select pg_get_userbyid(relowner) from pg_class where oid = to_regclass(%(table)s) union all"
            " select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'raw'"
            " and to_regclass(%(table)s) is null and pg_has_role(nspowner, 'member')",
            {"table": f"raw.{feed.name}"},
        ).fetchone()
    return found[0] if found else None


@contextmanager
def foreseen(lock_timeout_s: float | None = None) -> Iterator[None]:
    """Raise the driver's errors as `translated` returns them.

    Raises:
        FeedError: see its subclasses.
        psycopg.Error: a defect of this program.
    """
    try:
        yield
    except psycopg.Error as error:
        if (failure := translated(error, lock_timeout_s)) is None:
            raise
        raise failure from error
