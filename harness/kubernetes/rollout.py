"""Wait until Airflow's components run as they were last installed, and stop where they never will."""

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from harness.errors import CommandFailedError, RollOutFailedError
from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.objects import labels
from harness.kubernetes.causes.search import find_causes, find_component_cause, find_task_cause
from harness.kubernetes.kubectl import Kubectl
from harness.project import pins
from harness.reporting.console import Phases

COMPONENTS = ("api-server", "scheduler", "dag-processor")
POLL_INTERVAL_S = 0.5
WATCH_INTERVAL_S = 3.0  # between two searches for a cause; each calls kubectl three times


class Watch:
    """Called again and again during a wait; raises once CHECK_DEPENDENCIES does, or waiting has become pointless."""

    def __init__(self, kubectl: Kubectl, check_dependencies: Callable[[], None], *, of_tasks: bool = False) -> None:
        self._kubectl = kubectl
        self._check_dependencies = check_dependencies
        self._finders = (find_component_cause, find_task_cause) if of_tasks else (find_component_cause,)
        self._next = 0.0

    def __call__(self) -> None:
        """Search for a cause, if the last search was long enough ago; raise RollOutFailedError if one is final."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + WATCH_INTERVAL_S
        self._check_dependencies()
        try:
            causes = find_causes(self._kubectl, *self._finders)
        except CommandFailedError:
            return  # the API server is busy, or being rolled out; whoever waits has a deadline
        for cause in causes:
            if cause.is_final:
                raise RollOutFailedError(cause.what, cause.why, cause.next_step)


def component_cause(kubectl: Kubectl) -> Cause | None:
    """Return the most likely cause for which a component is not ready, or has ended."""
    return next(iter(find_causes(kubectl, find_component_cause)), None)


def wait_for_components(
    kubectl: Kubectl, phases: Phases, watch: Callable[[], None], components: Iterable[str] = COMPONENTS
) -> None:
    """Wait until COMPONENTS run as last installed, and no older pods; raise RollOutFailedError if that fails."""
    timeout_s = pins.deadline_s("roll_out")
    deadline = time.monotonic() + timeout_s
    for component in components:
        with phases.phase(f"{component} ready"):
            while not _is_up_now(kubectl, component):
                watch()
                if time.monotonic() > deadline:
                    cause = component_cause(kubectl)
                    raise RollOutFailedError(
                        f"{component} is not ready after {timeout_s:.0f} s" + (f": {cause.what}" if cause else "."),
                        cause.why if cause else "The cluster shows no cause: the machine is most likely too slow.",
                        cause.next_step if cause else f"Read its log: nox -s cluster -- logs {component}",
                    )
                time.sleep(POLL_INTERVAL_S)


def _is_up_now(kubectl: Kubectl, component: str) -> bool:
    with contextlib.suppress(CommandFailedError):  # as in Watch
        return is_rolled_out(kubectl.items("deployments", "pods"), component)
    return False


def is_rolled_out(items: list[dict[str, Any]], component: str) -> bool:
    """Return whether a component runs as it was last installed, given a namespace's Deployments and pods.

    The Deployment's own count of available pods is not used: before Kubernetes 1.21 the kubelet takes a minute to call
    a container ready that has a startup probe and no readiness probe. Such a container is up once it has started.
    """
    deployment = next((i for i in items if i["kind"] == "Deployment" and labels(i).get("component") == component), None)
    if not deployment:
        return False
    status = deployment.get("status", {})
    wanted = deployment["spec"]["replicas"]
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return False
    if status.get("updatedReplicas", 0) != wanted or status.get("replicas", 0) != wanted:
        return False
    pods = [i for i in items if i["kind"] == "Pod" and labels(i).get("component") == component]
    pods = [pod for pod in pods if pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")]  # e.g. evicted
    return len(pods) == wanted and all(_is_up(pod) for pod in pods)


def _is_up(pod: dict[str, Any]) -> bool:
    has_readiness = {container["name"]: "readinessProbe" in container for container in pod["spec"]["containers"]}
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return len(statuses) == len(has_readiness) and all(
        status["ready"]
        or (status.get("started") and "running" in status["state"] and not has_readiness[status["name"]])
        for status in statuses
    )


def delete_failed(kubectl: Kubectl) -> None:
    """Delete a migration that failed before, and the components' pods that are not up.

    Helm does not touch them where their definition stays the same: what was fixed would be tried again only minutes
    later, and their old states would be taken for new ones.
    """
    for item in kubectl.items("jobs", "pods"):
        component, kind = labels(item).get("component"), item["kind"]
        is_failed_job = kind == "Job" and component == "run-airflow-migrations" and not item["status"].get("succeeded")
        if is_failed_job or (kind == "Pod" and component in COMPONENTS and not _is_up(item)):
            kubectl.run("delete", kind.lower(), item["metadata"]["name"], "--ignore-not-found", "--wait=false")
