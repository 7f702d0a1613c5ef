"""Each way to have a PostgreSQL gives the same one: version 18, UTC, the built-in locale; and what fails says why."""

import os
import socket
from collections.abc import Iterator

import psycopg
import pytest

from harness.errors import PortTakenError, PostgresError
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.warehouse import container
from harness.warehouse import server as postgres
from harness.warehouse.roles import Warehouse, create_warehouse, drop_all, ephemeral_server, make_passwords


@pytest.fixture(autouse=True)
def libpq_settings() -> Iterator[None]:
    """Give the tests that come later their PGSSLMODE and the like back, which a server of our own has us forget."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    yield
    os.environ.update(settings)


def check_promises(server: postgres.Server) -> None:
    assert postgres.version(server).split(".")[0] == str(postgres.MAJOR)
    warehouse = create_warehouse(server, "promises", make_passwords())
    with psycopg.connect(warehouse.loader_dsn) as connection:
        row = connection.execute(
            "select current_setting('timezone'), datlocprovider, datlocale, pg_encoding_to_char(encoding),"
            " (select array_agg(word order by word) from unnest(array['b', 'a', 'B', 'é', 'z']) as word)"
            " from pg_database where datname = current_database()"
        ).fetchone()
    assert row == ("UTC", "b", "C.UTF-8", "UTF8", ["B", "a", "b", "z", "é"])


def test_the_wheel_gives_what_is_promised_twice_at_once() -> None:
    with Supervisor.launch() as one, Supervisor.launch() as other:
        first, second = postgres.start_from_wheel(one), postgres.start_from_wheel(other)
        assert first.port != second.port
        check_promises(first)
        check_promises(second)


@pytest.mark.needs("image")
def test_the_container_gives_what_is_promised() -> None:
    import docker

    client = docker.from_env()
    with Supervisor.launch() as supervisor:
        server = postgres.start_container(supervisor)
        check_promises(server)
        [container] = client.containers.list(filters={"publish": str(server.port)})  # other tests start some meanwhile
        assert pins.image("postgres") in container.image.tags
    assert container.id not in {c.id for c in client.containers.list(all=True)}


@pytest.mark.needs("image")
def test_a_container_on_loopback_is_reached_from_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "secret")
    made = container.make([])
    container.publish_on_loopback(made)
    with made as running:
        bindings = running.get_wrapped_container().attrs["HostConfig"]["PortBindings"]
        assert [binding["HostIp"] for binding in bindings["5432/tcp"]] == ["127.0.0.1"]


@pytest.mark.needs("engine")
def test_an_image_that_cannot_be_had_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_POSTGRES_IMAGE", "no.such.registry.invalid/postgres:18")
    with Supervisor.launch() as supervisor, pytest.raises(PostgresError) as caught:
        postgres.start_container(supervisor)
    assert caught.value.what.startswith("The container no.such.registry.invalid/postgres:18 did not start: ")
    assert "DOCKER_HOST=unix:///nowhere nox" in caught.value.next_step


def test_a_port_that_was_taken_in_the_last_moment_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    free_port = postgres.free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1], free_port()]
        monkeypatch.setattr(postgres, "free_port", lambda: ports.pop(0))
        with Supervisor.launch() as supervisor:
            server = postgres.start_from_wheel(supervisor)
            assert server.port != taken.getsockname()[1]
            assert ports == []


def test_a_port_asked_for_that_is_taken_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            postgres.check_port(port, "--ui-port")
    assert caught.value.what == f"Port {port} cannot be used: Address already in use."
    postgres.check_port(port, "--ui-port")  # free again


def test_a_given_server_is_used_with_names_of_its_own(warehouse: Warehouse) -> None:
    server = postgres.given(warehouse.server.dsn)
    assert server.suffix
    assert server.port == warehouse.server.port
    assert server.suffix != postgres.given(warehouse.server.dsn).suffix


def names(server: postgres.Server) -> set[str]:
    with psycopg.connect(server.dsn) as connection:
        rows = connection.execute("select datname from pg_database union select rolname from pg_roles").fetchall()
    return {name for (name,) in rows}


def test_nothing_is_left_on_a_given_server_whoever_administers_it(server: postgres.Server) -> None:
    before = names(server)
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("create role administrator login createdb createrole password 'secret'")
    try:
        dsn = postgres.url("administrator", "secret", server.host, server.port, "postgres")
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


def test_without_a_suffix_nothing_is_dropped(server: postgres.Server) -> None:
    before = names(server)
    with pytest.raises(ValueError, match=r"^without a suffix"):
        drop_all(server)
    assert names(server) == before


@pytest.mark.parametrize("part", ["sslmode=prefer", "options=-cwork_mem%3D1MB"])
def test_a_dsn_with_parts_that_not_everything_would_follow_is_refused(server: postgres.Server, part: str) -> None:
    with pytest.raises(PostgresError, match="other parts than host, port, user, password and dbname"):
        postgres.given(f"{server.dsn}?{part}")


def test_what_the_environment_says_for_other_servers_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere")
    with Supervisor.launch() as supervisor:
        assert postgres.version(postgres.start_from_wheel(supervisor)).startswith("18.")


def test_a_given_server_that_does_not_answer_is_explained() -> None:
    with pytest.raises(PostgresError, match="does not answer"):
        postgres.given(f"postgresql://postgres:x@127.0.0.1:{postgres.free_port()}/postgres")


def test_a_dsn_that_is_none_is_explained() -> None:
    with pytest.raises(PostgresError, match="does not answer"):
        postgres.given("nonsense")


def test_a_user_who_may_not_make_databases_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(PostgresError, match=r"The user loader\w* of --postgres may not make databases and roles\."):
        postgres.given(warehouse.loader_dsn)


def test_without_an_engine_it_is_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    assert not postgres.engine_answers()
    with postgres.ephemeral() as server:
        assert server.origin == "a wheel"


@pytest.mark.needs("root")
def test_as_root_postgresql_runs_as_nobody_and_no_user_is_made() -> None:
    import pwd

    import psutil

    users = {user.pw_name for user in pwd.getpwall()}
    with Supervisor.launch() as supervisor:
        server = postgres.start_from_wheel(supervisor)
        [pid] = {c.pid for c in psutil.net_connections("tcp4") if c.laddr == (server.host, server.port) and not c.raddr}
        assert psutil.Process(pid or 0).username() == "nobody"
    assert {user.pw_name for user in pwd.getpwall()} == users
