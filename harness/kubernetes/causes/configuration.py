"""Secrets and config maps that are missing, or lack a key, and containers that cannot be created."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.objects import Item, count
from harness.kubernetes.causes.wording import one_line, pod_name

REASONS = ("CreateContainerConfigError", "CreateContainerError")
# A Secret or ConfigMap that is applied beside its pod is there within seconds; the sixth try is 15 s or more later.
MIN_TRIES = 6
_KINDS = {
    **dict.fromkeys(("secret", "secretRef", "secretKeyRef"), "secret"),
    **dict.fromkeys(("configMap", "configMapRef", "configMapKeyRef"), "configmap"),
}


def explain(pod: Item, message: str, events: Sequence[Item]) -> Cause:
    """Explain a pod that MESSAGE says cannot be configured, final once enough of EVENTS repeat it."""
    text = re.sub(r"^Error: ", "", one_line(message))
    # The message names what is missing, whatever its other words are.
    named = [each for each in _references(pod) if _is_in(text, each.name)]
    with_key = [each for each in named if each.key and _is_in(text, each.key)]
    if with_key:
        kind, name, _ = with_key[0]
        why = f"The {kind} {name} has other keys."
        next_step = f"See which keys it has: kubectl describe {kind} {name}"
    elif named:
        kind, name, _ = named[0]
        why = f"The {kind} {name} does not exist in this namespace, or has another name."
        next_step = f"Create it again: nox -s cluster -- up; then kubectl get {kind} {name}"
    else:
        why = "The container's definition does not fit the node or the image."
        next_step = f"Look at its definition and events: kubectl describe pod {pod['metadata']['name']}"
    same = [event for event in events if text[:40] in event.get("message", "")]
    return Cause("config", f"{pod_name(pod)} cannot start: {text}", why, next_step, count(same) >= MIN_TRIES)


def _is_in(text: str, name: str) -> bool:
    """Return whether NAME is in TEXT as a whole, and not as a part of another name."""
    return bool(re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text))


class Reference(NamedTuple):
    """A Secret or ConfigMap that a pod needs, and the key; empty where the pod takes all of its keys."""

    kind: str
    name: str
    key: str


def _references(pod: Item) -> Iterator[Reference]:
    """Yield what a pod's containers and volumes take from Secrets and ConfigMaps."""
    spec = pod["spec"]
    containers = (*spec.get("initContainers", []), *spec.get("containers", []))
    sources = [variable.get("valueFrom") or {} for each in containers for variable in each.get("env", [])]
    sources += [source for each in containers for source in each.get("envFrom", [])]
    for volume in spec.get("volumes", []):
        sources += [volume, *volume.get("projected", {}).get("sources", [])]
    for source in sources:
        for field, found in source.items():
            if kind := _KINDS.get(field):
                name = found.get("name") or found.get("secretName", "")
                for key in (found.get("key", ""), *(item["key"] for item in found.get("items", []))):
                    yield Reference(kind, name, key)
