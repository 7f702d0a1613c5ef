"""What errors of PostgreSQL and of its driver mean: the kind, which has the exit code, and the first line."""

import time
from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from feeds import errors
from feeds.__main__ import main
from feeds.connection import connect
from feeds.driver_errors import not_connected, translated
from feeds.dsn import connection_url
from harness.warehouse.roles import Warehouse
from tests.events_feed import load


def failure_of(dsn: str, *statements: str) -> errors.FeedError:
    """Return what the error of the last of STATEMENTS, one after another in one transaction, means."""
    with closing(psycopg.connect(dsn)) as connection:
        *first, last = statements
        for statement in first:
            connection.execute(statement.encode())
        time.sleep(0.02 if "idle" in "".join(first) else 0)
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(last.encode())
        failure = translated(caught.value)
        assert failure is not None
        return failure


TOO_LONG = (errors.LoadCancelled, "PostgreSQL ended a statement or a connection that took too long: ")
REFUSED = (errors.TablesUnfit, "PostgreSQL refused a statement: ")
RAISE = "do $$ begin raise exception 'told' using errcode = '{}'; end $$"


@pytest.mark.parametrize(
    ("statements", "kind", "what"),
    [
        (("set statement_timeout = 1", "select pg_sleep(9)"), *TOO_LONG),
        # In one message: a server that ends a connection between two may be heard of as a broken connection only.
        (("set local transaction_timeout = 1; select pg_sleep(9)",), *TOO_LONG),
        (("set idle_in_transaction_session_timeout = 1", "select 1"), *TOO_LONG),
        (("commit", "set idle_session_timeout = 1", "commit", "select 1"), *TOO_LONG),
        (
            ("set transaction read only", "create table raw.t ()"),
            errors.NotAllowed,
            "The warehouse is read-only: cannot execute CREATE TABLE in a read-only transaction",
        ),
        (
            ("create table nowhere.t ()",),
            errors.NotAllowed,
            'The warehouse lacks a schema: schema "nowhere" does not exist',
        ),
        (("create schema mine",), errors.NotAllowed, "The role lacks a privilege: permission denied for database"),
        (("table raw.nothing",), REFUSED[0], f'{REFUSED[1]}relation "raw.nothing" does not exist'),
        (
            ("select 1 / 0",),
            errors.TablesUnfit,
            "PostgreSQL cannot compute an expression for a row: division by zero",
        ),
        (
            (RAISE.format("54000"),),
            errors.TablesUnfit,
            "A row, a key or the table is larger than PostgreSQL's limits: told",
        ),
        (
            ("select pg_terminate_backend(pg_backend_pid())",),
            errors.WarehouseGone,
            "The connection to PostgreSQL broke: terminating connection due to administrator command",
        ),
        ((RAISE.format("53100"),), errors.WarehouseFull, "The warehouse's disk is full: told"),
        (
            (RAISE.format("53200"),),
            errors.WarehouseFull,
            "The warehouse has too little memory, or a limit is too low: told",
        ),
        ((RAISE.format("53300"),), errors.WarehouseBusy, "PostgreSQL has no connection free: told"),
        ((RAISE.format("40001"),), errors.WarehouseBusy, "The warehouse did not become free."),
        ((RAISE.format("XX001"),), errors.TablesUnfit, "PostgreSQL failed: told"),
        ((RAISE.format("P0001"),), REFUSED[0], f"{REFUSED[1]}told"),
        ((RAISE.format("ZZZZZ"),), REFUSED[0], f"{REFUSED[1]}told"),
    ],
)
def test_an_error_of_postgresql(dsn: str, statements: tuple[str, ...], kind: type[errors.FeedError], what: str) -> None:
    failure = failure_of(dsn, *statements)
    assert type(failure) is kind
    assert failure.what.startswith(what)
    assert "{" not in str(failure)


def test_a_publication_of_a_table_whose_rows_cannot_be_identified(warehouse: Warehouse, dsn: str, uri: str) -> None:
    with psycopg.connect(warehouse.admin_dsn) as admin:
        admin.execute("alter table raw.loads replica identity nothing; create publication all_tables for all tables")
    with pytest.raises(errors.TablesUnfit) as caught:
        load(uri, dsn)
    assert caught.value.what == (
        'PostgreSQL refused a statement: cannot update table "loads" because it does not have a replica'
        " identity and publishes updates"
    )
    assert "a publication publishes updates" in caught.value.why


