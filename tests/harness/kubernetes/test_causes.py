"""What is said to be the cause, from what a cluster says of its objects.

`causes/*.json` were recorded on kind with Kubernetes 1.20, from the objects of `tests/cluster/faults.py` (those of
nodes by setting the kubelet's thresholds and by stopping it), and trimmed. What newer versions word differently is made
by hand from such a recording; those tests say so.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harness.kubernetes.causes import LINE_LENGTH, Cause, Item, find, find_for_tasks
from tests.cluster.faults import EXPECTED

RECORDINGS = Path(__file__).parent / "causes"
READY = {"type": "Ready", "status": "True"}


class Recording:
    """What a cluster said: its objects, to be changed by the tests, and its logs by `pod/container[/previous]`."""

    def __init__(self, name: str) -> None:
        recorded = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))
        self.items: list[Item] = recorded["items"]
        self.written: dict[str, str] = recorded["logs"]

    @classmethod
    def of(cls, items: list[Item], written: dict[str, str]) -> "Recording":
        recording = cls.__new__(cls)
        recording.items, recording.written = items, written
        return recording

    def logs(self, pod: str, container: str, previous: bool) -> str:
        return self.written.get(f"{pod}/{container}{'/previous' if previous else ''}", "")

    def of_kind(self, kind: str) -> list[Item]:
        return [item for item in self.items if item["kind"] == kind]

    def pod(self, name: str = "") -> Item:
        return next(pod for pod in self.of_kind("Pod") if name in pod["metadata"]["name"])

    def status(self, name: str = "") -> dict[str, Any]:
        """Return the status of a pod's first container."""
        status: dict[str, Any] = self.pod(name)["status"]["containerStatuses"][0]
        return status

    def waiting(self, reason: str, message: str) -> None:
        self.status()["state"] = {"waiting": {"reason": reason, "message": message}}

    def without(self, kind: str) -> None:
        self.items = [item for item in self.items if item["kind"] != kind]

    def name_component(self, component: str) -> None:
        self.pod()["metadata"]["labels"]["component"] = component

    def cause(self) -> Cause:
        cause = find(self.items, self.logs)
        assert cause
        return cause


def test_whatever_fails_on_a_full_disk_fails_of_it() -> None:
    recording = Recording("config-secret")
    recording.waiting("CreateContainerError", "failed to create: mkdir /run/x: no space left on device")
    cause = recording.cause()
    assert cause.kind == "node"
    assert cause.what == "no-secret cannot start: failed to create: mkdir /run/x: no space left on device"
    assert cause.why.startswith("The disk is full: ")
    assert cause.is_final


def test_an_image_of_ours_that_is_always_pulled() -> None:
    recording = Recording("image-unreachable")
    container = recording.pod()["spec"]["containers"][0]
    container |= {"image": "events-platform/airflow:1", "imagePullPolicy": "Always"}
    cause = recording.cause()
    assert cause.why == "Its pull policy is Always, and no registry has an image that was built here."
    assert "pullPolicy: IfNotPresent" in cause.next_step


# --- as recorded -----------------------------------------------------------------------------------------------------

