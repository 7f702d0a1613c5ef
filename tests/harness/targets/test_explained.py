"""What is behind a failure on a cluster: the disk, PostgreSQL, the cluster's own cause, in this order."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from harness.docker import engine
from harness.errors import (
    ChecksFailedError,
    DagRunFailedError,
    DiskFullError,
    HarnessError,
    PostgresError,
    ServiceFailedError,
)
from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.search import find_component_cause, find_task_cause
from harness.processes import failures
from harness.targets import cluster_failure
from harness.targets.kind import why_kubelet_ends
from harness.targets.kubernetes_target import ClusterDeployment, Place, explained

FULL = DiskFullError("full", "why", "next")
GONE = PostgresError("gone", "why", "next")
CRASH = Cause("crash", "It crashed.", "why it crashed", "look", is_final=False)
IMAGE = Cause("image", "It has no image.", "why it has none", "bring it", is_final=True)
UP = cast(ClusterDeployment, object())


@dataclass
class Stands:
    """A place on something that has failed, or on nothing that has."""

    disk: HarnessError | None = None
    database: HarnessError | None = None

    def check_stands(self, *, database: bool = True) -> None:
        if self.disk:
            raise self.disk
        if database and self.database:
            raise self.database

    def kubectl(self) -> None:
        return None


def failure(kind: type[HarnessError]) -> HarnessError:
    return kind("what", "why", "next")


def behind(error: HarnessError, stands: Stands, deployment: ClusterDeployment | None = UP) -> Exception:
    return explained(error, cast(Place, stands), deployment)


@pytest.mark.parametrize("kind", [DagRunFailedError, ServiceFailedError, HarnessError])
def test_what_it_stands_on_comes_first(kind: type[HarnessError]) -> None:
    assert behind(failure(kind), Stands(FULL, GONE)) is FULL
    assert behind(failure(kind), Stands(None, GONE)) is GONE


def test_a_database_that_was_not_there_yet_is_not_missed() -> None:
    error = failure(HarnessError)
    assert behind(error, Stands(None, GONE), None) is error
    assert behind(error, Stands(FULL), None) is FULL


def test_a_number_that_is_wrong_is_wrong() -> None:
    error = failure(ChecksFailedError)
    assert behind(error, Stands(FULL, GONE)) is error
    assert error.what == "what"


@pytest.mark.parametrize(
    ("kind", "seen", "what"),
    [
        (DagRunFailedError, [IMAGE], "what It has no image."),
        (DagRunFailedError, [CRASH], "what"),  # of a component; the task's log says more
        (ServiceFailedError, [CRASH, IMAGE], "what It crashed."),
        (ServiceFailedError, [], "what"),
        (HarnessError, [CRASH, IMAGE], "what"),
    ],
)
def test_the_clusters_own_cause(
    monkeypatch: pytest.MonkeyPatch, kind: type[HarnessError], seen: list[Cause], what: str
) -> None:
    by = {find_component_cause: CRASH, find_task_cause: IMAGE}

    def find_causes(_: Any, *finders: Any) -> list[Cause]:
        return [by[finder] for finder in finders if by[finder] in seen]

    monkeypatch.setattr(cluster_failure, "find_causes", find_causes)
    error = failure(kind)
    assert behind(error, Stands()) is error
    assert error.what == what


def test_a_full_disk_of_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(engine, "info", lambda: {"DockerRootDir": str(tmp_path)})
    engine.check_disk()
    monkeypatch.setattr(failures, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(DiskFullError, match=r"The Docker engine's disk \(.*\) is full\."):
        engine.check_disk()
    monkeypatch.setattr(engine, "info", lambda: {"DockerRootDir": "/of/another/machine"})
    engine.check_disk()


STARTS = "Flag --provider-id has been deprecated, This parameter should be set via the config file\n"
# What the kubelet of kind's node says, recorded with 1.20, and that of 1.35 and newer on a host with cgroup v1.
NEGATIVE = "invalid configuration: maxPods (--max-pods) -5 must not be a negative number"
CGROUP_V1 = (
    "failed to validate kubelet configuration, error: kubelet is configured to not run on a host using cgroup v1. "
    "cgroup v1 support is unsupported and will be removed in a future release, path: &TypeMeta{Kind:,APIVersion:,}"
)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("F1126 14:54:0%d.180165     167 server.go:215] %s\n", NEGATIVE),
        ('E1126 14:54:0%d.631256    1983 run.go:72] "command failed" err="%s"\n', CGROUP_V1),
    ],
)
def test_a_kubelet_that_ends_again_and_again_says_why(line: str, says: str) -> None:
    ends = [STARTS + line % (second, says) for second in range(3)]
    assert why_kubelet_ends("".join(ends)) == says
    assert why_kubelet_ends("".join(ends[1:])) == ""
    assert why_kubelet_ends("".join([*ends[1:], line % (9, "something else")])) == ""
    assert why_kubelet_ends(STARTS) == ""
