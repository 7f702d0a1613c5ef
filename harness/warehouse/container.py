"""PostgreSQL in a container, by testcontainers.

    python -m harness.warehouse.container ADDRESS_FILE

runs one until SIGTERM, and writes `host port` to ADDRESS_FILE when it has started. It is a process of the run's
supervisor, which ends it, and with it the container, however the run ends.

    python -m harness.warehouse.container --name NAME --network NETWORK

starts one that stays until it is removed by name. The password is in the environment variable POSTGRES_PASSWORD.
testcontainers' own reaper, one more image to pull, is off.
"""

import gc
import os
import secrets
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import PostgresError
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.warehouse.ports import free_port
from harness.warehouse.server import MAJOR, SETTINGS, Server, forget_libpq_settings, options, version, wait_until_ready

if TYPE_CHECKING:  # imported where it is used: it takes half a second
    from testcontainers.community.postgres import PostgresContainer

START_TIMEOUT_S = 300.0  # a first run pulls the image


def engine_answers() -> bool:
    """Return whether a Docker engine answers at DOCKER_HOST, see `engine.use_current_context`, or its usual socket."""
    import docker

    with suppress(Exception):  # the client raises what its transport raises; each means that none answers
        client = docker.from_env(timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    with warnings.catch_warnings():  # the client leaves the socket of a failed connection to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return False


def start_container(supervisor: Supervisor) -> Server:
    """Start PostgreSQL in a container that SUPERVISOR ends; raise PostgresError if it is not usable."""
    forget_libpq_settings()
    image = pins.image("postgres")
    password = secrets.token_urlsafe(24)
    address = supervisor.directory / "address"
    log = supervisor.start(
        "container",
        [sys.executable, "-m", "harness.warehouse.container", address],
        env=os.environ | {"POSTGRES_PASSWORD": password},
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not address.exists():
        if supervisor.returncode("container") is not None or time.monotonic() > deadline:
            output = log.read_text(errors="replace").strip().splitlines() or ["it did not start in time"]
            raise PostgresError(
                f"The container {image} did not start: {output[-1][:300]}",
                "The image is most likely not in the engine and cannot be pulled.",
                f"See why: docker pull {image}; or run without an engine: DOCKER_HOST=unix:///nowhere nox",
            )
        time.sleep(0.05)
    host, port = address.read_text().split()
    server = Server(f"the container image {image.partition('@')[0]}", host, int(port), "postgres", password)
    wait_until_ready(server, deadline - time.monotonic())
    if not version(server).startswith(f"{MAJOR}."):
        raise PostgresError(
            f"The image {image} holds PostgreSQL {version(server)}; the project is tested on {MAJOR}.",
            "PLATFORM_POSTGRES_IMAGE most likely names another version.",
            f"Name an image of PostgreSQL {MAJOR}, or unset PLATFORM_POSTGRES_IMAGE.",
        )
    return server


def make() -> "PostgresContainer":
    """Return a container that is not started yet."""
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.config import testcontainers_config

    testcontainers_config.ryuk_disabled = True
    password = os.environ["POSTGRES_PASSWORD"]
    image = pins.image("postgres")
    container = PostgresContainer(image, username="postgres", password=password, dbname="postgres", driver=None)
    container.with_command(["postgres", "-c", "listen_addresses=*", *options(SETTINGS)])
    return container


def publish_on_loopback(container: "PostgresContainer") -> None:
    """Publish the port of CONTAINER, which is not started yet, on this machine's loopback address only.

    The port is chosen here: the engine would choose another one at each restart of the container.
    """
    container.ports = {f"{container.port}/tcp": ("127.0.0.1", free_port())}  # type: ignore[dict-item] # docker-py's own form


def run_until_terminated(address_file: Path) -> None:
    """Start a container, write its address, and remove it at SIGTERM."""
    from testcontainers.core.config import ConnectionMode

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    container = make()
    client = container.get_docker_client()
    # From within a container, and with an engine on another machine, it is reached at another address.
    if client.get_connection_mode() is ConnectionMode.docker_host and client.host() == "localhost":
        publish_on_loopback(container)
    try:
        container.start()
        host = container.get_container_host_ip().replace("localhost", "127.0.0.1")
        complete = address_file.with_suffix(".new")
        complete.write_text(f"{host} {container.get_exposed_port(5432)}")
        complete.rename(address_file)
        signal.pause()
    finally:
        container.stop()


def start_detached(name: str, network: str) -> None:
    """Start the container NAME on NETWORK, and leave it running."""
    container = make().with_name(name).with_kwargs(network=network, labels={"events-platform": name})
    if container.get_docker_client().host() == "localhost":
        publish_on_loopback(container)
    container.start()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--name", name, "--network", network]:
            start_detached(name, network)
        case [address_file]:
            run_until_terminated(Path(address_file))
