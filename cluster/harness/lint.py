"""Run every linter over the files that are its own, and say at the end which found something.

`--fix` mends what the tool can mend by itself. A tool whose kind of file the project does not have yet says so.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.paths import ROOT

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Linter:
    """One tool: its command, the command that mends (if it can), and the files that it gets (globs from the root)."""

    name: str
    check: tuple[str, ...]
    fix: tuple[str, ...] | None
    files: tuple[str, ...]


PYTHON = ("noxfile.py", "airflow", "cluster", "dbt/*.py", "tests")
LINTERS = (
    Linter("ruff check", ("ruff", "check", "--quiet"), ("ruff", "check", "--quiet", "--fix"), PYTHON),
    Linter("ruff format", ("ruff", "format", "--quiet", "--diff"), ("ruff", "format", "--quiet"), PYTHON),
    Linter(
        "sqlfluff",
        ("sqlfluff", "lint", "--nocolor", "--disable-progress-bar", "--config", "dbt/.sqlfluff"),
        ("sqlfluff", "fix", "--nocolor", "--disable-progress-bar", "--config", "dbt/.sqlfluff"),
        ("dbt/models", "dbt/tests", "dbt/macros"),
    ),
    Linter("shellcheck", ("shellcheck",), None, (".ci/run",)),
    Linter("hadolint", ("hadolint",), None, ("*/Dockerfile",)),
    Linter("actionlint", ("actionlint",), None, (".github/workflows/*.yml",)),
    Linter("zizmor", ("zizmor", "--offline", "--quiet", "--persona", "auditor"), None, (".github",)),
)


def main(arguments: Sequence[str]) -> int:
    """Run every linter and return 1 if one found something, 2 if ARGUMENTS make no sense."""
    if set(arguments) - {"--fix"}:
        print(f"✗ lint does not know {' '.join(arguments)}; it takes --fix or nothing.", file=sys.stderr)
        return 2
    failed = [linter.name for linter in LINTERS if not run(linter, fix="--fix" in arguments)]
    if failed:
        print(
            f"✗ {', '.join(failed)} found something; what can be mended by itself: nox -s lint -- --fix",
            file=sys.stderr,
        )
    return bool(failed)


def run(linter: Linter, *, fix: bool) -> bool:
    """Run one linter and say how it ended; True if it found nothing."""
    files = sorted(str(path.relative_to(ROOT)) for pattern in linter.files for path in ROOT.glob(pattern))
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
