"""On the user's server every name has a suffix, and everything is dropped at the end; others are refused."""

import psycopg
import pytest

from feeds.dsn import connection_url
from feeds.errors import SettingUnusable
from harness.errors import PostgresError
from harness.warehouse import given
from harness.warehouse import server as server_module
from harness.warehouse.ephemeral import ephemeral_server
from harness.warehouse.given import given_server
from harness.warehouse.roles import Warehouse, create_warehouse, drop_all, make_passwords
from harness.warehouse.server import Server


def names(server: Server) -> set[str]:
    """Return the names of SERVER's databases and roles."""
    with psycopg.connect(server.dsn) as connection:
        rows = connection.execute("select datname from pg_database union select rolname from pg_roles").fetchall()
    return {name for (name,) in rows}


def test_each_use_of_a_server_has_its_own_suffix(server: Server) -> None:
    first, second = given_server(server.dsn), given_server(server.dsn)
    assert first.port == server.port
    assert first.suffix
    assert first.suffix != second.suffix


def test_only_what_the_project_made_is_dropped(server: Server) -> None:
    before = names(server)
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("create role administrator login createdb createrole password 'secret'")
    try:
        dsn = connection_url("administrator", "secret", server.host, server.port, "postgres")
        with ephemeral_server(dsn) as given:
            warehouse = create_warehouse(given, "warehouse", make_passwords())
            create_warehouse(given, "another", warehouse.passwords)
            somebodys = f"copy{given.suffix}"
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(f"create role {somebodys}".encode())
                connection.execute(f"create database {somebodys}".encode())
            with psycopg.connect(warehouse.loader_dsn) as connection:
                connection.execute("create table raw.t (id int)")
            with psycopg.connect(warehouse.transformer_dsn) as connection:
                connection.execute("select * from raw.t; create schema fact; create table fact.t (id int)")
            assert names(server) > before
        assert names(server) == {*before, "administrator", somebodys}
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(f"drop database {somebodys}".encode())
            connection.execute(f"drop role {somebodys}, administrator".encode())
    assert names(server) == before


def test_without_a_suffix_nothing_is_dropped() -> None:
    with pytest.raises(ValueError, match=r"^without a suffix"):
        drop_all(Server("any", "no-such-host.invalid", 5432, "postgres", ""))


@pytest.mark.parametrize("part", ["sslcert=own.crt", "options=-cwork_mem%3D1MB"])
def test_a_dsn_with_unsupported_parts_is_refused(server: Server, part: str) -> None:
    with pytest.raises(
        PostgresError, match="parts other than host, port, user, password, dbname, sslmode, sslrootcert, or"
    ):
        given_server(f"{server.dsn}?{part}")


def test_a_server_that_cannot_be_used_is_refused(server: Server) -> None:
    with pytest.raises(PostgresError, match=r"^--postgres: PostgreSQL cannot be reached: .* Connection refused"):
        given_server("postgresql://postgres:x@127.0.0.1:1/postgres")
    with pytest.raises(PostgresError, match=r"^--postgres: PostgreSQL refused the login: .* password authentication"):
        given_server(connection_url(server.user, "wrong", server.host, server.port, "postgres"))
    with pytest.raises(SettingUnusable, match=r"^--postgres begins with jdbc:, not with postgresql://"):
        given_server("jdbc:postgresql://host/db")


def test_another_major_version_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (server_module.OLDEST_MAJOR, server_module.MAJOR) == (14, 18)
    monkeypatch.setattr(given, "OLDEST_MAJOR", 19)
    with pytest.raises(PostgresError, match=r"from --postgres has version \d+; the project is tested on 19 to 18\."):
        given_server(server.dsn)


def test_line_ends_around_a_dsn_are_ignored(server: Server) -> None:
    assert given_server(f" {server.dsn}\n", suffix="_x").database == "postgres"


def test_a_user_who_may_not_make_databases_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(PostgresError, match=r"The user loader\w* of --postgres may not create databases and roles\."):
        given_server(warehouse.loader_dsn)
