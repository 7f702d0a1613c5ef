"""Show findings beside their lines of the change, when GitHub Actions runs this.

GitHub reads them from the log: `::error file=…,line=…,title=…::message`. See "Workflow commands for GitHub Actions".
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.project.paths import ROOT
from harness.reporting.console import on_github, say

SHOWN = 10  # errors of one step


@dataclass(frozen=True)
class Finding:
    """A problem and its place.

    Attributes:
        path: the file, absolute or from the repository's root; None if it is about no file.
        line: the line, from 1 on; None if it is about the whole file.
    """

    path: Path | str | None
    line: int | None
    title: str
    message: str

    @property
    def place(self) -> str:
        """The place as `dbt/models/a.sql:3`; empty if the file is not in the repository."""
        path = in_repository(self.path)
        return f"{path}:{self.line}" if path and self.line else path


def annotate(findings: Sequence[Finding]) -> str:
    """Show FINDINGS on GitHub; return a sentence for the summary if GitHub does not show all of them, else nothing."""
    if not on_github():
        return ""
    for finding in findings:
        say(command(finding))
    if len(findings) <= SHOWN:
        return ""
    return f"GitHub shows the first {SHOWN} of these {len(findings)} beside their lines."


def command(finding: Finding) -> str:
    """Return the line that makes GitHub show FINDING."""
    file = in_repository(finding.path)
    properties = {"file": file, "line": str(finding.line) if file and finding.line else "", "title": finding.title}
    escaped = {name: escape(value).replace(":", "%3A").replace(",", "%2C") for name, value in properties.items()}
    listed = ",".join(f"{name}={value}" for name, value in escaped.items() if value)
    return f"::error {listed}::{escape(finding.message)}"


def in_repository(path: Path | str | None) -> str:
    """Return PATH from the repository's root; empty if it is not in the repository."""
    if not path:
        return ""
    absolute = Path(os.path.normpath(ROOT / path))
    return absolute.relative_to(ROOT).as_posix() if absolute.is_relative_to(ROOT) else ""


def escape(data: str) -> str:
    """Return DATA escaped for a workflow command's message."""
    return data.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
