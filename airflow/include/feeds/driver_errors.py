"""What the driver's errors mean for a user: the only module that decides it."""

import re
from typing import NamedTuple

import psycopg
from psycopg import errors

from feeds.errors import (
    ConstraintViolated,
    FeedError,
    LoadCancelled,
    NotAllowed,
    SettingUnusable,
    TablesUnfit,
    WarehouseBusy,
    WarehouseFull,
    WarehouseGone,
)
from feeds.uri import first_line


class _Kind(NamedTuple):
    """Errors that match `pattern`, and what they mean; `{}` is PostgreSQL's message."""

    pattern: str
    error: type[FeedError]
    what: str
    why: str
    next_step: str

    def with_message(self, message: str) -> FeedError:
        return self.error(self.what.format(message), self.why, self.next_step)


_NO_FREE_CONNECTION = (
    WarehouseBusy,
    "PostgreSQL has no connection free: {}",
    "Other programs use all that the server, the database or the role may have.",
    "Wait until one of them ends, or raise max_connections or the role's connection limit.",
)
# By the message, in their order: if no connection is made, the driver has no code.
_NOT_CONNECTED = (
    _Kind(
        r"authentication failed|no password supplied|pg_hba\.conf|permission denied for database"
        r"|role \".*\" (?:does not exist|is not permitted to log in)",
        NotAllowed,
        "PostgreSQL refused the login: {}",
        "The user or the password is most likely wrong, or may not open this database from here.",
        "Try the same DSN with psql; in a URL, special characters are percent-encoded: p@ss is p%40ss.",
    ),
    _Kind(
        r"database \".*\" (?:does not exist|is not currently accepting connections)",
        SettingUnusable,
        "PostgreSQL does not open the database: {}",
        "The DSN most likely names another database, or another server.",
        "List the server's databases with psql --list, and correct the DSN.",
    ),
    _Kind(r"too many (?:connections|clients)|connection slots|no more connections", *_NO_FREE_CONNECTION),
    _Kind(
        r"starting up|shutting down|not yet accepting|not accepting|in recovery mode",
        WarehouseGone,
        "PostgreSQL does not accept connections now: {}",
        "It is starting, stopping or recovering.",
        "Try again in a moment; PostgreSQL's log says more.",
    ),
    _Kind(
        r"does not support SSL|SSL was required|[Cc]ertificate|channel binding|authentication method requirement"
        r"|server is (?:not )?in hot standby|session is (?:not )?read|unrecognized configuration parameter"
        r"|invalid (?:value for parameter|port number|integer value|\w+ value)|definition of service|WAL sender"
        r"|invalid command-line argument|requires a value|label (?:empty|too long)|codec can't encode",
        SettingUnusable,
        "A parameter of the DSN is not accepted: {}",
        "The DSN, or one of libpq's variables such as PGSSLMODE, asks for what this server or libpq does not have.",
        "Correct the parameter, or leave it out.",
    ),
    _Kind(
        "FATAL:",
        WarehouseGone,
        "PostgreSQL refused the connection: {}",
        "PostgreSQL, or a pooler in front of it, could not serve this connection.",
        "Look at its log, and try again.",
    ),
    _Kind(
        "",
        WarehouseGone,
        "PostgreSQL cannot be reached: {}",
        "PostgreSQL does not run there, no network leads there, or the DSN names the wrong host or port.",
        "Try the same DSN with psql, and try again.",
    ),
)
# By PostgreSQL's code, in their order: https://www.postgresql.org/docs/current/errcodes-appendix.html
_ON_A_CONNECTION = (
    _Kind(
        "25P0[34]|57P05",
        LoadCancelled,
        "PostgreSQL ended a statement or a connection that took too long: {}",
        "The server, the database, the role or a pooler has a timeout.",
        "Find it: select name, setting, source from pg_settings where name like '%timeout'; then run it again.",
    ),
    _Kind(
        "57014",
        LoadCancelled,
        "The load was cancelled on the server: {}",
        "A user cancelled its statement there, most likely with pg_cancel_backend.",
        "Run the load again; nothing was changed.",
    ),
    _Kind(
        "42501|28",
        NotAllowed,
        "The role lacks a privilege: {}",
        "The role is not the owner of the tables in raw or a member of it, or row security is forced on them.",
        "Load as the role `loader`, or grant the privilege; nothing was changed.",
    ),
    _Kind(
        "3F000",
        NotAllowed,
        "The warehouse lacks a schema: {}",
        "The schema raw was never created, or the DSN names another database.",
        "Create it for the role that loads: create schema raw authorization loader",
    ),
    _Kind(
        "25006",
        NotAllowed,
        "The warehouse is read-only: {}",
        "It is a standby, or it was set to read-only.",
        "Name the primary server in the DSN; nothing was changed.",
    ),
    _Kind(
        "53100",
        WarehouseFull,
        "The warehouse's disk is full: {}",
        "A load needs space for its rows before it drops those that they replace.",
        "Free space on the server and run the load again; nothing was changed.",
    ),
    _Kind("53300", *_NO_FREE_CONNECTION),
    _Kind(
        "53",
        WarehouseFull,
        "The warehouse has too little memory, or a limit is too low: {}",
        "Other statements use the memory, or a setting is low, such as temp_file_limit or max_locks_per_transaction.",
        "Raise the limit, or free memory, and run the load again; nothing was changed.",
    ),
    _Kind(
        "08|57",
        WarehouseGone,
        "The connection to PostgreSQL broke: {}",
        "PostgreSQL stopped or restarted, or the network or an administrator ended the connection.",
        "Try again; the ledger shows whether the load succeeded: python -m feeds loads",
    ),
    _Kind(
        "22",
        TablesUnfit,
        "PostgreSQL cannot compute an expression for a row: {}",
        "It is in a rule of the contract, or in a default, a check or an index that a user added to the table.",
        "Write it so that it fails for no row, a / nullif(b, 0) instead of a / b; nothing was changed.",
    ),
    _Kind(
        "54",
        TablesUnfit,
        "A row, a key or the table is larger than PostgreSQL's limits: {}",
        "A key may have some 2,700 bytes and 32 columns, a table 1,600 columns, and of very many not all a value.",
        "Choose a shorter key, limit its maxLength, or keep fewer columns in the contract; nothing was changed.",
    ),
    _Kind(
        "55000",
        TablesUnfit,
        "PostgreSQL refused a statement: {}",
        "Most likely a publication publishes updates of a table of raw by which its rows cannot be identified.",
        "Alter the publication, or name the columns that identify a row: alter table … replica identity full",
    ),
    _Kind(
        "58|XX|F0",
        TablesUnfit,
        "PostgreSQL failed: {}",
        "Its disk or its data is most likely damaged, or the defect is PostgreSQL's own.",
        "Look at PostgreSQL's log; nothing was changed.",
    ),
    _Kind(
        "",
        TablesUnfit,
        "PostgreSQL refused a statement: {}",
        "The tables in raw do not exist yet, or a default, a check or an index that a user added to them fails.",
        "Load once, which creates the tables, or correct what was added: it must name objects with their schemas.",
    ),
)
_TIMEOUT, _BROKEN = _ON_A_CONNECTION[0], next(kind for kind in _ON_A_CONNECTION if kind.error is WarehouseGone)
_NEW_PARTITION = re.compile(r"(.+)_\d+_[0-9a-f]{12}")
# Parameters of a URL whose values are words that messages have, too.
_HARMLESS = re.compile(r"(?<=[?&])(?:sslmode|channel_binding|target_session_attrs|require_auth)=\w+&?")


