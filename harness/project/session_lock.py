"""Let one session at a time do something: standard library only, see `harness.project.environments`."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def session_lock(path: Path, holder: str) -> Iterator[int]:
    """Hold the lock file PATH. While another session holds it, print that it HOLDER (`is installing …`), and wait.

    Yields the file's descriptor: a process that inherits it holds the lock as well.
    """
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"… waiting for another session, which {holder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
