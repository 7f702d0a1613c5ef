"""The lock of a warehouse, which loads and builds share."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import psycopg2

MAX_TIMEOUT_S = 2_147_483  # PostgreSQL's lock_timeout is an integer of milliseconds
# Of libpq's messages those that another try would give again; feeds/driver_errors.py has the load's.
REFUSED = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|permission denied for"
    r"|(?:role|database) \".*\" (?:does|is) not|does not support SSL|SSL was required|[Cc]ertificate|channel binding"
    r"|authentication method requirement"
    r"|server is (?:not )?in hot standby|session is (?:not )?read|unrecognized configuration parameter"
    r"|invalid (?:value for parameter|port number|integer value|\w+ value)|definition of service|codec can't encode"
    r"|invalid command-line argument|requires a value"
)
LOCK_KEY = int.from_bytes(b"events")  # the load takes the same one
# The lock's transaction may be idle for long; and when this process, or its machine, is gone, the server soon notices.
SETTINGS = """
    set local lock_timeout = 0; set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0;
    set local client_connection_check_interval = '5s'; set local tcp_keepalives_idle = 30;
    set local tcp_keepalives_interval = 10; set local tcp_keepalives_count = 3
"""


@contextmanager
def warehouse_lock() -> Iterator[Any]:
    """Hold the lock that loads and builds share; yield the psycopg2 connection that holds it."""
    timeout = os.environ.get("WAREHOUSE_LOCK_TIMEOUT", "").strip() or "1800"
    if not re.fullmatch("[0-9]{1,7}", timeout) or int(timeout) > MAX_TIMEOUT_S:
        stop(
            32,
            f"WAREHOUSE_LOCK_TIMEOUT is {timeout!r}, not a number of seconds up to {MAX_TIMEOUT_S}.",
            "It limits the wait for a load or another build to end.",
            "Set whole seconds, or unset it for the default: WAREHOUSE_LOCK_TIMEOUT=1800",
        )
    # psycopg2 waits in C, where Python runs no handlers: by default a signal ends the process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    connection = connect()
    try:
        take_lock(connection, int(timeout))
        yield connection
    finally:
        connection.close()  # this releases the lock


def take_lock(connection: Any, timeout_s: int) -> None:
    """Take the lock for the transaction of CONNECTION; wait for it at most TIMEOUT_S seconds."""
    try:
        with connection.cursor() as cursor:
            timeout = "set local transaction_timeout = 0;" if connection.server_version >= 170_000 else ""
            cursor.execute(f"{SETTINGS}; {timeout} select pg_try_advisory_xact_lock(%s)", [LOCK_KEY])
            if not cursor.fetchone()[0]:
                wait_for_lock(cursor, timeout_s)
    except psycopg2.Error as error:
        stop(
            34,
            "The warehouse's lock could not be taken.",
            " ".join(str(error).split()),
            "See PostgreSQL's log; a pooler has to be in its mode session or transaction.",
        )


def holds_lock(connection: Any) -> bool:
    """Return whether CONNECTION still is open and holds the lock."""
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
            keepalives_idle=60,  # it is idle while dbt works, and no firewall may drop it
        )
    except (psycopg2.OperationalError, UnicodeError) as error:
        message = " ".join(str(error).split())
        if REFUSED.search(message):
            stop(
                35,
                "The warehouse refused the connection.",
                message,
                "Check the database, the user and the password, and libpq's variables such as PGSSLMODE.",
            )
        if "FATAL:" in message:
            stop(
                30,
                "The warehouse does not accept connections now.",
                message,
                "Try again: PostgreSQL is starting or stopping, or all its connections are in use.",
            )
        stop(
            30,
            "The warehouse cannot be reached.",
            message,
            "Check WAREHOUSE_HOST and WAREHOUSE_PORT, and that PostgreSQL runs there.",
        )
    # The lock belongs to a transaction, since poolers know nothing of a session's locks. At this isolation level,
    # whatever the role's default, the transaction has no snapshot between two statements: it holds back no vacuum.
    connection.set_session(isolation_level="READ COMMITTED", readonly=False, autocommit=False)
    return connection


def wait_for_lock(cursor: Any, timeout_s: int) -> None:
    """Wait at most TIMEOUT_S seconds until the load or build that holds the lock ends."""
    print(f"waiting for a load or another build to end, at most {timeout_s} s", flush=True)
    started = time.monotonic()
    try:
        cursor.execute("select set_config('lock_timeout', %s, true)", [str(max(timeout_s * 1000, 1))])
        cursor.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
    except psycopg2.errors.LockNotAvailable:
        stop(
            31,
            f"The warehouse was still busy after {timeout_s} s.",
            "A load or another build holds its lock; pg_locks (locktype 'advisory') and pg_stat_activity show it.",
            "Run this again after its end, or wait longer: WAREHOUSE_LOCK_TIMEOUT=3600",
        )
    except psycopg2.OperationalError as error:
        stop(
            30,
            "The connection to the warehouse broke during the wait for a load or another build.",
            " ".join(str(error).split()),
            "Run this again when PostgreSQL is up.",
        )
    print(f"✓ warehouse free ({time.monotonic() - started:.0f} s)", flush=True)


def stop(exit_code: int, what: str, why: str, next_step: str) -> NoReturn:
    """End the process with an expected error: WHAT happened, WHY most likely, and the NEXT_STEP."""
    print(f"✗ {what}\n  {why}\n  {next_step}", file=sys.stderr)
    raise SystemExit(exit_code)