def test_a_defect_of_the_program_is_not_translated(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.ProgrammingError) as caught:
        db.execute("select %s", ())
    assert translated(caught.value) is None


NOT_REACHED = (errors.WarehouseGone, "PostgreSQL cannot be reached: ")
LOGIN = (errors.NotAllowed, "PostgreSQL refused the login: ")
PARAMETER = (errors.SettingUnusable, "A parameter of the DSN is not accepted: ")


@pytest.mark.parametrize(
    ("change", "kind", "what", "message"),
    [
        ({"password": "wrong"}, *LOGIN, 'FATAL: password authentication failed for user "loader"'),
        ({"password": ""}, *LOGIN, "no password supplied"),
        ({"user": "nobody's"}, *LOGIN, 'FATAL: password authentication failed for user "nobody\'s"'),
        (
            {"database": "nothing"},
            errors.SettingUnusable,
            "PostgreSQL does not open the database: ",
            'FATAL: database "nothing" does not exist',
        ),
        ({"host": "host.invalid"}, *NOT_REACHED, "failed to resolve host 'host.invalid'"),
        ({"host": "a..b"}, *PARAMETER, "label empty or too long"),
        ({"port": 1}, *NOT_REACHED, "port 1 failed: Connection refused"),
        ({"port": 99999}, *PARAMETER, 'invalid port number: "99999"'),
        ({"parameter": "sslmode=require"}, *PARAMETER, "server does not support SSL, but SSL was required"),
        ({"parameter": "sslmode=no"}, *PARAMETER, 'invalid sslmode value: "no"'),
        ({"parameter": "target_session_attrs=standby"}, *PARAMETER, "server is not in hot standby mode"),
        ({"parameter": "service=none"}, *PARAMETER, 'definition of service "…" not found'),
        ({"parameter": "options=-cnone%3D1"}, *PARAMETER, "FATAL: unrecognized configuration parameter"),
    ],
)
def test_a_connection_that_is_not_made(
    warehouse: Warehouse, change: dict[str, str | int], kind: type[errors.FeedError], what: str, message: str
) -> None:
    server, password = warehouse.server, warehouse.passwords["loader"]
    parts: dict[str, str | int] = {
        "user": warehouse.role("loader"),
        "password": password,
        "host": server.host,
        "port": server.port,
    }
    parts |= {"database": warehouse.database} | change
    parameter = parts.pop("parameter", "")
    with pytest.raises(errors.FeedError) as caught:
        connect(f"{connection_url(**parts)}?{parameter}")  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert caught.value.what.startswith(what)
    assert message in caught.value.what


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("FATAL: the database system is starting up", errors.WarehouseGone),
        ("FATAL: the database system is not yet accepting connections", errors.WarehouseGone),
        ("FATAL: sorry, too many clients already", errors.WarehouseBusy),
        ("FATAL: remaining connection slots are reserved for roles with the SUPERUSER attribute", errors.WarehouseBusy),
        ('FATAL: no pg_hba.conf entry for host "::1", user "u", database "d", no encryption', errors.NotAllowed),
        ("FATAL: die Datenbank fährt hoch", errors.WarehouseGone),
        ("connection timeout expired", errors.WarehouseGone),
        ("SSL error: certificate verify failed", errors.SettingUnusable),
    ],
)
def test_a_message_of_a_connection_that_is_not_made(message: str, kind: type[errors.FeedError]) -> None:
    failure = not_connected(psycopg.OperationalError(f"connection failed: {message}\nmore"), "")
    assert type(failure) is kind
    assert failure.what.endswith(f": {message}")
    assert failure.what.startswith("PostgreSQL cannot be reached: ") == (message == "connection timeout expired")


def test_a_statement_timeout_of_the_role_is_three_lines(
    warehouse: Warehouse, dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTS_DSN", dsn)
    with psycopg.connect(warehouse.admin_dsn) as admin:
        role, database = sql.Identifier(warehouse.role("loader")), sql.Identifier(warehouse.database)
        admin.execute(sql.SQL("alter role {} in database {} set statement_timeout = 100").format(role, database))
        admin.commit()
        admin.execute("lock table raw.loads")
        assert main(["loads"]) == 27
    message = "canceling statement due to statement timeout"
    assert capsys.readouterr().err.splitlines()[0] == f"✗ {TOO_LONG[1]}{message}"
