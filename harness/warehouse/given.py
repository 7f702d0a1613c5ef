"""A PostgreSQL server that the user names by a DSN."""

import os
import secrets
from collections.abc import Mapping

import psycopg
from psycopg.conninfo import conninfo_to_dict

from feeds.driver_errors import not_connected
from feeds.dsn import libpq_dsn
from harness.errors import PostgresError
from harness.project.paths import expanded
from harness.warehouse.server import MAJOR, OLDEST_MAJOR, Server

DSN_PARTS = ("host", "port", "user", "password", "dbname", "sslmode", "sslrootcert")
USUAL_ROOT_CERTIFICATE = "~/.postgresql/root.crt"  # where libpq looks


def dsn_parts(dsn: str, name: str = "The DSN") -> dict[str, str]:
    """Return the parts of DSN (URL or key=value), which NAME describes, by libpq's names.

    Raises SettingUnusable if libpq cannot read it, or misreads it: see `libpq_dsn`.
    """
    return {part: str(value) for part, value in conninfo_to_dict(libpq_dsn(dsn, name)).items() if value is not None}


def unsupported_parts(option: str) -> PostgresError:
    """Return the error for a DSN in OPTION that has parts which the project does not pass on, or lacks a host."""
    return PostgresError(
        f"The DSN of {option} has parts other than {', '.join(DSN_PARTS)}, or names no host.",
        "The load, dbt and the tests connect separately, over TCP, and use only these parts.",
        "Name the host, and leave the rest out.",
    )


def tls(parts: Mapping[str, str]) -> tuple[str, str]:
    """Return sslmode and root certificate as libpq takes them: from the DSN's PARTS, its variables, its usual place."""
    mode = parts.get("sslmode") or os.environ.get("PGSSLMODE", "")
    certificate = parts.get("sslrootcert") or os.environ.get("PGSSLROOTCERT", "")
    if not certificate and expanded(USUAL_ROOT_CERTIFICATE).exists():
        certificate = USUAL_ROOT_CERTIFICATE
    if not certificate or certificate == "system":
        return mode, certificate
    return mode, str(expanded(certificate).absolute())


def given_server(dsn: str, option: str = "--postgres", suffix: str | None = None) -> Server:
    """Return the server of DSN (URL or key=value), the value of OPTION; by default with a random suffix, see `Server`.

    libpq's environment variables (PGPASSWORD, PGSSLMODE …) apply to it, too. Raises PostgresError if it cannot be
    reached or not over TCP, has another major version, or its user may not make databases and roles.
    """
    parts = dsn_parts(dsn, option)
    if not parts.keys() <= set(DSN_PARTS):
        raise unsupported_parts(option)
    try:
        with psycopg.connect(libpq_dsn(dsn), connect_timeout=10) as connection:
            info = connection.info
            allowed = connection.execute(
                "select rolsuper or (rolcreatedb and rolcreaterole) from pg_roles where rolname = current_user"
            ).fetchone()
            major = info.server_version // 10_000
            password = parts.get("password") or os.environ.get("PGPASSWORD", "")
            suffix = suffix or f"_{secrets.token_hex(4)}"
            server = Server(option, info.host, info.port, info.user, password, info.dbname, suffix, *tls(parts))
    except (psycopg.Error, UnicodeError) as error:
        failure = not_connected(error, dsn)
        raise PostgresError(f"{option}: {failure.what}", failure.why, failure.next_step) from None
    if not server.host or server.host.startswith("/"):
        raise unsupported_parts(option)
    if not OLDEST_MAJOR <= major <= MAJOR:
        raise PostgresError(
            f"The PostgreSQL server from {option} has version {major}; the project is tested on"
            f" {OLDEST_MAJOR} to {MAJOR}.",
            "Another major version may sort, plan or lock differently.",
            f"Name a server of one of these versions{'' if option == '--warehouse-dsn' else ', or leave it out'}.",
        )
    if not (allowed and allowed[0]):
        raise PostgresError(
            f"The user {server.user} of {option} may not create databases and roles.",
            "It has neither SUPERUSER nor CREATEDB and CREATEROLE.",
            "Name an administrator in the DSN.",
        )
    return server
