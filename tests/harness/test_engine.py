"""What the Docker engine does by itself: it goes on making a container that nobody asks for any more."""

import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import engine

pytestmark = pytest.mark.needs("image")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """Give an image whose containers take a while to make: each gets a copy of its volume."""
    reference = f"events-platform-test/{secrets.token_hex(4)}:1"
    (tmp_path / "many").mkdir()
    for number in range(4000):
        (tmp_path / "many" / str(number)).write_bytes(bytes(20_000))
    (tmp_path / "Dockerfile").write_text('FROM scratch\nCOPY many /many\nVOLUME /many\nCMD ["/none"]\n')
    subprocess.run(["docker", "build", "--quiet", "--tag", reference, tmp_path], check=True, stdout=subprocess.DEVNULL)
    yield reference
    subprocess.run(["docker", "image", "rm", "--force", reference], check=True, stdout=subprocess.DEVNULL)


def test_a_container_whose_making_was_given_up_is_waited_for(image: str) -> None:
    name = f"events-platform-test-{secrets.token_hex(4)}"
    create = subprocess.Popen(["docker", "container", "create", "--name", name, image], stdout=subprocess.DEVNULL)
    time.sleep(0.2)
    create.kill()
    create.wait()
    engine.settle(name)
    found = engine.inspect("container", name)
    time.sleep(2)
    assert engine.inspect("container", name) == found  # whether or not: it is decided
    subprocess.run(["docker", "container", "rm", "--force", "--volumes", name], check=False, stdout=subprocess.DEVNULL)


@pytest.mark.usefixtures("image")
def test_where_nothing_is_made_nothing_is_left() -> None:
    name = f"events-platform-test-{secrets.token_hex(4)}"
    engine.settle(name)
    assert engine.inspect("container", name) is None
