"""A running PostgreSQL server, and the settings of those that the harness starts.

Each of these is PostgreSQL 18, speaks TCP with password authentication, and keeps time in UTC. In databases text sorts
by code point, on a given server of another version, too: see `harness.warehouse.roles`.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import psycopg

from feeds.dsn import connection_url
from harness.errors import PostgresError

MAJOR = 18
OLDEST_MAJOR = 14  # of a given server
SETTINGS = {
    "timezone": "UTC",
    "max_connections": "200",
    # The data is removed with the run: durability through a crash of the machine is not worth its time.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL server and its administrator.

    Attributes:
        origin: where it comes from, for people: `a wheel`, `the container image postgres:18`, `--postgres`.
        suffix: of all databases and roles that the project makes there; empty on a server that the harness started.
        sslmode: libpq's, if the user chose one.
        root_certificate: libpq's sslrootcert: the path of who may sign the server's certificate, or `system`.
    """

    origin: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = "postgres"
    suffix: str = ""
    sslmode: str = ""
    root_certificate: str = ""

    @property
    def dsn(self) -> str:
        """The administrator's connection URL."""
        return self.url(self.user, self.password, self.database)

    def url(self, user: str, password: str, database: str) -> str:
        """Return the connection URL of USER to DATABASE."""
        tls = {"sslmode": self.sslmode, "sslrootcert": self.root_certificate}
        parameters = {name: value for name, value in tls.items() if value}
        return connection_url(user, password, self.host, self.port, database, **parameters)

    @property
    def tls_env(self) -> dict[str, str]:
        """The same choice of TLS as libpq's variables, which other drivers read, too."""
        variables = {"PGSSLMODE": self.sslmode, "PGSSLROOTCERT": self.root_certificate}
        return {name: value for name, value in variables.items() if value}

    def is_ready(self) -> bool:
        """Return whether it accepts connections."""
        try:
            psycopg.connect(self.dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def version(server: Server) -> str:
    """Return the server's version, `18.6` for example."""
    with psycopg.connect(server.dsn) as connection:
        return str(connection.info.parameter_status("server_version")).split()[0]


def describe(server: Server) -> str:
    """Return the server's version, origin and address, for people."""
    return f"PostgreSQL {version(server)} from {server.origin} on {server.host}:{server.port}"


def identity(server: Server) -> str:
    """Return what tells the data of SERVER's database from another's, even at the same address."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        try:
            query = "select system_identifier from pg_control_system()"
            return "".join(str(found) for (found,) in connection.execute(query))
        except psycopg.Error:  # a managed service keeps it to itself
            query = "select oid from pg_database where datname = current_database()"
            return "".join(f"{server.host}:{server.port}/{found}" for (found,) in connection.execute(query))


def options(settings: Mapping[str, str]) -> list[str]:
    """Return SETTINGS as arguments of `postgres`."""
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def wait_until_ready(server: Server, timeout_s: float) -> None:
    """Wait until SERVER, in a container, accepts connections; raise PostgresError after TIMEOUT_S seconds."""
    deadline = time.monotonic() + timeout_s
    # The image's first server, for initialisation, does not listen on TCP: whatever answers is the real one.
    while not server.is_ready():
        if time.monotonic() > deadline:
            raise PostgresError(
                f"PostgreSQL from {server.origin} does not answer at {server.host}:{server.port}.",
                "The Docker engine most likely runs on another machine or publishes its ports elsewhere.",
                "Set TESTCONTAINERS_HOST_OVERRIDE to the engine's host and try again.",
            )
        time.sleep(0.05)


def forget_libpq_settings() -> None:
    """Remove PGSSLMODE, PGOPTIONS and the like from the environment: the user set them for other servers."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
