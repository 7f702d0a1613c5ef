"""What the tests on a cluster share: one kind cluster of this clone with Airflow on it, brought up by the harness.

`nox -s faults` runs them. They need a Docker engine, the images and the chart; without these they fail, they do not
skip: who asks for them wants to know.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from harness.docker import engine
from harness.kubernetes.kubectl import Kubectl
from harness.project import pins
from harness.targets import Settings
from harness.targets.kind import KindPlace

TIMEOUT_S = 600
PLACE = KindPlace(Settings("", 0.01))


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    """Start `python -m harness ARGUMENTS` as a session does."""
    mine = {name: value for name, value in os.environ.items() if name != "NOX_PID"}
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=mine | env,
    )


def run(*arguments: str, **env: str) -> tuple[int, str]:
    """Run `python -m harness ARGUMENTS` to its end, and return its exit code and what it says."""
    process = start(*arguments, **env)
    said, _ = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, said


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Return what PROCESS says, up to the line that PATTERN is found in."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            return said
    raise AssertionError(f"it never said {pattern!r}:\n{said}")


def left() -> list[str]:
    """Return what is there of this clone's cluster."""
    found = [f"{kind} {name}" for kind, name in THINGS if engine.inspect(kind, name)]
    return found + ([str(PLACE.kubeconfig)] if PLACE.kubeconfig.exists() else [])


THINGS = (("container", PLACE.node), ("container", PLACE.postgres), ("network", PLACE.cluster))


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
    """Give this clone's cluster, up, with the image that faults are made of; it is taken down at the end.

    The first `up` is killed while it makes the cluster: the second goes on with what is half there.
    """
    killed = start("cluster", "up")
    read_until(killed, "✓ PostgreSQL")
    killed.kill()
    killed.wait()
    code, said = run("cluster", "up")
    assert code == 0, said
    python = pins.image("python")
    save = subprocess.Popen(["docker", "save", python], stdout=subprocess.PIPE)
    argv = ["docker", "exec", "-i", PLACE.node, "ctr", "-n", "k8s.io", "images", "import", "-"]
    subprocess.run(argv, stdin=save.stdout, check=True, stdout=subprocess.DEVNULL)
    assert save.wait() == 0
    yield Cluster(PLACE.kubectl())
    code, said = run("cluster", "down")
    assert code == 0, said
    assert left() == []
