"""Wait for processes."""

import time
from collections.abc import Callable

import psutil


def eventually(condition: Callable[[], bool], timeout_s: float = 30) -> bool:
    """Return whether CONDITION holds within TIMEOUT_S seconds."""
    deadline = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def has_ended(pid: int) -> bool:
    """Return whether there is no process PID, or only a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
