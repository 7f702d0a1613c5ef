"""Programs that tests put in the place of real ones."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType


def write(path: Path, source: str) -> Path:
    """Write a Python program to PATH and return it.

    A shell reads its first lines: `#!` takes no path with a space in it, and this Python is below the project's folder.
    """
    path.write_text(f"""#!/bin/sh\n'''exec' "{sys.executable}" "$0" "$@"\n' '''\n{source}""")
    path.chmod(0o755)
    return path


def write_answers(path: Path, answers: Mapping[str, str], failure: str = "") -> Path:
    """Write a program to PATH and return it: it prints the first of ANSWERS whose key is in its arguments.

    Without an answer it prints FAILURE on standard error, and fails.
    """
    cases = "".join(
        f"*{shlex.quote(key)}*) printf '%s\\n' {shlex.quote(text)}; exit ;;\n" for key, text in answers.items()
    )
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\necho {shlex.quote(failure)} >&2\nexit 1\n')
    path.chmod(0o755)
    return path


def write_docker(path: Path, answers: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Write the docker command of a large, empty engine to PATH and return it; ANSWERS are more, or other, answers."""
    info = '{"ServerVersion": "29", "MemTotal": 64000000000, "DockerRootDir": "/no/such/disk"}'
    usual = {"info --format json": info, "context inspect": "unix:///var/run/docker.sock"}
    return write_answers(path, usual | dict(answers), "Error: No such object")


def write_docker_without_engine(path: Path) -> Path:
    """Write a docker command that finds no engine to PATH and return it."""
    address = "unix:///var/run/docker.sock"
    return write_answers(path, {"context inspect": address}, f"Cannot connect to the Docker daemon at {address}.")