AS_RECORDED = {
    "image-not-found": (
        "image",
        "not-found does not get its image 127.0.0.1:5990/team/airflow:1: not found",
        "127.0.0.1:5990 has no image or tag of that name, or none for the node's architecture.",
        "Mend its name or tag, or bring it in. Try it: docker pull 127.0.0.1:5990/team/airflow:1",
        True,
    ),
    "image-unauthorized": (
        "image",
        "unauthorized does not get its image 127.0.0.1:5990/team/airflow:1: pulling from host 127.0.0.1:5990 "
        "failed with "
        "status code [manifests 1]: 401 Unauthorized",
        "127.0.0.1:5990 wants a login that the cluster does not have, or has no such image.",
        "Log in and bring it in: docker login 127.0.0.1:5990; docker pull 127.0.0.1:5990/team/airflow:1; "
        "nox -s cluster -- up",
        True,
    ),
    "image-http": (
        "image",
        "http does not get its image 0.0.0.0:5990/team/airflow:1: http: server gave HTTP response to HTTPS client",
        "0.0.0.0:5990 speaks HTTP, and the node asks it over HTTPS.",
        "Give it a certificate, or let nodes use HTTP: docs/operations.md, “A registry that speaks HTTP”.",
        True,
    ),
    "image-unreachable": (
        "image",
        "unreachable does not get its image registry.invalid/team/airflow:1: dial tcp: lookup registry.invalid on "
        "127.0.0.11:53: no such host",
        "The node does not reach registry.invalid: no route, no name, a proxy or a limit between them.",
        "Bring it in from here: docker pull registry.invalid/team/airflow:1, then nox -s cluster -- up",
        True,
    ),
    "image-refused": (
        "image",
        "refused does not get its image 127.0.0.1:5999/team/airflow:1: dial tcp 127.0.0.1:5999: connect: connection "
        "refused",
        "The node does not reach 127.0.0.1:5999: no route, no name, a proxy or a limit between them.",
        "Bring it in from here: docker pull 127.0.0.1:5999/team/airflow:1, then nox -s cluster -- up",
        True,
    ),
    "image-name": (
        "image",
        "name does not get its image Team/Airflow:1: invalid reference format: repository name must be lowercase",
        "docker.io has no image or tag of that name, or none for the node's architecture.",
        "Mend its name or tag, or bring it in. Try it: docker pull Team/Airflow:1",
        True,
    ),
    "image-never-pulled": (
        "image",
        'never-pulled does not get its image team/airflow:1: Container image "team/airflow:1" is not present with pull '
        "policy of Never",
        "It was not brought into the node: a full disk, or another cluster.",
        "Build it and bring it in again: nox -s cluster -- up",
        True,
    ),
    "probe-startup": (
        "probe",
        'startup: its startup probe failed, and it was restarted: Get "http://10.244.0.10:8080/health": dial tcp '
        "10.244.0.10:8080: connect: connection refused",
        "It does not listen yet: the machine is most likely slow, or it hangs while it starts.",
        "Read its log: kubectl logs pod/startup --all-containers",
        False,
    ),
    "probe-liveness": (
        "probe",
        "liveness: its liveness probe failed, and it was restarted 4 times: Get "
        '"http://10.244.0.11:8080/health": dial tcp '
        "10.244.0.11:8080: connect: connection refused",
        "It does not listen yet: the machine is most likely slow, or it hangs while it starts.",
        "Read its log: kubectl logs pod/liveness --all-containers",
        True,
    ),
    "probe-readiness": (
        "probe",
        'readiness: its readiness probe failed: Get "http://10.244.0.12:8080/health": dial tcp 10.244.0.12:8080: '
        "connect: "
        "connection refused",
        "It does not listen yet: the machine is most likely slow, or it hangs while it starts.",
        "Read its log: kubectl logs pod/readiness --all-containers",
        False,
    ),
    "memory-of-a-child": (  # its first process ended with exit code 1
        "memory",
        "memory-child was killed 5 times for using more memory than its limit, 64Mi.",
        "It needs more than that, or holds on to too much at once.",
        "Raise its resources.limits.memory in cluster/values/base.yaml",
        True,
    ),
    "config-secret": (
        "config",
        'no-secret cannot start: secret "faults-missing" not found',
        "Nothing made the secret faults-missing in this namespace, or it has another name.",
        "Make it again with all the rest: nox -s cluster -- up; then kubectl get secret faults-missing",
        True,
    ),
    "config-key": (
        "config",
        "no-key cannot start: couldn't find key connection in Secret f-config-key/faults-secret",
        "The secret faults-secret has other keys.",
        "See which keys it has: kubectl describe secret faults-secret",
        True,
    ),
    "config-mount": (
        "config",
        'no-config-map cannot start: configmap "faults-missing" not found',
        "Nothing made the configmap faults-missing in this namespace, or it has another name.",
        "Make it again with all the rest: nox -s cluster -- up; then kubectl get configmap faults-missing",
        True,
    ),
    "unschedulable-cpu": (
        "unschedulable",
        "much-cpu has no node: 0/1 nodes are available: 1 Insufficient cpu",
        "The nodes have less to give than it asks for.",
        "Lower its resources.requests in cluster/values/base.yaml, or end other pods, or add a node.",
        False,
    ),
    "unschedulable-memory": (
        "unschedulable",
        "much-memory has no node: 0/1 nodes are available: 1 Insufficient memory",
        "The nodes have less to give than it asks for.",
        "Lower its resources.requests in cluster/values/base.yaml, or end other pods, or add a node.",
        False,
    ),
    "unschedulable-node": (
        "unschedulable",
        "other-node has no node: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity",
        "It asks for a node with labels that no node has, or does not tolerate the nodes' taints.",
        "Compare nodeSelector, affinity and tolerations in cluster/values/base.yaml with: kubectl describe nodes",
        False,
    ),
    "claim-class": (
        "claim",
        "claims-class waits for the claim faults-class, which has no volume: storageclass.storage.k8s.io "
        '"faults-missing" not found',
        "The cluster has no storage class faults-missing.",
        "See kubectl get storageclass,persistentvolume and kubectl describe persistentvolumeclaim faults-class",
        True,
    ),
    "claim-volume": (
        "claim",
        "claims-volume waits for the claim faults-volume, which has no volume: no persistent volumes available "
        "for this "
        "claim and no storage class is set",
        "Nothing made a volume that fits it, or another claim has it.",
        "See kubectl get storageclass,persistentvolume and kubectl describe persistentvolumeclaim faults-volume",
        False,
    ),
    "claim-named": (
        "claim",
        "claims-named waits for the claim faults-named, which has no volume: it names the volume faults-missing",
        "Nothing made a volume that fits it, or another claim has it.",
        "See kubectl get storageclass,persistentvolume and kubectl describe persistentvolumeclaim faults-named",
        False,
    ),
    "claim-missing": (
        "claim",
        'claims-nothing has no node: 0/1 nodes are available: 1 persistentvolumeclaim "faults-missing" not found',
        "Its claim was not made, or has no volume that a node could use.",
        "See which claims and volumes there are: kubectl get persistentvolumeclaim,persistentvolume",
        False,
    ),
    "claim-path": (
        "claim",
        'no-path is not set up on its node: MountVolume.SetUp failed for volume "data" : hostPath type check failed: '
        "/faults/missing is not a directory",
        "What its volume is made of, or its node's network, is most likely not there, or not yet.",
        "Look at its volumes and events: kubectl describe pod no-path",
        False,
    ),
    "crash": (
        "crash",
        "crash ended with exit code 1 (4 times): ValueError: fernet key is not 32 bytes",
        "It was not foreseen; its log has more.",
        "Read its log: kubectl logs pod/crash --all-containers",
        True,
    ),
    "crash-database": (
        "crash",
        "crash-database ended with exit code 1 (4 times): sqlalchemy.exc.OperationalError: connection to server at "
        '"172.18.0.9", port 5432 failed: Connection refused',
        "Nothing listens at the database's address: it is most likely not running, or elsewhere.",
        "Read its log: kubectl logs pod/crash-database --all-containers",
        True,
    ),
    "crash-command": (
        "crash",
        'crash-command could not be started: exec: "no-such-program": executable file not found in $PATH: unknown',
        "Its image has no such program, or it may not be run.",
        "Compare command and args in cluster/values/base.yaml with its image.",
        True,
    ),
    "migrations-hang": (  # with a component that waits for it
        "hook-timeout",
        "The migration of Airflow's database has not ended yet; its last words: Performing upgrade",
        "The machine is most likely slow: nothing says that it failed.",
        "Read its log: nox -s cluster -- logs run-airflow-migrations; if it goes on, raise the deadline "
        "'migrations' in "
        "cluster/versions.toml",
        False,
    ),
    "migrations-fail": (  # with a component that gave up waiting for it four times
        "hook-timeout",
        "The migration of Airflow's database failed with exit code 1 (4 times): sqlalchemy.exc.OperationalError: "
        'connection to server at "172.18.0.9", port 5432 failed: Connection refused',
        "Nothing listens at the database's address: it is most likely not running, or elsewhere.",
        "Read its log: nox -s cluster -- logs run-airflow-migrations",
        True,
    ),
    "migrations-given-up": (  # its pod and log are deleted by then
        "hook-timeout",
        "The migration of Airflow's database was given up: Job has reached the specified backoff limit",
        "It failed again and again; its pods, and their logs with them, were deleted.",
        "Run it again: nox -s cluster -- up. Read its log: nox -s cluster -- logs run-airflow-migrations",
        True,
    ),
    "refused": (
        "refused",
        "The cluster makes no pods for the Job faults-no-account: error looking up service account "
        'f-refused/faults-missing: serviceaccount "faults-missing" not found',
        "A rule of the cluster does not allow it, or it names what is not there.",
        "Look at its events: kubectl describe job faults-no-account",
        False,
    ),
    "evicted": (
        "evicted",
        "evicted was evicted: Pod ephemeral local storage usage exceeds the total limit of containers 1Mi",
        "It writes more to its own disk than it may.",
        "Raise its resources.limits.ephemeral-storage in cluster/values/base.yaml",
        True,
    ),
    "node-disk": (  # with a pod that was evicted, and one that no node takes
        "node",
        "The node causes-control-plane is under DiskPressure: kubelet has disk pressure",
        "It takes no pods, and evicts those that it has, until it has enough again.",
        "End other programs on its machine, or free disk space: docker system prune; or give the cluster more.",
        True,
    ),
    "node-memory": (
        "node",
        "The node causes-control-plane is under MemoryPressure: kubelet has insufficient memory available",
        "It takes no pods, and evicts those that it has, until it has enough again.",
        "End other programs on its machine, or free disk space: docker system prune; or give the cluster more.",
        True,
    ),
    "node-not-ready": (
        "node",
        "The node causes-control-plane is not ready: Kubelet stopped posting node status.",
        "Its machine or container has most likely stopped or is overloaded, or its network is not set up yet.",
        "Look at its conditions and events: kubectl describe node causes-control-plane",
        False,
    ),
}


