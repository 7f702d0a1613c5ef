"""The causes of failures are recognised on a real cluster, in the words of its version of Kubernetes."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.search import find_component_cause, find_task_cause
from tests.cluster.conftest import Cluster
from tests.cluster.faults import EXPECTED, MANIFESTS, OBJECTS

pytestmark = pytest.mark.cluster

RECOGNISED_IN_S = 90.0
KINDS = ("pods", "events", "persistentvolumeclaims", "jobs", "nodes")


@pytest.fixture(scope="module")
def apart(cluster: Cluster) -> Cluster:
    """Give another namespace than Airflow's, which refuses pods that are not restricted, as most of these are."""
    kubectl = replace(cluster.kubectl, namespace="faults")
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "faults"}}])
    return Cluster(kubectl)


def test_all_faults_are_tried() -> None:
    assert set(EXPECTED) == set(MANIFESTS)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_fault_is_recognised(apart: Cluster, name: str) -> None:
    kind, what, why = EXPECTED[name]
    apart.apply(MANIFESTS[name])
    try:
        deadline = time.monotonic() + RECOGNISED_IN_S
        while True:
            cause = _find(apart, name)
            if cause and cause.kind == kind and what in cause.what and why in cause.why:
                return
            assert time.monotonic() < deadline, f"expected {EXPECTED[name]}, found {cause}"
            _drop_late_pods(apart)
            time.sleep(1)
    finally:
        apart.delete(MANIFESTS[name])


def _find(cluster: Cluster, name: str) -> Cause | None:
    """Look at what NAME applied alone: the namespace may have what was deleted a moment ago, and Airflow."""
    applied = [applied["metadata"]["name"] for applied in OBJECTS[name]]
    items = [
        item
        for item in cluster.items(*KINDS)
        if item["kind"] == "Node" or any(own in _subject(item) for own in applied)
    ]
    return (find_task_cause if name.endswith("-of-a-task") else find_component_cause)(items, cluster.logs)


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


def _subject(item: dict[str, Any]) -> str:
    subject: str = item.get("involvedObject", item["metadata"])["name"]
    return subject
