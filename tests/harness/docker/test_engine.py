"""What the Docker engine does on its own, and what a clone removes from it."""

import secrets
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from harness.docker import engine, image_stream, images
from harness.errors import BuildFailedError, ImageMissingError
from harness.processes.supervisor import Supervisor
from harness.project import pins
from tests.servers import serving

pytestmark = pytest.mark.needs("postgres-image")

FOREIGN = "linux/riscv64"


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """Give an image whose containers take a while to create: each gets a copy of its volume."""
    reference = f"events-platform-test/{secrets.token_hex(4)}:1"
    (tmp_path / "many").mkdir()
    for number in range(4000):
        (tmp_path / "many" / str(number)).write_bytes(bytes(20_000))
    (tmp_path / "Dockerfile").write_text('FROM scratch\nCOPY many /many\nVOLUME /many\nCMD ["/none"]\n')
    subprocess.run(["docker", "build", "--quiet", "--tag", reference, tmp_path], check=True, stdout=subprocess.DEVNULL)
    yield reference
    subprocess.run(["docker", "image", "rm", "--force", reference], check=True, stdout=subprocess.DEVNULL)


def test_a_container_whose_creation_was_interrupted_is_waited_for(image: str) -> None:
    name = f"events-platform-test-{secrets.token_hex(4)}"
    create = subprocess.Popen(["docker", "container", "create", "--name", name, image], stdout=subprocess.DEVNULL)
    time.sleep(0.2)
    create.kill()
    create.wait()
    engine.wait_until_created_or_absent(name)
    found = engine.inspect("container", name)
    time.sleep(2)
    assert engine.inspect("container", name) == found  # created or not, it stays so
    subprocess.run(["docker", "container", "rm", "--force", "--volumes", name], check=False, stdout=subprocess.DEVNULL)


@pytest.mark.usefixtures("image")
def test_waiting_for_a_container_that_nobody_creates_leaves_none() -> None:
    name = f"events-platform-test-{secrets.token_hex(4)}"
    engine.wait_until_created_or_absent(name)
    assert engine.inspect("container", name) is None


def test_a_clone_removes_the_images_that_it_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    files = {"Dockerfile": tmp_path / "Dockerfile"}
    built = {}
    with Supervisor.launch() as supervisor:
        for clone in (secrets.token_hex(4), secrets.token_hex(4)):
            monkeypatch.setattr(images, "CLONE", clone)
            image = images.Image(f"test-{clone}", "Dockerfile", pins.image("postgres"), {}, files)
            assert images.build(supervisor, image)
            built[clone] = image.reference
    for clone, reference in built.items():
        monkeypatch.setattr(images, "CLONE", clone)
        assert images.remove_built() == [reference]
    assert not any(map(engine.has_image, built.values()))


@pytest.fixture
def foreign_base(tmp_path: Path) -> Iterator[str]:
    """Give an image of another platform than the engine's, with a program that no kernel runs."""
    reference = f"events-platform-test/{secrets.token_hex(4)}:1"
    (tmp_path / "program").write_bytes(b"\x7fELF, of no machine")
    (tmp_path / "program").chmod(0o755)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY program /\n")
    argv = ["docker", "build", "--quiet", "--platform", FOREIGN, "--tag", reference, str(tmp_path)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    yield reference
    subprocess.run(["docker", "image", "rm", "--force", reference], check=True, stdout=subprocess.DEVNULL)


def image_on(base: str, tmp_path: Path, step: str) -> images.Image:
    (tmp_path / "Dockerfile").write_text(f"ARG BASE\nFROM ${{BASE}}\n{step}\n")
    files = {"Dockerfile": tmp_path / "Dockerfile"}
    return images.Image("test-platform", "Dockerfile", base, {"BASE": base}, files, FOREIGN)


def test_an_image_is_built_for_another_platform(foreign_base: str, tmp_path: Path) -> None:
    image = image_on(foreign_base, tmp_path, "COPY Dockerfile /")
    with Supervisor.launch() as supervisor:
        assert images.build(supervisor, image)
    found = engine.inspect("image", image.reference)
    assert found
    assert f"{found['Os']}/{found['Architecture']}" == FOREIGN != engine.platform()
    subprocess.run(["docker", "image", "rm", "--force", image.reference], check=True, stdout=subprocess.DEVNULL)


def test_a_missing_emulator_is_explained(foreign_base: str, tmp_path: Path) -> None:
    with Supervisor.launch() as supervisor, pytest.raises(BuildFailedError) as caught:
        images.build(supervisor, image_on(foreign_base, tmp_path, 'RUN ["/program"]'))
    assert caught.value.why == f"The engine does not run programs of {FOREIGN}: it lacks an emulator."


def test_a_pull_from_a_registry_that_speaks_http_is_explained() -> None:
    class Registry(BaseHTTPRequestHandler):
        default_request_version = "HTTP/1.0"  # for a TLS handshake, too: the answer has a status line

    with serving(Registry) as address, Supervisor.launch() as supervisor:
        port = address.rpartition(":")[2]
        reference = f"0.0.0.0:{port}/team/airflow:1"  # does not look like a loopback address: over HTTPS
        with pytest.raises(ImageMissingError) as caught:
            engine.pull(supervisor, reference)
    assert str(caught.value).splitlines() == [
        f"The image {reference} is not in the engine and cannot be pulled.",
        "The registry speaks HTTP, and Docker asks it over HTTPS.",
        "Give it a certificate, or let Docker use HTTP: docs/pins.md, “A registry that speaks HTTP”.",
    ]


def test_a_node_that_is_being_removed_is_not_kept() -> None:
    name = f"events-platform-test-{secrets.token_hex(4)}"
    argv = ["docker", "run", "--detach", "--name", name, "--entrypoint", "sleep", pins.image("postgres"), "600"]
    made = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    assert image_stream.is_kept("docker", name, made, 0)
    remove = subprocess.Popen(["docker", "container", "rm", "--force", name], stdout=subprocess.DEVNULL)
    assert not image_stream.is_kept("docker", name, made, 30)
    assert remove.wait() == 0


def test_the_engines_own_image_replaces_a_digest_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GITHUB_ACTIONS", *(pins.variable(name) for name in pins.images())):
        monkeypatch.delenv(variable, raising=False)
    tag = f"events-platform-test/{secrets.token_hex(4)}:1"
    pinned = f"{tag}@sha256:{'0' * 64}"
    subprocess.run(["docker", "tag", pins.image("postgres").partition("@")[0], tag], check=True)
    try:
        monkeypatch.setattr(pins, "versions", lambda: {"images": {"postgres": pinned, "node": f"{tag}-none@sha256:1"}})
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.delenv("ACT", raising=False)
        engine.use_own_images()
        assert (pins.image("postgres"), pins.without_digest()) == (pinned, [])
        monkeypatch.delenv("GITHUB_ACTIONS")
        engine.use_own_images()
        assert (pins.image("postgres"), pins.without_digest()) == (tag, [tag])
        assert pins.image("node") == f"{tag}-none@sha256:1"
    finally:
        subprocess.run(["docker", "image", "rm", tag], check=True, stdout=subprocess.DEVNULL)
