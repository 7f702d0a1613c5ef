"""Write `requirements/*.txt` and report which versions changed, for `nox -s lock`.

    python -m harness.ci.lock [OPTION of `uv pip compile`, for example --upgrade]...

Needs only the standard library and uv: it runs before there is any environment.
"""

import re
import subprocess
import sys
from collections.abc import Sequence

from harness.project.locks import CONSTRAINTS, LockError, uv, write
from harness.project.paths import BUILD
from harness.project.posargs import asks_for_help
from harness.reporting.summary import Section, code, table

CHANGES = BUILD / "lock.md"  # of the last `nox -s lock`, for example for the text of a pull request


def versions() -> dict[str, str]:
    """Return the locked version of each package, or versions if it has several."""
    found: dict[str, list[str]] = {}
    text = CONSTRAINTS.read_text(encoding="utf-8") if CONSTRAINTS.exists() else ""
    for name, version in re.findall(r"^([^\s#=]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(name, []).append(version)
    return {name: ", ".join(sorted(set(several))) for name, several in found.items()}


def changes(before: dict[str, str], after: dict[str, str]) -> tuple[int, str]:
    """Return how many packages changed their version, and a Markdown table of them."""
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    rows = [(name, before.get(name, "new"), after.get(name, "removed")) for name in names]
    return len(rows), table(("package", "from", "to"), rows) if rows else "No version changed."


def main(options: Sequence[str]) -> None:
    """Write the locks, and list the changed versions in the summary and in `build/lock.md`; see `write` for errors."""
    if asks_for_help(options):
        print(f"usage: nox -s lock -- [OPTION OF uv pip compile]...\n\n{__doc__}", flush=True)
        subprocess.run([uv(), "pip", "compile", "--help"], check=False)
        return
    before = versions()
    with Section("lock") as section:
        try:
            write(*options)
        except LockError as error:
            why = "No versions fit pyproject.toml, or the package index cannot be reached."
            section.fail(str(error), why, "Read the output of uv, and try again: nox -s lock", [code(error.output)])
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