@pytest.mark.parametrize("name", AS_RECORDED)
def test_the_cause_is_said(name: str) -> None:
    assert Recording(name).cause() == AS_RECORDED[name]


# Recorded of the objects that the tests on a cluster apply; not of nodes, which have no objects.
PAIRED = sorted(set(EXPECTED) & {path.stem for path in RECORDINGS.glob("*.json")} - {"memory"})


@pytest.mark.parametrize("name", PAIRED)
def test_what_is_expected_on_a_cluster_is_said_of_its_recording(name: str) -> None:
    recording = Recording(name)
    kind, what, why = EXPECTED[name]
    cause = (find_for_tasks if name.endswith("-of-a-task") else find)(recording.items, recording.logs)
    assert cause
    assert (cause.kind, what in cause.what, why in cause.why) == (kind, True, True)


def test_every_fault_was_recorded() -> None:
    assert set(EXPECTED) == set(PAIRED) | {"memory"}


def test_every_recording_is_used() -> None:
    elsewhere = {"image-of-a-task", "memory", "memory-of-a-task"}
    assert {path.stem for path in RECORDINGS.glob("*.json")} == set(AS_RECORDED) | elsewhere


def test_nothing_is_said_of_a_cluster_where_nothing_is_wrong() -> None:
    recording = Recording("image-not-found")
    recording.items = [pod for pod in recording.of_kind("Pod") if pod["metadata"]["name"].startswith("registry")]
    assert find(recording.items, recording.logs) is None
    assert find([], recording.logs) is None


