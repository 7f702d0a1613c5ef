"""Hold a PostgreSQL container for as long as this process lives: `python -m harness.container ADDRESS_FILE`.

A process of its own, so that the run's supervisor ends it, and with it the container, however the run ends. That is why
testcontainers' own reaper, one more image to pull, stays off. The password is in the environment variable
POSTGRES_PASSWORD, the server's settings are the arguments after ADDRESS_FILE; to that file `host port` is written
when the container runs.
"""

import os
import signal
import sys
from pathlib import Path

from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import testcontainers_config

from harness.postgres import IMAGE


def main(address_file: Path, settings: list[str]) -> None:
    """Start the container, say where it is, and remove it at SIGTERM."""
    testcontainers_config.ryuk_disabled = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    password = os.environ["POSTGRES_PASSWORD"]
    container = PostgresContainer(IMAGE, username="postgres", password=password, dbname="postgres", driver=None)
    container.with_command(["postgres", "-c", "listen_addresses=*", *settings])
    try:
        container.start()
        host = container.get_container_host_ip().replace("localhost", "127.0.0.1")
        complete = address_file.with_suffix(".new")
        complete.write_text(f"{host} {container.get_exposed_port(5432)}")
        complete.rename(address_file)
        signal.pause()
    finally:
        container.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
