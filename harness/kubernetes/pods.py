"""When each pod was scheduled, had its images, was started, and was ready: from the cluster's events and conditions."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from harness.kubernetes.kubectl import Kubectl
from harness.reporting.report.run import Pod


def pods(*namespaces: Kubectl) -> list[Pod]:
    """Return the pods of NAMESPACES by their starts, also those that are deleted, as long as there are events of them.

    May raise FeedError.
    """
    events = [event for kubectl in namespaces for event in kubectl.items("events")]
    existing = [pod for kubectl in namespaces for pod in kubectl.items("pods")]
    return timed(events, existing)


def timed(events: Iterable[Mapping[str, Any]], existing: Iterable[Mapping[str, Any]]) -> list[Pod]:
    """Return the pods that EVENTS are about; EXISTING ones know when they became ready.

    A pod has pulled its images, and is started, when its last container has; a container that was started again counts
    by its first start.
    """
    times: dict[str, dict[str, datetime]] = {}
    for event in events:
        involved = event["involvedObject"]
        at = time_of(event)
        if involved.get("kind") == "Pod" and event["reason"] in ("Scheduled", "Pulled", "Started") and at:
            of_pod = times.setdefault(involved["name"], {})
            of_pod[event["reason"]] = max(at, of_pod.get(event["reason"], at))
    ready = {pod["metadata"]["name"]: ready_at(pod) for pod in existing}
    found = [
        Pod(name, of_pod.get("Scheduled"), of_pod.get("Pulled"), of_pod.get("Started"), ready.get(name))
        for name, of_pod in times.items()
    ]
    return sorted(found, key=lambda pod: (min(times[pod.name].values()), pod.name))


def time_of(event: Mapping[str, Any]) -> datetime | None:
    """Return when EVENT happened first."""
    text = event.get("firstTimestamp") or event.get("eventTime")
    return datetime.fromisoformat(text) if text else None


def ready_at(pod: Mapping[str, Any]) -> datetime | None:
    """Return since when POD is ready; None if it is not."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"])
    return None
