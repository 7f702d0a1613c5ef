"""Install a dependency group's lock into an environment of its own, once, and say where its Python is.

Environments are in `.nox/envs` and shared by all sessions. Two sessions at once do not meet: the first installs, the
other waits. Needs the standard library and uv alone: the noxfile calls it before there is any environment.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

from harness import locks

ENVIRONMENTS = locks.ROOT / ".nox" / "envs"


def python_of(group: str) -> Path:
    """Return where the Python of GROUP's environment is, or will be when it is installed."""
    return ENVIRONMENTS / f"{group}-py{sys.version_info.major}{sys.version_info.minor}" / "bin" / "python"


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
        return python
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with open(ENVIRONMENTS / f".{environment.name}.lock", "w") as only_one:
        try:
            fcntl.flock(only_one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"… waiting for another session, which is installing the {group} environment", flush=True)
            fcntl.flock(only_one, fcntl.LOCK_EX)
        if not is_installed():
            count = sum("==" in line for line in lock.read_text().splitlines() if not line.startswith((" ", "#")))
            print(f"… installing the {group} environment: {count} packages, once", flush=True)
            started = time.monotonic()
            uv = locks.uv()
            _run(uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, environment)
            sync = ("pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", "--python", python, lock)
            _run(uv, *sync)
            installed.write_text(wanted)
            print(f"✓ {group} environment installed ({time.monotonic() - started:.0f} s)", flush=True)
    return python


def _run(*argv: str | Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PYTHON", "PYTHONPATH")}
    if code := subprocess.run(argv, env=env, check=False).returncode:
        raise locks.LockError(f"The environment could not be installed (exit code {code}); uv says why above.")
