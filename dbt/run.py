"""Run a dbt command in this project: `python run.py build --select +availability_snapshot`.

A command that may write holds the warehouse's lock until it has ended, so that no load publishes between two models and
builds follow one another; what is built when the lock is lost is not committed. The environment says where the
warehouse is (see profiles.yml), and how long to wait for the lock: WAREHOUSE_LOCK_TIMEOUT, in seconds, 1800 by default.

Exit codes: dbt's own (0 success, 1 a model or test failed, 2 dbt could not run); 30 the warehouse cannot be reached,
31 the warehouse's lock was not free in time, 32 a variable or an argument is missing or invalid, 33 the lock was lost
while dbt ran and nothing more was committed, 34 the lock cannot be taken; 130 and 143 ended by a signal.
"""

import hashlib
import os
import re
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
# What cannot be one is most likely a DSN with a password in it, which dbt and libpq would show.
ADDRESS = {
    "WAREHOUSE_HOST": r"/[^@=]*|[^\s/@=]+",
    "WAREHOUSE_PORT": r"[0-9]+",
    "WAREHOUSE_DATABASE": r"(?!.*://)[^=]+",
}
CHOOSING_VARIABLES = ("DBT_TARGET", "WAREHOUSE_SCHEMA", "WAREHOUSE_READER")
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
    if empty := [name for name in CHOOSING_VARIABLES if not os.environ.get(name, name).strip()]:
        stop(
            32,
            f"{', '.join(empty)} is set and empty.",
            "It chooses what is built, and for whom; a script most likely copies a variable that is not set.",
            "Give it a value, or unset it for the default.",
        )
    if wrong := [name for name, pattern in ADDRESS.items() if not re.fullmatch(pattern, os.environ[name])]:
        stop(
            32,
            f"{', '.join(wrong)} is not what its name says.",
            "It is most likely a DSN, or the copy of another variable; it is not shown, since a password may be in it.",
            "Give host, port, database, user and password each in a variable of its own; profiles.yml has their names.",
        )
    if not all(argument.rpartition("=")[2].strip() for argument in arguments):
        stop(
            32,
            "An argument is empty.",
            "It is most likely the copy of a variable that is not set; an empty --selector or --exclude chooses all.",
            "Give it a value, or leave the option out.",
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
        take_lock(connection, int(timeout))
        yield connection
    finally:
        connection.close()  # and so let go of the lock


def take_lock(connection: Any, timeout_s: int) -> None:
    """Take the lock over CONNECTION for as long as its transaction lasts; wait for it at most TIMEOUT_S seconds."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "set local lock_timeout = 0; set local statement_timeout = 0; set local transaction_timeout = 0;"
                " set local idle_in_transaction_session_timeout = 0; select pg_try_advisory_xact_lock(%s)",
                [LOCK_KEY],
            )
            if not cursor.fetchone()[0]:
                wait_for_lock(cursor, timeout_s)
    except psycopg2.Error as error:
        stop(
            34,
            "The warehouse's lock could not be taken.",
            " ".join(str(error).split()),
            "See PostgreSQL's log; a pooler in between has to be in its mode session or transaction.",
        )


def holds_lock(connection: Any) -> bool:
    """Say whether CONNECTION is there and holds the lock still."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and granted"
                " and (classid::bigint << 32) + objid::bigint = %s and objsubid = 1)",
                [LOCK_KEY],
            )
            return bool(cursor.fetchone()[0])
    except psycopg2.Error:
        return False


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
    # The lock is that of a transaction: of a session's a pooler would know nothing. At this isolation, whatever the
    # role's default, it has no snapshot between two statements, and so holds back no vacuum.
    connection.set_session(isolation_level="READ COMMITTED", readonly=False, autocommit=False)
    return connection


def wait_for_lock(cursor: Any, timeout_s: int) -> None:
    """Wait at most TIMEOUT_S seconds until the load or build that holds the lock has ended."""
    print(f"waiting for a load or another build to end, at most {timeout_s} s", flush=True)
    started = time.monotonic()
    try:
        cursor.execute("select set_config('lock_timeout', %s, true)", [str(max(timeout_s * 1000, 1))])
        cursor.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
    except psycopg2.errors.LockNotAvailable:
        stop(
            31,
            f"The warehouse was still busy after {timeout_s} s.",
            "A load or another build holds its lock; pg_locks (locktype 'advisory') and pg_stat_activity say which.",
            "Run this again when it has ended, or wait longer: WAREHOUSE_LOCK_TIMEOUT=3600",
        )
    print(f"✓ warehouse free ({time.monotonic() - started:.0f} s)", flush=True)


def run_dbt(arguments: list[str], connection: Any = None) -> int:
    """Run dbt in this process, which saves a second start of Python; CONNECTION, if any, holds the warehouse's lock."""
    from dbt.adapters.postgres.connections import PostgresConnectionManager, PostgresCredentials
    from dbt.adapters.sql import SQLConnectionManager
    from dbt.cli.exceptions import DbtUsageException
    from dbt.cli.main import dbtRunner
    from dbt.exceptions import DbtRuntimeError

    # dbt parses everything again when this changes. Of the profile, models depend on database and schema alone: with
    # the host in it no parse would outlast a warehouse, or an image's build. The project's files belong to it, since
    # dbt forgets what a yml says of a singular test when it parses only what has changed: parse_file_type_to_key in
    # dbt/parser/partial.py (1.12) has no such tests. So a saved parse holds for the very same files.
    digest = project_digest()
    PostgresCredentials.connection_info = lambda self, **_: [
        ("database", self.database),
        ("dbname", self.database),
        ("schema", self.schema),
        ("project", digest),
    ]

    def add_commit_query(manager: Any) -> Any:
        if connection and not holds_lock(connection):
            raise DbtRuntimeError("The warehouse's lock was lost: nothing of this is committed.")
        return SQLConnectionManager.add_commit_query(manager)

    PostgresConnectionManager.add_commit_query = add_commit_query

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)  # dbt then cancels its queries
    outcome = dbtRunner().invoke(arguments)
    if isinstance(outcome.exception, KeyboardInterrupt):
        ended_by = signal.Signals(outcome.exception.args[0])
        print(f"✗ ended by {ended_by.name}: what was built stays, what was not is as it was", file=sys.stderr)
        return 128 + ended_by
    if connection and not holds_lock(connection):
        keep_results()
        stop(
            33,
            "The warehouse's lock was lost while dbt ran.",
            "Its connection was ended: by an administrator, a restart, or a pooler's limit on idle transactions.",
            "Run it again: what was built before stays, and nothing was committed since.",
        )
    if isinstance(outcome.exception, DbtUsageException):  # the one kind that dbt leaves to us to say
        print(outcome.exception, file=sys.stderr)
    if outcome.exception:
        if isinstance(outcome.exception, OSError):  # it fails before it can log: nowhere to write to, say
            print(outcome.exception, file=sys.stderr)
        return 2
    if not outcome.success:
        keep_results()
    if connection:
        print_failing_rows(outcome.result, connection)
    return 0 if outcome.success else 1


def project_digest() -> str:
    """Return a digest of all that dbt parses: the project's files, but for what dbt itself writes there."""
    project, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for folder, folders, files in os.walk(project):
        folders[:] = sorted(name for name in folders if name not in ("target", "logs", "__pycache__"))
        for path in sorted(Path(folder) / name for name in files if not name.startswith(".")):
            digest.update(f"{path.relative_to(project)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


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
