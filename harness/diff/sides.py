"""One side of a comparison: a dbt project, the warehouse that it is built in, and the process of dbt that builds it."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from harness.diff.project import Node, Project
from harness.diff.results import Build
from harness.diff.sentences import listed
from harness.errors import BaseFailedError, DbtFailedError, HarnessError
from harness.processes.dbt_process import Dbt, Process
from harness.reporting import dbt_report
from harness.reporting.summary import code, details
from harness.warehouse.roles import Warehouse

TARGET = "prod"  # schemas have their plain names
SHOWN = 3  # names of what failed
ROWS_READ = "~ rows read "
_BEFORE = re.compile(r"^\d\d:\d\d:\d\d +(\[\w+\]:? )?")  # of a line of dbt's log


@dataclass
class Side:
    """One side.

    Attributes:
        name: `base` or `branch`.
        title: the same as the subject of an error: `The base, v1.2 (0123abcd),`.
        folder: the root of its files.
        python: of the environment of dbt that its lock describes.
        artifacts: where dbt writes.
        builds: of each model, the last one.
    """

    name: str
    title: str
    folder: Path
    python: Path
    artifacts: Path
    warehouse: Warehouse
    builds: dict[str, Build] = field(default_factory=dict)
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self.process = Process(str(self.python))

    @property
    def is_base(self) -> bool:
        """Whether it is the base."""
        return self.name == "base"

    @property
    def dbt(self) -> Dbt:
        """How dbt is run."""
        env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        env |= {"DBT_TARGET": TARGET, "DBT_USE_COLORS": "false", **self.warehouse.dbt_env()}
        return Dbt(self.process, env, self.artifacts, self.folder / "dbt", bare=True, counts=True)

    def start(self, arguments: str) -> None:
        """Start `dbt ARGUMENTS`; `wait` waits for its end."""
        (self.dbt.artifacts / dbt_report.RESULTS).unlink(missing_ok=True)
        self.dbt.start(arguments)

    def wait(self, what: str) -> None:
        """Wait until dbt has ended; raise the error for WHAT if it failed."""
        if self.dbt.wait() != "exit code 0":
            raise self.failed(what)

    def parse(self) -> Project:
        """Return the project that `dbt parse`, which was started, has read."""
        self.wait("cannot be parsed")
        manifest: dict[str, Any] = json.loads((self.dbt.artifacts / dbt_report.MANIFEST).read_text(encoding="utf-8"))
        return Project(self.folder, manifest)

    def start_build(self, names: Iterable[str], *, full_refresh: bool) -> None:
        """Start the build of the nodes NAMES."""
        options = "--full-refresh" if full_refresh else ""
        types = "--exclude-resource-type test --exclude-resource-type unit_test"
        self.start(f"build --quiet {types} {options} --select {' '.join(sorted(names))}")

    def wait_for_build(self, what: str) -> None:
        """Wait until the build has ended, and note what it took; raise the error for WHAT if it failed."""
        self.wait(what)
        scanned = {}
        for line in self.dbt.output.splitlines():
            if line.startswith(ROWS_READ):
                node, rows = line.removeprefix(ROWS_READ).split()
                scanned[node.split(".", 2)[2]] = int(rows)
        for result in dbt_report.read(self.dbt.artifacts):
            if result.kind == "model":
                self.builds[result.name] = Build(round(result.taken_s, 3), scanned.get(result.name))

    def failed(self, what: str) -> HarnessError:
        """Return the error for dbt, which has failed, of WHAT: BaseFailedError, or DbtFailedError for the branch."""
        # By name: dbt's threads end in any order.
        results = sorted(
            (result for result in dbt_report.read(self.dbt.artifacts) if result.failed), key=lambda r: r.name
        )
        names = listed([result.name for result in results], SHOWN)
        output = "".join(line for line in self.process.output if not line.startswith(ROWS_READ))
        line = said(results[0].message if results else output)
        what = f"{self.title} {what}: {names} failed." if names else f"{self.title} {what}."
        evidence = [
            *(code(f"{result.name}: {result.message}") for result in results[:SHOWN]),
            details("dbt's output", code(output, last=60)),
        ]
        why = f"dbt says: {line}"
        if self.is_base:
            return BaseFailedError(what, why, "Compare with a commit that builds: nox -s diff -- --base REF", evidence)
        selected = " ".join(f"+{result.name}" for result in results[:SHOWN])
        next_step = f"Build it alone: nox -s dbt -- build{f' --select {selected}' if selected else ''}"
        return DbtFailedError(what, why, next_step, evidence)

    def drop(self, nodes: Iterable[Node]) -> None:
        """Drop the tables and views of NODES, so that they are built as on an empty warehouse."""
        with psycopg.connect(self.warehouse.admin_dsn) as connection:
            for node in nodes:
                relation = sql.Identifier(node["schema"], node["alias"])
                found = connection.execute(
                    "select relkind from pg_class where oid = to_regclass(%s)", [relation.as_string(connection)]
                ).fetchone()
                if found:
                    kind = sql.SQL({"v": "view", "m": "materialized view"}.get(found[0], "table"))
                    connection.execute(sql.SQL("drop {} {} cascade").format(kind, relation))

    def end(self) -> None:
        """End dbt's process."""
        self.process.kill()


def said(output: str) -> str:
    """Return what dbt says of a failure in OUTPUT: its first line, and the next if that only says where it was."""
    lines = [_BEFORE.sub("", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line and line != "Encountered an error:"]
    if len(lines) > 1 and re.match(r"\w+ Error( in |$)", lines[0]):
        return f"{lines[1]} ({lines[0]})"[:400]
    return lines[0][:400] if lines else "nothing"


def build_both(
    sides: Iterable[tuple[Side, Iterable[str]]], *, full_refresh: bool, what: str = "does not build"
) -> None:
    """Build the nodes of each of SIDES at the same time; raise the error for WHAT if one fails, the base's first."""
    started = []
    for side, names in sides:
        if names := list(names):
            side.start_build(names, full_refresh=full_refresh)
            started.append(side)
    for side in started:
        side.wait_for_build(what)