@pytest.mark.parametrize("name", AS_RECORDED)
def test_nothing_is_said_of_pods_that_are_being_deleted(name: str) -> None:
    recording = Recording(name)
    for pod in recording.of_kind("Pod"):
        pod["metadata"]["deletionTimestamp"] = "2026-11-23T23:00:00Z"
    recording.items = recording.of_kind("Pod") + recording.of_kind("Event")
    assert find(recording.items, recording.logs) is None


def test_what_is_missing_is_done_without() -> None:
    """Who may not list nodes and claims still gets the pod's own words."""
    recording = Recording("claim-class")
    for kind in ("Node", "PersistentVolumeClaim", "Event", "Job"):
        recording.without(kind)
    assert recording.cause()[:2] == (
        "claim",
        "claims-class has no node: 0/1 nodes are available: 1 pod has unbound immediate PersistentVolumeClaims",
    )


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_a_tasks_pod_that_was_killed_for_its_memory_is_said_apart() -> None:
    recording = Recording("memory-of-a-task")
    assert find(recording.items, recording.logs) is None
    assert find_for_tasks(recording.items, recording.logs) == (
        "memory",
        "the pod of events_pipeline_daily.load_events was killed for using more memory than its limit, 64Mi.",
        "It needs more than that, or holds on to too much at once.",
        "Raise workers.kubernetes.resources.limits.memory in cluster/values/base.yaml",
        True,
    )


def test_the_memory_of_the_pod_operators_pod_is_set_elsewhere() -> None:
    recording = Recording("memory-of-a-task")
    labels = recording.pod()["metadata"]["labels"]
    del labels["kubernetes_executor"], labels["component"]
    labels |= {"kubernetes_pod_operator": "True", "task_id": "dbt_build"}
    cause = find_for_tasks(recording.items, recording.logs)
    assert cause
    assert "events_pipeline_daily.dbt_build" in cause.what
    assert "airflow/include/events/dbt_task.py" in cause.next_step


def test_a_tasks_pod_without_image_is_said() -> None:
    recording = Recording("image-of-a-task")
    assert find(recording.items, recording.logs) is None
    cause = find_for_tasks(recording.items, recording.logs)
    assert cause
    assert cause.what.startswith("the pod of events_pipeline_daily.load_events does not get its image team/airflow:1: ")


def test_what_a_task_fails_of_is_left_to_its_log() -> None:
    recording = Recording("memory-of-a-task")
    recording.status()["state"] = {"terminated": {"reason": "Error", "exitCode": 1}}
    assert find_for_tasks(recording.items, recording.logs) is None


# --- when it is final ------------------------------------------------------------------------------------------------


def test_one_failed_pull_over_the_network_is_not_final() -> None:
    recording = Recording("image-refused")
    for event in recording.of_kind("Event"):
        event["count"] = 1
    assert not recording.cause().is_final


def test_an_image_that_is_not_there_is_final_at_once() -> None:
    recording = Recording("image-not-found")
    for event in recording.of_kind("Event"):
        event["count"] = 1
    assert recording.cause().is_final


def test_a_secret_may_come_a_moment_after_its_pod() -> None:
    recording = Recording("config-secret")
    for event in recording.of_kind("Event"):
        event["count"] = 5
    assert not recording.cause().is_final


@pytest.mark.parametrize(
    ("name", "restarts", "is_final"),
    [
        ("crash", 2, False),
        ("crash", 3, True),
        ("memory-of-a-child", 1, False),
        ("memory-of-a-child", 2, True),
        ("probe-liveness", 2, False),
        ("probe-liveness", 3, True),
        ("migrations-fail", 2, False),
        ("migrations-fail", 3, True),
    ],
)
def test_what_is_restarted_is_final_after_some_times(name: str, restarts: int, is_final: bool) -> None:
    recording = Recording(name)
    recording.status()["restartCount"] = restarts
    assert recording.cause().is_final is is_final


