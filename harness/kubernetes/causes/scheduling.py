"""Pods that no node takes, that a node evicted, or that the cluster refuses to create."""

import re
from collections.abc import Iterator

from harness.kubernetes.causes.cause import Cause, Kind
from harness.kubernetes.causes.objects import Item, Objects, conditions
from harness.kubernetes.causes.wording import FILE, FREE_RESOURCES, one_line, pod_name, resources_value


def unscheduled(pod: Item) -> Iterator[Cause]:
    """Explain a pod without a node by the scheduler's message. Never final: an autoscaler may still add a node."""
    message = conditions(pod).get("PodScheduled", {}).get("message")
    if not message:
        return
    # Since 1.24 it also says what evicting other pods would gain, and since 1.32 what other claims on devices would.
    message = one_line(re.split(r"\.? (no new claims to deallocate, )?preemption:", message)[0])
    kind: Kind = "unschedulable"
    if re.search(r"persistent ?volume|volume node affinity", message, re.IGNORECASE):
        kind, why = "claim", "Its volume claim does not exist, or has no volume that a node could use."
        next_step = "List claims and volumes: kubectl get persistentvolumeclaim,persistentvolume"
    elif "Insufficient" in message or "Too many pods" in message:
        why = "It requests more than the nodes have left."
        next_step = f"Lower {resources_value(pod)}.requests {FILE}, or delete other pods, or add a node."
    else:
        why = "No node has the labels that it asks for, or it does not tolerate the nodes' taints."
        next_step = f"Compare nodeSelector, affinity and tolerations {FILE} with: kubectl describe nodes"
    yield Cause(kind, f"{pod_name(pod)} has no node: {message}", why, next_step, is_final=False)


def evicted(pod: Item) -> Cause:
    """Explain a pod that the kubelet ended as a whole."""
    reason = pod["status"]["reason"]
    message = one_line(pod["status"].get("message") or reason)
    what = f"{pod_name(pod)} was {'evicted' if reason == 'Evicted' else 'ended by the node'}: {message}"
    if re.search(r"exceed(s|ed) (the|its) ", message):
        why = "It wrote more to its local disk than its limit allows."
        next_step = f"Raise {resources_value(pod)}.limits.ephemeral-storage {FILE}"
        return Cause("evicted", what, why, next_step, is_final=True)
    why = "The node has too little memory or disk space for it now, or was shut down."
    return Cause("evicted", what, why, FREE_RESOURCES, is_final=False)


def refused(objects: Objects) -> Iterator[Cause]:
    """Explain Jobs, ReplicaSets and others for which the cluster creates no pods."""
    failed = [event for event in objects.events if event.get("reason") == "FailedCreate"]
    last = {(event["involvedObject"]["kind"], event["involvedObject"]["name"]): event for event in failed}
    running_jobs = {job["metadata"]["name"] for job in objects.jobs if not job["status"].get("conditions")}
    for (kind, name), event in last.items():
        # Events outlive their objects for an hour. The pods of a ReplicaSet and of the next have the Deployment's name.
        family = name.rpartition("-")[0] if kind == "ReplicaSet" else name
        has_pods = any(pod["metadata"]["name"].startswith(f"{family}-") for pod in objects.pods)
        if has_pods or (kind == "Job" and name not in running_jobs):
            continue
        message = re.sub(r'^Error creating: (pods "[^"]*" is forbidden: )?', "", one_line(event["message"]))
        # A quota is free again when others end, and an account may be created.
        is_final = "violates PodSecurity" in message
        if is_final:
            why = "The namespace's security level forbids what its containers ask for."
            next_step = f"Compare securityContexts {FILE} with: kubectl get namespace --show-labels"
        else:
            why = "A quota or another rule of the cluster forbids it, or it names an object that does not exist."
            next_step = f"Look at its events: kubectl describe {kind.lower()} {name}"
        what = f"The cluster creates no pods for the {kind} {name}: {message}"
        yield Cause("refused", what, why, next_step, is_final)
