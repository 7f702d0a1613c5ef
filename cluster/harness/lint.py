"""Run every linter over the files that are its own, and say at the end which found something.

`--fix` mends what the tool can mend by itself. A tool whose kind of file the project does not have yet says so.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import findings
from harness.annotations import Finding, annotate
from harness.paths import ROOT
from harness.summary import Section, table

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Linter:
    """One tool: its command, the command that mends (if it can), and the files that it gets (globs from the root).

    What it says is read by READ: which lines it is about.
    """

    name: str
    check: tuple[str, ...]
    fix: tuple[str, ...] | None
    files: tuple[str, ...]
    read: findings.Reader = findings.read_colons


@dataclass(frozen=True)
class Outcome:
    """How a linter ended: the mark and the words of its line, what it found, and what it said."""

    mark: str
    told: str = ""
    found: Sequence[Finding] = ()
    said: str = ""


PYTHON = ("noxfile.py", "airflow", "cluster", "dbt/*.py", "tests")
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
        ("dbt/models", "dbt/tests", "dbt/macros"),
        findings.read_sqlfluff,
    ),
    Linter("shellcheck", ("shellcheck", "--format", "gcc"), None, (".ci/run",)),
    Linter("hadolint", ("hadolint",), None, ("*/Dockerfile",)),
    Linter("actionlint", ("actionlint",), None, (".github/workflows/*.yml",)),
    Linter(
        "zizmor",
        ("zizmor", "--offline", "--quiet", "--persona", "auditor"),
        None,
        (".github",),
        findings.read_arrows,
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Run every linter and return 1 if one found something, 2 if ARGUMENTS make no sense."""
    if set(arguments) - {"--fix"}:
        print(f"✗ lint does not know {' '.join(arguments)}; it takes --fix or nothing.", file=sys.stderr)
        return 2
    with Section("lint") as section:
        outcomes = {linter.name: run(linter, fix="--fix" in arguments) for linter in LINTERS}
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


def run(linter: Linter, *, fix: bool) -> Outcome:
    """Run one linter and say how it ended."""
    files = sorted(str(path.relative_to(ROOT)) for pattern in linter.files for path in ROOT.glob(pattern))
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
