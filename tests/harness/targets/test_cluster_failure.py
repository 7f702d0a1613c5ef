"""The cause of a failure on a cluster: the engine's disk, PostgreSQL, or what the cluster says, in this order."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from harness.errors import (
    ChecksFailedError,
    DagRunFailedError,
    DiskFullError,
    HarnessError,
    PostgresError,
    ServiceFailedError,
)
from harness.targets.cluster_failure import with_cause, with_usable_next_step
from harness.targets.cluster_provider import ClusterProvider
from harness.targets.kind import KindCluster
from harness.targets.options import RunOptions
from tests import programs

FULL = DiskFullError("full", "why", "next")
GONE = PostgresError("gone", "why", "next")


def pod(component: str, **state: Any) -> dict[str, Any]:
    """Return a pod whose container is in STATE, after several restarts."""
    metadata = {"name": f"airflow-{component}-1", "labels": {"component": component}}
    status = {"containerStatuses": [{"name": component, "restartCount": 5, "ready": False, **state}]}
    spec = {"nodeName": "node", "containers": [{"name": component, "image": "airflow:1"}]}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


CRASH = pod(
    "scheduler",
    state={"waiting": {"reason": "CrashLoopBackOff"}},
    lastState={"terminated": {"exitCode": 1, "reason": "Error"}},
)
NO_IMAGE = pod("worker", state={"waiting": {"reason": "InvalidImageName", "message": "invalid reference"}})


@dataclass
class Cluster:
    """A cluster provider, and its kubectl, for what `with_cause` uses of them."""

    disk: HarnessError | None = None
    database: HarnessError | None = None
    pods: list[dict[str, Any]] = field(default_factory=list)
    argv: tuple[str, ...] = ("kubectl", "--namespace", "events-platform")
    pods_of_dbt: list[dict[str, Any]] = field(default_factory=list)

    @property
    def for_dbt(self) -> "Cluster":
        return Cluster(pods=self.pods_of_dbt, argv=("kubectl", "--namespace", "events-platform-dbt"))

    def check_dependencies(self, *, database: bool = True) -> None:
        if self.disk:
            raise self.disk
        if database and self.database:
            raise self.database

    def kubectl(self) -> "Cluster":
        return self

    def items(self, *kinds: str) -> list[dict[str, Any]]:
        return self.pods if "pods" in kinds else []

    def logs(self, *_: object, **__: object) -> str:
        return "the scheduler's last words"


def explained(error: HarnessError, cluster: Cluster, *, database: bool = True) -> Exception:
    return with_cause(error, cast(ClusterProvider, cluster), database=database)


@pytest.mark.parametrize("kind", [DagRunFailedError, ServiceFailedError, HarnessError])
def test_a_failed_dependency_is_the_cause(kind: type[HarnessError]) -> None:
    error = kind("what", "why", "next")
    assert explained(error, Cluster(FULL, GONE, [CRASH])) is FULL
    assert explained(error, Cluster(None, GONE, [CRASH])) is GONE


def test_a_database_that_was_not_running_yet_is_not_missed() -> None:
    error = HarnessError("what", "why", "next")
    assert explained(error, Cluster(None, GONE), database=False) is error


def test_a_wrong_number_has_no_other_cause() -> None:
    error = ChecksFailedError("what", "why", "next")
    assert explained(error, Cluster(FULL, GONE, [CRASH])) is error


@pytest.mark.parametrize(
    ("kind", "pods", "cause"),
    [
        (DagRunFailedError, [CRASH, NO_IMAGE], "cannot get its image"),
        (DagRunFailedError, [CRASH], ""),  # of a component; the task's log says more
        (ServiceFailedError, [CRASH, NO_IMAGE], "scheduler"),
        (ServiceFailedError, [], ""),
        (HarnessError, [CRASH, NO_IMAGE], ""),
    ],
)
def test_the_clusters_cause_is_added(kind: type[HarnessError], pods: list[dict[str, Any]], cause: str) -> None:
    error = kind("It failed.", "why", "next")
    found = explained(error, Cluster(pods=pods))
    assert str(error) == "It failed.\nwhy\nnext"
    if not cause:
        assert found is error
        return
    assert isinstance(found, kind)
    assert found.what.startswith("It failed. ")
    assert cause in found.what
    assert (found.why, found.exit_code) != (error.why, 0)


def test_the_cause_may_be_in_dbts_namespace() -> None:
    no_image = NO_IMAGE | {"metadata": {"name": "dbt-build-x", "labels": {"kubernetes_pod_operator": "True"}}}
    found = explained(DagRunFailedError("It failed.", "why", "next"), Cluster(pods_of_dbt=[no_image]))
    assert isinstance(found, DagRunFailedError)
    assert "dbt-build-x" in found.what
    found = explained(ServiceFailedError("It failed.", "why", "next"), Cluster(pods_of_dbt=[CRASH]))
    assert "scheduler" in str(found)


@pytest.mark.parametrize(
    ("next_step", "stays", "usable"),
    [
        ("See kubectl get node and kubectl describe pod a", True, "See PREFIX get node and PREFIX describe pod a"),
        ("Try: kubectl version", True, "Try: kubectl version"),
        (
            "See kubectl describe pod a",
            False,
            "Read the diagnostics, or look at it while it is up: nox -s cluster -- up",
        ),
    ],
)
def test_the_commands_of_the_next_step_work_as_they_are(
    next_step: str, stays: bool, usable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs.write_answers(tmp_path / "kubectl", {})
    monkeypatch.setenv("PLATFORM_KUBECTL", str(program))
    error = with_usable_next_step(HarnessError("what", "why", next_step), KindCluster(RunOptions()), stays=stays)
    options = "--namespace events-platform --kubeconfig build/cluster/kind/kubeconfig"
    assert error.next_step == usable.replace("PREFIX", f"{program} {options}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert KindCluster(RunOptions()).kubectl().command == f"kubectl {options}"
