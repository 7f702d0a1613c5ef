"""The warehouse's DSN as libpq reads it, from a text of the user or from a connection of Airflow."""

import logging
import re
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from feeds.errors import SettingUnusable
from feeds.uri import first_line

FORM = "Write it like postgresql://loader:p%40ss@host:5432/warehouse"
_SWITCHES = {"keepalives", "sslcompression", "sslsni"}  # libpq's parameters that are 0 or 1
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:(?://|(?=[a-z]+://))")
_DRIVER = re.compile(r"postgres(?:ql)?\+\w+://", re.IGNORECASE)
_AT_IN_PATH = re.compile(r"postgres(?:ql)?://[^/]*/[^?]*@")

logger = logging.getLogger(__name__)


def libpq_dsn(text: str, name: str = "The warehouse's DSN") -> str:
    """Return TEXT, a DSN that NAME describes, without blanks and line ends around it, if libpq reads it as it is meant.

    Raises:
        SettingUnusable: it is written for another library, or has a parameter or a character that misleads libpq.
    """
    dsn = text.strip()
    if (scheme := _SCHEME.match(dsn)) and scheme[0] not in ("postgresql://", "postgres://"):
        why = "libpq, which connects here, reads only URLs that begin with postgresql://"
        if _DRIVER.match(dsn):
            why = "It is written for SQLAlchemy; libpq, which connects here, knows no drivers."
        elif scheme[0].startswith("jdbc:"):
            why = "It is written for JDBC; for libpq, which connects here, user and password are before the host."
        raise SettingUnusable(f"{name} begins with {scheme[0]}, not with postgresql://", why, FORM)
    try:
        parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    except (psycopg.ProgrammingError, UnicodeError) as error:
        raise SettingUnusable(
            f"{name} is invalid: {first_line(error, dsn)}{_similar(str(error))}",
            "It has an unknown parameter, or a password whose special characters are not percent-encoded.",
            FORM,
        ) from None  # libpq's message quotes parts of it
    is_port = re.fullmatch(r"[\d,]*", parts.get("port", ""))
    if scheme and (not is_port or "@" in parts.get("host", "")[1:] or _AT_IN_PATH.match(dsn)):
        raise SettingUnusable(
            f"{name} has a port that is not a number, or a special character that is not percent-encoded.",
            "After an @, / or : of a password libpq takes the rest for the host, the port or the database.",
            "Write @ as %40, / as %2F and : as %3A, or leave the password out and set PGPASSWORD.",
        )
    return dsn


def warehouse_dsn() -> str:
    """Return the DSN of Airflow's connection `warehouse_loader`, in a task.

    Raises:
        SettingUnusable: it is not defined, or see `dsn_of`.
    """
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return dsn_of(Connection.get("warehouse_loader"))
    except AirflowNotFoundException:  # Airflow's log says more, but may quote the value
        raise SettingUnusable(
            "Airflow has no connection warehouse_loader, or cannot read it.",
            "AIRFLOW_CONN_WAREHOUSE_LOADER is not set or is invalid, and the connection is not saved in Airflow's UI.",
            FORM,
        ) from None


def dsn_of(connection: Any) -> str:
    """Return the DSN of CONNECTION, one of Airflow's, from its fields and from those of its extras that libpq knows.

    Not `get_uri()`: it packs extras that are nested or no strings into one parameter, which libpq does not know.

    Raises:
        SettingUnusable: it is not a connection to PostgreSQL, names no database, or has a nested value.
    """
    name = f"The connection {connection.conn_id}"
    if connection.conn_type is not None and not re.fullmatch(r"postgres(?:ql)?(?:\W\w+)?", connection.conn_type):
        raise SettingUnusable(
            f"{name} has the type {connection.conn_type!r}, not postgres.",
            "It leads to another kind of server, or its type was not chosen.",
            "Change its type to Postgres, or the URI's scheme to postgresql://",
        )
    extras = connection.extra_dejson if isinstance(connection.extra_dejson, dict) else {}
    if others := sorted(extras.keys() - _keywords()):
        logger.warning("%s has extras that libpq does not know, which are ignored: %s", name, ", ".join(others))
    parameters = {key: _parameter(name, key, value) for key, value in extras.items() if key not in others}
    fields = {"user": connection.login, "password": connection.password, "host": connection.host}
    fields |= {"port": connection.port, "dbname": connection.schema}
    parameters |= {key: str(value) for key, value in fields.items() if value}
    parameters = {key: value for key, value in parameters.items() if value}
    if not parameters.keys() & {"dbname", "service"}:
        raise SettingUnusable(
            f"{name} names no database.",
            "Its field “Database” is empty; libpq would then choose a database itself.",
            "Fill in that field: the warehouse's database.",
        )
    user, password, host, port, database = (parameters.pop(key, "") for key in fields)
    return connection_url(user, password, host, port, database, **parameters)


def connection_url(user: str, password: str, host: str, port: int | str, database: str, **parameters: str) -> str:
    """Return libpq's connection URL, percent-encoded; empty parts are left out."""
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    hosts = [f"[{quote(name, safe=':')}]" if ":" in name else quote(name, safe="") for name in host.split(",")]
    address = ",".join(f"{name}:{port}" if port else name for name in hosts)
    query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
    return f"postgresql://{f'{login}@' if login else ''}{address}/{quote(database, safe='')}{query}"


def names_a_database(dsn: str) -> bool:
    """Return whether DSN, one that libpq reads, names a database, directly or through a service."""
    parts = conninfo_to_dict(dsn)
    return bool(parts.get("dbname") or parts.get("service"))


def _similar(message: str) -> str:
    """Return `, did you mean …?` if MESSAGE, of libpq, names an unknown parameter that is similar to a known one."""
    found = re.search(r"(?:invalid URI query parameter:|invalid connection option) \"(.*)\"", message)
    similar = get_close_matches(found[1], _keywords(), n=1) if found else []
    return f", did you mean {similar[0]}?" if similar else ""


def _keywords() -> set[str]:
    """Return the names of libpq's parameters."""
    return {option.keyword.decode() for option in pq.Conninfo.get_defaults()}


def _parameter(name: str, key: str, value: object) -> str:
    """Return VALUE, of the extra KEY of the connection NAME, as libpq reads it; empty if it is not set."""
    if isinstance(value, (dict, list)):
        raise SettingUnusable(
            f"{name} has an extra {key} that is nested.",
            "It is a parameter of libpq, whose values are text or numbers.",
            f"Give {key} one value, or leave it out.",
        )
    if key in _SWITCHES and str(value).lower() in ("true", "false"):
        return str(int(str(value).lower() == "true"))
    return "" if value is None else str(value)
