"""Write `requirements/*.txt`, and refuse those that are older than `pyproject.toml`.

What runs with Airflow has the versions of Airflow's own constraints (`airflow/constraints.txt`), which its image holds.
dbt's packages do not fit them: one resolution serves all other groups (`constraints.txt`). Each group's lock has the
hashes of the packages that the group needs. A lock's first line is a digest of its inputs, since a clone's file times
mean nothing.

Runs before there is any environment: standard library and uv only.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.project.paths import ROOT

LOCKS = ROOT / "requirements"
CONSTRAINTS = LOCKS / "constraints.txt"
AIRFLOWS_CONSTRAINTS = "airflow/constraints.txt"  # below a clone's root
OVER_THE_IMAGE = ("feeds", "lineage", "metrics", "notifications")  # of Airflow
WITH_AIRFLOW = ("airflow", "dags", *OVER_THE_IMAGE)
# Of its family each requires the exact version of the others, and some of Airflow's image are in no lock.
LEFT_AS_IN_THE_IMAGE = ("--no-emit-package", "opentelemetry-api")
COMPILE = ("pip", "compile", "--universal", "--no-emit-index-url", "--custom-compile-command", "nox -s lock", "--quiet")


class LockError(Exception):
    """A lock is missing, outdated, or cannot be written or installed; `output` is uv's standard error, if it ran."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


def uv() -> str:
    """Return the path of uv: the one in `UV`, of `nox[uv]`, or on the path; raise LockError if there is none."""
    if path := os.environ.get("UV"):  # a session's command has it from nox
        return path
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        if path := shutil.which("uv"):
            return path
    raise LockError("uv is not installed; install nox with it: python3 -m pip install 'nox[uv]'")


def uv_variable() -> dict[str, str]:
    """Return the variable by which a session's command finds this process's uv; none if there is no uv."""
    try:
        return {"UV": uv()}
    except LockError:
        return {}


def path(group: str, root: Path = ROOT) -> Path:
    """Return the path of GROUP's lock in the clone at ROOT; raise LockError if it is older than `pyproject.toml`."""
    lock = root / "requirements" / f"{group}.txt"
    first_line = lock.open(encoding="utf-8").readline() if lock.exists() else ""
    if first_line != _header(_project(root), [group], root):
        raise LockError(
            f"requirements/{group}.txt is older than pyproject.toml: run nox -s lock, and commit what it writes."
        )
    return lock


def version(group: str, package: str) -> str:
    """Return the version of PACKAGE that the lock of GROUP has; empty if it has none. May raise OSError."""
    text = (LOCKS / f"{group}.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def write(*options: str) -> None:
    """Write every lock; without --upgrade, versions that fit stay. Raises LockError if uv is missing or fails."""
    project = _project(ROOT)
    groups = sorted(project["dependency-groups"])
    LOCKS.mkdir(exist_ok=True)
    every = [option for group in groups for option in ("--group", group)]
    _compile(CONSTRAINTS, _header(project, groups), *every, *options)
    for group in groups:
        constraints = AIRFLOWS_CONSTRAINTS if group in WITH_AIRFLOW else str(CONSTRAINTS.relative_to(ROOT))
        alone = ("--no-deps",)  # the image has the rest
        special = {"feeds": LEFT_AS_IN_THE_IMAGE, "lineage": alone, "notifications": alone}
        options_of_group = special.get(group, ())
        constraint = ("--constraint", constraints, *options_of_group)
        _compile(LOCKS / f"{group}.txt", _header(project, [group]), "--group", group, *constraint, "--generate-hashes")
    for stale in set(LOCKS.glob("*.txt")) - {CONSTRAINTS} - {LOCKS / f"{group}.txt" for group in groups}:
        stale.unlink()


def _project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def _header(project: dict[str, Any], groups: Sequence[str], root: Path = ROOT) -> str:
    """Return the first line of the lock of GROUPS; it does not change with other groups or other tools' settings."""
    dependencies = {group: _dependencies(project, group) for group in groups}
    inputs = [project["project"]["requires-python"], dependencies, project.get("tool", {}).get("uv")]
    if len(groups) == 1 and groups[0] in WITH_AIRFLOW and (root / AIRFLOWS_CONSTRAINTS).exists():
        inputs.append((root / AIRFLOWS_CONSTRAINTS).read_text(encoding="utf-8"))
    return f"# made from {hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()}\n"


def _dependencies(project: dict[str, Any], group: str) -> list[str]:
    """Return the requirements of GROUP and of the groups that it includes."""
    found = []
    for entry in project["dependency-groups"][group]:
        found += [entry] if isinstance(entry, str) else _dependencies(project, entry["include-group"])
    return sorted(set(found))


def _compile(lock: Path, header: str, *options: str) -> None:
    output = str(lock.relative_to(ROOT))
    argv = [uv(), *COMPILE, *options, "--output-file", output, "pyproject.toml"]
    done = subprocess.run(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise LockError(f"uv ended with exit code {done.returncode} and says why above.", done.stderr)
    lock.write_text(header + lock.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"✓ {output}")
