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

from harness.project.paths import ROOT
from harness.reporting import findings
from harness.reporting.annotations import Finding, annotate
from harness.reporting.summary import Section, table

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Linter:
    """One tool.

    Attributes:
        name: what it is called in what is printed.
        check: its command.
        fix: the command that mends, if it can.
        files: what it gets, globs from the root. A folder is checked as a whole when a file below it is named.
        read: reads what it says: which lines it is about.
        is_fast: whether it takes less than a second on all of them.
    """

    name: str
    check: tuple[str, ...]
    fix: tuple[str, ...] | None
    files: tuple[str, ...]
    read: findings.Reader = findings.read_colons
    is_fast: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a linter ended: the mark and the words of its line, what it found, and what it said."""

    mark: str
    told: str = ""
    found: Sequence[Finding] = ()
    said: str = ""


PYTHON = ("*.py", "airflow/**/*.py", "dbt/*.py", "harness/**/*.py", "tests/**/*.py")
LINTERS = (
    Linter(
        "ruff check", ("ruff", "check", "--quiet"), ("ruff", "check", "--quiet", "--fix"), PYTHON, findings.read_arrows
    ),
    Linter(
        "ruff format",
        ("ruff", "format", "--quiet", "--diff"),
        ("ruff", "format", "--quiet"),
        PYTHON,
        findings.read_diff,
    ),
    Linter(
        "sqlfluff",
        ("sqlfluff", "lint", "--nocolor", "--disable-progress-bar", "--config", "dbt/.sqlfluff"),
        ("sqlfluff", "fix", "--nocolor", "--disable-progress-bar", "--config", "dbt/.sqlfluff"),
        ("dbt/models/**/*.sql", "dbt/tests/**/*.sql", "dbt/macros/**/*.sql"),
        findings.read_sqlfluff,
        is_fast=False,
    ),
    Linter("shellcheck", ("shellcheck", "--format", "gcc"), None, (".ci/run",)),
    Linter("hadolint", ("hadolint",), None, ("*/Dockerfile",)),
    Linter("actionlint", ("actionlint",), None, (".github/workflows/*.yml",)),
    Linter(
        "zizmor",
        ("zizmor", "--offline", "--quiet", "--persona", "auditor"),
        None,
        (".github/workflows", ".github/actions"),
        findings.read_arrows,
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
    with Section("lint") as section:
        linters = chosen(named, fast="--fast" in options)
        outcomes = {linter.name: run(linter, fix="--fix" in options) for linter in linters}
        failed = [name for name, outcome in outcomes.items() if outcome.mark == "✗"]
        if failed:
            what = f"{', '.join(failed)} found something"
            print(f"✗ {what}; what can be mended by itself: nox -s lint -- --fix", file=sys.stderr)
            section.fail(
                f"{what}.", "A change breaks their rules.", "What can be mended by itself: nox -s lint -- --fix"
            )
        section.add(annotate([finding for outcome in outcomes.values() for finding in outcome.found]))
        for name in failed:
            section.add(*findings.tell(name, outcomes[name].found, outcomes[name].said))
        section.add(table(("", "linter", ""), [(o.mark, name, o.told) for name, o in outcomes.items()]))
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


def run(linter: Linter, *, fix: bool) -> Outcome:
    """Run one linter and say how it ended."""
    files = files_of(linter)
    if not files:
        outcome = Outcome("-", f"there is no {' or '.join(linter.files)} yet")
    else:
        program, *options = linter.fix if fix and linter.fix else linter.check
        argv = [str(PROGRAMS / program), *options, *files]
        done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        said = done.stdout.decode(errors="replace")
        outcome = Outcome("✗", found=linter.read(said, linter.name), said=said) if done.returncode else Outcome("✓")
    sys.stdout.write(outcome.said)
    print(f"{outcome.mark} {linter.name}{outcome.told and ': '}{outcome.told}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
