"""Run every linter over the files that are its own, and say at the end which found something.

`--fix` mends what the tool can mend by itself; `--fast` leaves out the tools that take more than a second. With files
named, each tool gets those of them that are its own, and one that has none of them says nothing. A tool whose kind of
file the project does not have yet says so.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.paths import ROOT

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Linter:
    """One tool.

    Attributes:
        name: what it is called in what is printed.
        check: its command.
        fix: the command that mends, if it can.
        files: what it gets, globs from the root. A folder is checked as a whole when a file below it is named.
        is_fast: whether it takes less than a second on all of them.
    """

    name: str
    check: tuple[str, ...]
    fix: tuple[str, ...] | None
    files: tuple[str, ...]
    is_fast: bool = True


PYTHON = ("*.py", "airflow/**/*.py", "cluster/**/*.py", "dbt/*.py", "tests/**/*.py")
LINTERS = (
    Linter("ruff check", ("ruff", "check", "--quiet"), ("ruff", "check", "--quiet", "--fix"), PYTHON),
    Linter("ruff format", ("ruff", "format", "--quiet", "--diff"), ("ruff", "format", "--quiet"), PYTHON),
    Linter(
        "sqlfluff",
        ("sqlfluff", "lint", "--nocolor", "--disable-progress-bar", "--config", "dbt/.sqlfluff"),
        ("sqlfluff", "fix", "--nocolor", "--disable-progress-bar", "--config", "dbt/.sqlfluff"),
        ("dbt/models/**/*.sql", "dbt/tests/**/*.sql", "dbt/macros/**/*.sql"),
        is_fast=False,
    ),
    Linter("shellcheck", ("shellcheck",), None, (".ci/run",)),
    Linter("hadolint", ("hadolint",), None, ("*/Dockerfile",)),
    Linter("actionlint", ("actionlint",), None, (".github/workflows/*.yml",)),
    Linter(
        "zizmor",
        ("zizmor", "--offline", "--quiet", "--persona", "auditor"),
        None,
        (".github/workflows", ".github/actions", ".github/dependabot.yml"),
    ),
    Linter(
        "rumdl",
        ("rumdl", "check", "--no-cache", "--quiet"),
        ("rumdl", "check", "--no-cache", "--quiet", "--fix"),
        ("*.md", "docs/**/*.md", ".github/**/*.md"),
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Run the linters and return 1 if one found something, 2 if ARGUMENTS make no sense."""
    named = [argument for argument in arguments if not argument.startswith("-")]
    options = set(arguments) - set(named)
    if unknown := sorted(options - {"--fix", "--fast"}):
        print(f"✗ lint does not know {' '.join(unknown)}; it takes --fix, --fast and files.", file=sys.stderr)
        return 2
    if missing := [file for file in named if not (ROOT / file).is_file()]:
        print(f"✗ There is no file {' or '.join(missing)}; files are named from the root.", file=sys.stderr)
        return 2
    linters = chosen(named, fast="--fast" in options)
    failed = [linter.name for linter in linters if not run(linter, fix="--fix" in options)]
    if failed:
        print(
            f"✗ {', '.join(failed)} found something; what can be mended by itself: nox -s lint -- --fix",
            file=sys.stderr,
        )
    return bool(failed)


def chosen(named: Sequence[str] = (), *, fast: bool = False) -> list[Linter]:
    """Return the linters to run, or the FAST ones; with files NAMED, those that have some of them, with these alone."""
    linters = [linter for linter in LINTERS if linter.is_fast or not fast]
    if not named:
        return linters
    files = {os.path.normpath(file) for file in named}

    def has(path: str) -> bool:
        return path in files or any(file.startswith(path + os.sep) for file in files)

    narrowed = [replace(linter, files=tuple(filter(has, files_of(linter)))) for linter in linters]
    return [linter for linter in narrowed if linter.files]


def files_of(linter: Linter) -> list[str]:
    """Return what LINTER gets, from the root."""
    return sorted(str(path.relative_to(ROOT)) for pattern in linter.files for path in ROOT.glob(pattern))


def run(linter: Linter, *, fix: bool) -> bool:
    """Run one linter and say how it ended; True if it found nothing."""
    files = files_of(linter)
    if not files:
        print(f"- {linter.name}: there is no {' or '.join(linter.files)} yet", flush=True)
        return True
    program, *options = linter.fix if fix and linter.fix else linter.check
    done = subprocess.run(
        [PROGRAMS / program, *options, *files], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.flush()
    print(f"{'✗' if done.returncode else '✓'} {linter.name}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
