"""Reach Airflow's API server through the cluster's own API, with `kubectl port-forward`, for as long as a run lives."""

import os
import socket
import sys
import time

from harness.errors import NotUpError
from harness.kubernetes.kubectl import Kubectl
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.warehouse.ports import free_port

SERVICE = "service/airflow-api-server"
PORT = 8080
# kubectl ends when the pod that it forwards to ends; a rollout must not cut the run off.
RETRY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
while True:
    subprocess.run(sys.argv[1:])
    time.sleep(1)
"""


def forward(kubectl: Kubectl, supervisor: Supervisor | None, port: int | None) -> str:
    """Return Airflow's address at PORT, or a free one, forwarded by SUPERVISOR if given. May raise NotUpError."""
    port = port or (free_port() if supervisor else PORT)
    if supervisor:
        argv = [sys.executable, "-c", RETRY, *kubectl.argv, "port-forward", SERVICE, f"{port}:{PORT}"]
        supervisor.start("port-forward", argv, env=dict(os.environ))
        deadline = time.monotonic() + pins.deadline_s("healthy")
        while not _answers(port):
            if time.monotonic() > deadline:
                raise NotUpError(
                    f"kubectl port-forward does not reach Airflow from port {port}.",
                    "The API server does not run, or you may not forward ports in this cluster.",
                    f"Try it by hand: {command(kubectl, port)}",
                )
            time.sleep(0.2)
    return f"http://127.0.0.1:{port}"


def command(kubectl: Kubectl, port: int | None) -> str:
    """Return the command that a user starts the port forward with."""
    return f"{kubectl.command} port-forward {SERVICE} {port or PORT}:{PORT}"


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
