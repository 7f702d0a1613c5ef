"""A real PgBouncer in front of a warehouse or a server."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trustme

from harness.ci.needs import program
from harness.warehouse.ports import free_port
from harness.warehouse.roles import Warehouse
from harness.warehouse.server import Server
from harness.warehouse.wheel import unprivileged_user


@contextmanager
def pgbouncer(warehouse: Warehouse, role: str, mode: str) -> Iterator[int]:
    """Have PgBouncer in MODE, for ROLE, and give its port; it soon ends connections that are idle.

    A test that uses it needs `pgbouncer`.
    """
    user = f'"{warehouse.role(role)}" "{warehouse.passwords[role]}"\n'
    settings = f"pool_mode = {mode}\nserver_idle_timeout = 1\nserver_lifetime = 1\n"
    with _pgbouncer(warehouse.server, user, settings, {}) as (port, _):
        yield port


@contextmanager
def encrypted(server: Server) -> Iterator[tuple[Server, Path]]:
    """Have PgBouncer in front of SERVER that refuses connections without TLS, and lets in whom SERVER does.

    Gives its address and the certificate of its authority, which has signed one for 127.0.0.1 alone. PostgreSQL from
    the wheel is built without TLS. A test that uses it needs `pgbouncer`.
    """
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = {
        "server.crt": certificate.cert_chain_pems[0].bytes(),
        "server.key": certificate.private_key_pem.bytes(),
        "root.crt": authority.cert_pem.bytes(),
    }
    settings = (
        f"pool_mode = session\nauth_user = {server.user}\n"
        "client_tls_sslmode = require\nclient_tls_cert_file = server.crt\nclient_tls_key_file = server.key\n"
    )
    with _pgbouncer(server, f'"{server.user}" "{server.password}"\n', settings, files) as (port, folder):
        yield replace(server, host="127.0.0.1", port=port), folder / "root.crt"


@contextmanager
def _pgbouncer(server: Server, users: str, settings: str, files: dict[str, bytes]) -> Iterator[tuple[int, Path]]:
    """Have PgBouncer with USERS, SETTINGS and FILES in front of SERVER; give its port, and the folder of its files."""
    port = free_port()
    own = (
        f"[databases]\n* = host={server.host} port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = users\n"
        "log_connections = 0\nlog_disconnections = 0\n"  # nobody reads its output, and a full pipe would stop it
    )
    with configured({"users": users.encode(), "pgbouncer.ini": f"{own}{settings}".encode(), **files}) as folder:
        yield port, folder


@contextmanager
def configured(files: dict[str, bytes]) -> Iterator[Path]:
    """Have PgBouncer with FILES, `pgbouncer.ini` among them, in a folder of its own, which is given."""
    path = program("pgbouncer")
    assert path
    user = unprivileged_user()  # as root it refuses to run
    ids: dict[str, Any] = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
    folder = Path(tempfile.mkdtemp())
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for made in (folder, *folder.iterdir()):
        os.chown(made, *(user or (-1, -1)))
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([path, "pgbouncer.ini"], cwd=folder, **pipes, **ids) as process:
        assert process.stdout
        said = list(itertools.takewhile(lambda line: "process up" not in line, process.stdout))
        assert process.poll() is None, "".join(said)
        try:
            yield folder
        finally:
            process.terminate()
            process.stdout.read()
    shutil.rmtree(folder)
