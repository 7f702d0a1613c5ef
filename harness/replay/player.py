"""Play a delivery script without Airflow: the load and dbt as the tasks run them, checked after every run.

A run that `retried` or `fails` breaks while the load reads its file. One whose `build_killed` has loaded when dbt's
process is killed at a statement; the next build then has two loads to process.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from feeds import lineage
from feeds.contract import Feed
from feeds.errors import FeedError
from feeds.interval import Interval
from feeds.ledger import LoadResult
from feeds.pipeline_run import built_models, load_run
from feeds.settings import variable
from feeds.tables import create_others, create_tables
from harness.errors import DbtFailedError
from harness.oracle.expected_numbers import Rows
from harness.oracle.row_values import Row
from harness.processes.dbt_process import Dbt, Process
from harness.processes.environment import environment
from harness.project.environments import python_of
from harness.replay.comparison import Comparison, Difference, Settled
from harness.replay.delivered_file import DeliveredFile, Line, as_csv_feed
from harness.replay.expected_table import ExpectedTable
from harness.replay.script import Delivery, Run, Script, interval_of
from harness.warehouse.roles import Warehouse, copy_warehouse, drop_warehouse

DATABASE = "replay"  # of each play, so that dbt's parse of the project, which has the name in it, holds
VIEWS = ("staging", "feed_days")  # they are in the template, and stay as they are
BUILD = ("run", "--quiet", "--log-level-file", "none")
ONLY_TABLES = ("--no-write-json", "--exclude", *VIEWS)
DISABLED = "OPENLINEAGE_DISABLED"
SUCCESS = "exit code 0"
PARAMS = {"start": None, "end": None, "max_rejected": None, "allow_empty": False}  # of a run that nobody changed


@dataclass(frozen=True)
class DagRun:
    """A run, with the attributes of Airflow's that decide what it loads."""

    dag_id: str
    run_id: str
    run_type: str
    data_interval_start: datetime | None
    data_interval_end: datetime | None

    @property
    def ledger_id(self) -> str:
        """What the ledger has as its run."""
        return f"{self.dag_id} {self.run_id}"


class BrokenOff(Exception):  # noqa: N818 - not an error: the script says so
    """The load breaks off here, as the script says."""


@dataclass
class Player:
    """Plays scripts on copies of TEMPLATE, a warehouse with the raw tables and VIEWS.

    Attributes:
        processes: two that run dbt; the second is for builds beside others.
        progress: called before each delivery.
        runs: the number of runs of the last play.
        seconds: what each part of it took.
        settled: how its days have settled.
        look: called with the warehouse of a play before it is dropped, and with what its marts must have.
        emits: whether the runs of a script's last day emit lineage events, if the environment says where to. Those of a
            year would be 15,000, 160 MB, and say the same again and again.
    """

    template: Warehouse
    feed: Feed
    folder: Path
    processes: Sequence[Process]
    progress: Callable[[Delivery], None] = lambda _: None
    runs: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    settled: Settled = field(default_factory=dict)
    emits: bool = True
    look: Callable[[Warehouse, Mapping[str, Rows]], None] = lambda *_: None

    def play(self, script: Script) -> None:
        """Play SCRIPT on an empty warehouse; raise Difference at the first run after which a table is wrong."""
        warehouse = copy_warehouse(self.template, DATABASE)
        play = _Play(self, warehouse)
        try:
            play.play(script)
        finally:
            self.look(warehouse, play.comparison.marts)
            drop_warehouse(warehouse)

    def build_views(self) -> None:
        """Build the models of the template that read only raw tables."""
        dbt = self.dbts(self.template)[0]
        dbt.start(["run", "--quiet", "--select", *VIEWS])
        if (end := dbt.wait()) != SUCCESS:
            lines = dbt.output.strip().splitlines()
            raise DbtFailedError(
                f"dbt ended with {end}, before the first run.",
                lines[-1] if lines else "It printed nothing.",
                "Run the models' own tests: nox -s dbt",
                ["\n".join(lines[-40:])],
            )

    def dbts(self, warehouse: Warehouse) -> list[Dbt]:
        """Return two dbts on WAREHOUSE, in a process each."""
        env = {"PATH": os.environ["PATH"], "DBT_TARGET": "prod", **warehouse.dbt_env()}
        return [Dbt(process, env, self.folder / f"dbt{number}") for number, process in enumerate(self.processes)]


