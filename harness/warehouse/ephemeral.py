"""The PostgreSQL server of tests and of `nox -s dbt`: a given one, else a container, else one from the wheel."""

import contextlib
from collections.abc import Iterator

from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.reporting import diagnostics
from harness.warehouse.container import engine_answers, start_container
from harness.warehouse.given import given_server
from harness.warehouse.roles import drop_all
from harness.warehouse.server import Server
from harness.warehouse.wheel import start_from_wheel


def describe_choice(dsn: str | None) -> str:
    """Return which server `ephemeral_server` yields, and why, for people."""
    if dsn:
        return "the server from --postgres"
    if engine_answers():
        return f"a container of {pins.image('postgres').partition('@')[0]}, since a Docker engine answers"
    return "from a wheel, since no Docker engine answers"


@contextlib.contextmanager
def ephemeral_server(dsn: str | None = None, *, keep: bool = False) -> Iterator[Server]:
    """Yield the server of DSN, and drop what was made there at the end; without a DSN, start one and end it.

    KEEP leaves a started server up, after a failure as well, but not after an interrupt. Raises PostgresError or
    ServiceFailedError: see `given_server`, `start_container` and `start_from_wheel`.
    """
    if dsn:
        server = given_server(dsn)
        try:
            yield server
        finally:
            drop_all(server)
        return
    with Supervisor.launch() as supervisor:
        try:
            server = start_container(supervisor) if engine_answers() else start_from_wheel(supervisor)
        except Exception as error:
            failure = diagnostics.save(error, {"postgres": supervisor.directory / "logs"})
            if failure is error:
                raise
            raise failure from error
        try:
            yield server
        except Exception:
            if keep:
                supervisor.keep()
            raise
        if keep:
            supervisor.keep()
