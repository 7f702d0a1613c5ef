"""Write `requirements/*.txt` and report which versions changed, for `nox -s lock`.

Airflow's own constraints, `airflow/constraints.txt`, are read from Airflow's repository when its version has changed.

    python -m harness.ci.lock [OPTION of `uv pip compile`, for example --upgrade]...

Needs only the standard library and uv: it runs before there is any environment.
"""

import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from harness.project.locks import AIRFLOWS_CONSTRAINTS, LOCKS, LockError, uv, write
from harness.project.paths import BUILD, ROOT
from harness.project.posargs import asks_for_help
from harness.reporting.summary import Section, code, table

DOWNLOAD_TIMEOUT_S = 60.0
CHANGES = BUILD / "lock.md"  # of the last `nox -s lock`, for example for the text of a pull request


def versions() -> dict[str, str]:
    """Return the locked version of each package, or versions if it has several."""
    found: dict[str, list[str]] = {}
    text = "\n".join(path.read_text(encoding="utf-8") for path in LOCKS.glob("*.txt"))
    for name, version in re.findall(r"^([^\s#=]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(name, []).append(version)
    return {name: ", ".join(sorted(set(several))) for name, several in found.items()}


def changes(before: dict[str, str], after: dict[str, str]) -> tuple[int, str]:
    """Return how many packages changed their version, and a Markdown table of them."""
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    rows = [(name, before.get(name, "new"), after.get(name, "removed")) for name in names]
    return len(rows), table(("package", "from", "to"), rows) if rows else "No version changed."


def airflows_constraints() -> str:
    """Return the URL of the constraints that Airflow publishes for the pinned version and its image's Python."""
    pins = tomllib.loads((ROOT / "cluster" / "versions.toml").read_text(encoding="utf-8"))
    [python] = re.findall(r"python(3\.\d+)", pins["images"]["airflow"])
    return str(pins["chart"]["constraints"]).format(airflow=pins["chart"]["airflow"], python=python)


def refresh_airflows_constraints() -> None:
    """Write Airflow's constraints of the pinned version, unless they are there; raise LockError if they cannot be read.

    An estimate of this version stays until they can. `PLATFORM_AIRFLOW_CONSTRAINTS` is a path or URL to read instead.
    """
    url, own = airflows_constraints(), os.environ.get("PLATFORM_AIRFLOW_CONSTRAINTS")
    path = ROOT / AIRFLOWS_CONSTRAINTS
    first_line = path.read_text(encoding="utf-8").partition("\n")[0] if path.exists() else ""
    if first_line == f"# From {url}" and not own:
        return
    try:
        text = _read(own or url)
    except (OSError, ValueError) as error:
        if own or url not in first_line:
            raise LockError(f"Airflow's constraints cannot be read from {own or url}: {error}", str(error)) from error
        print(f"… {AIRFLOWS_CONSTRAINTS} stays an estimate: {url} cannot be read: {error}", flush=True)
    else:
        path.write_text(f"# From {url}\n{text}", encoding="utf-8")
        print(f"✓ {AIRFLOWS_CONSTRAINTS}", flush=True)


def _read(source: str) -> str:
    if "://" not in source:
        return Path(source).read_text(encoding="utf-8")
    with urllib.request.urlopen(source, timeout=DOWNLOAD_TIMEOUT_S) as answer:  # noqa: S310 - of a pin
        content: bytes = answer.read()
        return content.decode()


def main(options: Sequence[str]) -> None:
    """Write the locks, and list the changed versions in the summary and in `build/lock.md`; see `write` for errors."""
    if asks_for_help(options):
        print(f"usage: nox -s lock -- [OPTION OF uv pip compile]...\n\n{__doc__}", flush=True)
        subprocess.run([uv(), "pip", "compile", "--help"], check=False)
        return
    before = versions()
    with Section("lock") as section:
        try:
            refresh_airflows_constraints()
            write(*options)
        except LockError as error:
            why = "No versions fit pyproject.toml and Airflow's constraints, or no server answers."
            section.fail(str(error), why, "Read the output, and try again: nox -s lock", [code(error.output)])
            raise
        count, listed = changes(before, versions())
        section.headline = f"{count} versions changed"
        section.add(listed)
        CHANGES.parent.mkdir(exist_ok=True)
        CHANGES.write_text(f"{listed}\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LockError as error:
        sys.exit(str(error))
