"""A process in which dbt runs again and again: to start Python and import dbt takes two seconds of CPU time."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2] / "dbt"
# It reads a call from each line: dbt's arguments, its environment, the project, and whether run.py or dbt itself takes
# them. It pauses, until it reads another line, before each statement whose number, from 1, or part is in `pauses`.
# Events of level debug, three for each statement, take a quarter of the time; they are left out unless asked for.
# The collector of garbage would look at all that dbt imports again and again: a fifth of the time.
# With `counts` it prints how many rows the statements of each model have read, before it commits them.
# For each of an adapter's flags dbt searches all modules for the caller, 0.2 s a run, to name it in an event.
# An event's message, which few are asked for, and what finds the types of rows are made each time: a third of the time.
LOOP = """
import functools, gc, importlib.util, json, os, sys, threading, traceback

from dbt.adapters.postgres.connections import PostgresConnectionManager as Manager, PostgresCredentials
from dbt.cli.main import dbtRunner
from dbt.plugins.manager import PluginManager
from dbt_common.behavior_flags import BehaviorFlagRendered
from dbt_common.clients import agate_helper
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager

gc.freeze()
gc.set_threshold(100_000)
add_query, statements, pauses, counting = Manager.add_query, 0, set(), threading.Lock()
commit, counts = Manager.commit, False
ROWS_READ = "select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) from pg_stat_xact_user_tables"
fire_event = EventManager.fire_event
make_message, attribute_of_message = BaseEvent.__init__, BaseEvent.__getattr__
type_tester = functools.cache(agate_helper.build_type_tester)
patched_by_run = ((PostgresCredentials, "connection_info"), (Manager, "add_commit_query"))

def add_query_or_pause(manager, sql, *arguments, **options):
    global statements
    with counting:  # dbt's threads run statements beside each other
        statements += 1
        pause = next((p for p in pauses if p == str(statements) or not p.isdigit() and p in sql), None)
        pauses.discard(pause)
    if pause is not None:
        print("@ paused", flush=True)
        sys.stdin.readline()
    return add_query(manager, sql, *arguments, **options)

def commit_and_count(manager):
    connection = manager.get_thread_connection()
    if counts and connection.name.startswith("model."):
        with connection.handle.cursor() as cursor:
            cursor.execute(ROWS_READ)
            # One string: several threads print.
            print(f"~ rows read {connection.name} {cursor.fetchone()[0]}\\n", end="", flush=True)
    return commit(manager)

def fire_event_if_shown(manager, event, level=None, *others, **options):
    if (level or event.level_tag()) != EventLevel.DEBUG or os.environ.get("DBT_LOG_LEVEL") == "debug":
        fire_event(manager, event, level, *others, **options)

def keep_fields(event, *arguments, **fields):
    vars(event)["fields"] = (arguments, fields)

def attribute(event, name):
    if "pb_msg" not in vars(event):
        arguments, fields = vars(event)["fields"]
        make_message(event, *arguments, **fields)
    return attribute_of_message(event, name)

def same_type_tester(text_columns, string_null_values=("null", "")):
    return type_tester(frozenset(text_columns), string_null_values)

def run(arguments, project):
    sys.path[0] = project
    spec = importlib.util.spec_from_file_location("run", project + "/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(arguments)

def run_bare(arguments, project):
    os.environ.update(DBT_PROJECT_DIR=project, DBT_PROFILES_DIR=project)
    return int(not dbtRunner().invoke(arguments).success)

Manager.add_query = add_query_or_pause
Manager.commit = commit_and_count
EventManager.fire_event = fire_event_if_shown
BaseEvent.__init__, BaseEvent.__getattr__ = keep_fields, attribute
PluginManager.get_prefixed_modules = functools.cache(PluginManager.get_prefixed_modules)
agate_helper.build_type_tester, agate_helper.empty_table = same_type_tester, functools.cache(agate_helper.empty_table)
BehaviorFlagRendered._default_source = staticmethod(lambda: "dbt")
for line in sys.stdin:
    call = json.loads(line)
    statements, pauses, counts = 0, set(call["pauses"]), call["counts"]
    os.environ.clear()
    os.environ.update(call["env"])
    for owner, name in patched_by_run:
        if name in vars(owner):
            delattr(owner, name)
    try:
        code = (run_bare if call["bare"] else run)(call["arguments"], call["project"])
    except SystemExit as stop:
        code = stop.code
    except Exception:
        code = traceback.format_exc()
    print("@ exit code", code, flush=True)
"""


class Process:
    """Python with dbt, started with the first call and ended by `end`."""

    def __init__(self, python: str) -> None:
        self.python = python
        self._process: subprocess.Popen[str] | None = None
        self.output: list[str] = []

    def send(self, line: str) -> None:
        """Send LINE; forget the output so far."""
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        if not self._process:
            self._process = subprocess.Popen([self.python, "-c", LOOP], text=True, bufsize=1, **pipes)
        self.output = []
        print(line, file=self._process.stdin)

    def wait(self) -> str:
        """Return `paused` or `exit code …` when it comes; the lines before are in `output`."""
        assert self._process
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("@ "):
                return line[2:].rstrip("\n")
            self.output.append(line)
        raise AssertionError("".join(self.output))

    def end(self) -> None:
        """End it."""
        if self._process:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.close()
            self._process.stdout.read()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Kill it; the next call starts another."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


@dataclass(frozen=True)
class Dbt:
    """How to run dbt in a process.

    Attributes:
        env: the whole environment of a run.
        folder: where dbt writes; its parse is in a folder for each way to run it.
        bare: whether dbt is started by itself, as by hand, and not by run.py, which takes the warehouse's lock.
        counts: whether it prints `~ rows read ID NUMBER` for each model.
    """

    process: Process
    env: dict[str, str]
    folder: Path
    project: Path = PROJECT
    bare: bool = False
    counts: bool = False

    @property
    def artifacts(self) -> Path:
        """The folder where dbt writes its artifacts."""
        return self._artifacts(self.env)

    def _artifacts(self, env: Mapping[str, str]) -> Path:
        return self.folder / f"{'bare' if self.bare else 'run'}-{env['DBT_TARGET']}"  # a parse holds for one of each

    def start(
        self, arguments: str | Sequence[str], env: Mapping[str, str] | None = None, pauses: Sequence[object] = ()
    ) -> None:
        """Start `dbt ARGUMENTS`, with ENV in the environment; it pauses before the statements in PAUSES."""
        env = self.env | dict(env or {})
        paths = {"DBT_TARGET_PATH": str(self._artifacts(env)), "DBT_LOG_PATH": str(self.folder / "logs")}
        call = {
            "arguments": arguments.split() if isinstance(arguments, str) else list(arguments),
            "env": paths | env,
            "pauses": [str(pause) for pause in pauses],
            "bare": self.bare,
            "counts": self.counts,
            "project": str(self.project),
        }
        self.process.send(json.dumps(call))

    def go_on(self) -> None:
        """End a pause."""
        self.process.send("")

    def wait(self) -> str:
        """Return `paused` or `exit code …` when it comes."""
        return self.process.wait()

    @property
    def output(self) -> str:
        """What dbt has written since the start or the last pause, as far as it was waited for."""
        return "".join(self.process.output)

    def run(self, arguments: str | Sequence[str], exit_code: int = 0, env: Mapping[str, str] | None = None) -> str:
        """Run `dbt ARGUMENTS`, which ends with EXIT_CODE, with ENV in the environment; return its output."""
        self.start(arguments, env)
        assert self.wait() == f"exit code {exit_code}", self.output
        return self.output