def test_a_pod_that_is_not_started_again_is_final_at_once() -> None:
    recording = Recording("crash")
    recording.status()["restartCount"] = 0
    recording.pod()["spec"]["restartPolicy"] = "Never"
    assert recording.cause().is_final


def test_what_runs_again_may_succeed() -> None:
    recording = Recording("migrations-fail")
    recording.status()["state"] = {"running": {"startedAt": "2026-11-23T22:40:00Z"}}
    assert recording.cause()[:2] == (
        "hook-timeout",
        AS_RECORDED["migrations-fail"][1].replace("4 times", "3 times"),
    )
    assert not recording.cause().is_final


def test_what_is_ready_again_is_not_said_until_it_ends() -> None:
    recording = Recording("memory")  # recorded while it ran again
    assert find(recording.items, recording.logs) is None
    status = recording.status()
    status |= {"ready": False, "state": status["lastState"]}
    recording.pod()["status"]["conditions"] = []
    kind, what, why = EXPECTED["memory"]
    cause = recording.cause()
    assert (cause.kind, what in cause.what, why in cause.why) == (kind, True, True)
    assert cause.is_final


# --- which of several ------------------------------------------------------------------------------------------------


def test_deeper_causes_win() -> None:
    """An image that is not there, beside all that fails because of it."""
    names = ("probe-readiness", "migrations-hang", "crash", "migrations-fail", "memory-of-a-child", "image-refused")
    items: list[Item] = []
    written: dict[str, str] = {}
    kinds = []
    for name in names:
        recording = Recording(name)
        for pod in recording.of_kind("Pod"):
            pod["metadata"]["labels"]["release"] = name
        items += recording.items
        written |= recording.written
        cause = find(items, Recording.of(items, written).logs)
        assert cause
        kinds.append((cause.kind, cause.is_final))
    assert kinds == [
        ("probe", False),
        ("hook-timeout", False),
        ("crash", True),
        ("hook-timeout", True),
        ("memory", True),
        ("image", True),
    ]


def test_of_the_same_kind_the_migrations_are_said_first() -> None:
    recording = Recording("image-refused")
    component = recording.pod()
    migrations = copy.deepcopy(component)
    component["metadata"]["creationTimestamp"] = "2026-11-23T23:00:00Z"
    migrations["metadata"] |= {"name": "airflow-run-airflow-migrations-x7k2p", "labels": {"release": "airflow"}}
    recording.items.append(migrations)
    assert recording.cause().what.startswith("run-airflow-migrations does not get its image ")


def test_the_replicaset_before_does_not_count() -> None:
    recording = Recording("crash")
    old, new = recording.pod(), copy.deepcopy(recording.pod())
    old["metadata"]["labels"]["pod-template-hash"] = "1"
    new["metadata"]["labels"]["pod-template-hash"] = "2"
    new["metadata"] |= {"name": "new", "creationTimestamp": "2026-11-23T23:00:00Z"}
    new["status"] = {"phase": "Running", "conditions": [READY]}
    assert find([old, new], recording.logs) is None


def test_an_evicted_pod_that_was_replaced_does_not_count() -> None:
    recording = Recording("evicted")
    new = copy.deepcopy(recording.pod())
    new["metadata"] |= {"name": "new", "creationTimestamp": "2026-11-23T23:00:00Z"}
    new["status"] = {"phase": "Running", "conditions": [READY]}
    assert find([*recording.items, new], recording.logs) is None


def test_events_of_a_pod_of_the_same_name_before_do_not_count() -> None:
    recording = Recording("probe-readiness")
    recording.pod()["metadata"]["uid"] = "another"
    assert find(recording.items, recording.logs) is None


def test_a_probe_that_failed_before_the_restart_does_not_count() -> None:
    recording = Recording("probe-readiness")
    recording.status()["state"] = {"running": {"startedAt": "2026-11-23T23:00:00Z"}}
    assert find(recording.items, recording.logs) is None


def test_a_job_that_got_no_pods_and_is_gone_does_not_count() -> None:
    recording = Recording("refused")
    recording.without("Job")
    assert find(recording.items, recording.logs) is None


def test_another_nodes_trouble_does_not_count() -> None:
    recording = Recording("crash")
    other = copy.deepcopy(recording.of_kind("Node")[0])
    other["metadata"]["name"] = "other"
    other["status"]["conditions"] = [{"type": "DiskPressure", "status": "True"}]
    recording.items.append(other)
    assert recording.cause().kind == "crash"


