r"""Measure the load beside `psql \copy` and pandas: the first part of `nox -s bench -- load`.

Each is given the same rows, in turn, and its best time of ROUNDS counts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg

from harness.commands.bench import days
from harness.commands.bench.common import TABLE, Bench, Figure, at_least, at_most, checkpoint, seconds
from harness.reporting.console import Phases

LARGE_FACTOR = 10
BAD_SHARE = 0.001
# In a process that does nothing else, like a task's, so that its memory is the load's.
LOAD_ALONE = """
import json, os, re, resource, sys, time
from feeds.load import load
began = time.monotonic()
load(sys.argv[1], os.environ["LOADER_DSN"])
seconds = time.monotonic() - began
if sys.platform == "linux":  # ru_maxrss has the peak of the process that started this one, too
    peak = int(re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]) / 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
print(json.dumps({"seconds": seconds, "memory_mb": peak}))
"""


class LoadBench(Bench):
    """Ways to load a file into an empty warehouse."""

    def load_alone(self, path: Path) -> dict[str, float]:
        """Load PATH into an empty warehouse in its own process; return its seconds and its peak memory in MB."""
        with self.warehouse() as warehouse:
            checkpoint(warehouse)
            env = os.environ | {"LOADER_DSN": warehouse.loader_dsn}
            out = subprocess.run(
                [sys.executable, "-c", LOAD_ALONE, path], env=env, check=True, capture_output=True, text=True
            ).stdout
        measured: dict[str, float] = json.loads(out)
        return measured

    def psql_copy(self, path: Path) -> float:
        r"""Return how many seconds `psql \copy` of PATH into an empty table with the same key takes."""
        with self.warehouse() as warehouse:
            with psycopg.connect(warehouse.admin_dsn) as connection:
                connection.execute(TABLE)
            checkpoint(warehouse)
            copy = f"\\copy plain from '{path}' with (format csv, header, delimiter ';')"
            return seconds(lambda: self.psql(warehouse, copy))

    def pandas(self, path: Path) -> float:
        """Return how many seconds pandas.to_sql of PATH into the same table takes, with its default settings."""
        import pandas as pd  # type: ignore[import-untyped]
        import sqlalchemy

        with self.warehouse() as warehouse:
            with psycopg.connect(warehouse.admin_dsn) as connection:
                connection.execute(TABLE)
            checkpoint(warehouse)
            engine = sqlalchemy.create_engine(warehouse.admin_dsn)

            def write() -> None:
                frame = pd.read_csv(path, sep=";", parse_dates=["created_at"])
                frame.to_sql("plain", engine, if_exists="append", index=False)

            try:
                return seconds(write)
            finally:
                engine.dispose()


def measure(bench: LoadBench, events: int, large: int, rounds: int) -> list[Figure]:
    """Return all figures."""
    phases = Phases()
    with phases.phase("files made") as phase:
        clean = bench.generate("clean.csv", events)
        bad = bench.generate("bad.csv", events, "--bad", str(BAD_SHARE))
        phase.text = f"files made: {events:,} events, {clean.stat().st_size / events:.0f} bytes a row"
    psql_s: list[float] = []
    load_s: list[float] = []
    bad_s: list[float] = []
    memory_mb: list[float] = []
    for number in range(rounds):
        with phases.phase(f"round {number}") as phase:
            psql_s.append(bench.psql_copy(clean))
            turns = [(clean, load_s), (bad, bad_s)]
            for path, times in turns[:: 1 - 2 * (number % 2)]:  # the second of the two has more to wait for
                measured = bench.load_alone(path)
                times.append(measured["seconds"])
                memory_mb.append(measured["memory_mb"])
            phase.text = f"psql {psql_s[-1]:.1f} s, load {load_s[-1]:.1f} s, with bad rows {bad_s[-1]:.1f} s"
    bad.unlink()
    with phases.phase("pandas") as phase:
        pandas_s = bench.pandas(clean)
        phase.text = f"pandas.to_sql {pandas_s:.0f} s"
    clean.unlink()
    speed = events / min(load_s)
    figures = [
        Figure("load, clean file", round(speed), "rows/s"),
        Figure("psql \\copy into a table with the same key", round(events / min(psql_s)), "rows/s"),
        Figure("pandas.to_sql", round(events / pandas_s), "rows/s"),
        at_least("load against psql \\copy", min(psql_s) / min(load_s), 0.9),
        at_least("load against pandas.to_sql", pandas_s / min(load_s), 12),
        at_least("0.1% bad rows against the clean file", min(load_s) / min(bad_s), 0.6),
    ]
    figures += days.measure(bench, events, rounds, phases)
    if large:
        with phases.phase("large file") as phase:
            path = bench.generate("large.csv", large)
            measured = bench.load_alone(path)
            path.unlink()
            phase.text = f"{large:,} events loaded in {measured['seconds']:.1f} s"
        memory_mb.append(measured["memory_mb"])
        figures.append(Figure(f"load, {large:,} events", round(large / measured["seconds"]), "rows/s"))
        figures.append(
            at_least(f"{large:,} events against {events:,}, rows/s", large / measured["seconds"] / speed, 0.8)
        )
    figures.append(at_most("memory of the loading process, at its peak", max(memory_mb), 150, "MB"))
    return figures
