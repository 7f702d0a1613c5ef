"""Turn what can go wrong in any command, a full disk or a lost database, into expected errors."""

import contextlib
import errno
import tempfile
from collections.abc import Iterator

import psycopg

from events.uri import without_secrets
from harness.errors import DatabaseGoneError, DiskFullError


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Raise DiskFullError where the disk is full, DatabaseGoneError where the connection to PostgreSQL breaks."""
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
    except psycopg.OperationalError as error:
        raise DatabaseGoneError(
            f"The connection to PostgreSQL broke: {without_secrets(str(error).strip().splitlines()[0])}",
            "PostgreSQL ended, or another user ended the connection.",
            "Run it again; if it happens again, look for memory shortage (dmesg).",
        ) from error
