"""Write `requirements/*.txt`, and tell when they are older than `pyproject.toml`.

One resolution serves all groups (`constraints.txt`), so a version appears once; each group's lock then has the hashes
of just what the group needs. A lock's first line is a digest of what it was made from: a clone has no useful times.

    python -m harness.locks [OPTION of `uv pip compile`, --upgrade say]...

Needs the standard library and uv alone: it runs before there is any environment.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.paths import BUILD, ROOT
from harness.summary import Section, code, table

LOCKS = ROOT / "requirements"
CONSTRAINTS = LOCKS / "constraints.txt"
CHANGES = BUILD / "lock.md"  # of the last `nox -s lock`: the text of a pull request, say
COMPILE = ("pip", "compile", "--universal", "--no-emit-index-url", "--custom-compile-command", "nox -s lock", "--quiet")


class LockError(Exception):
    """A lock is missing or older than `pyproject.toml`, or cannot be written; the message is one sentence.

    Attributes:
        said: what uv said of it.
    """

    said = ""


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


def versions() -> dict[str, str]:
    """Return the version that is locked of each package; of one that has several, all of them."""
    found: dict[str, list[str]] = {}
    if CONSTRAINTS.exists():
        for name, version in re.findall(
            r"^([^\s#=]+)==([^\s;]+)", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE
        ):
            found.setdefault(name, []).append(version)
    return {name: ", ".join(sorted(set(several))) for name, several in found.items()}


def changes(before: dict[str, str], after: dict[str, str]) -> tuple[int, str]:
    """Return how many packages changed their version, and Markdown that says which."""
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    rows = [(name, before.get(name, "new"), after.get(name, "gone")) for name in names]
    return len(rows), table(("package", "from", "to"), rows) if rows else "No version changed."


def main(options: Sequence[str]) -> None:
    """Write the locks, and tell which versions changed: in the summary, and in `build/lock.md`.

    Raises:
        LockError: uv is missing, or finds no versions that fit.
    """
    before = versions()
    with Section("lock") as section:
        try:
            write(*options)
        except LockError as error:
            why = "No versions fit what pyproject.toml asks for, or the package index was not reached."
            section.fail(str(error), why, "Read what uv says, and try again: nox -s lock", [code(error.said)])
            raise
        count, told = changes(before, versions())
        section.headline = f"{count} versions changed"
        section.add(told)
        CHANGES.parent.mkdir(exist_ok=True)
        CHANGES.write_text(f"{told}\n", encoding="utf-8")


def _header(project: dict[str, Any], groups: Sequence[str]) -> str:
    return f"# made from {_digest(project, groups)}\n"


def _compile(lock: Path, header: str, *options: str) -> None:
    output = str(lock.relative_to(ROOT))
    argv = [uv(), *COMPILE, *options, "--output-file", output, "pyproject.toml"]
    done = subprocess.run(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        error = LockError(f"uv ended with exit code {done.returncode} and says why above.")
        error.said = done.stderr
        raise error
    lock.write_text(header + lock.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"✓ {output}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LockError as error:
        sys.exit(str(error))
