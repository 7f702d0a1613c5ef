"""The causes of failures are recognised on a real cluster, in the words of its version of Kubernetes."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.kubernetes.causes.search import find_component_cause, find_task_cause
from tests.cluster.conftest import Cluster
from tests.cluster.faults import EXPECTED, MANIFESTS, OBJECTS

pytestmark = pytest.mark.cluster

RECOGNISED_IN_S = 90.0
KINDS = ("pods", "events", "persistentvolumeclaims", "jobs", "nodes")


USES_NODE_PORT = {
    name for name, objects in OBJECTS.items() if any("hostNetwork" in it.get("spec", {}) for it in objects)
}


def namespace_of(cluster: Cluster, name: str) -> Cluster:
    """Return the namespace of the fault NAME; Airflow's refuses pods that are not restricted, as most of these are."""
    return Cluster(replace(cluster.kubectl, namespace=f"fault-{name}"))


@pytest.fixture(scope="module")
def faults(cluster: Cluster) -> Iterator[Cluster]:
    """Give the cluster with all faults applied, which mostly wait; without those that use the same port of the node."""
    names = [{"metadata": {"name": f"fault-{name}"}, "apiVersion": "v1", "kind": "Namespace"} for name in EXPECTED]
    cluster.kubectl.apply(names)
    for name in EXPECTED.keys() - USES_NODE_PORT:
        namespace_of(cluster, name).apply(MANIFESTS[name])
    yield cluster
    cluster.kubectl.run("delete", "namespace", "--wait=false", *(f"fault-{name}" for name in EXPECTED))


def test_all_faults_are_tried() -> None:
    assert set(EXPECTED) == set(MANIFESTS)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_fault_is_recognised(faults: Cluster, name: str) -> None:
    kind, what, why = EXPECTED[name]
    namespace = namespace_of(faults, name)
    if name in USES_NODE_PORT:
        namespace.apply(MANIFESTS[name])
    find = find_task_cause if name.endswith("-of-a-task") else find_component_cause
    deadline = time.monotonic() + RECOGNISED_IN_S
    while True:
        cause = find(namespace.items(*KINDS), namespace.logs)
        if cause and cause.kind == kind and what in cause.what and why in cause.why:
            break
        assert time.monotonic() < deadline, f"expected {EXPECTED[name]}, found {cause}"
        _drop_late_pods(namespace)
        time.sleep(1)
    namespace.delete(MANIFESTS[name])


def _drop_late_pods(cluster: Cluster) -> None:
    """Delete the pods of jobs that were given up.

    Kubernetes does, but may make one more at that moment, which nobody deletes. It fails again and again, and is
    explained by its log.
    """
    given_up = {
        job["metadata"]["uid"]
        for job in cluster.items("jobs")
        if any(condition["type"] == "Failed" for condition in job["status"].get("conditions", []))
    }
    for pod in cluster.items("pods"):
        if given_up & {owner["uid"] for owner in pod["metadata"].get("ownerReferences", [])}:
            cluster.delete(
                json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod["metadata"]["name"]}})
            )
