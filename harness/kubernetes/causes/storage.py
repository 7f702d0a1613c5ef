"""Volume claims without a volume, and volumes that cannot be mounted."""

import re
from collections.abc import Iterator

from harness.kubernetes.causes import configuration
from harness.kubernetes.causes.cause import Cause, Kind
from harness.kubernetes.causes.objects import Item, Objects, containers, is_ready
from harness.kubernetes.causes.wording import one_line, pod_name

_LISTS_VOLUMES = re.compile(r"(Unable to attach or mount volumes: )?unmounted volumes=")
_WAITS_FOR_POD = ("WaitForFirstConsumer", "WaitForPodScheduled")


def unbound_claims(objects: Objects) -> Iterator[Cause]:
    """Explain claims that have no volume and that a pod waits for."""
    for claim in objects.claims:
        name, spec = claim["metadata"]["name"], claim["spec"]
        users = [pod for pod in objects.pods if name in _claims_of(pod) and not is_ready(pod)]
        if claim["status"].get("phase") == "Bound" or not users:
            continue
        reasons = ("FailedBinding", "ProvisioningFailed", "ExternalProvisioning", *_WAITS_FOR_POD)
        events = objects.events_of(claim, *reasons)
        if events and events[-1]["reason"] in _WAITS_FOR_POD:
            continue  # the volume is made once the pod has a node
        volume = spec.get("volumeName")
        message = (
            events[-1]["message"] if events else f"it names the volume {volume}" if volume else "no event says why"
        )
        # A missing class does not appear by itself; a volume can be added, or be on its way.
        has_class = not ("storageclass" in message.lower() and "not found" in message)
        why = "No volume fits it, or another claim uses that volume."
        why = why if has_class else f"The cluster has no storage class {spec.get('storageClassName')}."
        what = f"{pod_name(users[0])} waits for the claim {name}, which has no volume: {one_line(message)}"
        next_step = f"See kubectl get storageclass,persistentvolume and kubectl describe persistentvolumeclaim {name}"
        yield Cause("claim", what, why, next_step, not has_class)


def _claims_of(pod: Item) -> list[str]:
    volumes = pod["spec"].get("volumes", [])
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


def failed_mounts(objects: Objects, pod: Item) -> Iterator[Cause]:
    """Explain a pod on a node where none of its containers was created, for lack of a volume or a network."""
    reasons = {container.waiting.get("reason") for container in containers(pod)}
    events = objects.events_of(pod, "FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox")
    if not events or not reasons <= {"ContainerCreating", "PodInitializing"}:
        return
    # "Unable to attach or mount volumes …" follows each of the telling ones two minutes later: it only lists volumes.
    telling = [event for event in events if not _LISTS_VOLUMES.match(event["message"])] or events
    text = one_line(telling[-1]["message"])
    if missing := re.search(r'(secret|configmap) "[^"]+" not found|references non-existent \w+ key: \S+', text):
        yield configuration.explain(pod, missing[0], telling)
        return
    kind: Kind = "node" if telling[-1]["reason"] == "FailedCreatePodSandBox" else "claim"
    why = "The source of its volume, or the node's network, is most likely missing, or not ready yet."
    next_step = f"Look at its volumes and events: kubectl describe pod {pod['metadata']['name']}"
    yield Cause(kind, f"{pod_name(pod)} cannot be set up on its node: {text}", why, next_step, is_final=False)
