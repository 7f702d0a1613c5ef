"""Each kind of server is the same: version 18, UTC, the built-in locale; what fails is explained."""

import os
import pwd
import socket
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from harness.errors import PostgresError
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.warehouse import container
from harness.warehouse.ephemeral import describe_choice, ephemeral_server
from harness.warehouse.ports import free_port
from harness.warehouse.roles import create_warehouse, make_passwords
from harness.warehouse.server import MAJOR, Server, version
from harness.warehouse.wheel import start_from_wheel

USERS = {user.pw_name for user in pwd.getpwall()}


@pytest.fixture(autouse=True, scope="module")
def libpq_settings() -> Iterator[None]:
    """Restore PGSSLMODE and the like for later tests: starting a server removes them from the environment."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    yield
    os.environ.update(settings)


@pytest.fixture(scope="module")
def from_wheel() -> Iterator[Server]:
    """Give a server from the wheel that found its first port in use; PGSSLMODE is set for the user's other servers."""
    with pytest.MonkeyPatch.context() as monkeypatch, socket.socket() as taken, Supervisor.launch() as supervisor:
        monkeypatch.setenv("PGSSLMODE", "require")
        monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere")
        taken.bind(("127.0.0.1", 0))
        ports = iter([taken.getsockname()[1], free_port()])
        yield start_from_wheel(supervisor, choose_port=lambda: next(ports))
        assert list(ports) == []


def check_version_time_zone_and_locale(server: Server) -> None:
    assert version(server).split(".")[0] == str(MAJOR)
    warehouse = create_warehouse(server, "any", make_passwords())
    with psycopg.connect(warehouse.loader_dsn) as connection:
        row = connection.execute(
            "select current_setting('timezone'), datlocprovider, datlocale, pg_encoding_to_char(encoding),"
            " (select array_agg(word order by word) from unnest(array['b', 'a', 'B', 'é', 'z']) as word)"
            " from pg_database where datname = current_database()"
        ).fetchone()
    assert row == ("UTC", "b", "C.UTF-8", "UTF8", ["B", "a", "b", "z", "é"])


def test_a_server_from_the_wheel_takes_another_port_and_ignores_settings_for_other_servers(from_wheel: Server) -> None:
    check_version_time_zone_and_locale(from_wheel)


def process_of(server: Server) -> psutil.Process:
    """Return the process that listens on SERVER's port."""
    address = (server.host, server.port)
    [pid] = {c.pid for c in psutil.net_connections("tcp4") if c.laddr == address and not c.raddr}
    return psutil.Process(pid)


def test_all_files_of_a_server_from_the_wheel_are_in_its_directory(from_wheel: Server) -> None:
    """One in /dev/shm would stay when the server is killed and its directory removed."""
    mapped = [file.path for file in process_of(from_wheel).memory_maps() if "PostgreSQL." in file.path]
    assert mapped == []


@pytest.mark.needs("root")
def test_as_root_postgresql_runs_as_nobody_and_no_user_is_created(from_wheel: Server) -> None:
    assert process_of(from_wheel).username() == "nobody"
    assert {user.pw_name for user in pwd.getpwall()} == USERS


def test_without_an_engine_it_is_another_server_from_the_wheel(
    monkeypatch: pytest.MonkeyPatch, from_wheel: Server
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    assert describe_choice(None) == "from a wheel, since no Docker engine answers"
    with ephemeral_server() as server:
        assert server.origin == "a wheel"
        assert server.port != from_wheel.port
        check_version_time_zone_and_locale(server)


@pytest.mark.needs("postgres-image")
def test_a_container_is_like_any_server_and_is_removed() -> None:
    import docker

    client = docker.from_env()
    with Supervisor.launch() as supervisor:
        server = container.start_container(supervisor)
        check_version_time_zone_and_locale(server)
        [found] = client.containers.list(filters={"publish": str(server.port)})  # other tests start some meanwhile
        assert found.attrs["Config"]["Image"] == pins.image("postgres")
    assert found.id not in {c.id for c in client.containers.list(all=True)}


@pytest.mark.needs("postgres-image")
def test_a_container_on_loopback_is_reachable_from_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "secret")
    made = container.make()
    container.publish_on_loopback(made)
    with made as running:
        bindings = running.get_wrapped_container().attrs["HostConfig"]["PortBindings"]
        assert [binding["HostIp"] for binding in bindings["5432/tcp"]] == ["127.0.0.1"]


@pytest.mark.needs("engine")
def test_an_image_that_cannot_be_pulled_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_POSTGRES_IMAGE", "no.such.registry.invalid/postgres:18")
    with Supervisor.launch() as supervisor, pytest.raises(PostgresError) as caught:
        container.start_container(supervisor)
    assert caught.value.what.startswith("The container no.such.registry.invalid/postgres:18 did not start: ")
    assert "DOCKER_HOST=unix:///nowhere nox" in caught.value.next_step
