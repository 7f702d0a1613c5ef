"""Tell what a dbt run did, from the files that it writes: counts, and for each failure its place, message and rows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from harness.project.paths import ROOT
from harness.reporting.annotations import Finding, annotate
from harness.reporting.summary import code, details, span, table, text

RESULTS, MANIFEST = "run_results.json", "manifest.json"
SHOWN = 20  # failures in full
SHOWN_ROWS = 10
CELL_CHARS = 200
ROWS_TIMEOUT = "30s"
WENT_WELL = ("success", "pass", "no-op", "warn")


@dataclass(frozen=True)
class Result:
    """How one model, test or other node ended.

    Attributes:
        kind: `model`, `test`, `unit_test` …
        status: dbt's word: `success`, `pass`, `warn`, `fail`, `error`, `skipped` …
        path: its file, from the repository's root; None where the manifest does not know.
        line: its line in there.
        compiled: the statement that it is, as the warehouse gets it.
    """

    name: str
    kind: str
    status: str
    message: str
    path: str | None
    line: int | None
    compiled: str
    taken_s: float

    @property
    def failed(self) -> bool:
        """Whether it is one of those that the run fails for; what was skipped is so for another one."""
        return self.status not in (*WENT_WELL, "skipped")

    def finding(self) -> Finding:
        """Return what is shown beside its line."""
        return Finding(self.path, self.line, f"dbt {self.kind} {self.name}: {self.status}", self.message)


def read(folder: Path) -> list[Result]:
    """Return what the run whose files are in FOLDER did; nothing where it came to nothing.

    Raises:
        OSError, ValueError: the files cannot be read.
    """
    if not (folder / RESULTS).exists():
        return []
    manifest = json.loads((folder / MANIFEST).read_text()) if (folder / MANIFEST).exists() else {}
    nodes = manifest.get("nodes", {}) | manifest.get("unit_tests", {})
    return [
        _result(told, nodes.get(told["unique_id"], {}))
        for told in json.loads((folder / RESULTS).read_text())["results"]
    ]


def _result(told: Mapping[str, Any], node: Mapping[str, Any]) -> Result:
    kind, _, *names = told["unique_id"].split(".")
    message = (told["message"] or "").replace("\r", "").strip()
    path = f"dbt/{node['original_file_path']}" if node else None
    return Result(
        name=node.get("name") or ".".join(names),
        kind=kind,
        status=told["status"],
        message=message,
        path=path,
        line=_line(ROOT / path, node, message) if path else None,
        compiled=told.get("compiled_code") or "",
        taken_s=told["execution_time"],
    )


def _line(file: Path, node: Mapping[str, Any], message: str) -> int:
    """Return the line of FILE that NODE is in, or for a model that MESSAGE is about; 1 where it is not found."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    if file.suffix == ".sql":
        named = re.search(r"^ *LINE \d+: (.*)", message, re.MULTILINE)  # PostgreSQL's own
        return _below(lines, [re.escape(named[1].strip())]) if named else 1
    by_name = [rf"(- )?name: {re.escape(node['name'])}"]
    if any(re.fullmatch(by_name[0], line.strip()) for line in lines):
        return _below(lines, by_name)
    generic = node.get("test_metadata") or {"kwargs": {}, "name": ""}
    tested = re.findall(r"'([^']+)'", generic["kwargs"].get("model", ""))  # ref('a'), or source('raw', 'a')
    names = [*tested, *filter(None, [node.get("column_name")])]
    return _below(lines, [*(rf"- name: {re.escape(name)}" for name in names), rf"- {re.escape(generic['name'])}:?"])


def _below(lines: Sequence[str], patterns: Sequence[str]) -> int:
    """Return the line of the last of PATTERNS, each looked for below the one before, as far as they are found."""
    found = 0
    for pattern in patterns:
        places = (
            number for number, line in enumerate(lines) if number >= found and re.fullmatch(pattern, line.strip())
        )
        found = next(places, found - 1) + 1
    return max(found, 1)


def headline(results: Sequence[Result]) -> str:
    """Return how much of what there was, and what failed of it."""
    failed = [result for result in results if result.failed]
    kinds = {kind: sum(r.kind == kind for r in results) for kind in dict.fromkeys(r.kind for r in results)}
    counts = ", ".join(f"{count} {kind.replace('_', ' ')}{'s' if count > 1 else ''}" for kind, count in kinds.items())
    return f"{len(failed)} failed of {counts}" if failed else counts


def tell(results: Sequence[Result], dsn: str) -> list[str]:
    """Return Markdown about RESULTS, and show failures beside their lines; DSN gives the rows that fail tests."""
    failed = [result for result in results if result.failed]
    warned = [result for result in results if result.status == "warn"]
    skipped = [result for result in results if result.status == "skipped"]
    more = len(failed) + len(warned) - SHOWN
    return [
        annotate([result.finding() for result in failed]),
        *(_block(result, dsn) for result in (*failed, *warned)[:SHOWN]),
        f"… and {more} more: the log has all." if more > 0 else "",
        f"Skipped, because what they need failed: {_named(skipped)}." if skipped else "",
        _counts(results) if results else "",
    ]


def _named(skipped: Sequence[Result]) -> str:
    models = [span(result.name) for result in skipped if result.kind == "model"]
    others = len(skipped) - len(models)
    return ", ".join([*models, *([f"{others} tests"] if others else [])])


def _counts(results: Sequence[Result]) -> str:
    columns = {"well": ("success", "pass", "no-op"), "warned": ("warn",), "skipped": ("skipped",)}
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
    told = [f"### dbt {result.kind.replace('_', ' ')} {text(result.name)}: {result.status}"]
    told += [f"at {span(place)}"] if place else []
    told += [code(result.message)] if result.message else []
    if result.kind == "test" and result.compiled and result.status in ("fail", "warn"):
        told.append(failing_rows(result.compiled, dsn))
    if result.compiled:
        told.append(details("The statement", code(result.compiled.strip(), first=80)))
    told.append(f"By itself, on the sample: {span(f'nox -s dbt -- build --select +{result.name}')}")
    return "\n\n".join(told)


def failing_rows(compiled: str, dsn: str) -> str:
    """Return a table of the first rows of a test's statement, or why they cannot be had."""
    try:
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            connection.read_only = True
            connection.execute(sql.SQL("set local statement_timeout = {}").format(ROWS_TIMEOUT))
            query = f"select * from (\n{compiled}\n) as failing limit {SHOWN_ROWS}"  # noqa: S608 - dbt's own
            cursor = connection.execute(query.encode())
            rows = cursor.fetchall()
            header = [column.name for column in cursor.description or ()]
    except psycopg.Error as error:
        return f"The rows that fail it cannot be had: {text(next(iter(str(error).splitlines()), ''))}"
    cells = [["null" if value is None else str(value)[:CELL_CHARS] for value in row] for row in rows]
    return f"The rows that fail it, at most {SHOWN_ROWS}:\n\n{table([text(name) for name in header], cells)}"
