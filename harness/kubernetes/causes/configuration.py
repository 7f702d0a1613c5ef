"""Secrets and config maps that are missing, or lack a key, and containers that cannot be created."""

import re
from collections.abc import Sequence

from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.objects import Item, count
from harness.kubernetes.causes.wording import one_line, pod_name

REASONS = ("CreateContainerConfigError", "CreateContainerError")
# A Secret or ConfigMap that is applied beside its pod is there within seconds; the sixth try is 15 s or more later.
MIN_TRIES = 6


def explain(pod: Item, message: str, events: Sequence[Item]) -> Cause:
    """Explain a pod that MESSAGE says cannot be configured, final once enough of EVENTS repeat it."""
    text = re.sub(r"^Error: ", "", one_line(message))
    missing = re.search(r'(secret|configmap) "([^"]+)" not found', text)
    key = re.search(r"find key \S+ in (Secret|ConfigMap) (?:[^/\s]+/)?(\S+)", text)
    if missing:
        why = f"The {missing[1]} {missing[2]} does not exist in this namespace, or has another name."
        next_step = f"Create it again: nox -s cluster -- up; then kubectl get {missing[1]} {missing[2]}"
    elif key:
        why = f"The {key[1].lower()} {key[2]} has other keys."
        next_step = f"See which keys it has: kubectl describe {key[1].lower()} {key[2]}"
    else:
        why = "The container's definition does not fit the node or the image."
        next_step = f"Look at its definition and events: kubectl describe pod {pod['metadata']['name']}"
    same = [event for event in events if text[:40] in event.get("message", "")]
    return Cause("config", f"{pod_name(pod)} cannot start: {text}", why, next_step, count(same) >= MIN_TRIES)