def test_a_claim_that_waits_for_its_pods_node_is_not_why_there_is_none() -> None:
    recording = Recording("claim-class")
    for event in recording.of_kind("Event"):
        if event["involvedObject"]["kind"] == "PersistentVolumeClaim":
            event |= {
                "reason": "WaitForFirstConsumer",
                "message": "waiting for first consumer to be created before binding",
            }
    recording.pod()["status"]["conditions"][0]["message"] = "0/1 nodes are available: 1 Insufficient cpu."
    assert recording.cause().kind == "unschedulable"


# --- migrations ------------------------------------------------------------------------------------------------------


def test_a_migration_that_waits_for_the_database_says_so() -> None:
    """By hand: the official image prints a dot each time that it has asked in vain."""
    recording = Recording("migrations-hang")
    for name in recording.written:
        recording.written[name] = "....."
    cause = recording.cause()
    assert cause.kind == "hook-timeout"
    assert cause.what == (
        "The migration of Airflow's database has not ended yet; it still asks whether the database answers"
    )
    assert cause.why == "The database is most likely not running, or the cluster does not reach its address."


def test_components_that_do_not_reach_the_database_while_they_wait_say_so() -> None:
    recording = Recording("migrations-fail")
    log = next(log for name, log in recording.written.items() if "run-airflow-migrations" in name)
    recording.items = [recording.pod("waits")]
    recording.written = {"waits-too/wait-for-airflow-migrations/previous": log}
    cause = recording.cause()
    assert cause.kind == "crash"
    assert cause.what.startswith(
        "waits-too's container wait-for-airflow-migrations ended with exit code 1 (4 times): sqlalchemy.exc.Op"
    )
    assert cause.why.startswith("Nothing listens at the database's address")
    assert cause.is_final


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            'could not translate host name "warehouse" to address: Name or service not known',
            "The name of the database's",
        ),
        ('connection to server at "10.0.0.9", port 5432 failed: timeout expired', "It was not foreseen"),
        (
            'connection to server failed: FATAL:  password authentication failed for user "airflow"',
            "The database does not",
        ),
    ],
)
def test_why_there_is_no_database_is_said(line: str, why: str) -> None:
    recording = Recording("migrations-fail")
    for name in recording.written:
        recording.written[name] = (
            f"sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) {line}\n\n(Background on"
        )
    assert recording.cause().why.startswith(why)


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("component", "values"),
    [
        ("api-server", "apiServer.resources"),
        ("dag-processor", "dagProcessor.resources"),
        ("run-airflow-migrations", "migrateDatabaseJob.resources"),
        ("scheduler", "scheduler.resources"),
    ],
)
def test_the_charts_components_have_their_values_and_logs(component: str, values: str) -> None:
    recording = Recording("memory-of-a-child")
    recording.name_component(component)
    assert recording.cause().next_step == f"Raise {values}.limits.memory in cluster/values/base.yaml"
    recording = Recording("crash")
    recording.name_component(component)
    assert recording.cause().next_step == f"Read its log: nox -s cluster -- logs {component}"


def test_an_image_that_is_built_here_is_not_to_be_pulled() -> None:
    recording = Recording("image-refused")
    recording.pod()["spec"]["containers"][0]["image"] = "events-platform/airflow:0f3a"
    cause = recording.cause()
    assert cause.why == "It was not brought into the node: a full disk, or another cluster."
    assert cause.next_step == "Build it and bring it in again: nox -s cluster -- up"


def test_lines_are_short_single_and_without_secrets() -> None:
    recording = Recording("crash")
    for name in recording.written:
        recording.written[name] = f"ValueError: postgresql://airflow:hunter2@db/airflow is\x1b[31m wrong {'x' * 500}\n"
    cause = recording.cause()
    assert "postgresql://db/airflow is wrong" in cause.what
    for line in cause[1:4]:
        assert len(str(line)) <= LINE_LENGTH
        assert "\n" not in str(line)


# --- newer Kubernetes, by hand ---------------------------------------------------------------------------------------

