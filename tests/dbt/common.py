"""What the tests of the dbt project share: what they write, read and load."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from harness.warehouse.roles import Warehouse
from tests.dbt.brute_force import MARTS, Event, Rows

PROJECT = Path(__file__).parents[2] / "dbt"
LOCK_KEY = 0x6576656E7473  # spelled out: the load and dbt/run.py must agree on it
# Starting Python and dbt takes seconds, so one process runs dbt for each line that it reads. It does so by run.py, or,
# started with "bare", as a bare `dbt` would. With pause=N,M,… it waits for another line before each of those
# statements, as they are counted, with pause=WORD before the first that has WORD in it.
DBT_LOOP = """
import sys

from dbt.adapters.postgres.connections import PostgresConnectionManager as Manager
from dbt.cli.main import dbtRunner
from run import main

add_query, statements, pauses = Manager.add_query, 0, set()

def add_query_or_pause(manager, sql, *arguments, **options):
    global statements
    statements += 1
    for pause in pauses:
        if pause == str(statements) or not pause.isdigit() and pause in sql:
            pauses.remove(pause)
            print("paused", flush=True)
            sys.stdin.readline()
            break
    return add_query(manager, sql, *arguments, **options)

Manager.add_query = add_query_or_pause
while line := sys.stdin.readline():
    arguments, statements, pauses = line.split(), 0, set()
    if arguments[0].startswith("pause="):
        pauses = set(arguments.pop(0).removeprefix("pause=").split(","))
    try:
        code = int(not dbtRunner().invoke(arguments).success) if "bare" in sys.argv else main(arguments)
    except SystemExit as stop:
        code = stop.code
    print("exit code", code, flush=True)
"""
# Views that are there already and files that nobody reads would take half of the time.
MARTS_ALONE = "run --quiet --exclude staging --no-write-json --log-level-file none"


class Dbt:
    """A process in which dbt runs again and again, in half a second each; use it as a context."""

    def __init__(self, python: str, env: dict[str, str], *, bare: bool = False, project: Path = PROJECT) -> None:
        argv = [python, "-c", DBT_LOOP, *(["bare"] if bare else [])]
        paths = {"PYTHONPATH": str(project), "DBT_PROJECT_DIR": str(project), "DBT_PROFILES_DIR": str(project)}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._process: subprocess.Popen[str] = subprocess.Popen(argv, env=env | paths, text=True, bufsize=1, **pipes)
        self.output: list[str] = []

    def __enter__(self) -> "Dbt":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.read()
        self._process.wait()

    def send(self, line: str) -> None:
        """Start `dbt LINE`, or end a pause."""
        self.output = []
        print(line, file=self._process.stdin)

    def answer(self) -> str:
        """Wait for `paused` or `exit code …` and return it; what is said before is in `output`."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line == "paused\n" or line.startswith("exit code "):
                return line.rstrip("\n")
            self.output.append(line)
        raise AssertionError("".join(self.output))

    def run(self, arguments: str, exit_code: int = 0) -> str:
        """Run `dbt ARGUMENTS`, which ends with EXIT_CODE, and return what it says."""
        self.send(arguments)
        assert self.answer() == f"exit code {exit_code}", "".join(self.output)
        return "".join(self.output)


NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)


def write(warehouse: Warehouse, events: list[Event]) -> None:
    """Make EVENTS all that raw.events holds."""
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute("truncate raw.events, raw.rejected_events, raw.loads restart identity")
        connection.execute("insert into raw.loads (source_uri, status) values ('test', 'succeeded')")
        with connection.cursor() as cursor:
            cursor.executemany("insert into raw.events values (%s, %s, %s, %s, %s, 1)", events)


def read(warehouse: Warehouse, prefix: str = "test_") -> dict[str, Rows]:
    """Return the rows of each mart in the order of its key."""
    with psycopg.connect(warehouse.reader_dsn, row_factory=psycopg.rows.dict_row) as connection:
        return read_by(connection, prefix)


def read_by(connection: psycopg.Connection[Any], prefix: str = "test_") -> dict[str, Rows]:
    """Return them as CONNECTION, which gives rows as dictionaries, sees them."""
    return {
        mart: connection.execute(f"select * from {prefix}{mart} order by {key}".encode()).fetchall()  # noqa: S608
        for mart, key in MARTS.items()
    }


def write_file(path: Path, events: list[Event]) -> Path:
    """Write EVENTS as a log to PATH, which is returned."""
    lines = ["event_id;event_type;professional_id_anonymized;created_at;meta_data"]
    for event in events:
        at = event.created_at.strftime("%Y-%m-%d %H:%M:%S.%f")
        lines.append(f"{event.event_id};{event.event_type};{event.professional_id};{at};{event.meta_data or ''}")
    path.write_text("\n".join([*lines, ""]))
    return path


def loaded(warehouse: Warehouse) -> list[Event]:
    """Return what raw.events holds."""
    columns = "event_id, event_type, professional_id_anonymized, created_at, meta_data"
    with psycopg.connect(warehouse.loader_dsn) as connection:
        return [Event(*row) for row in connection.execute(f"select {columns} from raw.events")]  # noqa: S608


def day(number: int) -> datetime:
    """Return noon of day NUMBER, from 1."""
    return NOON + timedelta(number - 1)


def five_days() -> list[Event]:
    """Return an event of each kind on each of five days."""
    return [
        event
        for number in range(1, 6)
        for event in (
            Event(10 * number, "became_able_to_propose", number, day(number)),
            Event(10 * number + 1, "proposed", number, day(number), "7_tuin_garden_1.5"),
        )
    ]


def copy_of_the_project(tmp_path: Path) -> Path:
    """Return a copy of the dbt project to break."""
    return shutil.copytree(PROJECT, tmp_path / "dbt", ignore=shutil.ignore_patterns("target", "logs", "__pycache__"))


def replace(file: Path, old: str, new: str) -> None:
    """Replace the one OLD in FILE by NEW."""
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
