"""Install a dependency group's lock into its environment, once, and return the environment's Python.

Environments are in `.nox/envs`, one per group and patch version of Python, and shared by all sessions. While one
session installs, others wait. The noxfile calls this before there is any environment: standard library and uv only.
"""

import hashlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from harness.project import locks, pythons
from harness.project.paths import PACKAGE_FOLDERS, ROOT
from harness.project.session_lock import session_lock

ENVIRONMENTS = ROOT / ".nox" / "envs"


def python_of(group: str, version: str | None = None) -> Path:
    """Return the path of the Python in GROUP's environment of a VERSION, by default this Python's; installed or not."""
    return ENVIRONMENTS / f"{group}-py{version or platform.python_version()}" / "bin" / "python"


def install(group: str, version: str | None = None) -> Path:
    """Make GROUP's environment hold exactly the packages of its lock, and return its Python.

    With VERSION (`3.13` or `3.13.0`) it is an environment of that Python, else of the one that runs this. Raises
    PythonMissingError, or LockError if the lock is older than `pyproject.toml` or the installation failed.
    """
    lock = locks.path(group)
    version, interpreter = pythons.find(version) if version is not None else (None, sys.executable)
    return _install(group, lock, interpreter, python_of(group, version))


def install_other(group: str, lock: Path) -> Path:
    """Make an environment with exactly the packages of LOCK, another commit's lock of GROUP, and return its Python.

    Raises LockError if that fails.
    """
    if lock.read_bytes() == locks.path(group).read_bytes():
        return install(group)
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:8]
    return _install(f"{group} (other commit)", lock, sys.executable, python_of(f"{group}-{digest}"))


def _install(group: str, lock: Path, interpreter: str, python: Path) -> Path:
    environment = python.parents[1]
    installed = environment / "installed-lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()

    def is_installed() -> bool:
        return python.exists() and installed.exists() and installed.read_text() == digest

    try:
        if not is_installed():
            ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
            with session_lock(ENVIRONMENTS / f".{environment.name}.lock", f"is installing the {group} environment"):
                if not is_installed():
                    installed.unlink(missing_ok=True)
                    _sync(group, lock, interpreter, environment)
                    installed.write_text(digest)
        _add_packages(environment)
    except OSError as error:
        raise locks.LockError(f"The {group} environment cannot be installed: {error}") from error
    return python


def _sync(group: str, lock: Path, interpreter: str, environment: Path) -> None:
    count = sum("==" in line for line in lock.read_text().splitlines() if not line.startswith((" ", "#")))
    print(f"… installing the {group} environment: {count} packages, once", flush=True)
    started = time.monotonic()
    uv, python = locks.uv(), environment / "bin" / "python"
    _run(uv, "venv", "--quiet", "--allow-existing", "--python", interpreter, environment)
    _run(uv, "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", "--python", python, lock)
    print(f"✓ {group} environment installed ({time.monotonic() - started:.0f} s)", flush=True)


def _add_packages(environment: Path) -> None:
    """Write the .pth file that puts this project's packages on the path of ENVIRONMENT's Python.

    Nothing else does: with that Python a session, a bare pytest, an editor and a debugger all find them. An editable
    install would need a build backend in each environment. The paths are relative, so that an environment that several
    clones share by a link has the packages of the clone by which its Python was started.
    """
    [packages] = environment.glob("lib/python3.*/site-packages")
    path = packages / "events_platform.pth"
    lines = "".join(f"{os.path.relpath(folder, packages)}\n" for folder in PACKAGE_FOLDERS)
    if not path.exists() or path.read_text() != lines:
        path.write_text(lines)


def _run(*argv: str | Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PYTHON", "PYTHONPATH")}
    if code := subprocess.run(argv, env=env, check=False).returncode:
        raise locks.LockError(f"The environment could not be installed (exit code {code}); uv says why above.")
