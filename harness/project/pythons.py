"""Find the Pythons of this machine: those on the path, and those that pyenv, uv and GitHub's runners install."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MINORS = range(11, 15)  # the supported versions of Python 3


class PythonMissingError(Exception):
    """No Python of a version was found; the message is one sentence."""


def _candidates() -> Iterator[str | Path]:
    yield from filter(None, (sys.executable, shutil.which("python3")))
    for minor in MINORS:
        yield from filter(None, (shutil.which(f"python3.{minor}"), shutil.which(f"python3.{minor}", path="/usr/bin")))
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    folders = {
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")): "versions/3.*/bin/python3",
        uv: "cpython-3.*/bin/python3",
        Path(os.environ.get("RUNNER_TOOL_CACHE", "/opt/hostedtoolcache")): "Python/3.*/*/bin/python3",
    }
    for folder, pattern in folders.items():
        yield from sorted(folder.glob(pattern))


@cache
def found() -> dict[str, str]:
    """Return the executable of each supported Python, by its version (`3.11.2`)."""
    pythons: dict[str, str] = {}
    for path in map(str, _candidates()):
        argv = [path, "-I", "-c", "import sys; print(sys.version.split()[0])"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # pyenv's shims fail; a broken link cannot be executed
            continue
        version = done.stdout.strip()
        if (minor := re.match(r"3\.(\d+)\.\d", version)) and int(minor[1]) >= MINORS.start:
            pythons.setdefault(version, path)
    return pythons


def find(wanted: str) -> tuple[str, str]:
    """Return the newest Python of WANTED (`3.13` or `3.13.0`): version and path. Raises PythonMissingError."""
    fitting = [version for version in found() if f"{version}.".startswith(f"{wanted}.")]
    if not fitting:
        versions = ", ".join(sorted(found(), key=_parts))
        raise PythonMissingError(f"Python {wanted} was not found, only {versions}: install it, or put it on the path.")
    newest = max(fitting, key=_parts)
    return newest, found()[newest]


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
