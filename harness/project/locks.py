"""Write `requirements/*.txt`, and tell when they are older than `pyproject.toml`.

One resolution serves all groups (`constraints.txt`), so a version appears once; each group's lock then has the hashes
of just what the group needs. A lock's first line is a digest of what it was made from: a clone has no useful times.

Needs the standard library and uv alone: it runs before there is any environment.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.project.paths import ROOT

LOCKS = ROOT / "requirements"
CONSTRAINTS = LOCKS / "constraints.txt"
COMPILE = ("pip", "compile", "--universal", "--no-emit-index-url", "--custom-compile-command", "nox -s lock", "--quiet")


class LockError(Exception):
    """A lock is missing or older than `pyproject.toml`, or cannot be written; the message is one sentence.

    Attributes:
        output: uv's standard error; empty where uv was not run.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


def uv() -> str:
    """Return the path of uv: the one that nox brings (`nox[uv]`), else the one on the path.

    Raises:
        LockError: there is none.
    """
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        if path := shutil.which("uv"):
            return path
    raise LockError("uv is not installed; install nox with it: python3 -m pip install 'nox[uv]'")


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _digest(project: dict[str, Any], groups: Iterable[str]) -> str:
    """Return a digest of what the lock of GROUPS is made from: a lock stays as it is when another group changes."""
    asked_for = {group: _dependencies(project, group) for group in groups}
    made_from = [project["project"]["requires-python"], asked_for, project.get("tool", {}).get("uv")]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _dependencies(project: dict[str, Any], group: str) -> list[str]:
    """Return what GROUP asks for, with the groups that it includes."""
    found = []
    for wanted in project["dependency-groups"][group]:
        found += [wanted] if isinstance(wanted, str) else _dependencies(project, wanted["include-group"])
    return sorted(set(found))


def path(group: str) -> Path:
    """Return the path of GROUP's lock.

    Raises:
        LockError: it is missing, or older than what `pyproject.toml` asks for.
    """
    lock = LOCKS / f"{group}.txt"
    first_line = lock.open(encoding="utf-8").readline() if lock.exists() else ""
    if first_line != f"# made from {_digest(_project(), [group])}\n":
        raise LockError(
            f"requirements/{group}.txt is older than pyproject.toml: run nox -s lock, and commit what it writes."
        )
    return lock


def write(*options: str) -> None:
    """Write every lock anew; versions stay where they still fit, unless OPTIONS say --upgrade.

    Raises:
        LockError: uv is missing, or finds no versions that fit.
    """
    project = _project()
    groups = sorted(project["dependency-groups"])
    LOCKS.mkdir(exist_ok=True)
    every = [option for group in groups for option in ("--group", group)]
    _compile(CONSTRAINTS, _header(project, groups), *every, *options)
    for group in groups:
        constrained = ("--constraint", str(CONSTRAINTS.relative_to(ROOT)))
        _compile(LOCKS / f"{group}.txt", _header(project, [group]), "--group", group, *constrained, "--generate-hashes")
    for stale in set(LOCKS.glob("*.txt")) - {CONSTRAINTS} - {LOCKS / f"{group}.txt" for group in groups}:
        stale.unlink()


def _header(project: dict[str, Any], groups: Sequence[str]) -> str:
    return f"# made from {_digest(project, groups)}\n"


def _compile(lock: Path, header: str, *options: str) -> None:
    output = str(lock.relative_to(ROOT))
    argv = [uv(), *COMPILE, *options, "--output-file", output, "pyproject.toml"]
    done = subprocess.run(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise LockError(f"uv ended with exit code {done.returncode} and says why above.", done.stderr)
    lock.write_text(header + lock.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"✓ {output}")
