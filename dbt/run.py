"""Run a dbt command in this project: `python run.py build --select +availability_snapshot`.

A command that may write holds the warehouse's lock until it ends, so that no load swaps rows in between two models and
builds run one after another; what is built after the lock was lost is not committed. The environment has the
warehouse's address (see profiles.yml), and the seconds to wait for the lock: WAREHOUSE_LOCK_TIMEOUT, by default 1800.

Exit codes: dbt's own (0 success, 1 a model or test failed, 2 dbt could not run); 30 the warehouse cannot be reached,
31 the warehouse's lock was not free in time, 32 a variable or an argument is missing or invalid, 33 the lock was lost
while dbt ran and nothing more was committed, 34 the lock cannot be taken, 35 PostgreSQL refused the connection; 130 and
143 ended by a signal.
"""

import gc
import hashlib
import importlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lineage import DbtRun
from warehouse_lock import holds_lock, stop, warehouse_lock

REQUIRED_VARIABLES = (
    "WAREHOUSE_HOST",
    "WAREHOUSE_PORT",
    "WAREHOUSE_DATABASE",
    "WAREHOUSE_USER",
    "DBT_ENV_SECRET_WAREHOUSE_PASSWORD",
)
# What does not match is most likely a DSN with a password in it, which dbt and libpq would print.
ADDRESS = {
    "WAREHOUSE_HOST": r"/[^@=]*|[^\s/@=]+",
    "WAREHOUSE_PORT": r"[0-9]+",
    "WAREHOUSE_DATABASE": r"(?!.*(?:://|\b(?:host|port|user|password|dbname)\s*=))[^'\"]+",
}
CHOOSING_VARIABLES = ("DBT_TARGET", "WAREHOUSE_SCHEMA", "WAREHOUSE_READER")
# Any other first argument, e.g. a global option, may be followed by a command that writes.
READ_ONLY_COMMANDS = {"clean", "compile", "debug", "deps", "docs", "list", "ls", "parse", "show", "source"}
SHOWN_ROWS = 10


def main(arguments: list[str]) -> int:
    """Run dbt with ARGUMENTS and return its exit code."""
    # dbt makes a million objects that stay; by default Python looks at them again and again, a fifth of the time.
    gc.set_threshold(100_000)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without UTF-8 shows ? for other characters
        sys.stdout.reconfigure(errors="replace")
    for name, value in list(os.environ.items()):  # to dbt an empty variable is a value
        if not value and name.startswith(("DBT_", "WAREHOUSE_")) and name not in CHOOSING_VARIABLES:
            del os.environ[name]
    project = str(Path(__file__).resolve().parent)
    os.environ.update(DBT_PROJECT_DIR=project, DBT_PROFILES_DIR=project)
    os.environ.setdefault("DBT_USE_COLORS", str(sys.stdout.isatty()))
    if not arguments or {"--help", "-h", "--version"} & set(arguments):
        return run_dbt(arguments or ["--help"])
    check(arguments)
    if arguments[0] in READ_ONLY_COMMANDS:
        return run_dbt(arguments)
    # Before the lock is taken: this takes two seconds, in which a load or another build can go on.
    for module in ("dbt.cli.main", "dbt.adapters.postgres"):
        importlib.import_module(module)
    lineage = DbtRun(arguments)
    try:
        with warehouse_lock() as connection:
            code = 1
            lineage.begin()
            try:
                code = run_dbt(arguments, connection)
            finally:
                lineage.read(code == 0)
    finally:
        lineage.emit()
    return code


def check(arguments: list[str]) -> None:
    """End the process if a variable is missing, or it or one of ARGUMENTS is invalid."""
    environ = os.environ
    errors = (
        (
            [name for name in REQUIRED_VARIABLES if not environ.get(name)],
            "dbt needs {} in the environment.",
            "profiles.yml takes the warehouse's address and credentials from there.",
            "Set these variables, or run the session that sets them: nox -s dbt",
        ),
        (
            [name for name in CHOOSING_VARIABLES if not environ.get(name, name).strip()],
            "{} is set, but empty.",
            "It chooses dbt's target, schemas or reader; a script most likely copies a variable that is not set.",
            "Give it a value, or unset it for the default.",
        ),
        (
            [name for name, pattern in ADDRESS.items() if not re.fullmatch(pattern, environ.get(name, ""))],
            "{} is invalid.",
            "It holds a DSN, or a character that dbt cannot quote; it is not shown, because it may contain a password.",
            "Set host, port, database, user and password each in its own variable; profiles.yml has their names.",
        ),
        (
            ["argument" for argument in arguments if not argument.rpartition("=")[2].strip()][:1],
            "An {} is empty.",
            "It is most likely the copy of a variable that is not set; an empty --selector or --exclude chooses all.",
            "Give it a value, or leave the option out.",
        ),
    )
    for names, what, why, next_step in errors:
        if names:
            stop(32, what.format(", ".join(names)), why, next_step)