# Words of containerd under Kubernetes 1.32 and newer, where the state repeats them while the kubelet backs off.
NEWER_IMAGES = [
    (
        'failed to pull and unpack image "docker.io/library/nginxx:latest": failed to resolve reference '
        '"docker.io/library/nginxx:latest": pull access denied, repository does not exist or may require '
        "authorization: "
        "server message: insufficient_scope: authorization failed",
        "pull access denied, repository does not exist or may require authorization: server message: "
        "insufficient_scope: "
        "authorization failed",
        "wants a login that the cluster does not have, or has no such image.",
        True,
    ),
    (
        'rpc error: code = NotFound desc = failed to pull and unpack image "ghcr.io/team/airflow:1": failed to resolve '
        'reference "ghcr.io/team/airflow:1": ghcr.io/team/airflow:1: not found',
        "not found",
        "has no image or tag of that name, or none for the node's architecture.",
        True,
    ),
    (
        'failed to pull and unpack image "ghcr.io/team/airflow:1": failed to resolve image: failed to do request: Head '
        '"https://ghcr.io/v2/team/airflow/manifests/1": dial tcp 140.82.121.33:443: i/o timeout',
        "dial tcp 140.82.121.33:443: i/o timeout",
        "no route, no name, a proxy or a limit between them.",
        False,
    ),
    (
        'failed to pull and unpack image "ghcr.io/team/airflow:1": failed to resolve image: failed to do request: Head '
        '"https://ghcr.io/v2/team/airflow/manifests/1": tls: failed to verify certificate: x509: certificate signed by '
        "unknown authority",
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "The node does not trust the certificate of ghcr.io: ",
        True,
    ),
    (
        'failed to pull and unpack image "docker.io/library/python:3": failed to copy: httpReadSeeker: failed open: '
        "unexpected status code https://registry-1.docker.io/v2/library/python/manifests/sha256:0f3a: 429 Too "
        "Many Requests "
        "- Server message: toomanyrequests: You have reached your unauthenticated pull rate limit.",
        "429 Too Many Requests",
        "a proxy or a limit between them.",
        False,
    ),
]


WANTS_LOGIN = "127.0.0.1:5990 wants a login that the cluster does not have, or has no such image."
SPEAKS_HTTP = "127.0.0.1:5990 speaks HTTP, and the node asks it over HTTPS."
ASKED = "http://127.0.0.1:5990/v2/team/airflow/manifests/1"
# What containerd 2.1.9 said, asked for the image over its CRI API, of registries like that of `tests/cluster/faults.py`
# which it asks over HTTP, of one at which its `hosts.toml` has it use HTTPS alone, and of one whose answer to a TLS
# handshake has no status line.
CONTAINERD_2 = [
    (
        "pull access denied, repository does not exist or may require authorization: authorization failed: no basic "
        "auth credentials",
        "pull access denied, repository does not exist or may require authorization: authorization failed: no basic "
        "auth credentials",
        WANTS_LOGIN,
    ),
    (
        "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to "
        "http://127.0.0.1:5990/token?scope=repository%3Ateam%2Fairflow%3Apull&service=x: 401 Unauthorized",
        "401 Unauthorized",
        WANTS_LOGIN,
    ),
    (f"unexpected status from HEAD request to {ASKED}: 403 Forbidden", "403 Forbidden", WANTS_LOGIN),
    (
        "127.0.0.1:5990/team/airflow:1: not found",
        "not found",
        "127.0.0.1:5990 has no image or tag of that name, or none for the node's architecture.",
    ),
    (
        f"unexpected status from HEAD request to {ASKED}: 429 Too Many Requests",
        "429 Too Many Requests",
        "The node does not reach 127.0.0.1:5990: no route, no name, a proxy or a limit between them.",
    ),
    (
        'failed to do request: Head "https://127.0.0.1:5990/v2/team/airflow/manifests/1": http: server gave HTTP '
        "response to HTTPS client",
        "http: server gave HTTP response to HTTPS client",
        SPEAKS_HTTP,
    ),
    (
        'failed to do request: Head "https://127.0.0.1:5990/v2/team/airflow/manifests/1": tls: first record does not '
        "look like a TLS handshake",
        "tls: first record does not look like a TLS handshake",
        SPEAKS_HTTP,
    ),
]


@pytest.mark.parametrize(("said", "words", "why"), CONTAINERD_2)
def test_the_words_of_containerd_2_are_read(said: str, words: str, why: str) -> None:
    recording = Recording("image-refused")
    recording.without("Event")
    image = "127.0.0.1:5990/team/airflow:1"
    recording.pod()["spec"]["containers"][0]["image"] = image
    recording.waiting("ErrImagePull", f'failed to pull and unpack image "{image}": failed to resolve image: {said}')
    cause = recording.cause()
    assert cause[:3] == ("image", f"refused does not get its image {image}: {words}", why)


@pytest.mark.parametrize(("told", "words", "why", "is_final"), NEWER_IMAGES)
def test_newer_words_of_registries_are_read(told: str, words: str, why: str, is_final: bool) -> None:
    recording = Recording("image-refused")
    recording.without("Event")
    recording.waiting("ImagePullBackOff", f'Back-off pulling image "ghcr.io/team/airflow:1": ErrImagePull: {told}')
    recording.pod()["spec"]["containers"][0]["image"] = "ghcr.io/team/airflow:1"
    cause = recording.cause()
    assert cause.kind == "image"
    assert words[:100] in cause.what
    assert "rpc error" not in cause.what
    assert why in cause.why
    assert cause.is_final is is_final


