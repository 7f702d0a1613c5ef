"""Run a PostgreSQL container with testcontainers: for as long as this process lives, or until it is removed by name.

    python -m harness.warehouse.container ADDRESS_FILE [SETTING]...

holds one until SIGTERM and writes `host port` to ADDRESS_FILE when it runs: a process of its own, so that the run's
supervisor ends it, and with it the container, however the run ends.

    python -m harness.warehouse.container --name NAME --network NETWORK [SETTING]...

starts one that stays. In either case testcontainers' own reaper, one more image to pull, stays off; the password is in
the environment variable POSTGRES_PASSWORD, and the settings are the server's.
"""

import os
import signal
import sys
from pathlib import Path

from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import ConnectionMode, testcontainers_config

from harness.project import pins


def make(settings: list[str]) -> PostgresContainer:
    """Return a container that is not started yet."""
    testcontainers_config.ryuk_disabled = True
    password = os.environ["POSTGRES_PASSWORD"]
    image = pins.image("postgres")
    container = PostgresContainer(image, username="postgres", password=password, dbname="postgres", driver=None)
    container.with_command(["postgres", "-c", "listen_addresses=*", *settings])
    return container


def publish_on_loopback(container: PostgresContainer) -> None:
    """Publish the port of CONTAINER, which is not started yet, on this machine's loopback address alone."""
    container.ports = {f"{container.port}/tcp": ("127.0.0.1",)}  # type: ignore[dict-item] # docker-py's own form


def hold(address_file: Path, settings: list[str]) -> None:
    """Start the container, say where it is, and remove it at SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    container = make(settings)
    client = container.get_docker_client()
    # Within a container, and with an engine elsewhere, it is reached at another address.
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


def leave(name: str, network: str, settings: list[str]) -> None:
    """Start the container NAME on NETWORK and leave it."""
    container = make(settings).with_name(name).with_kwargs(network=network, labels={"events-platform": name})
    if container.get_docker_client().host() == "localhost":
        publish_on_loopback(container)
    container.start()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--name", name, "--network", network, *settings]:
            leave(name, network, settings)
        case [address_file, *settings]:
            hold(Path(address_file), settings)
