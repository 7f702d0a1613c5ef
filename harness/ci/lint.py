"""Run each linter on its files, print a line for each finding, and name at the end the linters that found something.

`--fix` fixes what the tools can fix; `--fast` leaves out the tools that take more than a second. With files given, each
linter checks those of them that are its own. A linter whose files the project does not have is reported as such.
"""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.project.paths import ROOT
from harness.project.posargs import asks_for_help
from harness.reporting import findings
from harness.reporting.annotations import Finding, annotate
from harness.reporting.findings import Result
from harness.reporting.summary import Section, table

PROGRAMS = Path(sys.executable).parent
FIX = "nox -s lint -- --fix"


@dataclass(frozen=True)
class Linter:
    """One tool.

    Attributes:
        check: the command that prints its findings as JSON.
        files: what it checks, globs from the root. A folder is checked as a whole when a file below it is given.
        fix: the command that fixes what it can; empty if it fixes nothing.
        is_fast: whether it takes less than a second on all of its files.
    """

    name: str
    check: str
    files: tuple[str, ...]
    fix: str = ""
    is_fast: bool = True


PYTHON = ("*.py", "airflow/**/*.py", "dbt/*.py", "harness/**/*.py", "tests/**/*.py")
SQL = ("dbt/models/**/*.sql", "dbt/tests/**/*.sql", "dbt/macros/**/*.sql")
MARKDOWN = ("*.md", "docs/**/*.md", ".github/**/*.md")
SQLFLUFF = "--disable-progress-bar --config dbt/.sqlfluff"
RUMDL = "rumdl check --no-cache --quiet"
ZIZMOR = "zizmor --offline --quiet --persona auditor --format json"
LINTERS = (
    Linter("ruff check", "ruff check -q --output-format json", PYTHON, "ruff check -q --fix"),
    Linter("ruff format", "ruff format -q --check --output-format json", PYTHON, "ruff format -q"),
    Linter("sqlfluff", f"sqlfluff lint --format json {SQLFLUFF}", SQL, f"sqlfluff fix {SQLFLUFF}", is_fast=False),
    Linter("shellcheck", "shellcheck --format json", (".ci/run",)),
    Linter("hadolint", "hadolint --format json", ("*/Dockerfile",)),
    Linter("actionlint", "actionlint -format '{{json .}}'", (".github/workflows/*.yml",)),
    Linter("zizmor", ZIZMOR, (".github/workflows", ".github/actions")),
    Linter("rumdl", f"{RUMDL} --output-format json", MARKDOWN, f"{RUMDL} --fix"),
)


def main(arguments: Sequence[str]) -> int:
    """Run the linters; return 1 if one found something, 2 if ARGUMENTS are invalid."""
    files = [argument for argument in arguments if not argument.startswith("-")]
    options = set(arguments) - set(files)
    if asks_for_help(arguments):
        print(f"usage: nox -s lint -- [--fix] [--fast] [FILE …]\n\n{__doc__}")
        return 0
    if unknown := sorted(options - {"--fix", "--fast"}):
        print(f"✗ lint has no option {' '.join(unknown)}; it takes --fix, --fast and files.", file=sys.stderr)
        return 2
    if missing := [file for file in files if not (ROOT / file).is_file()]:
        print(f"✗ There is no file {' or '.join(missing)}; files are named from the root.", file=sys.stderr)
        return 2
    with Section("lint") as section:
        rows, failed = [], {}
        for linter in chosen(files, fast="--fast" in options):
            mark, note, result = run(linter, fix="--fix" in options)
            rows.append((mark, linter.name, note))
            if mark == "✗":
                failed[linter.name] = result
        if failed:
            what, next_step = f"{', '.join(failed)} found problems", f"fix what the tools can fix: {FIX}"
            if "--fix" in options:
                count = sum(len(result.findings) for result in failed.values())
                next_step = f"fix the rest by hand: {count} listed above"
            print(f"✗ {what}; {next_step}", file=sys.stderr)
            section.fail(f"{what}.", "A change broke their rules.", next_step.capitalize())
        section.add(annotate([finding for result in failed.values() for finding in result.findings]))
        for name, result in failed.items():
            section.add(*result.markdown(name))
        section.add(table(("", "linter", ""), rows))
    return bool(failed)


def chosen(files: Sequence[str] = (), *, fast: bool = False) -> list[Linter]:
    """Return the linters to run, or the FAST ones; with FILES, those that check one of them, with these files only."""
    linters = [linter for linter in LINTERS if linter.is_fast or not fast]
    if not files:
        return linters
    given = {os.path.normpath(file) for file in files}

    def has(path: str) -> bool:
        return path in given or any(file.startswith(path + os.sep) for file in given)

    narrowed = [replace(linter, files=tuple(filter(has, files_of(linter)))) for linter in linters]
    return [linter for linter in narrowed if linter.files]


def files_of(linter: Linter) -> list[str]:
    """Return the files and folders that LINTER checks, from the root."""
    return sorted(str(path.relative_to(ROOT)) for pattern in linter.files for path in ROOT.glob(pattern))


def run(linter: Linter, *, fix: bool) -> tuple[str, str, Result]:
    """Run one linter, print its findings and what was fixed; return its mark, a note and its result."""
    files = files_of(linter)
    result = check(linter, files) if files else Result(0)
    mark, note = ("✓", "") if files else ("-", f"there is no {' or '.join(linter.files)}")
    if fix and linter.fix and result.findings:
        program, *options = shlex.split(linter.fix)
        subprocess.run([PROGRAMS / program, *options, *files], cwd=ROOT, capture_output=True, check=False)
        before, result = result, check(linter, files)
        fixed = without(before.findings, result.findings)
        Result(0, [replace(finding, message=f"fixed: {finding.message}") for finding in fixed]).print()
        note = f"{len(fixed)} fixed" + (f", {len(result.findings)} left" if result.findings else "")
    if result.exit_code:
        mark = "✗"
        result.print()
    print(f"{mark} {linter.name}{note and ': '}{note}", flush=True)
    return mark, note, result


def check(linter: Linter, files: Sequence[str]) -> Result:
    """Run LINTER on FILES."""
    program, *options = shlex.split(linter.check)
    return findings.run(program, [PROGRAMS / program, *options, *files], linter.name)


def without(before: Sequence[Finding], after: Sequence[Finding]) -> list[Finding]:
    """Return the findings of BEFORE that are not in AFTER, where they may be at other lines."""

    def key(finding: Finding) -> tuple[object, str]:
        return finding.path, re.sub(r"\bline \d+", "line", finding.message)  # it may name another line, too

    remaining = Counter(map(key, after))
    gone = []
    for finding in before:
        remaining[key(finding)] -= 1
        if remaining[key(finding)] < 0:
            gone.append(finding)
    return gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
