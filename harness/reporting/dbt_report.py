"""Report a dbt run from the files that it writes: counts, and for each failure its line, message and rows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from harness.project.paths import ROOT
from harness.reporting.annotations import Finding, annotate
from harness.reporting.summary import code, details, span, table, text

RESULTS, MANIFEST, FRESHNESS = "run_results.json", "manifest.json", "sources.json"
SHOWN = 20  # failures in full
SHOWN_ROWS = 10
CELL_CHARS = 200
ROWS_TIMEOUT = "30s"
PASSED = ("success", "pass", "no-op")


@dataclass(frozen=True)
class Result:
    """How one model, test or other node ended.

    Attributes:
        kind: `model`, `test`, `unit_test` …
        status: dbt's word: `success`, `pass`, `warn`, `fail`, `error`, `skipped` …
        path: its file, from the repository's root; None if the manifest does not have it.
        line: its line in that file.
        compiled: its statement, as the warehouse gets it.
        started_at: when it started; None if it was skipped.
        failing: of a test: how many rows fail it.
        tested: of a test: the model, seed or source that it tests; empty if it is not known.
    """

    name: str
    kind: str
    status: str
    message: str
    path: str | None
    line: int | None
    compiled: str
    taken_s: float
    started_at: datetime | None = None
    failing: int = 0
    tested: str = ""

    @property
    def failed(self) -> bool:
        """Whether it is a reason why the run failed; what was skipped is none."""
        return self.status not in (*PASSED, "warn", "skipped")

    def finding(self) -> Finding:
        """Return what is shown beside its line."""
        return Finding(self.path, self.line, f"dbt {self.kind} {self.name}: {self.status}", self.message)


def read(folder: Path) -> list[Result]:
    """Return the results that a run wrote to FOLDER, none if it wrote none; may raise OSError or ValueError."""
    if not (folder / RESULTS).exists():
        return []
    manifest = json.loads((folder / MANIFEST).read_text()) if (folder / MANIFEST).exists() else {}
    nodes = manifest.get("nodes", {}) | manifest.get("unit_tests", {})
    results = json.loads((folder / RESULTS).read_text())["results"]
    return [_result(result, nodes.get(result["unique_id"], {})) for result in results]


def stale_sources(folder: Path) -> list[str]:
    """Return the sources, `raw.events` for example, that a `dbt source freshness` which wrote to FOLDER found stale."""
    written = folder / FRESHNESS
    results = json.loads(written.read_text())["results"] if written.exists() else []
    return [result["unique_id"].split(".", 2)[2] for result in results if result["status"] == "error"]


def _result(result: Mapping[str, Any], node: Mapping[str, Any]) -> Result:
    kind, _, *names = result["unique_id"].split(".")
    message = (result["message"] or "").replace("\r", "").strip()
    path = f"dbt/{node['original_file_path']}" if node else None
    return Result(
        name=node.get("name") or ".".join(names),
        kind=kind,
        status=result["status"],
        message=message,
        path=path,
        line=line_of(ROOT / path, node, message) if path else None,
        compiled=result.get("compiled_code") or "",
        taken_s=result["execution_time"],
        started_at=min(
            (datetime.fromisoformat(step["started_at"]) for step in result.get("timing") or ()), default=None
        ),
        failing=result.get("failures") or 0,
        tested=_tested(node),
    )


def _tested(node: Mapping[str, Any]) -> str:
    """Return the name of what NODE, a test, tests: its model, or the last that it reads."""
    if node.get("resource_type") not in ("test", "unit_test"):
        return ""
    read = [node.get("attached_node"), *reversed(node.get("depends_on", {}).get("nodes", []))]
    return next((str(name).rpartition(".")[2] for name in read if name), "")


def line_of(file: Path, node: Mapping[str, Any], message: str = "") -> int:
    """Return the line of FILE that has NODE, or for a model the one that MESSAGE quotes; 1 if it is not found."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    if file.suffix == ".sql":
        quoted = re.search(r"^ *LINE \d+: (.*)", message, re.MULTILINE)  # by PostgreSQL
        return _below(lines, [re.escape(quoted[1].strip())]) if quoted else 1
    by_name = rf"(- )?name: {re.escape(node['name'])}"
    if any(re.fullmatch(by_name, line.strip()) for line in lines):
        return _below(lines, [by_name])
    generic = node.get("test_metadata") or {"kwargs": {}, "name": ""}
    tested = re.findall(r"'([^']+)'", generic["kwargs"].get("model", ""))  # ref('a'), or source('raw', 'a')
    names = [*tested, *filter(None, [node.get("column_name")])]
    return _below(lines, [*(rf"- name: {re.escape(name)}" for name in names), rf"- {re.escape(generic['name'])}:?"])


