"""Read what linters and the type checker have found out of what they say to people."""

import re
from collections.abc import Callable, Sequence

from harness.reporting.annotations import Finding
from harness.reporting.summary import ESCAPES, Markdown, code, details, span, table

Reader = Callable[[str, str], list[Finding]]

SHOWN = 20
COLON = re.compile(r"^(?P<path>[^\s:]+):(?P<line>\d+):?(?:\d+:)? (?P<message>\S.*)$", re.MULTILINE)
ARROW = re.compile(r"^(?P<message>\S.*)\n +--> (?P<path>[^\n:]+):(?P<line>\d+):\d+$", re.MULTILINE)
DIFF = re.compile(r"^--- (?P<path>.+)|^@@ -(?P<line>\d+).*\n(?P<before>(?: .*\n)*)", re.MULTILINE)
SQLFLUFF = re.compile(
    r"^== \[(?P<path>.+)\] FAIL|^L: +(?P<line>\d+) \| P: +\d+ \| +(?P<message>.*(?:\n +\| .*)*)", re.MULTILINE
)


def read_colons(said: str, title: str) -> list[Finding]:
    """Read `path:line:column: message`."""
    return [_finding(found, title) for found in COLON.finditer(ESCAPES.sub("", said))]


def read_arrows(said: str, title: str) -> list[Finding]:
    """Read a message and below it ` --> path:line:column`."""
    return [_finding(found, title) for found in ARROW.finditer(ESCAPES.sub("", said))]


def read_types(said: str, title: str) -> list[Finding]:
    """Read mypy's errors, without its notes."""
    return [finding for finding in read_colons(said, title) if finding.message.startswith("error: ")]


def read_diff(said: str, title: str) -> list[Finding]:
    """Read a unified diff: a finding where each part of it begins to differ."""
    findings, path = [], ""
    for found in DIFF.finditer(said):
        if found["path"]:
            path = found["path"]
            continue
        line = int(found["line"]) + found["before"].count("\n")
        findings.append(Finding(path, line, title, "The formatter would write this another way."))
    return findings


def read_sqlfluff(said: str, title: str) -> list[Finding]:
    """Read sqlfluff's lines, each file's below its name; what is wrong may take several."""
    findings, path = [], ""
    for found in SQLFLUFF.finditer(ESCAPES.sub("", said)):
        if found["path"]:
            path = found["path"]
            continue
        message = " ".join(re.sub(r"\n +\| ", " ", found["message"]).split())
        findings.append(Finding(path, int(found["line"]), title, message))
    return findings


def _finding(found: re.Match[str], title: str) -> Finding:
    message = found["message"].replace(" [*] ", " ")  # ruff's mark of what it can mend
    return Finding(found["path"].removeprefix("./"), int(found["line"]), title, message)


def tell(title: str, findings: Sequence[Finding], said: str) -> list[str]:
    """Return Markdown: a table of FINDINGS, and below it what the tool said, folded."""
    rows: list[tuple[Markdown, str]] = [(span(f.place), f.message) for f in findings[:SHOWN]]
    if len(findings) > SHOWN:
        rows.append((Markdown(), f"… and {len(findings) - SHOWN} more"))
    found = [f"**{title}**", table(("where", "what"), rows)] if rows else []
    return [*found, details(f"What {title} says", code(said, first=80))]
