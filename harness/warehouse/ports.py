"""TCP ports on the loopback address."""

import contextlib
import secrets
import socket

from harness.errors import PortTakenError

# Below the ports that systems give to outgoing connections and Kubernetes to NodePorts: hardly anything takes one
# between `free_port` and its use.
FREE_PORTS = range(20_000, 30_000)


def free_port() -> int:
    """Return a port that is free."""
    while True:
        port = secrets.choice(FREE_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def check_port(port: int | None) -> None:
    """Raise PortTakenError if PORT, that of --ui-port, is in use; None is a free one."""
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTakenError(
                f"Port {port} cannot be used: {error.strerror}.",
                "Another program, or an earlier run that was kept, most likely listens on it.",
                "Choose another with --ui-port, or leave it out to get a free one.",
            ) from error
