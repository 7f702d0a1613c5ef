"""The warehouse's DSN as libpq reads it, from a text of the user or from a connection of Airflow."""

import re
from difflib import get_close_matches

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from events.errors import SettingUnusable
from events.uri import first_line

FORM = "Write it like postgresql://loader:p%40ss@host:5432/warehouse"
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:(?://|(?=[a-z]+://))")
_DRIVER = re.compile(r"postgres(?:ql)?\+\w+://", re.IGNORECASE)
_AT_IN_PATH = re.compile(r"postgres(?:ql)?://[^/]*/[^?]*@")


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


def names_a_database(dsn: str) -> bool:
    """Return whether DSN, one that libpq reads, names a database, directly or through a service."""
    parts = conninfo_to_dict(dsn)
    return bool(parts.get("dbname") or parts.get("service"))


def _similar(message: str) -> str:
    """Return `, did you mean …?` if MESSAGE, of libpq, names an unknown parameter that is similar to a known one."""
    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    found = re.search(r"(?:invalid URI query parameter:|invalid connection option) \"(.*)\"", message)
    similar = get_close_matches(found[1], known, n=1) if found else []
    return f", did you mean {similar[0]}?" if similar else ""
