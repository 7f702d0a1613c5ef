"""Show findings beside the lines that they are about, where GitHub Actions runs this.

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
    """What is wrong, and where.

    Attributes:
        path: the file, absolute or from the repository's root; None where it is about no file.
        line: the line, from 1 on; None where it is about the file as a whole.
    """

    path: Path | str | None
    line: int | None
    title: str
    message: str

    @property
    def place(self) -> str:
        """The place for people, `dbt/models/a.sql:3`; empty where it is none of the repository's."""
        path = in_repository(self.path)
        return f"{path}:{self.line}" if path and self.line else path


def annotate(findings: Sequence[Finding]) -> str:
    """Show FINDINGS beside their lines on GitHub; return what the summary says where GitHub does not show all."""
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
    told = ",".join(f"{name}={escape_property(value)}" for name, value in properties.items() if value)
    return f"::error {told}::{escape(finding.message)}"


def in_repository(path: Path | str | None) -> str:
    """Return PATH from the repository's root; empty where it is none of the repository's."""
    if path is None:
        return ""
    absolute = Path(os.path.normpath(ROOT / path))
    return absolute.relative_to(ROOT).as_posix() if absolute.is_relative_to(ROOT) else ""


def escape(data: str) -> str:
    """Return DATA as a workflow command's message has it."""
    return data.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(value: str) -> str:
    """Return VALUE as a workflow command's property has it."""
    return escape(value).replace(":", "%3A").replace(",", "%2C")
