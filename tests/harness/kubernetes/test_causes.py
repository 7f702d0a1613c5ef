"""The cause that is found in what a cluster shows.

`causes/*.json` were recorded on kind with Kubernetes 1.20, from the objects of `tests/cluster/faults.py` (those of
nodes by setting the kubelet's thresholds and by stopping it), and trimmed. `causes/cases.toml` says what is expected.
"""

import copy
import json
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.objects import Item
from harness.kubernetes.causes.search import LINE_LENGTH, find_component_cause, find_task_cause
from tests.cluster.faults import EXPECTED

FOLDER = Path(__file__).parent / "causes"
RECORDINGS = {path.stem for path in FOLDER.glob("*.json")}
CASES: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "cases.toml").read_text(encoding="utf-8"))
FIELDS = {field.name for field in fields(Cause)}
AS_RECORDED = sorted(CASES.keys() & RECORDINGS)
LATER = "2026-11-23T23:00:00Z"


@dataclass
class Recording:
    """The objects that a cluster showed, and its logs by `pod/container[/previous]`."""

    items: list[Item]
    written: dict[str, str]

    @classmethod
    def read(cls, name: str) -> "Recording":
        recorded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        return cls(recorded["items"], recorded["logs"])

    def logs(self, pod: str, container: str, previous: bool) -> str:
        default = self.written.get("every container", "")
        return self.written.get(f"{pod}/{container}{'/previous' if previous else ''}", default)

    def of_kind(self, kind: str) -> list[Item]:
        return [item for item in self.items if item["kind"] == kind]

    @property
    def pod(self) -> Item:
        return self.of_kind("Pod")[0]

    @property
    def status(self) -> Item:
        status: Item = self.pod["status"]["containerStatuses"][0]
        return status

    def found(self, *, of_task: bool = False) -> Cause | None:
        return (find_task_cause if of_task else find_component_cause)(self.items, self.logs)

    def cause(self) -> Cause:
        cause = self.found()
        assert cause
        return cause

    def change(self, key: str, value: Any) -> None:  # noqa: PLR0912 - a key each
        match key:
            case "without":
                self.items = [item for item in self.items if item["kind"] not in value]
            case "only":
                self.items = [pod for pod in self.of_kind("Pod") if value in pod["metadata"]["name"]]
            case "metadata" | "spec":
                self.pod[key].update(value)
            case "labels":
                self.pod["metadata"]["labels"].update(value)
            case "conditions":
                self.pod["status"]["conditions"] = value
            case "container":
                self.pod["spec"]["containers"][0].update(value)
            case "status":
                self.status.update(value)
            case "state":
                self.status["state"] = value
            case "event":
                for event in self.of_kind("Event"):
                    event.update(value)
            case "log":
                self.written = {"every container": value}
            case "unscheduled":
                self.pod["status"]["conditions"][0]["message"] = value
            case "evicted":
                self.pod["status"]["message"] = value
            case "pull":
                image, message = value
                self.change("without", ["Event"])
                self.change("container", {"image": image})
                reason = "ImagePullBackOff" if message.startswith("Back-off") else "ErrImagePull"
                self.change("state", {"waiting": {"reason": reason, "message": message}})
            case _:
                pytest.fail(f"cases.toml has an unknown key: {key}")


def changed(name: str) -> Recording:
    """Return the recording of a case, changed as the case says."""
    case = CASES[name]
    recording = Recording.read(case.get("recording") or ("image-refused" if "pull" in case else name))
    for key, value in case.items():
        if key not in {*FIELDS, "recording", "found", "final_from_restart"}:
            recording.change(key, value)
    return recording


def of_task(name: str) -> bool:
    return str(CASES[name].get("recording", name)).endswith("-of-a-task")


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_found(name: str) -> None:
    expected = {key: value for key, value in CASES[name].items() if key in FIELDS}
    cause = changed(name).found(of_task=of_task(name))
    assert (cause is not None) is CASES[name].get("found", True)
    assert bool(expected) is (cause is not None)
    for key, value in expected.items():
        if "…" in str(value):
            assert re.fullmatch(re.escape(value).replace("…", ".*"), getattr(cause, key))
        else:
            assert getattr(cause, key) == value
    if of_task(name):
        assert changed(name).found() is None


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "final_from_restart" in case])
def test_a_container_that_fails_again_and_again_is_final(name: str) -> None:
    recording, restarts = Recording.read(name), CASES[name]["final_from_restart"]
    recording.status["restartCount"] = restarts - 1
    assert not recording.cause().is_final
    recording.status["restartCount"] = restarts
    assert recording.cause().is_final


def test_every_recording_and_every_fault_has_a_case() -> None:
    assert set(AS_RECORDED) == RECORDINGS
    assert set(EXPECTED) == {name for name in RECORDINGS if not name.startswith("node-")}


# `memory` was recorded while the container was ready again.
@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"memory"}))
def test_what_is_expected_on_a_cluster_is_found_in_its_recording(name: str) -> None:
    kind, what, why = EXPECTED[name]
    cause = Recording.read(name).found(of_task=of_task(name))
    assert cause
    assert (cause.kind, what in cause.what, why in cause.why) == (kind, True, True)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    recording = Recording.read("image-not-found")
    recording.change("only", "registry")
    assert recording.items
    assert recording.found() is None
    assert find_component_cause([], recording.logs) is None


