"""A real PgBouncer in front of a warehouse."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.ci.needs import program
from harness.warehouse.ports import free_port
from harness.warehouse.roles import Warehouse
from harness.warehouse.wheel import unprivileged_user


@contextmanager
def pgbouncer(warehouse: Warehouse, role: str, mode: str) -> Iterator[int]:
    """Have PgBouncer in MODE, for ROLE, and give its port; it soon ends connections that are idle.

    A test that uses it needs `pgbouncer`.
    """
    path = program("pgbouncer")
    assert path
    user = unprivileged_user()  # as root it refuses to run
    ids: dict[str, Any] = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
    folder, port = Path(tempfile.mkdtemp()), free_port()
    users, settings = folder / "users", folder / "pgbouncer.ini"
    users.write_text(f'"{warehouse.role(role)}" "{warehouse.passwords[role]}"\n')
    settings.write_text(
        f"[databases]\n* = host={warehouse.server.host} port={warehouse.server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\n"
        f"pool_mode = {mode}\nserver_idle_timeout = 1\nserver_lifetime = 1\n"
    )
    for made in (folder, users, settings):
        os.chown(made, *(user or (-1, -1)))
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([path, str(settings)], **pipes, **ids) as process:
        assert process.stdout
        said = list(itertools.takewhile(lambda line: "process up" not in line, process.stdout))
        assert process.poll() is None, "".join(said)
        try:
            yield port
        finally:
            process.terminate()
            process.stdout.read()
    shutil.rmtree(folder)
