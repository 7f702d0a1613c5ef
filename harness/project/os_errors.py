"""Explain the errors of the operating system that a user can mend: standard library only, see `posargs`."""

import errno
import signal
import tempfile
from typing import NamedTuple

DISK_FULL, NOT_WRITABLE = 42, 66  # exit codes, those of `harness.errors`


class Explanation(NamedTuple):
    """The three lines of an error, and its exit code."""

    what: str
    why: str
    next_step: str
    exit_code: int


def explain(error: OSError) -> Explanation | None:
    """Return what ERROR means, if the disk is full, or a file or folder cannot be used; else None."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Explanation(
            f"The disk is full: {error}",
            f"A run writes its files to {tempfile.gettempdir()}, diagnostics and documentation to build/.",
            "Free some disk space, or set TMPDIR to a directory on a larger disk.",
            DISK_FULL,
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and error.filename:
        return Explanation(
            f"{error.filename} cannot be used: {error.strerror}.",
            "Its file system is read-only, or it belongs to another user: an earlier run with sudo, for example.",
            f"Make it writable. Sessions write to build/, to .nox/ and to {tempfile.gettempdir()} (TMPDIR).",
            NOT_WRITABLE,
        )
    return None


def signal_name(number: int) -> str:
    """Return a signal's name, `SIGKILL` for example; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