def _below(lines: Sequence[str], patterns: Sequence[str]) -> int:
    """Return the line of the last of PATTERNS that is found, each below the one before."""
    found = 0
    for pattern in patterns:
        places = (
            number for number, line in enumerate(lines) if number >= found and re.fullmatch(pattern, line.strip())
        )
        found = next(places, found - 1) + 1
    return max(found, 1)


def headline(results: Sequence[Result]) -> str:
    """Return the number of failures, if any, and of each kind of node."""
    failed = [result for result in results if result.failed]
    kinds = {kind: sum(r.kind == kind for r in results) for kind in dict.fromkeys(r.kind for r in results)}
    counts = ", ".join(f"{count} {kind.replace('_', ' ')}{'s' if count > 1 else ''}" for kind, count in kinds.items())
    return f"{len(failed)} failed of {counts}" if failed else counts


def report(results: Sequence[Result], dsn: str) -> list[str]:
    """Return Markdown about RESULTS, and annotate the lines of failures; the rows that fail tests are read by DSN."""
    failed = [result for result in results if result.failed]
    warned = [result for result in results if result.status == "warn"]
    skipped = [result for result in results if result.status == "skipped"]
    more = len(failed) + len(warned) - SHOWN
    return [
        annotate([result.finding() for result in failed]),
        *(_block(result, dsn) for result in (*failed, *warned)[:SHOWN]),
        f"… and {more} more: see the log." if more > 0 else "",
        f"Skipped, because what they need failed: {_named(skipped)}." if skipped else "",
        _counts(results) if results else "",
    ]


def _named(skipped: Sequence[Result]) -> str:
    models = [span(result.name) for result in skipped if result.kind == "model"]
    others = len(skipped) - len(models)
    return ", ".join([*models, *([f"{others} test{'s' if others > 1 else ''}"] if others else [])])


def _counts(results: Sequence[Result]) -> str:
    columns = {"passed": PASSED, "warned": ("warn",), "skipped": ("skipped",)}
    rows = []
    for kind in dict.fromkeys(result.kind for result in results):
        of_kind = [result for result in results if result.kind == kind]
        counts = [sum(result.status in statuses for result in of_kind) for statuses in columns.values()]
        failed = sum(result.failed for result in of_kind)
        rows.append((kind.replace("_", " "), *counts, failed, f"{sum(result.taken_s for result in of_kind):.1f}"))
    header = ("dbt", *columns, "failed", "seconds")
    return table(header, rows, numbers=header[1:])


def _block(result: Result, dsn: str) -> str:
    place = result.finding().place
    parts = [f"### dbt {result.kind.replace('_', ' ')} {text(result.name)}: {result.status}"]
    parts += [f"at {span(place)}"] if place else []
    parts += [code(result.message)] if result.message else []
    if result.kind == "test" and result.compiled and result.status in ("fail", "warn"):
        parts.append(failing_rows(result.compiled, dsn))
    if result.compiled:
        parts.append(details("The statement", code(result.compiled.strip(), first=80)))
    parts.append(f"Run it alone, on the sample: {span(f'nox -s dbt -- build --select +{result.name}')}")
    return "\n\n".join(parts)


def failing_rows(compiled: str, dsn: str) -> str:
    """Return a table of the first rows that the statement of a test selects, or why they cannot be read."""
    try:
        header, cells = select_failing(compiled, dsn)
    except (psycopg.Error, UnicodeError) as error:
        return f"The rows that fail it cannot be read: {text(next(iter(str(error).splitlines()), ''))}"
    return f"The rows that fail it, at most {SHOWN_ROWS}:\n\n{table([text(name) for name in header], cells)}"


def select_failing(compiled: str, dsn: str) -> tuple[list[str], list[list[str]]]:
    """Return the names and the first rows that a test's statement selects; may raise psycopg.Error, UnicodeError."""
    with psycopg.connect(dsn, connect_timeout=10) as connection:
        connection.read_only = True
        connection.execute(sql.SQL("set local statement_timeout = {}").format(ROWS_TIMEOUT))
        query = f"select * from (\n{compiled}\n) as failing limit {SHOWN_ROWS}"  # noqa: S608 - dbt's own
        cursor = connection.execute(query.encode())
        rows = cursor.fetchall()
        header = [column.name for column in cursor.description or ()]
    return header, [["null" if value is None else str(value)[:CELL_CHARS] for value in row] for row in rows]
