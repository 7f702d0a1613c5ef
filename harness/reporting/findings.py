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
Found = tuple[str, int, str]  # a file, the line in it, the message
Reader = Callable[[Any], Iterator[Found]]


@dataclass(frozen=True)
class Result:
    """How a tool ended.

    Attributes:
        output: what it printed besides its findings, an error of its own for example.
    """

    exit_code: int
    findings: Sequence[Finding]
    output: str

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
        if self.output.strip():
            blocks.append(details(f"Output of {title}", code(self.output, first=80)))
        return blocks


def run(argv: Sequence[str | Path], read: Reader, title: str) -> Result:
    """Run a tool that prints JSON, and READ its findings; where it prints something else, that is its output."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    try:
        found = [
            Finding(path, line, title, " ".join(words.split())) for path, line, words in read(_parsed(done.stdout))
        ]
    except (ValueError, LookupError, TypeError):  # it failed, or was asked for --help
        return Result(done.returncode, [], done.stdout + done.stderr)
    return Result(done.returncode, found, done.stderr)


def _parsed(output: str) -> Any:
    """Return the JSON document in OUTPUT, or the list of its JSON lines."""
    try:
        return json.loads(output)
    except ValueError:
        return [json.loads(line) for line in output.splitlines()]


def _hint(text: str | None) -> str:
    return f" ({text})" if text else ""


def read_ruff(report: Any) -> Iterator[Found]:
    """Read the output of `ruff check` and `ruff format --check`."""
    for item in report:
        fix = item["fix"] or {}
        hint = fix.get("message")
        if fix.get("applicability") == "safe":
            hint = f"--fix: {hint}" if hint else "--fix"
        rule = f"{item['code']} " if item["url"] else ""  # else it is a syntax error, or the formatter's
        yield item["filename"], item["location"]["row"], f"{rule}{item['message']}{_hint(hint or item['url'])}"


def read_sqlfluff(report: Any) -> Iterator[Found]:
    """Read the output of `sqlfluff lint`."""
    for file in report:
        for item in file["violations"]:
            message = f"{item['code']} {item['description']}{_hint(item.get('fixes') and '--fix')}"
            yield file["filepath"], item["start_line_no"], message


def read_shellcheck(report: Any) -> Iterator[Found]:
    """Read the output of shellcheck."""
    for item in report:
        rule = f"SC{item['code']}"
        hint = f"https://www.shellcheck.net/wiki/{rule}"
        yield item["file"], item["line"], f"{rule} {item['message']}{_hint(hint)}"


def read_hadolint(report: Any) -> Iterator[Found]:
    """Read the output of hadolint."""
    for item in report:
        hint = f"https://github.com/hadolint/hadolint/wiki/{item['code']}"
        yield item["file"], item["line"], f"{item['code']} {item['message']}{_hint(hint)}"


def read_actionlint(report: Any) -> Iterator[Found]:
    """Read the output of actionlint."""
    for item in report:
        yield item["filepath"], item["line"], f"{item['message']} [{item['kind']}]"


def read_zizmor(report: Any) -> Iterator[Found]:
    """Read the output of zizmor: each finding at its primary location."""
    for item in report:
        [place, *_] = [place for place in item["locations"] if place["symbolic"]["kind"] == "Primary"]
        path, line = place["symbolic"]["key"]["Local"]["verbatim_path"], place["concrete"]["location"]["start_point"]
        message = f"{item['ident']}: {item['desc']}: {place['symbolic']['annotation']}"
        yield path, line["row"] + 1, f"{message}{_hint(item['url'])}"


def read_rumdl(report: Any) -> Iterator[Found]:
    """Read the output of rumdl."""
    for item in report:
        yield item["file"], item["line"], f"{item['rule']} {item['message']}{_hint(item['fixable'] and '--fix')}"


def read_mypy(report: Any) -> Iterator[Found]:
    """Read the output of mypy."""
    for item in report:
        rule = f" [{item['code']}]" if item["code"] else ""
        yield item["file"], item["line"], f"{item['severity']}: {item['message']}{rule}{_hint(item['hint'])}"
