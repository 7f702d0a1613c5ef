"""The runs of this user, and the removal of those whose supervisor was killed.

Every clone has its runs in the same temporary directory. A run's record names its clone, and other clones leave it
alone. The only runs that any clone removes are those with neither a supervisor nor a clone any more.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.project.paths import ROOT

PREFIX = "events-platform-"  # of a run's directory
RECORD = "supervisor.json"  # in the run's directory; its supervisor holds it open and locked
KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Run:
    """A run of this user, as its supervisor recorded it; `clone`, its clone's root, is empty in old records."""

    directory: Path
    pid: int
    is_kept: bool
    clone: str
    is_alive: bool

    @property
    def is_of_this_clone(self) -> bool:
        """Whether this clone made it."""
        return self.clone == str(ROOT)

    @property
    def is_abandoned(self) -> bool:
        """Whether its clone was deleted or moved; a clone whose folder cannot be read still exists."""
        try:
            Path(self.clone).stat()
        except OSError as error:
            return isinstance(error, FileNotFoundError | NotADirectoryError)
        return not self.clone

    def take_down(self, timeout_s: float) -> bool:
        """Have the supervisor take the run down; return whether the directory is gone after TIMEOUT_S seconds.

        The process id may be another program's: the supervisor has ended, or is in another container. So nothing is
        sent to a process that does not hold the run's record open.
        """
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.TimeoutExpired):
            process = psutil.Process(self.pid)
            record = str((self.directory / RECORD).resolve())
            if any(file.path == record for file in process.open_files()):
                process.terminate()
                process.wait(timeout_s)
        return not self.directory.exists()


def kept() -> list[Run]:
    """Return this clone's runs that were kept and are still up."""
    return [run for run in _runs() if run.is_alive and run.is_kept and run.is_of_this_clone]


def abandoned() -> list[Run]:
    """Return the runs that were kept, are still up, and whose clone is gone."""
    return [run for run in _runs() if run.is_alive and run.is_kept and run.is_abandoned]


def remove_orphans() -> list[Path]:
    """End and remove the runs of this clone, and of deleted ones, whose supervisor was killed; return their folders."""
    orphans = [run.directory for run in _runs() if not run.is_alive and (run.is_of_this_clone or run.is_abandoned)]
    for directory in orphans:
        killed = []
        for process in psutil.process_iter():
            # By working directory, which a run's processes inherit; they may overwrite their title and environment.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                if Path(process.cwd()).is_relative_to(directory):
                    process.kill()
                    killed.append(process)
        psutil.wait_procs(killed, timeout=KILL_TIMEOUT_S)
        shutil.rmtree(directory, ignore_errors=True)
    return orphans


def _runs() -> Iterator[Run]:
    """Yield each run of this user in the temporary directory, of every clone."""
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{RECORD}")):
        # Errors: the run is just being made, or removed.
        with contextlib.suppress(OSError, ValueError), path.open() as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                continue
            record = json.load(file)
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                is_alive = False
            except BlockingIOError:
                is_alive = True
            yield Run(path.parent, record["pid"], record["kept"], record.get("clone", ""), is_alive)
