"""The Pythons of this machine, by version: those on the path, and those that pyenv, uv and GitHub's runners keep."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness.paths import ROOT

SHIPPED = {"3.11.2": "Debian 12", "3.12.3": "Ubuntu 24.04"}  # the oldest patch releases that distributions ship
NEWEST_MINOR = 14


def _lowest_minor() -> int:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    return int(wanted.removeprefix(">=3."))


def _candidates() -> Iterator[str | Path]:
    yield sys.executable
    for minor in range(_lowest_minor(), NEWEST_MINOR + 1):
        yield from filter(None, (shutil.which(f"python3.{minor}"), shutil.which(f"python3.{minor}", path="/usr/bin")))
    keepers = {
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")): "versions/3.*/bin/python",
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python")): "cpython-3.*/bin/python",
        Path(os.environ.get("RUNNER_TOOL_CACHE", "/opt/hostedtoolcache")): "Python/3.*/*/bin/python",
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
        if told.returncode == 0 and int(version.split(".")[1]) >= _lowest_minor():
            pythons.setdefault(version, path)
    return pythons
