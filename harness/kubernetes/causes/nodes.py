"""Nodes that are not ready, short of memory, or whose disk is full."""

import re
from collections.abc import Iterator
from dataclasses import replace

from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.objects import Item, Objects, conditions, is_ready
from harness.kubernetes.causes.wording import FREE_RESOURCES


def unhealthy(objects: Objects) -> Iterator[Cause]:
    """Yield what is wrong with nodes that have, or could have, a pod that is not ready."""
    used = {pod["spec"].get("nodeName") for pod in objects.pods if not is_ready(pod)}
    found = {node["metadata"]["name"]: cause for node in objects.nodes for cause in _causes_of(node)}
    are_all = len(found) == len(objects.nodes)
    for name, cause in found.items():
        # One node of several may fail for its own reasons. When no node takes pods, that is why nothing runs.
        if name in used or (are_all and (None in used or "not ready" in cause.what)):
            yield replace(cause, is_final=cause.is_final and are_all)


def _causes_of(node: Item) -> Iterator[Cause]:
    name = node["metadata"]["name"]
    for kind, condition in conditions(node).items():
        message = condition.get("message", "no message")
        if kind.endswith("Pressure") and condition["status"] == "True":
            why = "Until this is over, it takes no pods and evicts those that it has."
            yield Cause("node", f"The node {name} reports {kind}: {message}", why, FREE_RESOURCES, is_final=True)
        if kind == "Ready" and condition["status"] != "True":
            why = "Its machine or container has most likely stopped or is overloaded, or its network is not set up yet."
            next_step = f"Look at its conditions and events: kubectl describe node {name}"
            yield Cause("node", f"The node {name} is not ready: {message}", why, next_step, is_final=False)


def or_full_disk(cause: Cause) -> Cause:
    """Return CAUSE, or the full disk that it names: whatever fails on a full disk fails because of the disk."""
    if not re.search("no space left on device|disk quota exceeded", cause.what, re.IGNORECASE):
        return cause
    why = "The disk is full: the node's, which on kind and minikube is the Docker engine's, or a volume's."
    return Cause("node", cause.what, why, FREE_RESOURCES, is_final=True)
