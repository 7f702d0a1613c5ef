"""A component is rolled out when the pods of its last installation, and no others, are up."""

from typing import Any

import pytest

from harness.kubernetes.rollout import is_rolled_out

Object = dict[str, Any]


def deployment(component: str = "scheduler", **status: int) -> Object:
    complete = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    return {
        "kind": "Deployment",
        "metadata": {"name": f"airflow-{component}", "generation": 2, "labels": {"component": component}},
        "spec": {"replicas": 1},
        "status": complete | {"availableReplicas": 1} | status,
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


def of_two(**second: Any) -> Object:
    """Return a pod of two containers, the first of them up."""
    both = pod()
    for part, other in (("spec", "containers"), ("status", "containerStatuses")):
        both[part][other].append(pod()[part][other][0] | {"name": "second"} | (second if part == "status" else {}))
    return both


WAITING: Object = {"waiting": {"reason": "CrashLoopBackOff"}}
# What Kubernetes 1.20 shows for a minute of a container without a readiness probe.
STARTED: Object = {"ready": False, "started": True}
OTHERS = [deployment("api-server", observedGeneration=1), pod("api-server", ready=False, started=False), pod("worker")]


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([deployment(), pod()], id="ready"),
        pytest.param([deployment(), pod(restartCount=3)], id="ready after restarts"),
        pytest.param([deployment(), pod(), *OTHERS], id="other components are not"),
        pytest.param([deployment(availableReplicas=0), pod()], id="the count of available replicas is late"),
        pytest.param([deployment(), pod(**STARTED)], id="started, without a readiness probe"),
        pytest.param([deployment(), of_two()], id="both containers ready"),
        pytest.param([deployment(), pod(), pod() | {"status": {"phase": "Failed"}}], id="beside an evicted pod"),
    ],
)
def test_a_component_is_rolled_out(items: list[Object]) -> None:
    assert is_rolled_out(items, "scheduler")


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([deployment(), pod(**STARTED, has_readiness=True)], id="started, with a readiness probe"),
        pytest.param([deployment(), pod(ready=False, started=False)], id="not started"),
        pytest.param([deployment(), pod(ready=False, started=True, state=WAITING)], id="crashed"),
        pytest.param([deployment(), pod(ready=False, started=None, state=WAITING)], id="crashes while it starts"),
        pytest.param([deployment(), of_two(ready=False, started=False)], id="one container of two ready"),
        pytest.param([deployment(), pod() | {"status": {"phase": "Pending"}}], id="not scheduled"),
        pytest.param([deployment(observedGeneration=1), pod()], id="this installation not observed yet"),
        pytest.param([deployment() | {"status": {}}, pod()], id="nothing observed yet"),
        pytest.param([deployment(replicas=2), pod()], id="an old replica counted"),
        pytest.param([deployment(updatedReplicas=0), pod()], id="only old replicas"),
        pytest.param([deployment(), pod(), pod()], id="an old pod still exists"),
        pytest.param([deployment()], id="no pod"),
        pytest.param([pod()], id="no deployment"),
        pytest.param(OTHERS, id="only other components"),
        pytest.param([], id="nothing"),
    ],
)
def test_a_component_is_not_rolled_out(items: list[Object]) -> None:
    assert not is_rolled_out(items, "scheduler")