@pytest.mark.parametrize(
    ("told", "kind", "what"),
    [
        (
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption "
            "victims found "
            "for incoming pod.",
            "unschedulable",
            "much-cpu has no node: 0/1 nodes are available: 1 Insufficient cpu",
        ),
        (
            "0/4 nodes are available: 4 node(s) had untolerated taint {dedicated: gpu}. preemption: 0/4 nodes "
            "are available: "
            "4 Preemption is not helpful for scheduling.",
            "unschedulable",
            "much-cpu has no node: 0/4 nodes are available: 4 node(s) had untolerated taint {dedicated: gpu}",
        ),
        (
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes "
            "are available: "
            "1 Preemption is not helpful for scheduling..",
            "claim",
            "much-cpu has no node: 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims",
        ),
    ],
)
def test_newer_words_of_the_scheduler_are_read(told: str, kind: str, what: str) -> None:
    recording = Recording("unschedulable-cpu")
    recording.pod()["status"]["conditions"][0]["message"] = told
    assert recording.cause()[:2] == (kind, what)


def test_newer_words_of_probes_are_read() -> None:
    """Since 1.35 a probe that takes too long has errored, not failed."""
    recording = Recording("probe-readiness")
    for event in recording.of_kind("Event"):
        event["message"] = (
            "Readiness probe errored and resulted in unknown state: rpc error: code = Canceled desc = context canceled"
        )
    cause = recording.cause()
    assert cause.what == "readiness: its readiness probe errored: rpc error: code = Canceled desc = context canceled"
    assert cause.why == "It answers too slowly: the machine is most likely overloaded."


def test_newer_events_have_a_series() -> None:
    recording = Recording("config-secret")
    for event in recording.of_kind("Event"):
        del event["count"], event["firstTimestamp"], event["lastTimestamp"]
        event |= {
            "eventTime": "2026-11-23T22:33:33.102030Z",
            "series": {"count": 9, "lastObservedTime": "2026-11-23T22:34:33.405060Z"},
        }
    assert recording.cause().is_final


@pytest.mark.parametrize(
    ("message", "kind", "is_final"),
    [
        (
            "The node was low on resource: memory. Threshold quantity: 250Mi, available: 232700Ki. Container "
            "scheduler was "
            "using 4923412Ki, request is 0, has larger consumption of memory. ",
            "evicted",
            False,
        ),
        (
            "The node was low on resource: ephemeral-storage. Threshold quantity: 12908841984, available: 12605872Ki. ",
            "evicted",
            False,
        ),
        ('Container main exceeded its local ephemeral storage limit "1Mi". ', "evicted", True),
    ],
)
def test_newer_words_of_evictions_are_read(message: str, kind: str, is_final: bool) -> None:
    recording = Recording("evicted")
    recording.pod()["status"]["message"] = message
    cause = recording.cause()
    assert (cause.kind, cause.is_final) == (kind, is_final)


def test_exit_code_137_without_a_reason_is_most_likely_memory() -> None:
    recording = Recording("memory-of-a-child")
    status = recording.status()
    status["state"]["terminated"] |= {"reason": "Error", "exitCode": 137}
    cause = recording.cause()
    assert cause.what == "memory-child was killed 5 times: Error, exit code 137."
    assert cause.why == "It most likely used more memory than there was for it; its limit is 64Mi."


@pytest.mark.parametrize("where", ["log", "message"])
def test_an_image_of_another_architecture_is_said(where: str) -> None:
    recording = Recording("crash")
    told = "exec /usr/local/bin/python: exec format error"
    recording.written = dict.fromkeys(recording.written, told if where == "log" else "")
    recording.status()["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    recording.status()["lastState"] = {"terminated": {"exitCode": 255, "message": told if where == "message" else ""}}
    cause = recording.cause()
    assert cause.what == f"crash ended with exit code 255 (4 times): {told}"
    assert cause.why == "Its image is of another architecture than the node: build or pull it for the node's."


@pytest.mark.parametrize(
    ("message", "why", "is_final"),
    [
        (
            'Error creating: pods "airflow-scheduler-5d-x7k2p" is forbidden: exceeded quota: compute, requested: '
            "limits.memory=1536Mi, used: limits.memory=3Gi, limited: limits.memory=4Gi",
            "A rule of the cluster does not allow it, or it names what is not there.",
            False,
        ),
        (
            'Error creating: pods "airflow-scheduler-5d-x7k2p" is forbidden: violates PodSecurity "restricted:latest": '
            'runAsNonRoot != true (pod or container "scheduler" must set securityContext.runAsNonRoot=true)',
            "The namespace's security level does not allow what its containers ask for.",
            True,
        ),
    ],
)
def test_rules_of_the_namespace_are_read(message: str, why: str, is_final: bool) -> None:
    recording = Recording("refused")
    for event in recording.of_kind("Event"):
        event["message"] = message
    cause = recording.cause()
    assert (cause.kind, cause.why, cause.is_final) == ("refused", why, is_final)
    assert cause.what.startswith("The cluster makes no pods for the Job faults-no-account: ")
