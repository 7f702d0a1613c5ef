"""Measure the usual tools on the same rows as the load: dlt, sling and ingestr. None of them checks the rows.

Each reads the CSV file with commas, which all understand, into a new table, as its documentation does it.
"""

import os
import platform
import subprocess
from pathlib import Path

from harness.commands.bench.common import Bench, Figure, at_least, seconds
from harness.project.environments import python_of
from harness.reporting.console import Phases
from harness.warehouse.roles import Warehouse

TABLE = "public.of_tool"
DLT = """
import os, sys
import dlt
import pyarrow.csv

pipeline = dlt.pipeline("bench", destination=dlt.destinations.postgres(os.environ["DSN"]), dataset_name="of_dlt")
pipeline.run(pyarrow.csv.open_csv(sys.argv[1]), table_name="of_tool", write_disposition="replace")
"""


class ToolsBench(Bench):
    """The tools, each into an empty warehouse."""

    def seconds_of(self, tool: str, path: Path) -> float:
        """Return how many seconds TOOL takes to load PATH into an empty warehouse."""
        with self.warehouse() as warehouse:
            argv, env = self._command(tool, path, warehouse)
            home = self.directory / "home"  # of their settings and state
            home.mkdir(exist_ok=True)
            environment = (
                os.environ | env | {"HOME": str(home), "DO_NOT_TRACK": "1", "RUNTIME__DLTHUB_TELEMETRY": "false"}
            )
            return seconds(lambda: subprocess.run(argv, env=environment, check=True, capture_output=True, cwd=home))

    def _command(self, tool: str, path: Path, warehouse: Warehouse) -> tuple[list[str], dict[str, str]]:
        python, dsn = python_of("tools"), f"{warehouse.admin_dsn}?sslmode=disable"
        if tool == "dlt":
            return [str(python), "-c", DLT, str(path)], {"DSN": dsn}
        if tool == "ingestr":
            source = ("--source-uri", f"csv://{path}", "--source-table", "of_tool")
            target = ("--dest-uri", dsn, "--dest-table", TABLE, "--yes", "--progress", "log")
            return [str(python.with_name("ingestr")), "ingest", *source, *target], {}
        [program] = python.parents[1].glob("lib/python*/site-packages/sling_linux_amd64/bin/sling-linux-amd64")
        stream = ("--src-stream", f"file://{path}", "--tgt-conn", "WAREHOUSE", "--tgt-object", TABLE)
        return [str(program), "run", *stream, "--mode", "full-refresh"], {"WAREHOUSE": dsn}


def measure(bench: ToolsBench, clean: Path, events: int, load_s: float, phases: Phases) -> list[Figure]:
    """Return the figures of the tools beside a load of the file CLEAN, of EVENTS rows, that took LOAD_S seconds."""
    tools = ["dlt", "ingestr"]
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):  # of the wheel
        tools.append("sling")
    path = bench.directory / "of_tools.csv"
    path.write_bytes(clean.read_bytes().replace(b";", b","))
    figures = []
    for tool in tools:
        with phases.phase(tool) as phase:
            tool_s = bench.seconds_of(tool, path)
            phase.text = f"{tool} {tool_s:.1f} s"
        figures.append(Figure(tool, round(events / tool_s), "rows/s"))
        figures.append(at_least(f"load against {tool}", tool_s / load_s, 1))
    path.unlink()
    return figures
