"""What the tests on a cluster share: one kind cluster of this clone with Airflow on it, brought up by the harness.

`nox -s faults` runs them. They need a Docker engine, the images and the chart; without these they fail instead of being
skipped.
"""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from harness.docker import engine
from harness.kubernetes.kubectl import Kubectl
from harness.project import pins
from harness.targets.kind import KindCluster
from harness.targets.options import RunOptions
from tests.cluster.faults import IMAGE
from tests.harness_command import read_until, run, start

KIND = KindCluster(RunOptions())
CONTAINERS_AND_NETWORK = (("container", KIND.node), ("container", KIND.postgres), ("network", KIND.cluster))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the interrupts last: they take down the cluster that the others share."""
    items.sort(key=lambda item: item.path.name == "test_interrupts.py")


def left() -> list[str]:
    """Return what exists of this clone's cluster."""
    found = [f"{kind} {name}" for kind, name in CONTAINERS_AND_NETWORK if engine.inspect(kind, name)]
    return found + ([str(KIND.kubeconfig)] if KIND.kubeconfig.exists() else [])


@dataclass(frozen=True)
class Cluster:
    """The namespace of the cluster that is up."""

    kubectl: Kubectl

    @property
    def namespace(self) -> str:
        return self.kubectl.namespace

    def apply(self, manifests: str) -> None:
        self.kubectl.run("apply", "--filename", "-", stdin=manifests)

    def delete(self, manifests: str) -> None:
        options = ("--ignore-not-found", "--wait=false", "--grace-period=0", "--force")
        self.kubectl.run("delete", *options, "--filename", "-", stdin=manifests)

    def items(self, *kinds: str) -> list[dict[str, Any]]:
        return self.kubectl.items(*kinds)

    def logs(self, pod: str, container: str, previous: bool = False) -> str:
        return self.kubectl.logs(pod, container, previous)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Give this clone's cluster, up, with the image that the faults use; it is taken down at the end.

    The first `up` is killed while Helm installs the chart; the second continues with the incomplete deployment.
    """
    killed = start("cluster", "up")
    read_until(killed, "✓ databases, roles and secrets")
    time.sleep(3)
    killed.kill()
    killed.wait()
    code, output = run("cluster", "up")
    assert code == 0, output
    subprocess.run(["docker", "tag", pins.image("python"), IMAGE], check=True)  # an image by digest has no name to save
    save = subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE)
    argv = ["docker", "exec", "-i", KIND.node, "ctr", "-n", "k8s.io", "images", "import", "-"]
    subprocess.run(argv, stdin=save.stdout, check=True, stdout=subprocess.DEVNULL)
    assert save.wait() == 0
    yield Cluster(KIND.kubectl())
    code, output = run("cluster", "down")
    assert code == 0, output
    assert left() == []
