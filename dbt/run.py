"""Run a dbt command in this project: `python run.py build --select +availability_snapshot`.

A command that may write holds the warehouse's lock until it has ended: a build never sees half a load, and two builds
follow one another. The environment says where the warehouse is (see profiles.yml), and how long to wait for the lock:
WAREHOUSE_LOCK_TIMEOUT, in seconds, 1800 by default.

Exit codes: dbt's own (0 all well, 1 a model or test failed, 2 dbt could not run); 30 the warehouse was not reached,
31 the lock was not free in time, 32 a variable is missing or makes no sense; 130 and 143 ended by a signal.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psycopg2

REQUIRED_VARIABLES = (
    "WAREHOUSE_HOST",
    "WAREHOUSE_PORT",
    "WAREHOUSE_DATABASE",
    "WAREHOUSE_USER",
    "DBT_ENV_SECRET_WAREHOUSE_PASSWORD",
)
# Whatever else is first, say a global option, may be followed by a command that writes.
READ_ONLY_COMMANDS = {"clean", "compile", "debug", "deps", "docs", "list", "ls", "parse", "show", "source"}
LOCK_KEY = int.from_bytes(b"events")  # the load takes the same one
SHOWN_ROWS = 10


def main(arguments: list[str]) -> int:
    """Run dbt with ARGUMENTS and return its exit code."""
    project = str(Path(__file__).resolve().parent)
    os.environ.update(DBT_PROJECT_DIR=project, DBT_PROFILES_DIR=project)
    os.environ.setdefault("DBT_USE_COLORS", str(sys.stdout.isatty()))

    if not arguments or {"--help", "-h", "--version"} & set(arguments):
        return run_dbt(arguments or ["--help"])
    if missing := [name for name in REQUIRED_VARIABLES if not os.environ.get(name)]:
        stop(
            32,
            f"dbt needs {', '.join(missing)} in the environment.",
            "profiles.yml takes the warehouse's address and credentials from there.",
            "Set what is missing, or run the session that does: nox -s dbt",
        )
    if arguments[0] in READ_ONLY_COMMANDS:
        return run_dbt(arguments)
    with warehouse_lock() as connection:
        return run_dbt(arguments, connection)


@contextmanager
def warehouse_lock() -> Iterator[Any]:
    """Hold the lock that loads and builds share; yield the psycopg2 connection that holds it."""
    timeout = os.environ.get("WAREHOUSE_LOCK_TIMEOUT", "1800")
    if not timeout.isdecimal():
        stop(
            32,
            f"WAREHOUSE_LOCK_TIMEOUT is {timeout!r}, not a number of seconds.",
            "It says how long to wait for a load or another build to end.",
            "Give whole seconds, or unset it for the default: WAREHOUSE_LOCK_TIMEOUT=1800",
        )
    # psycopg2 waits in C, where no handler of Python's runs: a signal ends the wait, and with it the process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    connection = connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("select pg_try_advisory_lock(%s)", [LOCK_KEY])
            if not cursor.fetchone()[0]:
                wait_for_lock(cursor, int(timeout))
        yield connection
    finally:
        connection.close()  # and so let go of the lock


def connect() -> Any:
    """Connect to the warehouse as dbt does."""
    try:
        connection = psycopg2.connect(
            host=os.environ["WAREHOUSE_HOST"],
            port=os.environ["WAREHOUSE_PORT"],
            dbname=os.environ["WAREHOUSE_DATABASE"],
            user=os.environ["WAREHOUSE_USER"],
            password=os.environ["DBT_ENV_SECRET_WAREHOUSE_PASSWORD"],
            application_name="dbt lock",
            connect_timeout=10,
            keepalives_idle=60,  # it is silent while dbt works: no firewall may take it for dead
        )
    except psycopg2.OperationalError as error:
        stop(
            30,
            "The warehouse was not reached.",
            " ".join(str(error).split()),
            "Check WAREHOUSE_HOST, WAREHOUSE_PORT, the database and the user, and that PostgreSQL runs there.",
        )
    connection.autocommit = True  # an open transaction would hold back vacuum all along
    return connection


def wait_for_lock(cursor: Any, timeout_s: int) -> None:
    """Wait at most TIMEOUT_S seconds until the load or build that holds the lock has ended."""
    print(f"waiting for a load or another build to end, at most {timeout_s} s", flush=True)
    started = time.monotonic()
    try:
        cursor.execute("select set_config('lock_timeout', %s, false)", [str(max(timeout_s * 1000, 1))])
        cursor.execute("select pg_advisory_lock(%s)", [LOCK_KEY])
    except psycopg2.errors.LockNotAvailable:
        stop(
            31,
            f"The warehouse was still busy after {timeout_s} s.",
            "A load or another build holds its lock; pg_locks (locktype 'advisory') and pg_stat_activity say which.",
            "Run this again when it has ended, or wait longer: WAREHOUSE_LOCK_TIMEOUT=3600",
        )
    print(f"✓ warehouse free ({time.monotonic() - started:.0f} s)", flush=True)


def run_dbt(arguments: list[str], connection: Any = None) -> int:
    """Run dbt in this process, which saves a second start of Python; CONNECTION shows the rows that failed a test."""
    from dbt.adapters.postgres.connections import PostgresCredentials
    from dbt.cli.exceptions import DbtUsageException
    from dbt.cli.main import dbtRunner

    # dbt parses everything again when the profile changes. Of the profile, models depend on these two alone; with the
    # host among them no parse would outlast a warehouse, or an image's build.
    PostgresCredentials._connection_keys = lambda _: ("database", "schema")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)  # dbt then cancels its queries
    outcome = dbtRunner().invoke(arguments)
    if isinstance(outcome.exception, KeyboardInterrupt):
        ended_by = signal.Signals(outcome.exception.args[0])
        print(f"✗ ended by {ended_by.name}: what was built stays, what was not is as it was", file=sys.stderr)
        return 128 + ended_by
    if isinstance(outcome.exception, DbtUsageException):  # the one kind that dbt leaves to us to say
        print(outcome.exception, file=sys.stderr)
    if outcome.exception:
        if isinstance(outcome.exception, OSError):  # it fails before it can log: nowhere to write to, say
            print(outcome.exception, file=sys.stderr)
        return 2
    if connection:
        print_failing_rows(outcome.result, connection)
    if not outcome.success:
        keep_results()
    return 0 if outcome.success else 1


def keep_results() -> None:
    """Copy what dbt wrote of a failed run to DBT_FAILURES_PATH, if that is set: a pod's own files end with it."""
    if not (folder := os.environ.get("DBT_FAILURES_PATH")):
        return
    target = Path(os.environ.get("DBT_TARGET_PATH", "target"))
    try:
        for name in ("run_results.json", "manifest.json", "run", "compiled"):
            if (target / name).is_dir():
                shutil.copytree(target / name, Path(folder) / name, dirs_exist_ok=True)
            elif (target / name).exists():
                Path(folder).mkdir(parents=True, exist_ok=True)
                shutil.copy(target / name, folder)
    except OSError as error:  # the failure itself matters more
        print(f"dbt's results could not be kept: {error}", file=sys.stderr)


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Turn signal NUMBER into the one exception on which dbt cleans up."""
    raise KeyboardInterrupt(number)


def print_failing_rows(result: Any, connection: Any) -> None:
    """Print the first rows of each data test that did not pass."""
    for test in getattr(result, "results", []):
        if test.node.resource_type != "test" or test.status not in ("fail", "warn"):
            continue
        with connection.cursor() as cursor:
            query = f"select * from ({test.node.compiled_code}) as failing limit {SHOWN_ROWS}"  # noqa: S608 -- dbt's own
            cursor.execute(query)
            print(f"\nrows that fail {test.node.name}, at most {SHOWN_ROWS}:")
            print("  " + " | ".join(column.name for column in cursor.description))
            for row in cursor:
                print("  " + " | ".join("null" if value is None else str(value) for value in row))
        print(f"to see all of them: python dbt/run.py show --limit -1 --select {test.node.name}", flush=True)


def stop(exit_code: int, what: str, why: str, next_step: str) -> NoReturn:
    """End the process on a foreseen error: WHAT happened, WHY most likely, what to run next."""
    print(f"✗ {what}\n  {why}\n  {next_step}", file=sys.stderr)
    raise SystemExit(exit_code)


def leave_process_1() -> None:
    """Go on in a child: the first process of a container gets no signal that it has no handler for."""
    ended_by = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, ended_by)
    child = os.fork()
    if child:
        for number in ended_by:
            signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ended_by)
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        raise SystemExit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    if os.getpid() == 1:
        leave_process_1()
    raise SystemExit(main(sys.argv[1:]))