def not_connected(error: psycopg.Error | UnicodeError, dsn: str) -> FeedError:
    """Return the failure that ERROR means, with which no connection to DSN was made; a host may raise UnicodeError."""
    kind = next(kind for kind in _NOT_CONNECTED if re.search(kind.pattern, str(error)))
    message = first_line(error, _HARMLESS.sub("", dsn))
    return kind.with_message(message.removeprefix("connection failed: ").removeprefix("connection is bad: "))


def translated(error: psycopg.Error, lock_timeout_s: float | None = None) -> FeedError | None:
    """Return the failure that ERROR means on an open connection; None if it is a defect of this program.

    LOCK_TIMEOUT_S is how long the load may wait for a lock, in seconds.
    """
    message, code = first_line(error), error.sqlstate
    if code is None:  # of the driver, not of PostgreSQL
        return _BROKEN.with_message(message) if isinstance(error, psycopg.OperationalError) else None
    if re.match("55P03|55006|40", code):
        within = "" if lock_timeout_s is None else f" within {lock_timeout_s:g} s"
        return WarehouseBusy(
            f"The warehouse did not become free{within}.",
            "Another load or a dbt build is taking long, or a user has left a transaction open.",
            "Find it: select * from pg_stat_activity where datname = current_database(); then run the load again.",
        )
    if isinstance(error, errors.IntegrityError):
        name, table = error.diag.constraint_name, error.diag.table_name or "its type"
        table = _NEW_PARTITION.sub(r"\1", table)
        next_step = "Correct the file or the constraint and run the load again; nothing was changed."
        if column := error.diag.column_name:
            statement = f"alter table {error.diag.schema_name}.{table} alter column {column} drop not null"
            next_step = f"Correct the file, or if the contract does not require it any more: {statement}"
        return ConstraintViolated(
            f"A row violates {f'the constraint {name}' if name else f'a constraint of {table}'}: {message}",
            f"It is a constraint of {error.diag.schema_name}.{table}; a row of the file, or one that the load keeps,"
            " does not satisfy it.",
            next_step,
        )
    if isinstance(error, errors.QueryCanceled) and "timeout" in message:
        return _TIMEOUT.with_message(message)
    return next(kind for kind in _ON_A_CONNECTION if re.match(kind.pattern, code)).with_message(message)
