"""Turn what can go wrong in any command, a full disk or a lost database, into expected errors."""

import contextlib
import errno
from collections.abc import Iterator

import psycopg

from events.uri import without_secrets
from harness.errors import DatabaseGoneError, DiskFullError, NotWritableError
from harness.project import os_errors


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Raise DiskFullError, NotWritableError, or DatabaseGoneError where the connection to PostgreSQL breaks."""
    try:
        yield
    except (OSError, psycopg.errors.DiskFull) as error:
        known = OSError(errno.ENOSPC, str(error).splitlines()[0]) if isinstance(error, psycopg.Error) else error
        if not (explanation := os_errors.explain(known)):
            raise
        kind = DiskFullError if explanation.exit_code == os_errors.DISK_FULL else NotWritableError
        raise kind(without_secrets(explanation.what), explanation.why, explanation.next_step) from error
    except psycopg.OperationalError as error:
        raise DatabaseGoneError(
            f"The connection to PostgreSQL broke: {without_secrets(str(error).strip().splitlines()[0])}",
            "PostgreSQL ended, or another user ended the connection.",
            "Run it again; if it happens again, look for memory shortage (dmesg).",
        ) from error
