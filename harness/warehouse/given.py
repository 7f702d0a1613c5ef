"""A PostgreSQL server that the user names by a DSN."""

import os
import re
import secrets

import psycopg
from psycopg.conninfo import conninfo_to_dict

from events.uri import without_secrets
from harness.errors import PostgresError
from harness.warehouse.server import MAJOR, Server

DSN_PARTS = {"host", "port", "user", "password", "dbname"}


def dsn_parts(dsn: str) -> dict[str, str]:
    """Return the parts of DSN (URL or key=value) by libpq's names; nothing if libpq cannot read it, or misreads it.

    It misreads a password's @ or / that is not percent-encoded: what follows becomes a host, a port or a database.
    """
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.Error:
        return {}
    address = "".join(parts.get(name, "") for name in ("host", "port", "dbname"))
    return parts if "@" not in address and re.fullmatch(r"[\d,]*", parts.get("port", "")) else {}


def unsupported_parts(option: str) -> PostgresError:
    """Return the error for a DSN in OPTION that has parts which the project does not pass on, or lacks a host."""
    return PostgresError(
        f"The DSN of {option} has parts other than host, port, user, password and dbname, or names no host.",
        "The load, dbt and the tests connect separately, over TCP, and use only these parts.",
        "Name the host, and put the rest into libpq's environment variables: PGSSLMODE=require, for example.",
    )


def given_server(dsn: str, option: str = "--postgres", suffix: str | None = None) -> Server:
    """Return the server of DSN (URL or key=value), the value of OPTION; by default with a random suffix, see `Server`.

    libpq's environment variables (PGPASSWORD, PGSSLMODE …) apply to it, too. Raises PostgresError if it does not
    answer, is not reached over TCP, has another major version, or its user may not make databases and roles.
    """
    try:
        parts = conninfo_to_dict(dsn)
        if not parts.keys() <= DSN_PARTS:
            raise unsupported_parts(option)
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            info = connection.info
            allowed = connection.execute(
                "select rolsuper or (rolcreatedb and rolcreaterole) from pg_roles where rolname = current_user"
            ).fetchone()
            major = info.server_version // 10_000
            password = str(parts.get("password") or os.environ.get("PGPASSWORD", ""))
            suffix = suffix or f"_{secrets.token_hex(4)}"
            server = Server(option, info.host, info.port, info.user, password, info.dbname, suffix)
    except psycopg.Error as error:
        message = without_secrets(str(error).strip().splitlines()[-1], dsn)
        raise PostgresError(
            f"The PostgreSQL server from {option} does not answer: {message}",
            "It is most likely not running, or the user or password is wrong.",
            f"Try the same DSN with psql, or leave {option} out to get an ephemeral server.",
        ) from None
    if not server.host or server.host.startswith("/"):
        raise unsupported_parts(option)
    if major != MAJOR:
        raise PostgresError(
            f"The PostgreSQL server from {option} has version {major}; the project is tested on {MAJOR}.",
            "Another major version may sort, plan or lock differently.",
            f"Name a server of PostgreSQL {MAJOR}, or leave {option} out to get an ephemeral one.",
        )
    if not (allowed and allowed[0]):
        raise PostgresError(
            f"The user {server.user} of {option} may not create databases and roles.",
            "It has neither SUPERUSER nor CREATEDB and CREATEROLE.",
            "Name an administrator in the DSN.",
        )
    return server
