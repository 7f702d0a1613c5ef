"""What goes wrong on a real cluster is recognised there, in the words of its own version of Kubernetes."""

import time
from dataclasses import replace
from typing import Any

import pytest

from harness.causes import Cause, find, find_for_tasks
from tests.cluster.conftest import Cluster
from tests.cluster.faults import MANIFESTS, OBJECTS

RECOGNISED_IN_S = 90.0
KINDS = ("pods", "events", "persistentvolumeclaims", "jobs", "nodes")


@pytest.fixture(scope="module")
def apart(cluster: Cluster) -> Cluster:
    """Give a namespace of its own: Airflow's refuses pods that are not restricted, as most of these are."""
    kubectl = replace(cluster.kubectl, namespace="faults")
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "faults"}}])
    return Cluster(kubectl)


# The words that hold in every version: of what happened, and why.
EXPECTED = {
    "image-not-found": (
        "image",
        "not-found does not get its image 127.0.0.1:5990/team/airflow:1",
        "has no image or tag",
    ),
    "image-unauthorized": ("image", "401 Unauthorized", "wants a login"),
    "image-unreachable": ("image", "registry.invalid/team/airflow:1", "does not reach registry.invalid"),
    "image-refused": ("image", "connection refused", "does not reach 127.0.0.1:5999"),
    "image-name": ("image", "Team/Airflow:1", "not a name of an image"),
    "image-never-pulled": ("image", "policy of Never", "not brought into the node"),
    "image-of-a-task": ("image", "events_pipeline_daily.load_events", "not brought into the node"),
    "probe-startup": ("probe", "its startup probe failed", "does not listen yet"),
    "probe-liveness": ("probe", "its liveness probe failed, and it was restarted", "does not listen yet"),
    "probe-readiness": ("probe", "its readiness probe failed", "does not listen yet"),
    "memory": ("memory", "than its limit, 64Mi", "needs more than that"),
    "memory-of-a-child": ("memory", "than its limit, 64Mi", "needs more than that"),
    "memory-of-a-task": ("memory", "events_pipeline_daily.load_events was killed", "needs more than that"),
    "config-secret": ("config", 'secret "faults-missing" not found', "Nothing made the secret"),
    "config-key": ("config", "couldn't find key connection", "faults-secret has other keys"),
    "config-mount": ("config", 'configmap "faults-missing" not found', "Nothing made the configmap"),
    "unschedulable-cpu": ("unschedulable", "Insufficient cpu", "it asks for cpu 1k"),
    "unschedulable-memory": ("unschedulable", "Insufficient memory", "it asks for memory 10Ti"),
    "unschedulable-node": ("unschedulable", "didn't match Pod's node affinity", "labels that no node has"),
    "claim-class": ("claim", '"faults-missing" not found', "has no storage class faults-missing"),
    "claim-volume": ("claim", "no persistent volumes available", "No free volume fits it (1Gi"),
    "claim-named": ("claim", "it names the volume faults-missing", "Nothing made that volume"),
    "claim-missing": ("claim", 'persistentvolumeclaim "faults-missing" not found', "Nothing made the claim"),
    "claim-path": ("claim", "/faults/missing is not a directory", "most likely not there"),
    "crash": ("crash", "ValueError: fernet key is not 32 bytes", "not a Fernet key"),
    "crash-database": ("crash", "port 5432 failed: Connection refused", "Nothing listens at the database's address"),
    "crash-command": ("crash", '"no-such-program": executable file not found', "no such program"),
    "migrations-hang": ("hook-timeout", "its last words: Performing upgrade", "most likely slow"),
    "migrations-fail": ("hook-timeout", "port 5432 failed: Connection refused", "Nothing listens at the database's"),
    "migrations-given-up": ("hook-timeout", "was given up: Job has reached", "their logs with them, were deleted"),
    "refused": ("refused", 'serviceaccount "faults-missing" not found', "Nothing made that account"),
    "evicted": ("evicted", "ephemeral local storage", "writes more to its own disk"),
}


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
    return (find_for_tasks if name.endswith("-of-a-task") else find)(items, cluster.logs)


def _subject(item: dict[str, Any]) -> str:
    subject: str = item.get("involvedObject", item["metadata"])["name"]
    return subject
