"""Install a dependency group's lock into an environment of its own, once, and say where its Python is.

Environments are in `.nox/envs`, of one version of Python each, to the patch, and shared by all sessions. Two sessions
at once do not meet: the first installs, the other waits. Needs the standard library and uv alone: the noxfile calls it
before there is any environment.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from harness.project import locks
from harness.project.paths import PACKAGE_FOLDERS, ROOT

ENVIRONMENTS = ROOT / ".nox" / "envs"


def python_of(group: str) -> Path:
    """Return where the Python of GROUP's environment is, or will be when it is installed."""
    return ENVIRONMENTS / f"{group}-py{platform.python_version()}" / "bin" / "python"


def install(group: str) -> Path:
    """Return the Python of GROUP's environment, which afterwards holds exactly what its lock says.

    Raises:
        locks.LockError: the lock is older than `pyproject.toml`, or the installation failed; one sentence.
    """
    lock = locks.path(group)
    python = python_of(group)
    environment = python.parents[1]
    installed = environment / "installed-lock"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()

    def is_installed() -> bool:
        return python.exists() and installed.exists() and installed.read_text() == wanted

    if is_installed():
        _make_importable(environment)
        return python
    try:
        ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
        with only_one(ENVIRONMENTS / f".{environment.name}.lock", f"which is installing the {group} environment"):
            if not is_installed():
                installed.unlink(missing_ok=True)
                _sync(group, lock, environment)
                installed.write_text(wanted)
            _make_importable(environment)
    except OSError as error:
        raise locks.LockError(f"The {group} environment cannot be installed: {error}") from error
    return python


@contextlib.contextmanager
def only_one(lock: Path, busy: str) -> Iterator[int]:
    """Hold the lock file LOCK; while another session holds it, say that it is the one that is BUSY, and wait.

    Yields the descriptor: a process that inherits it holds the lock as well.
    """
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"… waiting for another session, {busy}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _sync(group: str, lock: Path, environment: Path) -> None:
    count = sum("==" in line for line in lock.read_text().splitlines() if not line.startswith((" ", "#")))
    print(f"… installing the {group} environment: {count} packages, once", flush=True)
    started = time.monotonic()
    uv, python = locks.uv(), environment / "bin" / "python"
    _run(uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, environment)
    _run(uv, "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", "--python", python, lock)
    print(f"✓ {group} environment installed ({time.monotonic() - started:.0f} s)", flush=True)


def _make_importable(environment: Path) -> None:
    """Put our packages on the path of ENVIRONMENT's Python, as an editable install does.

    Whatever starts that Python finds them: a session, a bare pytest, an editor, a debugger. No install writes this
    file for packages of two folders without a build backend in each environment.
    """
    [packages] = environment.glob("lib/python3.*/site-packages")
    path = packages / "events_platform.pth"
    lines = "".join(f"{folder}\n" for folder in PACKAGE_FOLDERS)
    if not path.exists() or path.read_text(encoding="utf-8") != lines:
        path.write_text(lines, encoding="utf-8")


def _run(*argv: str | Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PYTHON", "PYTHONPATH")}
    if code := subprocess.run(argv, env=env, check=False).returncode:
        raise locks.LockError(f"The environment could not be installed (exit code {code}); uv says why above.")
