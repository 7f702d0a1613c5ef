"""Look for known vulnerabilities of every locked package, with pip-audit: what `nox -s audit` does.

The policy: every known vulnerability fails the session, unless `[tool.events-platform.accepted-vulnerabilities]` in
`pyproject.toml` names its ID with a reason and a date, and that date has not passed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from harness.errors import cause_line
from harness.project.locks import CONSTRAINTS, LOCKS
from harness.project.settings import settings
from harness.reporting import console
from harness.reporting.console import say
from harness.reporting.summary import Section, table

Vulnerability = tuple[str, str, str, str]  # the package, its version, the ID, the fixed versions


class AuditError(Exception):
    """pip-audit did not answer; the message is the line of its output that most likely says why."""


def accepted(listed: Mapping[str, Mapping[str, Any]], today: date) -> list[str]:
    """Return the IDs of the accepted vulnerabilities of LISTED whose date has not passed TODAY."""
    return [name for name, entry in listed.items() if entry["until"] >= today]


def audit(lock: Path, ignored: Sequence[str], osv_url: str) -> list[Vulnerability]:
    """Return the vulnerabilities of the packages of LOCK; raise AuditError unless each package was looked up."""
    service = ("--vulnerability-service", "osv", "--osv-url", osv_url) if osv_url else ()
    options = [part for name in ignored for part in ("--ignore-vuln", name)]
    argv = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps", "--disable-pip", *service]
    done = subprocess.run(
        [*argv, *options, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise AuditError(cause_line(done.stderr) or f"it ended with exit code {done.returncode}") from None
    if skipped := [package["skip_reason"] for package in packages if "skip_reason" in package]:
        raise AuditError(str(skipped[0]))
    return [
        (package["name"], package["version"], vulnerability["id"], ", ".join(vulnerability["fix_versions"]))
        for package in packages
        for vulnerability in package["vulns"]
    ]


def main(arguments: Sequence[str], locks: Path = LOCKS) -> int:
    """Audit every lock; return 1 if one has a vulnerability that is not accepted, 2 if no database answers."""
    parser = argparse.ArgumentParser(prog="nox -s audit --", description=__doc__, allow_abbrev=False)
    parser.add_argument("--osv-url", default="", metavar="URL", help="ask this server with OSV's API, not PyPI")
    options = parser.parse_args(arguments)
    ignored = accepted(settings().get("accepted-vulnerabilities", {}), datetime.now(UTC).date())
    found: dict[Vulnerability, list[str]] = {}
    with Section("audit") as section:
        files = [path for path in sorted(locks.glob("*.txt")) if path.name != CONSTRAINTS.name]
        for lock in files:
            try:
                for vulnerability in audit(lock, ignored, options.osv_url):
                    found.setdefault(vulnerability, []).append(lock.stem)
            except AuditError as error:
                lines = (
                    f"pip-audit cannot check {lock.name}: {error}",
                    "The database of vulnerabilities most likely does not answer.",
                    "Run it again, or ask another one: nox -s audit -- --osv-url URL",
                )
                section.fail(*lines)
                console.error(*lines)
                return 2
        rows = [(*what, fixed or "nowhere", ", ".join(names)) for (*what, fixed), names in sorted(found.items())]
        if rows:
            header = ("package", "version", "vulnerability", "fixed in", "locks")
            console.table(header, rows)
            lines = (
                f"Known vulnerabilities of locked packages: {len(rows)}, the first {' '.join(rows[0][:3])}.",
                "Most likely they became known since the locks were written.",
                "Take the fixed version: nox -s lock -- --upgrade-package NAME; if there is none: docs/workflows.md.",
            )
            section.fail(*lines, [table(header, rows)])
            console.error(*lines)
            return 1
        section.headline = f"no known vulnerability; locks: {len(files)}, accepted: {len(ignored)}"
        say(f"✓ {section.headline}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