def run_dbt(arguments: list[str], connection: Any = None) -> int:
    """Run dbt in this process, which saves a second start of Python; CONNECTION, if any, holds the lock."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    from dbt.adapters.postgres.connections import PostgresConnectionManager, PostgresCredentials
    from dbt.adapters.sql import SQLConnectionManager
    from dbt.cli.exceptions import DbtUsageException
    from dbt.cli.main import dbtRunner
    from dbt.exceptions import DbtRuntimeError

    # dbt parses everything again when this changes. Models depend only on the profile's database and schema: with the
    # host in it, a parse would hold for one warehouse, and an image's for none. The files' digest is in it because dbt
    # loses a yml's properties of a singular test when it parses only what has changed: parse_file_type_to_key in
    # dbt/parser/partial.py (1.12) lacks them. So a saved parse holds for exactly the same files.
    digest = project_digest()
    PostgresCredentials.connection_info = lambda self, **_: [
        ("database", self.database),
        ("dbname", self.database),
        ("schema", self.schema),
        ("project", digest),
    ]

    def add_commit_query(manager: Any) -> Any:
        if connection and not holds_lock(connection):
            raise DbtRuntimeError("The warehouse's lock was lost, so this model is not committed.")
        return SQLConnectionManager.add_commit_query(manager)

    PostgresConnectionManager.add_commit_query = add_commit_query

    outcome = dbtRunner().invoke(arguments)
    if isinstance(outcome.exception, KeyboardInterrupt):
        ended_by = signal.Signals(outcome.exception.args[0])
        print(f"✗ ended by {ended_by.name}: models that were built stay, the others did not change", file=sys.stderr)
        return 128 + ended_by
    if connection and not holds_lock(connection):
        keep_results()
        stop(
            33,
            "The warehouse's lock was lost while dbt ran.",
            "An administrator, a restart, or a pooler's limit on idle transactions ended its connection.",
            "Run it again: models that were built before stay, and nothing was committed afterwards.",
        )
    if outcome.exception:
        # dbt prints all but these: usage errors, and files that it cannot write, e.g. its log.
        if isinstance(outcome.exception, DbtUsageException | OSError):
            print(outcome.exception, file=sys.stderr)
        return 2
    if not outcome.success:
        keep_results()
    if connection:
        print_failing_rows(outcome.result, connection)
    return 0 if outcome.success else 1


def project_digest() -> str:
    """Return a digest of what dbt parses: the project's files, except those that dbt writes."""
    project, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for folder, folders, files in os.walk(project):
        folders[:] = sorted(name for name in folders if name not in ("target", "logs", "__pycache__"))
        for path in sorted(Path(folder) / name for name in files if not name.startswith(".")):
            digest.update(f"{path.relative_to(project)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def keep_results() -> None:
    """Copy dbt's files about a failed run to DBT_FAILURES_PATH, if that is set: a pod's files are lost with it."""
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
        print(f"dbt's results cannot be kept: {error}", file=sys.stderr)


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Raise the one exception on which dbt cancels its queries, for signal NUMBER."""
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
        if not os.environ.get("DBT_FAILURES_PATH"):  # not a task: nobody has its variables
            by_nox = os.environ.get("NOX_CURRENT_SESSION") == "dbt"
            command = "nox -s dbt --" if by_nox else shlex.join([sys.executable, __file__])
            print(f"to see all of them: {command} show --limit -1 --select {test.node.name}", flush=True)


def leave_process_1() -> None:
    """Continue in a child: a container's first process gets no signals without a handler."""
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
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt as interrupted:  # while dbt is imported, most likely
        ended_by = signal.Signals((*interrupted.args, signal.SIGINT)[0])
        print(f"✗ ended by {ended_by.name}: dbt had not begun, or had ended", file=sys.stderr)
        raise SystemExit(128 + ended_by) from None