@pytest.mark.parametrize("name", AS_RECORDED)
def test_pods_that_are_being_deleted_do_not_count(name: str) -> None:
    recording = Recording.read(name)
    for pod in recording.of_kind("Pod"):
        pod["metadata"]["deletionTimestamp"] = LATER
    recording.items = recording.of_kind("Pod") + recording.of_kind("Event")
    assert recording.found() is None


@pytest.mark.parametrize(
    ("component", "value"),
    [
        ("api-server", "apiServer.resources"),
        ("dag-processor", "dagProcessor.resources"),
        ("run-airflow-migrations", "migrateDatabaseJob.resources"),
        ("scheduler", "scheduler.resources"),
    ],
)
def test_next_steps_name_the_components_value_and_log(component: str, value: str) -> None:
    memory, crash = Recording.read("memory-of-a-child"), Recording.read("crash")
    for recording in (memory, crash):
        recording.change("labels", {"component": component})
    assert memory.cause().next_step == f"Raise {value}.limits.memory in cluster/values/base.yaml"
    assert crash.cause().next_step == f"Read its log: nox -s cluster -- logs {component}"


def test_lines_are_short_and_without_secrets() -> None:
    recording = Recording.read("crash")
    recording.change("log", f"ValueError: postgresql://airflow:hunter2@db/airflow is\x1b[31m wrong {'x' * 500}\n")
    cause = recording.cause()
    assert "postgresql://db/airflow is wrong" in cause.what
    for line in (cause.what, cause.why, cause.next_step):
        assert len(line) <= LINE_LENGTH
        assert "\n" not in line


# --- which of several ------------------------------------------------------------------------------------------------


def test_the_deepest_cause_is_found() -> None:
    """For example a missing image, beside everything that fails because of it."""
    together = Recording([], {})
    expected = {
        "probe-readiness": ("probe", False),
        "migrations-hang": ("job-running", False),
        "crash": ("crash", True),
        "migrations-fail": ("job", True),
        "memory-of-a-child": ("memory", True),
        "image-refused": ("image", True),
    }
    for name, deepest in expected.items():
        recording = Recording.read(name)
        for pod in recording.of_kind("Pod"):
            pod["metadata"]["labels"]["release"] = name
        together.items += recording.items
        together.written |= recording.written
        assert (together.cause().kind, together.cause().is_final) == deepest


def test_of_the_same_kind_the_migrations_come_first() -> None:
    recording = Recording.read("image-refused")
    migrations = copy.deepcopy(recording.pod)
    recording.change("metadata", {"creationTimestamp": LATER})
    migrations["metadata"] |= {"name": "airflow-run-airflow-migrations-x7k2p", "labels": {"release": "airflow"}}
    recording.items.append(migrations)
    assert recording.cause().what.startswith("run-airflow-migrations cannot get its image ")


def replacement(pod: Item) -> Item:
    """Return a later pod of the same component, which is ready."""
    later = copy.deepcopy(pod)
    later["metadata"] |= {"name": "new", "creationTimestamp": LATER}
    later["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    return later


def test_the_previous_replica_set_does_not_count() -> None:
    recording = Recording.read("crash")
    later = replacement(recording.pod)
    recording.change("labels", {"pod-template-hash": "1"})
    later["metadata"]["labels"]["pod-template-hash"] = "2"
    recording.items = [recording.pod, later]
    assert recording.found() is None


def test_an_evicted_pod_that_was_replaced_does_not_count() -> None:
    recording = Recording.read("evicted")
    recording.items.append(replacement(recording.pod))
    assert recording.found() is None


@pytest.mark.parametrize(
    "message",
    [
        "unmounted volumes=[data], unattached volumes=[data]: timed out waiting for the condition",
        "unmounted volumes=[data], unattached volumes=[], failed to process volumes=[]: context deadline exceeded",
    ],
)
def test_a_list_of_volumes_does_not_hide_why_they_cannot_be_mounted(message: str) -> None:
    recording = Recording.read("claim-path")
    before, last = recording.cause(), copy.deepcopy(recording.of_kind("Event")[-1])
    message = f"Unable to attach or mount volumes: {message}"  # the second since 1.27
    recording.items.append(last | {"reason": "FailedMount", "message": message, "lastTimestamp": LATER})
    assert recording.cause() == before
    assert "/faults/missing is not a directory" in before.what


def test_another_nodes_trouble_does_not_count() -> None:
    recording = Recording.read("crash")
    other = copy.deepcopy(recording.of_kind("Node")[0])
    other["metadata"]["name"] = "other"
    other["status"]["conditions"] = [{"type": "DiskPressure", "status": "True"}]
    recording.items.append(other)
    assert recording.cause().kind == "crash"


def test_a_claim_that_waits_for_its_pods_node_is_not_the_cause() -> None:
    recording = Recording.read("claim-class")
    for event in recording.of_kind("Event"):
        if event["involvedObject"]["kind"] == "PersistentVolumeClaim":
            event |= {"reason": "WaitForFirstConsumer", "message": "waiting for first consumer to be created"}
    recording.change("unscheduled", "0/1 nodes are available: 1 Insufficient cpu.")
    assert recording.cause().kind == "unschedulable"
