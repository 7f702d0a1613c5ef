r"""Measure the load beside `psql \copy`, pandas and the usual tools: the first part of `nox -s bench -- load`.

Each is given the same rows, in turn, and its best time of ROUNDS counts.
"""

from pathlib import Path

import psycopg

from harness.commands.bench import days, mixed, tools
from harness.commands.bench.common import EVENTS, TABLE, Bench, Figure, at_least, at_most, checkpoint, seconds
from harness.reporting.console import Phases

LARGE_FACTOR = 10
BAD_SHARE = 0.001


class LoadBench(Bench):
    """Ways to load a file into an empty warehouse."""

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
    copy = f"\\copy plain from '{clean}' with (format csv, header, delimiter ';')"
    psql_s: list[float] = []
    load_s: list[float] = []
    bad_s: list[float] = []
    memory_mb: list[float] = []
    for number in range(rounds):
        with phases.phase(f"round {number}") as phase:
            psql_s.append(bench.psql_copy(copy, TABLE))
            turns = [(clean, load_s), (bad, bad_s)]
            for path, times in turns[:: 1 - 2 * (number % 2)]:  # the second of the two has more to wait for
                measured = bench.load_alone(EVENTS, path)
                times.append(measured["seconds"])
                memory_mb.append(measured["memory_mb"])
            phase.text = f"psql {psql_s[-1]:.1f} s, load {load_s[-1]:.1f} s, with bad rows {bad_s[-1]:.1f} s"
    bad.unlink()
    with phases.phase("pandas") as phase:
        pandas_s = bench.pandas(clean)
        phase.text = f"pandas.to_sql {pandas_s:.0f} s"
    of_tools = tools.measure(
        tools.ToolsBench(bench.server, bench.directory, bench.programs), clean, events, min(load_s), phases
    )
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
    figures += of_tools
    figures += mixed.measure(bench, max(1000, events // 5), rounds, phases)
    figures += days.measure(bench, events, rounds, phases)
    if large:
        with phases.phase("large file") as phase:
            path = bench.generate("large.csv", large)
            measured = bench.load_alone(EVENTS, path)
            path.unlink()
            phase.text = f"{large:,} events loaded in {measured['seconds']:.1f} s"
        memory_mb.append(measured["memory_mb"])
        figures.append(Figure(f"load, {large:,} events", round(large / measured["seconds"]), "rows/s"))
        figures.append(
            at_least(f"{large:,} events against {events:,}, rows/s", large / measured["seconds"] / speed, 0.8)
        )
    figures.append(at_most("memory of the loading process, at its peak", max(memory_mb), 150, "MB"))
    return figures
