"""An image goes into the node by the snapshotter of its containerd, which in a rootless engine is another one."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.docker import image_stream
from harness.project import pins

pytestmark = pytest.mark.cluster

CONFIG = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "native"\n'


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    reference = f"events-platform-test/{secrets.token_hex(4)}:1"
    (tmp_path / "Dockerfile").write_text('FROM scratch\nCOPY Dockerfile /\nCMD ["/none"]\n')
    subprocess.run(["docker", "build", "--quiet", "--tag", reference, tmp_path], check=True, stdout=subprocess.DEVNULL)
    yield reference
    subprocess.run(["docker", "image", "rm", "--force", reference], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    """Give a container with the containerd of kind's node alone, whose snapshotter is the slowest and simplest one."""
    name = f"events-platform-test-{secrets.token_hex(4)}"
    (tmp_path / "config.toml").write_text(CONFIG)
    options = ("--detach", "--privileged", "--name", name, "--tmpfs", "/var/lib/containerd")
    program = ("--entrypoint", "sleep", pins.image("node"), "600")
    subprocess.run(["docker", "run", *options, *program], check=True, stdout=subprocess.DEVNULL)
    try:
        into = f"{name}:/etc/containerd/config.toml"
        subprocess.run(["docker", "cp", tmp_path / "config.toml", into], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["docker", "exec", "--detach", name, "containerd"], check=True)
        yield name
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], check=True, stdout=subprocess.DEVNULL)


def test_an_image_is_unpacked_by_the_nodes_snapshotter(node: str, image: str) -> None:
    assert image_stream.main(node, [image]) == 0
    for snapshotter, count in (("native", 1), ("overlayfs", 0)):
        argv = ["docker", "exec", node, "ctr", "--namespace", "k8s.io", "snapshots", "--snapshotter", snapshotter, "ls"]
        listed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        assert len(listed.splitlines()) - 1 == count, listed  # below a line of titles
