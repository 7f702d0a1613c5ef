"""Run a linter or mypy, and read the findings in its JSON output."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.project.paths import ROOT
from harness.reporting.annotations import Finding
from harness.reporting.console import say
from harness.reporting.summary import Markdown, code, details, span, table

SHOWN = 20  # rows in the summary's table
Found = tuple[str, int, str, str]  # a file, a line in it, the message, and a hint or nothing


@dataclass(frozen=True)
class Result:
    """How a tool ended; `output` is what it printed besides its findings, an error of its own for example."""

    exit_code: int
    findings: Sequence[Finding] = ()
    output: str = ""

    def print(self) -> None:
        """Print a line for each finding, then the other output."""
        for finding in self.findings:
            say(f"{finding.place or finding.path}: {finding.message}")
        if self.output.strip():
            say(self.output.rstrip())

    def markdown(self, title: str) -> list[str]:
        """Return a table of the findings, and the other output, folded."""
        rows: list[tuple[Markdown, str]] = [(span(f.place), f.message) for f in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            rows.append((Markdown(), f"… and {len(self.findings) - SHOWN} more"))
        blocks = [f"**{title}**", table(("where", "what"), rows)] if rows else []
        return [*blocks, details(f"Output of {title}", code(self.output, first=80))] if self.output.strip() else blocks


def run(program: str, argv: Sequence[str | Path], title: str) -> Result:
    """Run PROGRAM by ARGV, which asks for JSON, and read its findings; anything else that it prints is its output."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    try:
        found = [_finding(title, *READERS[program](item)) for item in _items(done.stdout)]
    except (ValueError, LookupError, TypeError):  # it failed, or was asked for --help
        return Result(done.returncode, (), done.stdout + done.stderr)
    return Result(done.returncode, found, done.stderr)


def _finding(title: str, path: str, line: int, message: str, hint: str) -> Finding:
    return Finding(path, line, title, " ".join(f"{message} {hint and f'({hint})'}".split()))


def _items(output: str) -> Iterator[Any]:
    """Yield the findings in OUTPUT, a JSON list or JSON lines; sqlfluff groups them by file."""
    try:
        report = json.loads(output)
    except ValueError:
        report = [json.loads(line) for line in output.splitlines()]
    for item in report:
        yield from [item | each for each in item["violations"]] if "violations" in item else [item]


# Readers of an item of each program's JSON.


def _ruff(item: Any) -> Found:
    fix = item["fix"] or {}
    hint = fix.get("message") or item["url"] or ""
    if fix.get("applicability") == "safe":
        hint = f"--fix: {fix['message']}" if fix["message"] else "--fix"
    return item["filename"], item["location"]["row"], f"{item['code']} {item['message']}", hint


def _sqlfluff(item: Any) -> Found:
    message = f"{item['code']} {item['description']}"
    return item["filepath"], item["start_line_no"], message, "--fix" if item.get("fixes") else ""


def _shellcheck(item: Any) -> Found:
    rule = f"SC{item['code']}"
    return item["file"], item["line"], f"{rule} {item['message']}", f"https://www.shellcheck.net/wiki/{rule}"


def _hadolint(item: Any) -> Found:
    rule = item["code"]
    return item["file"], item["line"], f"{rule} {item['message']}", f"https://github.com/hadolint/hadolint/wiki/{rule}"


def _actionlint(item: Any) -> Found:
    return item["filepath"], item["line"], f"{item['kind']} {item['message']}", ""


def _zizmor(item: Any) -> Found:
    [place, *_] = [place for place in item["locations"] if place["symbolic"]["kind"] == "Primary"]
    path, row = place["symbolic"]["key"]["Local"]["verbatim_path"], place["concrete"]["location"]["start_point"]["row"]
    return path, row + 1, f"{item['ident']} {item['desc']}: {place['symbolic']['annotation']}", item["url"]


def _rumdl(item: Any) -> Found:
    return item["file"], item["line"], f"{item['rule']} {item['message']}", "--fix" if item["fixable"] else ""


def _mypy(item: Any) -> Found:
    rule = f" [{item['code']}]" if item["code"] else ""
    return item["file"], item["line"], f"{item['severity']}: {item['message']}{rule}", item["hint"] or ""


_ALL = (_ruff, _sqlfluff, _shellcheck, _hadolint, _actionlint, _zizmor, _rumdl, _mypy)
READERS: dict[str, Callable[[Any], Found]] = {read.__name__.removeprefix("_"): read for read in _ALL}
