"""A given server is reached with the TLS that its DSN asks for, by the harness, the load and dbt."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trustme
from psycopg.conninfo import conninfo_to_dict

from harness.errors import PostgresError
from harness.project.environments import install
from harness.project.paths import ROOT
from harness.targets.kubernetes_target import provider_of
from harness.targets.options import RunOptions
from harness.warehouse.given import given_server, tls
from harness.warehouse.roles import create_warehouse, drop_all, make_passwords
from harness.warehouse.server import Server
from tests import poolers
from tests.events_feed import COLUMNS, create_tables, load


@pytest.fixture(params=[pytest.param(None, marks=pytest.mark.needs("pgbouncer"), id=pytest.HIDDEN_PARAM)])
def encrypted(server: Server) -> Iterator[tuple[Server, Path]]:
    """Give a server that refuses connections without TLS, and its authority's certificate."""
    with poolers.encrypted(server) as found:
        yield found


@pytest.fixture
def given(encrypted: tuple[Server, Path]) -> Iterator[Server]:
    """Give the server as a user names it."""
    server, root = encrypted
    given = given_server(f"{server.dsn}?sslmode=verify-full&sslrootcert={root}", "--warehouse-dsn")
    yield given
    drop_all(given)


def test_loads_and_dbt_verify_the_servers_certificate(given: Server, tmp_path: Path) -> None:
    warehouse = create_warehouse(given, "warehouse", make_passwords())
    create_tables(warehouse.loader_dsn)
    file = tmp_path / "events.csv"
    file.write_text(f"{';'.join(COLUMNS)}\n7;created_account;8;2020-01-31 00:00:00;\n")
    assert load(str(file), warehouse.loader_dsn).loaded == 1
    with psycopg.connect(warehouse.loader_dsn) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.info.get_parameters()["sslmode"] == "verify-full"

    folders = {name: str(tmp_path / "dbt") for name in ("DBT_TARGET_PATH", "DBT_LOG_PATH")}
    env = {"PATH": os.environ["PATH"], "DBT_TARGET": "test", **warehouse.dbt_env(), **folders}

    def dbt(command: str, **more: str) -> subprocess.CompletedProcess[str]:
        argv = [str(install("dbt")), str(ROOT / "dbt" / "run.py"), command]
        return subprocess.run(argv, env=env | more, capture_output=True, text=True, check=False)

    assert "Connection test: [OK connection ok]" in dbt("debug").stdout
    other = tmp_path / "other.crt"
    trustme.CA().cert_pem.write_to_path(str(other))
    refused = dbt("build", PGSSLROOTCERT=str(other))
    assert refused.returncode == 35, refused.stdout + refused.stderr
    assert "certificate verify failed" in refused.stderr


def test_a_server_that_cannot_be_verified_is_refused(encrypted: tuple[Server, Path], tmp_path: Path) -> None:
    server, root = encrypted
    other = tmp_path / "other.crt"
    trustme.CA().cert_pem.write_to_path(str(other))
    named = server.dsn.replace("127.0.0.1", "localhost")
    for dsn, reason in (
        (f"{server.dsn}?sslmode=verify-full&sslrootcert={other}", "certificate verify failed"),
        (f"{named}?sslmode=verify-full&sslrootcert={root}", 'does not match host name "localhost"'),
        (f"{server.dsn}?sslmode=verify-full&sslrootcert={tmp_path}/none.crt", "does not exist"),
        (f"{server.dsn}?sslmode=disable", "SSL required"),
    ):
        with pytest.raises(PostgresError) as caught:
            given_server(dsn, "--warehouse-dsn")
        assert reason in caught.value.what, caught.value.what


def test_the_choice_of_tls_comes_from_the_dsn_then_the_environment_then_libpqs_usual_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert tls({}) == ("", "")
    usual = tmp_path / ".postgresql" / "root.crt"
    usual.parent.mkdir()
    usual.touch()
    assert tls({"sslmode": "verify-ca"}) == ("verify-ca", str(usual))
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PGSSLROOTCERT", "own.crt")
    assert tls({}) == ("require", str(tmp_path / "own.crt"))
    assert tls({"sslmode": "verify-full", "sslrootcert": "system"}) == ("verify-full", "system")


def test_the_printed_commands_ask_for_the_same_tls() -> None:
    dsn = "postgresql://admin:secret@db.internal/postgres?sslmode=verify-full&sslrootcert=/etc/rds.pem"
    command = provider_of("context", RunOptions(warehouse_dsn=dsn, context="work")).command("down")
    [dsn] = [part for part in shlex.split(command) if "://" in part]
    expected = {"user": "admin", "host": "db.internal", "port": "5432", "dbname": "postgres"}
    assert conninfo_to_dict(dsn) == expected | {"sslmode": "verify-full", "sslrootcert": "/etc/rds.pem"}
    assert "secret" not in command
