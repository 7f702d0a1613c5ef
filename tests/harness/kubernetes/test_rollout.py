"""A component is rolled out when the pods of its last installation, and no others, are up; passwords are kept."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.kubernetes import deployment as release
from harness.kubernetes.kubectl import Kubectl
from harness.warehouse.roles import ROLES
from tests import programs

Object = dict[str, Any]


def deployment(component: str = "scheduler", **status: int) -> Object:
    told = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    return {
        "kind": "Deployment",
        "metadata": {"name": f"airflow-{component}", "generation": 2, "labels": {"component": component}},
        "spec": {"replicas": 1},
        "status": told | status,
    }


def pod(component: str = "scheduler", *, has_readiness: bool = False, **status: Any) -> Object:
    """Return a pod of one container that runs and is ready; STATUS is what differs in the container's."""
    running = {"name": component, "ready": True, "started": True, "restartCount": 0, "state": {"running": {}}}
    container = {"name": component, "startupProbe": {}, "livenessProbe": {}}
    return {
        "kind": "Pod",
        "metadata": {"name": f"airflow-{component}-1", "labels": {"component": component}},
        "spec": {"containers": [container | ({"readinessProbe": {}} if has_readiness else {})]},
        "status": {"phase": "Running", "containerStatuses": [running | status]},
    }


def without_statuses() -> Object:
    return pod() | {"status": {"phase": "Pending"}}


def of_two(**second: Any) -> Object:
    """Return a pod of two containers, the first of them up."""
    both = pod()
    for part, other in (("spec", "containers"), ("status", "containerStatuses")):
        both[part][other].append(pod()[part][other][0] | {"name": "second"} | (second if part == "status" else {}))
    return both


WAITING: Object = {"waiting": {"reason": "CrashLoopBackOff"}}
STARTED: Object = {
    "ready": False,
    "started": True,
}  # what Kubernetes 1.20 says for a minute of a container without readiness
OTHERS = [deployment("api-server", observedGeneration=1), pod("api-server", ready=False, started=False), pod("worker")]


@pytest.mark.parametrize(
    ("is_up", "items"),
    [
        pytest.param(True, [deployment(), pod()], id="ready"),
        pytest.param(True, [deployment(), pod(restartCount=3)], id="ready after restarts"),
        pytest.param(True, [deployment(), pod(), *OTHERS], id="whatever other components do"),
        pytest.param(True, [deployment(availableReplicas=0), pod()], id="the count of what is available is late"),
        pytest.param(True, [deployment(), pod(**STARTED)], id="started, without a readiness probe"),
        pytest.param(False, [deployment(), pod(**STARTED, has_readiness=True)], id="started, with a readiness probe"),
        pytest.param(False, [deployment(), pod(ready=False, started=False)], id="not started"),
        pytest.param(False, [deployment(), pod(ready=False, started=True, state=WAITING)], id="crashed"),
        pytest.param(False, [deployment(), pod(ready=False, started=None, state=WAITING)], id="crashes"),
        pytest.param(True, [deployment(), of_two()], id="both containers ready"),
        pytest.param(False, [deployment(), of_two(ready=False, started=False)], id="one container of two ready"),
        pytest.param(False, [deployment(), without_statuses()], id="not scheduled"),
        pytest.param(False, [deployment(observedGeneration=1), pod()], id="this installation not seen yet"),
        pytest.param(False, [deployment() | {"status": {}}, pod()], id="nothing seen yet"),
        pytest.param(False, [deployment(replicas=2), pod()], id="an old replica counted"),
        pytest.param(False, [deployment(updatedReplicas=0), pod()], id="only old replicas"),
        pytest.param(False, [deployment(), pod(), pod()], id="an old pod still there"),
        pytest.param(False, [deployment()], id="no pod"),
        pytest.param(False, [pod()], id="no deployment"),
        pytest.param(False, OTHERS, id="another component's alone"),
        pytest.param(False, [], id="nothing"),
    ],
)
def test_a_component_is_rolled_out(is_up: bool, items: list[Object]) -> None:
    assert release.is_rolled_out(items, "scheduler") is is_up


@pytest.fixture
def kubectl(tmp_path: Path) -> Callable[[str], Kubectl]:
    """Give a way to make a kubectl that knows one secret, `passwords`, or none."""

    def make(secret: str) -> Kubectl:
        wanted = ["--namespace", "there", "get", "secret", "passwords", "--ignore-not-found", "--output", "json"]
        source = f"import sys\nsys.exit(64) if sys.argv[1:] != {wanted} else print({secret!r})\n"
        return Kubectl(programs.write(tmp_path / "kubectl", source), "there")

    return make


def test_passwords_that_are_there_are_kept_and_others_are_made(kubectl: Callable[[str], Kubectl]) -> None:
    there = {"loader": "lädt", "admin": "mine", "somebody": "else's"}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in there.items()}
    mine = release.passwords(kubectl(json.dumps({"kind": "Secret", "data": data})))
    assert set(mine) == {*ROLES, release.METADATA, release.USER}
    assert (mine["loader"], mine["admin"]) == (there["loader"], there["admin"])
    made = [value for name, value in mine.items() if name not in there]
    assert len(set(made)) == len(made) == 3
    assert all(len(value) >= 32 for value in made)


def test_without_a_secret_every_password_is_new(kubectl: Callable[[str], Kubectl]) -> None:
    first, second = release.passwords(kubectl("")), release.passwords(kubectl(""))
    assert set(first) == {*ROLES, release.METADATA, release.USER}
    assert not set(first.values()) & set(second.values())
    assert len(set(first.values())) == 5


def test_an_empty_secret_holds_nothing(kubectl: Callable[[str], Kubectl]) -> None:
    assert release.read_secret(kubectl('{"kind": "Secret"}'), "passwords") == {}
