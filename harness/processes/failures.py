"""Why a process of a run failed: its log's last error, a signal, or a full disk."""

import shutil
from pathlib import Path

from feeds.uri import without_secrets
from harness.errors import DiskFullError, HarnessError, ServiceFailedError
from harness.project.os_errors import signal_name

MIN_FREE_BYTES = 20_000_000  # below this a disk counts as full: PostgreSQL's next WAL segment has 16 MB


def service_ended(name: str, log: Path, code: int) -> HarnessError:
    """Return the error for a process that ended with the exit code CODE, or by the signal -CODE."""
    if code < 0 and not disk_full(log.parent):
        return ServiceFailedError(
            f"{name} {how_ended(code)}.",
            "Another program killed it, or the machine ran out of memory.",
            f"Look for memory shortage (dmesg), and read its log, {log.name}.",
        )
    return service_failed(name, log, how_ended(code))


def how_ended(code: int) -> str:
    """Return how a process ended, by its exit CODE, which is minus the number of the signal that ended it."""
    return f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


def service_failed(name: str, log: Path, how: str) -> HarnessError:
    """Return the error for a process that failed, with the line of its log that most likely names the cause."""
    text = log.read_text(errors="replace") if log.exists() else ""
    if "No space left on device" in text or disk_full(log.parent):
        return disk_full_error(log.parent)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if any(word in line for word in ("FATAL", "ERROR", "Error", "error:"))]
    cause = (errors or lines or [""])[-1]
    return ServiceFailedError(
        f"{name} {how}.",
        f"Its log says: {without_secrets(cause)[:300]}" if cause else "Its log is empty.",
        f"Read its whole log, {log.name}.",
    )


def disk_full(path: Path) -> bool:
    """Return whether the disk that holds PATH is full, or nearly."""
    return shutil.disk_usage(path).free < MIN_FREE_BYTES


def disk_full_error(path: Path) -> DiskFullError:
    """Return the error for the disk that holds PATH."""
    free = shutil.disk_usage(path).free
    state = "is full" if free < MIN_FREE_BYTES else "was full"  # a program that fails may remove its files
    return DiskFullError(
        f"The disk that holds {path} {state}: {free / 1e6:,.0f} MB are free.",
        "The feeds' rows, or another program, filled it during the run.",
        "Free some disk space, or set TMPDIR to a directory on another disk.",
    )
