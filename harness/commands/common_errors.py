"""Turn what can go wrong in any command, a full disk or a lost database, into expected errors."""

import contextlib
import errno
import tempfile
from collections.abc import Iterator

import psycopg

from events.driver_errors import not_connected, translated
from events.errors import ConstraintViolated, TablesUnfit, WarehouseGone
from events.uri import without_secrets
from harness.errors import DatabaseGoneError, DiskFullError, HarnessError, PostgresError


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Raise DiskFullError where the disk is full, and the expected error of PostgreSQL; see `postgres_error`."""
    try:
        yield
    except (OSError, psycopg.errors.DiskFull) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            raise
        raise DiskFullError(
            f"The disk is full: {without_secrets(str(error).splitlines()[0])}",
            f"A run writes its files to {tempfile.gettempdir()}, diagnostics and documentation to build/.",
            "Free some disk space, or set TMPDIR to a directory on a larger disk.",
        ) from error
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