@contextmanager
def open_player(
    template: Warehouse, feed: Feed, feeds: Iterable[Feed], processes: Sequence[Process] = ()
) -> Iterator[Player]:
    """Yield a player of FEED, one of FEEDS, that plays on copies of TEMPLATE, a new warehouse.

    dbt runs in PROCESSES, the second for builds beside others; by default in new ones, which are then ended.
    """
    own = [] if processes else [Process(str(python_of("dbt"))) for _ in range(2)]
    create_tables(template.loader_dsn, as_csv_feed(feed))
    create_others(template.loader_dsn, (other for other in feeds if other.name != feed.name))
    with TemporaryDirectory(prefix="replay-") as folder:
        player = Player(template, as_csv_feed(feed), Path(folder), processes or own)
        try:
            player.build_views()
            yield player
        finally:
            for process in own:
                process.end()


@dataclass
class _Play:
    """One play of a script on WAREHOUSE."""

    player: Player
    warehouse: Warehouse
    day: date = date.min  # of the delivery

    def __post_init__(self) -> None:
        player = self.player
        self.dbts = player.dbts(self.warehouse)
        self.file = DeliveredFile(player.feed)
        self.path = player.folder / "file.csv"
        self.table = ExpectedTable(player.feed)
        self.built: dict[Any, Row] | None = {}  # the raw table's rows when the models were built; None if some were not
        self.comparison = Comparison(player.feed, self.warehouse)
        self.loads = 0
        player.runs, player.seconds = 0, dict.fromkeys(("loads", "builds", "checks"), 0.0)
        player.settled = self.comparison.settled

    def play(self, script: Script) -> None:
        settings = {variable(self.player.feed, name): "" for name in ("MAX_REJECTED", "NOT_BEFORE", "BEFORE")}
        on_last_day = {DISABLED: os.environ.get(DISABLED, "") if self.player.emits else "true"}
        with environment({**settings, variable(self.player.feed, "URI"): str(self.path), DISABLED: "true"}):
            for delivery in script.deliveries:
                with environment(on_last_day if delivery is script.deliveries[-1] else {}):
                    self._play(delivery)

    def _play(self, delivery: Delivery) -> None:
        self.day = delivery.day
        self.player.progress(delivery)
        lines = self.file.change(delivery)
        self.path.unlink(missing_ok=True)
        if lines is not None:
            self.path.write_bytes(self.file.content(delivery, lines))
        runs = list(delivery.runs)
        while runs:
            beside = [runs.pop(0)]
            self.player.runs += 1
            if beside[0].is_beside and runs:
                beside.append(runs.pop(0))
                self.player.runs += 1
                self._run_beside(delivery, beside, lines)
            else:
                self._run(delivery, beside[0], lines)

    def _run(self, delivery: Delivery, run: Run, lines: list[Line] | None) -> None:
        """Run it as often as the script says, and check everything each time."""
        for attempt in {"twice": ("", ""), "retried": ("breaks", ""), "fails": ("breaks",)}.get(run.outcome, ("",)):
            has_loaded = self._load(delivery, run, lines, breaks=bool(attempt))
            if has_loaded and run.outcome == "build_killed":
                self._kill_build(delivery, run)
            elif has_loaded:
                self._build(delivery, run)
            self._check(delivery, run)

    def _run_beside(self, delivery: Delivery, runs: Sequence[Run], lines: list[Line] | None) -> None:
        """Run RUNS at the same time: their loads, and then their builds."""
        dag_runs = {dag_run.ledger_id: dag_run for dag_run in (self._dag_run(run, delivery) for run in runs)}
        with self._timed("loads"), ThreadPoolExecutor(len(runs)) as pool:
            has_loaded = any(list(pool.map(self._try_load, dag_runs.values())))
        with psycopg.connect(self.warehouse.loader_dsn) as connection:
            query = "select run_id from raw.loads where run_id = any(%s) order by ended_at"
            in_order = [run_id for (run_id,) in connection.execute(query, (list(dag_runs),))]
        for run_id in in_order:
            self._expect_load(delivery, dag_runs[run_id], lines)
        if has_loaded:
            with self._timed("builds"):
                for dbt in self.dbts:
                    self._start(dbt)
                ends = [dbt.wait() for dbt in self.dbts]  # both, before one is reported
                for dbt, end in zip(self.dbts, ends, strict=True):
                    self._check_build(dbt, end, delivery, runs[-1])
            self.built = self.table.rows
        self._check(delivery, runs[-1])

    def _load(self, delivery: Delivery, run: Run, lines: list[Line] | None, *, breaks: bool) -> bool:
        """Load, and check what the ledger says of it; return whether it has succeeded."""
        dag_run = self._dag_run(run, delivery)
        with self._timed("loads"):
            result = self._try_load(dag_run, breaks=breaks)
        self._expect_load(delivery, dag_run, None if breaks and lines else lines)
        return result is not None

    def _dag_run(self, run: Run, delivery: Delivery) -> DagRun:
        """Return RUN as the scheduler makes it, or as a user who starts it by hand."""
        self.loads += 1
        interval = interval_of(run, delivery.day)
        run_type = "manual" if run.cadence == "manual" else "scheduled"
        dag_id = f"{self.player.feed.name}_pipeline_{run.cadence}"
        return DagRun(dag_id, f"{run_type}__{self.loads}", run_type, interval.start, interval.end)

    def _expect_load(self, delivery: Delivery, run: DagRun, lines: list[Line] | None) -> None:
        """Load LINES into the expected table, and check the ledger; the load has failed if they are None."""
        interval = Interval(run.data_interval_start, run.data_interval_end)
        expected = None if lines is None else self.table.load(lines, interval)
        with self._timed("checks"):
            cadence = run.dag_id.rpartition("_")[2]
            self.comparison.check_ledger((delivery.day, cadence), run.ledger_id, expected)

    def _try_load(self, run: DagRun, *, breaks: bool = False) -> LoadResult | None:
        def report(_: str) -> None:
            if breaks:
                raise BrokenOff

        try:
            return load_run(
                self.player.feed,
                self.warehouse.loader_dsn,
                {"dag_run": run, "params": PARAMS},
                report=report,
                report_every_s=0 if breaks else 60,
                force=breaks,  # an unchanged file is not read
            )
        except (FeedError, BrokenOff):
            return None
        except Exception as error:
            when = (self.day, run.dag_id.rpartition("_")[2])
            raise Difference(when, "the load", [f"it raised {type(error).__name__}: {error}"]) from error

    def _start(self, dbt: Dbt, pauses: Sequence[object] = ()) -> None:
        """Start a build; one that emits events needs dbt's files, and builds the views, too: they are in between."""
        emits = lineage.is_on()
        arguments = [*BUILD, *(() if emits else ONLY_TABLES), "--select", *built_models(self.player.feed)]
        dbt.start(arguments, lineage.client_variables(os.environ) if emits else None, pauses)

    def _build(self, delivery: Delivery, run: Run) -> None:
        with self._timed("builds"):
            dbt = self.dbts[0]
            self._start(dbt)
            self._check_build(dbt, dbt.wait(), delivery, run)
        self.built = self.table.rows

    def _check_build(self, dbt: Dbt, end: str, delivery: Delivery, run: Run) -> None:
        """Raise Difference if DBT has not ended well: a model that fails is one, too."""
        if end != SUCCESS:
            lines = dbt.output.strip().splitlines()
            raise Difference((delivery.day, run.cadence), "dbt build", [f"it ended with {end}", *lines[-20:]])

    def _kill_build(self, delivery: Delivery, run: Run) -> None:
        """Kill dbt before the statement that RUN names, or let it end if it has fewer; models may be built or not."""
        dbt = self.dbts[0]
        with self._timed("builds"):
            self._start(dbt, [run.kill_at])
            if (end := dbt.wait()) == "paused":
                dbt.process.kill()
                self._wait_for_sessions()
                self.built = None
                return
        self._check_build(dbt, end, delivery, run)
        self.built = self.table.rows

    def _wait_for_sessions(self) -> None:
        """Wait until PostgreSQL has ended the sessions of a dbt that was killed, and so its locks."""
        query = "select count(*) from pg_stat_activity where datname = %s and usename = %s"
        role = self.warehouse.role("transformer")
        deadline = time.monotonic() + 30
        with psycopg.connect(self.warehouse.server.dsn, autocommit=True) as connection:
            while connection.execute(query, (self.warehouse.database, role)).fetchone() != (0,):
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def _check(self, delivery: Delivery, run: Run) -> None:
        with self._timed("checks"):
            self.comparison.check((delivery.day, run.cadence), self.table, self.built)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.player.seconds[part] += time.monotonic() - started
