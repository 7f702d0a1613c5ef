"""The Pythons of this machine, by version: those on the path, and those that pyenv, uv and GitHub's runners keep."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MINORS = range(11, 15)  # of Python 3, from what `requires-python` has on


def _candidates() -> Iterator[str | Path]:
    yield from filter(None, (sys.executable, shutil.which("python3")))
    for minor in MINORS:
        yield from filter(None, (shutil.which(f"python3.{minor}"), shutil.which(f"python3.{minor}", path="/usr/bin")))
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    keepers = {
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")): "versions/3.*/bin/python3",
        uv: "cpython-3.*/bin/python3",
        Path(os.environ.get("RUNNER_TOOL_CACHE", "/opt/hostedtoolcache")): "Python/3.*/*/bin/python3",
    }
    for keeper, pattern in keepers.items():
        yield from sorted(keeper.glob(pattern))


@cache
def found() -> dict[str, str]:
    """Return the executable of each supported Python, by its version (`3.11.2`)."""
    pythons: dict[str, str] = {}
    for path in map(str, _candidates()):
        argv = [path, "-I", "-c", "import sys; print(sys.version.split()[0])"]
        told = subprocess.run(argv, capture_output=True, text=True, check=False)  # pyenv's shims fail
        version = told.stdout.strip()
        if told.returncode == 0 and int(version.split(".")[1]) >= MINORS.start:
            pythons.setdefault(version, path)
    return pythons
