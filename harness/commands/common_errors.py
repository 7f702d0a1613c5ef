"""Turn what can go wrong in any command, a full disk or a lost database, into expected errors."""

import contextlib
import errno
from collections.abc import Iterator

import psycopg

from feeds.driver_errors import not_connected, translated
from feeds.errors import ConstraintViolated, TablesUnfit, WarehouseGone
from feeds.uri import without_secrets
from harness.errors import DatabaseGoneError, DiskFullError, HarnessError, NotWritableError, PostgresError
from harness.project import os_errors


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Raise DiskFullError, NotWritableError, or the expected error of PostgreSQL; see `postgres_error`."""
    try:
        yield
    except (OSError, psycopg.errors.DiskFull) as error:
        known = OSError(errno.ENOSPC, str(error).splitlines()[0]) if isinstance(error, psycopg.Error) else error
        if not (explanation := os_errors.explain(known)):
            raise
        kind = DiskFullError if explanation.exit_code == os_errors.DISK_FULL else NotWritableError
        raise kind(without_secrets(explanation.what), explanation.why, explanation.next_step) from error
    except psycopg.Error as error:
        if (failure := postgres_error(error)) is None:
            raise
        raise failure from error


def postgres_error(error: psycopg.Error) -> HarnessError | None:
    """Return the expected error for ERROR; None if PostgreSQL refused a statement, which is a defect of the project."""
    is_connection = error.sqlstate is None and str(error).startswith(
        ("connection failed", "connection is bad", "failed")
    )
    failure = not_connected(error, "") if is_connection else translated(error)
    if failure is None or isinstance(failure, (TablesUnfit, ConstraintViolated)):
        return None
    if isinstance(failure, WarehouseGone):
        return DatabaseGoneError(
            failure.what,
            "PostgreSQL ended, or another user ended the connection.",
            "Run it again; if it happens again, look for memory shortage (dmesg).",
        )
    return PostgresError(failure.what, failure.why, "Change that on the server, or use an ephemeral one.")
