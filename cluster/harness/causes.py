"""Say why Airflow does not come up on a cluster, from what the cluster itself says of its objects.

A missed deadline or a failed `helm upgrade` names a symptom. What is behind it stands in the states of containers and
in events, in words that differ between versions of Kubernetes (1.20 to 1.36 are read here), and in logs. Nothing here
asks the cluster: what is passed in is what `kubectl get … --output json` lists, and a function that returns a log.

Next steps say `kubectl` alone: it needs the cluster's own `--kubeconfig` and `--namespace`, which the caller knows.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

Item = dict[str, Any]
Logs = Callable[[str, str, bool], str]

MIGRATIONS = "run-airflow-migrations"
WAITS_FOR_MIGRATIONS = "wait-for-airflow-migrations"
BUILT_HERE = "events-platform/"  # images that no registry has
LINE_LENGTH = 200

# How often a container has to have been started again before it is taken to end always. The kubelet waits 10, 20, 40 s
# between starts: a database or a volume that was merely late is there by then.
CRASHES = 3
# Memory that is too little twice is too little; the first time may have been a peak of all starting at once.
MEMORY_KILLS = 2
# A registry that cannot be reached twice, 10 s apart or more, is not a blip.
PULLS = 2
# A Secret or ConfigMap that is applied beside its pod is there within seconds; the kubelet asks every 10 s or so.
LATE_S = 20.0

STATUS = "Look at the whole: nox -s cluster -- status"


class Cause(NamedTuple):
    """Why something does not come up.

    Attributes:
        kind: image, config, claim, unschedulable, refused, memory, evicted, node, crash, hook-timeout or probe.
        what: what happened; one line.
        why: why most likely; one line.
        next_step: what to do; one line.
        is_final: waiting longer is pointless.
    """

    kind: str
    what: str
    why: str
    next_step: str
    is_final: bool


# What is further up brings about what is further down: an image that is not there keeps the migrations from ending, and
# these keep the components waiting.
_DEPTH = (
    "node", "evicted", "claim", "unschedulable", "refused", "config", "image", "memory", "migrations failed", "crash",
    "migrations run", "probe", "waits", "past",
)  # fmt: skip


class _Suspect(NamedTuple):
    depth: str
    cause: Cause


def find(items: Sequence[Item], logs: Logs) -> Cause | None:
    """Return the most likely reason for which Airflow's components are not ready; None if nothing is known to be wrong.

    Pods of tasks are left out: see `find_for_tasks`.

    Args:
        items: pods, events, persistentvolumeclaims, jobs and nodes; also the `default` namespace's events of nodes, if
            they are to be had. Kinds that are missing, because they may not be listed for instance, are done without.
        logs: given a pod, a container and whether the one before its restart is meant, the last lines of its log.
    """
    seen = _Cluster.of(items, logs)
    pods = [pod for pod in seen.pods if not _is_of_task(pod)]
    suspects = [*_of_nodes(seen, pods), *_of_claims(seen, pods), *_of_pods(seen, pods), *_of_jobs(seen)]
    return _deepest([*suspects, *_of_past_kills(seen, pods)])


def find_for_tasks(items: Sequence[Item], logs: Logs) -> Cause | None:
    """Return the reason for which a pod of a task could not run; None if its log has to tell.

    What a task itself fails of is left to its log: a pod that ended with an exit code is not a reason here, unless it
    was killed for its memory.

    Args:
        items: as for `find`; pods other than tasks' are left out. Failed pods of older runs may be there still, and are
            not told apart: select by the labels `dag_id` and `run_id`.
        logs: as for `find`.
    """
    seen = _Cluster.of(items, logs)
    pods = [pod for pod in seen.pods if _is_of_task(pod)]
    suspects = [*_of_nodes(seen, pods), *_of_pods(seen, pods)]
    return _deepest(suspect for suspect in suspects if suspect.depth not in ("crash", "probe"))


def _deepest(suspects: Iterable[_Suspect]) -> Cause | None:
    # Of two that are equally deep the first is said: those of the migrations come first, then those of newer pods.
    ordered = sorted(suspects, key=lambda suspect: _DEPTH.index(suspect.depth))
    return ordered[0].cause if ordered else None


# --- what is seen ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cluster:
    """The objects by kind, without what no longer counts."""

    pods: Sequence[Item]
    jobs: Sequence[Item]
    claims: Sequence[Item]
    nodes: Sequence[Item]
    events: Sequence[Item]
    logs: Logs

    @classmethod
    def of(cls, items: Sequence[Item], logs: Logs) -> "_Cluster":
        kinds: dict[str, list[Item]] = {}
        for item in items:
            kinds.setdefault(item.get("kind", ""), []).append(item)
        newest_first = sorted(kinds.get("Pod", []), key=_created, reverse=True)
        pods = sorted(_current(newest_first), key=lambda pod: _component(pod) != MIGRATIONS)
        return cls(
            pods=pods,
            jobs=kinds.get("Job", []),
            claims=kinds.get("PersistentVolumeClaim", []),
            nodes=kinds.get("Node", []),
            events=sorted(kinds.get("Event", []), key=_last_seen),
            logs=logs,
        )

    def events_of(self, item: Item, *reasons: str, container: str = "") -> list[Item]:
        """Return what happened to ITEM, the last at the end."""
        about = {"kind": item.get("kind"), "name": item["metadata"]["name"]}
        uid = item["metadata"].get("uid")
        found = []
        for event in self.events:
            involved = event.get("involvedObject", {})
            if any(involved.get(key) != value for key, value in about.items()) or event.get("reason") not in reasons:
                continue
            # A pod that was made again has the name of the one before; a node's events have its name as uid.
            if item.get("kind") != "Node" and uid and involved.get("uid", uid) != uid:
                continue
            if not container or f"{{{container}}}" in involved.get("fieldPath", f"{{{container}}}"):
                found.append(event)
        return found


def _current(newest_first: Sequence[Item]) -> Iterator[Item]:
    """Leave out what is over: pods that did their work, are going, or were followed by others of the same component."""
    hashes: dict[tuple[str, str], str] = {}
    ready: set[tuple[str, str]] = set()
    for pod in newest_first:
        labels = _labels(pod)
        group = (labels.get("release", ""), labels.get("component", ""))
        is_grouped = bool(group[1]) and not _is_of_task(pod)
        if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") == "Succeeded":
            continue
        template = labels.get("pod-template-hash", "")
        if is_grouped and hashes.setdefault(group, template) != template:
            continue  # of the ReplicaSet before
        if is_grouped and pod["status"].get("phase") == "Failed" and group in ready:
            continue  # evicted, and replaced since
        if _is_ready(pod):
            ready.add(group)
        yield pod


def _labels(item: Item) -> Mapping[str, str]:
    labels: dict[str, str] = item["metadata"].get("labels") or {}
    return labels


def _component(item: Item) -> str:
    name: str = item["metadata"]["name"]
    return _labels(item).get("component") or (MIGRATIONS if MIGRATIONS in name else name)


def _is_of_task(pod: Item) -> bool:
    labels = _labels(pod)
    is_made_by_airflow = "True" in (labels.get("kubernetes_executor"), labels.get("kubernetes_pod_operator"))
    return is_made_by_airflow or labels.get("component") == "worker"


def _name(pod: Item) -> str:
    """Name a pod as the user knows it."""
    labels = _labels(pod)
    if not _is_of_task(pod):
        return _component(pod)
    dag_id, task_id = labels.get("dag_id"), labels.get("task_id")
    return f"the pod of {dag_id}.{task_id}" if dag_id and task_id else f"the task's pod {pod['metadata']['name']}"


def _created(item: Item) -> str:
    return str(item["metadata"].get("creationTimestamp") or "")


def _is_ready(pod: Item) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"].get("conditions", [])
    )


def _times(event: Item) -> list[str]:
    series = event.get("series") or {}
    times = (
        event.get("firstTimestamp"),
        event.get("eventTime"),
        event.get("lastTimestamp"),
        series.get("lastObservedTime"),
    )
    return sorted(time for time in times if time)


def _last_seen(event: Item) -> str:
    return (_times(event) or [""])[-1]


def _count(events: Iterable[Item]) -> int:
    return sum(int((event.get("series") or {}).get("count") or event.get("count") or 1) for event in events)


def _lasted_s(events: Iterable[Item]) -> float:
    """Return the seconds between the first and the last time that EVENTS were seen; no clock is needed for it."""
    times = [datetime.fromisoformat(time) for event in events for time in _times(event)]
    return (max(times) - min(times)).total_seconds() if times else 0.0


class _Container(NamedTuple):
    """A container with its status; the fields that Kubernetes leaves out are empty."""

    pod: Item
    name: str
    image: str
    spec: Item
    restarts: int
    is_ready: bool
    waiting: Item
    running: Item
    ended: Item  # how it ended, the last time that it did
    is_over: bool  # it has not been started again since

    @property
    def ends(self) -> int:
        """How often it has ended, whatever it ended of."""
        return self.restarts + (1 if self.is_over and self.ended else 0)

    @property
    def limit(self) -> str:
        return str(self.spec.get("resources", {}).get("limits", {}).get("memory", ""))


def _containers(pod: Item) -> Iterator[_Container]:
    specs = {
        spec["name"]: spec for spec in (*pod["spec"].get("initContainers", []), *pod["spec"].get("containers", []))
    }
    status = pod["status"]
    for told in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        state, last = told.get("state") or {}, told.get("lastState") or {}
        spec = specs.get(told["name"], {})
        yield _Container(
            pod=pod,
            name=told["name"],
            image=spec.get("image") or told.get("image", ""),
            spec=spec,
            restarts=told.get("restartCount", 0),
            is_ready=bool(told.get("ready")),
            waiting=state.get("waiting") or {},
            running=state.get("running") or {},
            ended=state.get("terminated") or last.get("terminated") or {},
            is_over="running" not in state,
        )


# --- nodes and claims ------------------------------------------------------------------------------------------------

_PRESSURES = {
    "DiskPressure": (
        "has too little disk space",
        "Free space on its disk; where Docker is the node: docker system prune",
    ),
    "MemoryPressure": (
        "has too little memory left",
        "End other programs on that machine, or give the cluster more memory.",
    ),
    "PIDPressure": ("has too many processes", "End other programs on that machine."),
}


_NO_MEMORY = "All that runs on the machine together needs more memory than it has."


def _of_nodes(seen: _Cluster, pods: Sequence[Item]) -> Iterator[_Suspect]:
    unready = [pod for pod in pods if not _is_ready(pod)]
    homes = {pod["spec"].get("nodeName") for pod in unready}
    is_any_homeless = any(not pod["spec"].get("nodeName") for pod in unready)
    troubled = {node["metadata"]["name"]: trouble for node in seen.nodes if (trouble := _trouble(node))}
    are_all = len(troubled) == len(seen.nodes)
    for name, (text, why, next_step) in troubled.items():
        # One node of several may be in trouble for its own reasons. When no node takes pods, that is why nothing runs.
        is_ours = name in homes or (are_all and (is_any_homeless or "not ready" in text))
        if is_ours:
            is_pressed = are_all and "not ready" not in text
            yield _Suspect("node", Cause("node", _line(f"The node {name} {text}"), _line(why), next_step, is_pressed))


def _trouble(node: Item) -> tuple[str, str, str] | None:
    name = node["metadata"]["name"]
    conditions = {condition["type"]: condition for condition in node["status"].get("conditions", [])}
    describe = f"Look at its conditions and events: kubectl describe node {name}"
    ready = conditions.get("Ready", {"status": "True"})
    if ready["status"] != "True":
        why = "Its machine or its container has most likely stopped or is overloaded, or its network is not set up yet."
        return f"is not ready: {ready.get('message', 'it says nothing')}", why, describe
    for kind, (text, next_step) in _PRESSURES.items():
        if conditions.get(kind, {}).get("status") == "True":
            why = "It takes no pods, and evicts those that it has, until it has enough again."
            return f"{text}: {conditions[kind].get('message', '')}", why, next_step
    return None


def _of_past_kills(seen: _Cluster, pods: Sequence[Item]) -> Iterator[_Suspect]:
    """Suspect a node that killed processes for its memory, after all else: events are kept for an hour."""
    for node in seen.nodes:
        killed = seen.events_of(node, "SystemOOM")
        if killed and not all(_is_ready(pod) for pod in pods):
            victim = re.search(r"victim process: ([^,]+)", killed[-1].get("message", ""))
            process = victim[1] if victim else "processes"
            what = f"The node {node['metadata']['name']} ran out of memory and killed {process}."
            cause = Cause("memory", _line(what), _NO_MEMORY, _PRESSURES["MemoryPressure"][1], is_final=False)
            yield _Suspect("past", cause)


_CLAIM_REASONS = (
    "FailedBinding",
    "ProvisioningFailed",
    "ExternalProvisioning",
    "WaitForFirstConsumer",
    "WaitForPodScheduled",
)


def _of_claims(seen: _Cluster, pods: Sequence[Item]) -> Iterator[_Suspect]:
    """Suspect claims that have no volume and that a pod waits for."""
    for claim in seen.claims:
        name = claim["metadata"]["name"]
        users = [pod for pod in pods if name in _claims_of(pod) and not _is_ready(pod)]
        if claim["status"].get("phase") == "Bound" or not users:
            continue
        events = seen.events_of(claim, *_CLAIM_REASONS)
        if events and events[-1]["reason"].startswith("WaitFor"):
            continue  # for the pod's node, which something else keeps from being chosen
        told = _trimmed(events[-1].get("message", "")) if events else ""
        storage_class = claim["spec"].get("storageClassName") or ""
        size = claim["spec"].get("resources", {}).get("requests", {}).get("storage", "")
        if claim["status"].get("phase") == "Lost":
            told, why = "its volume is gone", f"Somebody deleted the volume {claim['spec'].get('volumeName', '')}."
        elif "storageclass" in told.lower() and "not found" in told:
            why = f"The cluster has no storage class {storage_class}."
        elif "no persistent volumes available" in told:
            why = f"No free volume fits it ({size}, no storage class), and none is made for it."
        elif "waiting for a volume to be created" in told:
            why = f"What makes volumes of storage class {storage_class} most likely does not run, or is slow."
        elif told:
            why = f"What makes volumes of storage class {storage_class} failed."
        elif claim["spec"].get("volumeName"):
            told = f"it names the volume {claim['spec']['volumeName']}"
            why = "Nothing made that volume, or another claim has it."
        else:
            told, why = "the cluster says nothing about it", "What makes volumes here most likely does not run."
        yield _Suspect(
            "claim",
            Cause(
                "claim",
                _line(f"{_name(users[0])} waits for the claim {name}, which has no volume: {told}"),
                _line(why),
                f"Compare kubectl get storageclass,persistentvolume with kubectl describe persistentvolumeclaim {name}",
                # A class that is not there does not come by itself; a volume can be added, or be on its way.
                "has no storage class" in why,
            ),
        )


def _claims_of(pod: Item) -> list[str]:
    volumes = pod["spec"].get("volumes", [])
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


# --- pods ------------------------------------------------------------------------------------------------------------


def _of_pods(seen: _Cluster, pods: Sequence[Item]) -> Iterator[_Suspect]:
    for pod in pods:
        # A job's pod without probes is ready while it runs, which is not what is waited for.
        if _is_ready(pod) and _component(pod) != MIGRATIONS:
            yield from _past(seen, pod)
        elif pod["status"].get("phase") == "Failed" and pod["status"].get("reason"):
            yield _put_out(pod)
        elif not pod["spec"].get("nodeName"):
            yield from _unscheduled(seen, pod)
        else:
            yield from _unmounted(seen, pod)
            for container in _containers(pod):
                suspect = _of_container(seen, container)
                if suspect:
                    yield suspect


def _past(seen: _Cluster, pod: Item) -> Iterator[_Suspect]:
    """Suspect what ended and is ready again, after all else: without probes, what ends at once is ready meanwhile."""
    for container in _containers(pod):
        if _is_killed_for_memory(container):
            yield _Suspect("past", _memory(container)._replace(is_final=False))
        elif container.restarts and container.ended.get("exitCode") not in (None, 0, 137, 143):
            yield _Suspect("past", _crash(seen, container)._replace(is_final=False))


def _put_out(pod: Item) -> _Suspect:
    """Explain a pod that the kubelet ended as a whole: evicted, mostly."""
    told = _trimmed(pod["status"].get("message") or pod["status"]["reason"])
    what = _line(
        f"{_name(pod)} was {'evicted' if pod['status']['reason'] == 'Evicted' else 'ended by the node'}: {told}"
    )
    if "memory" in told.lower() and "ephemeral" not in told:
        why, next_step = "The node has too little memory for all that runs on it.", _PRESSURES["MemoryPressure"][1]
        return _Suspect("evicted", Cause("memory", what, why, next_step, is_final=False))
    if re.search(r"exceed(s|ed) (the|its) ", told):
        why, next_step = (
            "It writes more to its own disk than it may.",
            f"Raise {_values_of(pod)}.limits.ephemeral-storage {_FILE}",
        )
        return _Suspect("evicted", Cause("evicted", what, why, next_step, is_final=True))
    if "ephemeral" in told or "disk" in told.lower() or "inodes" in told:
        why, next_step = "The node has too little disk space.", _PRESSURES["DiskPressure"][1]
        return _Suspect("evicted", Cause("evicted", what, why, next_step, is_final=False))
    if pod["status"]["reason"] == "DeadlineExceeded":
        why, next_step = "It ran longer than its active deadline allows.", _look_at_log(pod)
        return _Suspect("evicted", Cause("crash", what, why, next_step, is_final=True))
    why, next_step = "The node cannot take it now, or was shut down.", STATUS
    return _Suspect("evicted", Cause("evicted", what, why, next_step, is_final=False))


def _unscheduled(seen: _Cluster, pod: Item) -> Iterator[_Suspect]:
    """Explain a pod that has no node, with the scheduler's numbers; an autoscaler may still add a node: never final."""
    conditions = (
        c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "False"
    )
    told = next((condition.get("message", "") for condition in conditions), "")
    events = seen.events_of(pod, "FailedScheduling")
    told = told or (events[-1].get("message", "") if events else "")
    if not told:
        return
    told = _trimmed(re.split(r"\.? preemption:", told)[0])  # since 1.24: what it would have found had it put others out
    name = _name(pod)
    missing = re.search(r'persistentvolumeclaim "([^"]+)"', told)
    if missing or "PersistentVolumeClaims" in told or "persistent volumes" in told or "volume node affinity" in told:
        claim = missing[1] if missing else (_claims_of(pod) or [""])[0]
        what = _line(f"{name} has no node: {told}")
        why = f"Nothing made the claim {claim}." if missing else "Its claim has no volume that a node could use."
        next_step = "See which claims and volumes there are: kubectl get persistentvolumeclaim,persistentvolume"
        yield _Suspect("claim", Cause("claim", what, why, next_step, is_final=False))
        return
    next_step = STATUS
    if "nsufficient" in told or "Too many pods" in told:
        short = [kind for kind in ("cpu", "memory") if f"Insufficient {kind}" in told]
        asked = ", ".join(f"{kind} {' + '.join(_requests(pod, kind))}" for kind in short if _requests(pod, kind))
        offered = ", ".join(_offer(node, short) for node in seen.nodes[:3])
        numbers = "; ".join(filter(None, (asked and f"it asks for {asked}", offered and f"in all {offered}")))
        why = f"The nodes have less to give: {numbers}." if numbers else "The nodes are full."
        next_step = f"Lower {_values_of(pod)}.requests {_FILE}, or end other pods, or add a node."
    elif "taint" in told:
        taints = ", ".join(re.findall(r"\{([^:}]+)", told)) or "the nodes' taints"
        why = f"No node is open to it; it does not tolerate {taints}."
        next_step = "Look at what keeps pods off: kubectl describe nodes | grep -A3 Taints"
    elif "affinity" in told or "selector" in told:
        why = "It asks for a node with labels that no node has."
        next_step = f"Compare nodeSelector and affinity {_FILE} with: kubectl get nodes --show-labels"
    else:
        why = "No node fits what it asks for."
    what = _line(f"{name} has no node: {told}")
    yield _Suspect("unschedulable", Cause("unschedulable", what, _line(why), next_step, is_final=False))


def _requests(pod: Item, kind: str) -> list[str]:
    specs = pod["spec"].get("containers", [])
    resources = [spec.get("resources", {}) for spec in specs]
    asked = [r.get("requests", {}).get(kind) or r.get("limits", {}).get(kind) for r in resources]
    return [str(amount) for amount in asked if amount]


def _offer(node: Item, kinds: Sequence[str]) -> str:
    allocatable = node["status"].get("allocatable", {})
    told = " and ".join(f"{kind} {allocatable[kind]}" for kind in kinds if kind in allocatable)
    return f"{node['metadata']['name']} has {told}" if told else ""


def _unmounted(seen: _Cluster, pod: Item) -> Iterator[_Suspect]:
    """Explain a pod on a node none of whose containers was made: its volumes or its network are not there."""
    told = [container.waiting.get("reason") for container in _containers(pod)]
    if any(reason not in ("ContainerCreating", "PodInitializing") for reason in told):
        return
    name = _name(pod)
    events = seen.events_of(pod, "FailedMount", "FailedAttachVolume", "FailedMapVolume")
    # "Unable to attach or mount volumes … timed out" follows each of the telling ones two minutes later.
    telling = [event for event in events if "timed out waiting for the condition" not in event["message"]] or events
    if telling:
        message = telling[-1]["message"]
        missing = re.search(r'(secret|configmap) "([^"]+)" not found|references non-existent \w+ key: (\S+)', message)
        if missing:
            yield _config(pod, missing[0], telling)
            return
        text = re.sub(r"^MountVolume\.\w+ failed for volume ", "volume ", _trimmed(message))
        what = _line(f"{name} does not get a volume: {text}")
        why = "What the volume is made of is most likely not there, or another node still holds it."
        next_step = f"Look at the pod's volumes and events: kubectl describe pod {pod['metadata']['name']}"
        yield _Suspect("claim", Cause("claim", what, why, next_step, is_final=False))
        return
    events = seen.events_of(pod, "FailedCreatePodSandBox", "NetworkNotReady")
    if events:
        what = _line(f"{name} does not start on {pod['spec']['nodeName']}: {_trimmed(events[-1]['message'])}")
        why = "The node's network or container runtime does not work, or not yet."
        next_step = f"Look at the node: kubectl describe node {pod['spec']['nodeName']}"
        yield _Suspect("node", Cause("node", what, why, next_step, is_final=False))


# --- containers ------------------------------------------------------------------------------------------------------

_IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",  # since 1.28
)


def _of_container(seen: _Cluster, container: _Container) -> _Suspect | None:
    """Explain why a container does not run, or is not ready."""
    reason = container.waiting.get("reason", "")
    if reason in _IMAGE_REASONS:
        return _image(seen, container)
    if reason in ("CreateContainerConfigError", "CreateContainerError"):
        events = seen.events_of(container.pod, "Failed", container=container.name)
        return _config(container.pod, str(container.waiting.get("message", reason)), events)
    if _is_killed_for_memory(container):
        return _Suspect("memory", _memory(container))
    is_done = container.ended.get("exitCode") == 0 and container.is_over and reason != "CrashLoopBackOff"
    if is_done or (container.is_ready and _component(container.pod) != MIGRATIONS):
        return None
    return _probe(seen, container) or _of_program(seen, container)


def _of_program(seen: _Cluster, container: _Container) -> _Suspect | None:
    """Explain a container whose program ended, or has not ended yet."""
    exit_code = container.ended.get("exitCode", 0)
    if exit_code == 137 and not seen.events_of(container.pod, "Killing", container=container.name):
        return _Suspect("memory", _memory(container))  # some runtimes miss it; nothing else says that it was killed
    if _component(container.pod) == MIGRATIONS:
        return _migrations(seen, container, bool(exit_code))
    if container.name == WAITS_FOR_MIGRATIONS:
        return _waits(seen, container, bool(exit_code))
    if exit_code:
        return _Suspect("crash", _crash(seen, container))
    if container.waiting.get("reason") == "CrashLoopBackOff":
        what = _line(f"{_in(container)} ended {container.ends} times, with exit code 0.")
        why = "Its program most likely does its work and ends, while it should stay."
        is_final = container.restarts >= CRASHES
        return _Suspect("crash", Cause("crash", what, why, _look_at_log(container.pod), is_final))
    return None


def _image(seen: _Cluster, container: _Container) -> _Suspect:
    events = seen.events_of(container.pod, "Failed", "InspectFailed", container=container.name)
    failed = [event for event in events if "Failed to pull image" in event.get("message", "")]
    # Until 1.31 the state says nothing while the kubelet backs off, and the event says it; later ones repeat it there.
    told = container.waiting.get("message", "")
    if re.fullmatch(r'(Back-off pulling image "[^"]*"\.?)?', told) and failed:
        told = failed[-1]["message"]
    tried = _count(failed)
    reason, image = container.waiting["reason"], container.image
    words = _words_of_registry(told, image)
    registry = _registry(image)
    pull = f"Try it: docker pull {image}"
    if reason == "InvalidImageName":
        why, next_step, is_final = "It is not a name of an image.", f"Mend the name: images {_FILE}", True
    elif reason == "ErrImageNeverPull":
        why = "It was not brought into the node, and may not be pulled."
        next_step, is_final = "Bring it in again: nox -s cluster -- up", True
    elif image.startswith(BUILT_HERE):
        # What the registry or the network says does not matter: no registry has it.
        why = "It is built here, and was not brought into the node: a full disk, or another cluster."
        next_step, is_final = "Build it and bring it in again: nox -s cluster -- up", tried >= PULLS
    elif reason == "ImageInspectError" or "no space left" in told:
        why = "The node's disk is full or its image store is damaged."
        next_step, is_final = _PRESSURES["DiskPressure"][1], False
    elif re.search(r"toomanyrequests|429 |rate limit", told, re.IGNORECASE):
        why = f"{registry} gives this address no more pulls for now; its limit ends after hours."
        next_step, is_final = f"Pull it with a login, or from a mirror: docker login; {pull[8:]}", tried >= PULLS
    elif re.search(r"x509|certificate", told):
        why = f"The node does not trust the certificate of {registry}; a proxy most likely has its own."
        next_step = "Give the node that certificate authority, or take the image from a mirror."
        is_final = tried >= PULLS
    elif "pull access denied" in told or "may require" in told:
        why = f"{registry} does not have it, or shows it only after a login."
        next_step, is_final = f"Mend its name, or log in: docker login {registry}; {pull[8:]}", True
    elif re.search(
        r"\b40[13]\b|unauthorized|denied|forbidden|authentication required|no basic auth", told, re.IGNORECASE
    ):
        why = f"{registry} wants a login that the cluster does not have."
        next_step, is_final = f"Log in and bring it in: docker login {registry}; {pull[8:]}; nox -s cluster -- up", True
    elif re.search(r"not found|manifest unknown|no match for platform|no matching manifest", told):
        # The registry was reached and has said no: it will say so again.
        why = f"{registry} has no image or tag of that name" + (" for this machine." if "match" in told else ".")
        next_step, is_final = f"Mend its name or tag, or bring it in. {pull}", True
    else:
        why = f"The node does not reach {registry}: no route, no name, or a proxy between them."
        next_step, is_final = f"Bring it in from here: {pull[8:]}, then nox -s cluster -- up", tried >= PULLS
    what = _line(f"{_in(container)} does not get its image {image}: {words}")
    return _Suspect("image", Cause("image", what, _line(why), _line(next_step), is_final))


def _words_of_registry(told: str, image: str) -> str:
    """Return the end of a chain of errors, which is what the registry or the network said; the rest names the image."""
    text = _trimmed(told)
    for prefix in (
        r"^Failed to pull image \"[^\"]*\": ",
        r"^Back-off pulling image \"[^\"]*\": ",
        r"^\w*Err\w*: ",
        r"^(Failed to apply default image tag|couldn't parse image reference) \"[^\"]*\": ",
        r"^rpc error: code = \w+ desc = ",
        r"^failed to pull and unpack image \"[^\"]*\": ",
        r"^failed to resolve (reference \"[^\"]*\"|image): ",
        r"^failed to (do request|copy|authorize|fetch \w+ token): ",
        r"^(Head|Get) \"[^\"]*\": ",
        rf"^\S*{re.escape(image)}: ",
        r"^couldn't parse image reference \"[^\"]*\": ",
    ):
        text = re.sub(prefix, "", text)
    return text


def _registry(image: str) -> str:
    first, _, rest = image.partition("/")
    return first if rest and ("." in first or ":" in first or first == "localhost") else "docker.io"


def _config(pod: Item, told: str, events: Sequence[Item]) -> _Suspect:
    text = re.sub(r"^Error: ", "", _trimmed(told))
    missing = re.search(r'(secret|configmap) "([^"]+)" not found', text)
    key = re.search(r"find key (\S+) in (Secret|ConfigMap) (?:[^/\s]+/)?(\S+)", text)
    if missing:
        why = f"Nothing made the {missing[1]} {missing[2]} in this namespace, or it has another name."
        next_step = f"Make it again with all the rest: nox -s cluster -- up; then kubectl get {missing[1]} {missing[2]}"
    elif key:
        why = f"The {key[2].lower()} {key[3]} has other keys."
        next_step = f"See which keys it has: kubectl describe {key[2].lower()} {key[3]}"
    elif "runAsNonRoot" in text or "non-numeric user" in text:
        why = "Its image would run as root, or as a user by name, and it may not."
        next_step = "Give the image a user by number: USER 50000 in its Dockerfile."
    else:
        why = "The container's definition does not fit the node or the image."
        next_step = f"Look at its definition and events: kubectl describe pod {pod['metadata']['name']}"
    # It is tried again by itself, and what is applied a moment after the pod mends it: final only after a while.
    same = [event for event in events if text[:40] in event.get("message", "")]
    what = _line(f"{_name(pod)} cannot start: {text}")
    return _Suspect("config", Cause("config", what, _line(why), _line(next_step), _lasted_s(same) >= LATE_S))


def _is_killed_for_memory(container: _Container) -> bool:
    # A container's first process can outlive the one that was killed, so the exit code says little beside the reason.
    return container.ended.get("reason") == "OOMKilled" and not (
        container.is_over and container.ended.get("exitCode") == 0
    )


def _memory(container: _Container) -> Cause:
    pod = container.pod
    times = f" {container.ends} times" if container.ends > 1 else ""
    is_said = container.ended.get("reason") == "OOMKilled"
    if is_said and container.limit:
        what = f"{_in(container)} was killed{times} for using more memory than its limit, {container.limit}."
        why = "It needs more than that, or holds on to too much at once."
        next_step = f"Raise {_values_of(pod)}.limits.memory {_FILE}"
    elif is_said:
        what = f"{_in(container)} was killed{times} because the node ran out of memory; it has no limit of its own."
        why, next_step = _NO_MEMORY, _PRESSURES["MemoryPressure"][1]
    else:
        limit = f" (its limit is {container.limit})" if container.limit else ""
        what = f"{_in(container)} was killed{times}: exit code 137, and nothing says why."
        why = f"It most likely used more memory than there was for it{limit}."
        next_step = _look_at_log(pod)
    is_final = container.restarts >= MEMORY_KILLS or pod["spec"].get("restartPolicy") == "Never"
    is_final = is_final or _component(pod) == MIGRATIONS
    return Cause("memory", _line(what), why, _line(next_step), is_final)


def _probe(seen: _Cluster, container: _Container) -> _Suspect | None:
    """Explain a container that a probe keeps from being ready, or gets restarted."""
    pod = container.pod
    unhealthy = seen.events_of(pod, "Unhealthy", container=container.name)
    kills = [
        event
        for event in seen.events_of(pod, "Killing", container=container.name)
        if "probe" in event.get("message", "")
    ]
    has_ended_by_itself = bool(container.ended) and container.ended.get("exitCode") not in (0, 137, 143)
    if not unhealthy or has_ended_by_itself:
        return None
    started = container.running.get("startedAt") or ""
    if container.running and not kills and _last_seen(unhealthy[-1]) < started:
        return None  # of the time before it was restarted
    if not container.running and not kills:
        return None
    # The probe that had it killed says why it is not there; of others, the last that failed.
    kind = re.search(r"failed (\w+) probe", kills[-1]["message"]) if kills else None
    same = [event for event in unhealthy if kind and event["message"].lower().startswith(kind[1])] or unhealthy
    first, _, told = _trimmed(same[-1]["message"]).partition(": ")
    times = f", and it was restarted {container.restarts} times" if kills and container.restarts > 1 else ""
    times = times or (", and it was restarted" if kills and container.restarts else "")
    text = re.sub(r" and resulted in unknown state", "", first[:1].lower() + first[1:])
    what = _line(f"{_in(container)}: its {text}{times}: {told or 'it says nothing'}")
    line = _telling_line(seen, container)
    if _why_no_database(line):
        why = f"{_why_no_database(line)} ({line})"
    elif re.search(r"connection refused", told, re.IGNORECASE):
        why = "It does not listen yet: the machine is most likely slow, or it hangs while it starts."
    elif re.search(r"timed? ?out|deadline exceeded|context canceled", told, re.IGNORECASE):
        why = "It answers too slowly: the machine is most likely overloaded."
    elif "statuscode: 5" in told or "statuscode: 4" in told:
        why = "It runs and says itself that it is not well; its log says why."
    else:
        why = "It does not do what the probe asks; its log most likely says why."
    seconds = _probe_values(container, first)
    next_step = f"{_look_at_log(pod)}{seconds}"
    # A probe of readiness ends nothing and may still succeed; restarts begin anew, and after some they are a circle.
    is_final = bool(kills) and container.restarts >= CRASHES
    return _Suspect("probe", Cause("probe", what, _line(why), _line(next_step), is_final))


def _probe_values(container: _Container, first: str) -> str:
    kind = first.partition(" ")[0].lower()
    probe = container.spec.get(f"{kind}Probe") or {}
    waited_s = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3) + probe.get("initialDelaySeconds", 0)
    values = _VALUES.get(_component(container.pod))
    if not probe or kind == "readiness" or not values:
        return ""
    return f"; if it is slow: more than {waited_s} s, {values[0]}.{kind}Probe {_FILE}"


def _migrations(seen: _Cluster, container: _Container, has_failed: bool) -> _Suspect | None:
    line = _telling_line(seen, container)
    why = _why_no_database(line)
    if has_failed:
        told = line or _trimmed(container.ended.get("message", "")) or "its log is empty"
        text = f"{_how_ended(container)}: {told}"
        cause = Cause(
            "hook-timeout",
            _line(f"The migration of Airflow's database failed with {text}"),
            _line(why or _NOT_FORESEEN),
            _look_at_log(container.pod),
            _is_over_for_good(container),
        )
        return _Suspect("migrations failed", cause)
    if not container.running:
        return None
    told = f"its last words: {line}" if line and line != _ASKS_IN_VAIN else line or "its log is empty so far"
    why = why or "The machine is most likely slow: nothing says that it failed."
    what = _line(f"The migration of Airflow's database has not ended yet; {told}")
    next_step = (
        f"{_look_at_log(container.pod)}; if it goes on, raise the deadline 'migrations' in cluster/versions.toml"
    )
    return _Suspect("migrations run", Cause("hook-timeout", what, _line(why), next_step, is_final=False))


def _waits(seen: _Cluster, container: _Container, has_failed: bool) -> _Suspect | None:
    """Explain a component that waits for the migrations: whatever keeps these is deeper, if it can be seen."""
    line = _telling_line(seen, container)
    why = _why_no_database(line)
    component = _component(container.pod)
    if why:
        what = _line(f"{component} does not reach Airflow's database: {line}")
        is_final = has_failed and container.restarts >= CRASHES
        return _Suspect("waits", Cause("crash", what, _line(why), _look_at_log(container.pod), is_final))
    if has_failed and line and "unapplied migrations" not in line and "TimeoutError" not in line:
        return _Suspect("crash", _crash(seen, container))
    if any(MIGRATIONS in item["metadata"]["name"] for item in (*seen.pods, *seen.jobs)):
        return None  # said by these themselves, or they have ended well and it will go on in a moment
    what = _line(f"{component} waits for the migration of Airflow's database, and there is no job for it.")
    why = "Helm makes it after the rest, as a hook; it most likely stopped before, or has not come to it yet."
    next_step = "Install again: nox -s cluster -- up; then see whether it is there: kubectl get jobs"
    return _Suspect("waits", Cause("hook-timeout", what, why, next_step, is_final=False))


def _crash(seen: _Cluster, container: _Container) -> Cause:
    line = _telling_line(seen, container)
    told = _trimmed(container.ended.get("message", ""))
    is_not_started = container.ended.get("reason") in ("StartError", "ContainerCannotRun") or "unable to start" in told
    # The runtime's chain of errors says at its end what it could not do.
    said = re.sub(r"^.*unable to start container process: (error during container init: )?", "", told)
    text = said if is_not_started else line or told or "its log is empty"
    what = f"{_in(container)} ended with {_how_ended(container)}: {text}"
    if is_not_started:
        what = f"{_in(container)} could not be started: {text}"
        why = "Its image has no such program, or it may not be run."
        next_step = f"Compare command and args {_FILE} with its image."
    else:
        why, next_step = _why_no_database(line) or _why_crashed(line), _look_at_log(container.pod)
    is_final = _is_over_for_good(container)
    return Cause("crash", _line(what), _line(why), _line(next_step), is_final)


def _is_over_for_good(container: _Container) -> bool:
    # While it runs again it may succeed: what it lacked may have come.
    is_circle = container.restarts >= CRASHES or container.pod["spec"].get("restartPolicy") == "Never"
    return container.is_over and is_circle


def _how_ended(container: _Container) -> str:
    times = f" ({container.ends} times)" if container.ends > 1 else ""
    return f"exit code {container.ended.get('exitCode')}{times}"


_NOT_FORESEEN = "It was not foreseen; its log has more."


def _why_crashed(line: str) -> str:
    patterns = {
        r"ModuleNotFoundError|ImportError": "Its image lacks a package, or has another version of it.",
        r"PermissionError|Permission denied": "Its user may not read or write a file, most likely on a volume.",
        r"No space left on device": "The disk is full.",
        r"[Aa]ddress already in use": "Something else in its pod or on its node has the port.",
        r"AirflowConfigException|ConfigurationError": f"A setting of Airflow is wrong: config {_FILE}",
        r"fernet|Fernet": "The key that connections are encrypted with is not a Fernet key, or has changed.",
    }
    return next((why for pattern, why in patterns.items() if re.search(pattern, line)), _NOT_FORESEEN)


# --- jobs ------------------------------------------------------------------------------------------------------------


def _of_jobs(seen: _Cluster) -> Iterator[_Suspect]:
    """Suspect jobs that were given up, whose pods the cluster deletes with their logs, and what gets no pods at all."""
    for job in seen.jobs:
        conditions = job["status"].get("conditions", [])
        failed = next((c for c in conditions if c["type"] == "Failed" and c["status"] == "True"), None)
        if failed and not any(_is_owned(pod, job) for pod in seen.pods):
            is_migration = MIGRATIONS in job["metadata"]["name"]
            subject = "The migration of Airflow's database" if is_migration else f"The job {job['metadata']['name']}"
            told = failed.get("message") or failed.get("reason", "")
            if failed.get("reason") == "DeadlineExceeded":
                why = "It took longer than it may: the machine is most likely slow, or it waits for something."
            else:
                why = "It failed again and again; its pods, and their logs with them, were deleted."
            next_step = (
                "Run it again and look at it meanwhile: nox -s cluster -- up; " + _look_at_log(job).partition(": ")[2]
            )
            cause = Cause("hook-timeout", _line(f"{subject} was given up: {told}"), why, next_step, is_final=True)
            yield _Suspect("migrations failed", cause)
    yield from _refused(seen)


def _refused(seen: _Cluster) -> Iterator[_Suspect]:
    """Suspect owners of pods that the cluster does not let make any."""
    last: dict[tuple[str, str], Item] = {}
    for event in seen.events:
        if event.get("reason") == "FailedCreate":
            last[event["involvedObject"]["kind"], event["involvedObject"]["name"]] = event
    for (kind, name), event in last.items():
        # Events outlive their objects for an hour. The pods of a ReplicaSet and of the next have the Deployment's name.
        family = name.rpartition("-")[0] if kind == "ReplicaSet" else name
        if any(pod["metadata"]["name"].startswith(f"{family}-") for pod in seen.pods):
            continue
        job = next((job for job in seen.jobs if job["metadata"]["name"] == name), None)
        if kind == "Job" and (not job or job["status"].get("conditions")):
            continue
        told = re.sub(r'^Error creating: (pods "[^"]*" is forbidden: )?', "", _trimmed(event["message"]))
        next_step = f"Look at its events: kubectl describe {kind.lower()} {name}"
        if "exceeded quota" in told:
            why, is_final = "The namespace may not use that much in all.", False  # others may end and give some back
            next_step = "End other pods of the namespace, or ask for more: kubectl describe resourcequota"
        elif "service account" in told or "serviceaccount" in told:
            why = "Nothing made that account in this namespace, or it has another name."
            is_final = _lasted_s([event]) >= LATE_S  # it is often made a moment after
        elif "violates PodSecurity" in told:
            why, is_final = "The namespace's security level does not allow what its containers ask for.", True
            next_step = f"Compare securityContexts {_FILE} with: kubectl get namespace --show-labels"
        else:
            why, is_final = "A rule of the cluster does not allow it.", False
        what = _line(f"The cluster makes no pods for the {kind} {name}: {told}")
        yield _Suspect("refused", Cause("refused", what, _line(why), next_step, is_final))


def _is_owned(pod: Item, job: Item) -> bool:
    return any(owner["name"] == job["metadata"]["name"] for owner in pod["metadata"].get("ownerReferences", []))


# --- logs ------------------------------------------------------------------------------------------------------------

_DATABASE = {
    r"could not translate host name|[Nn]ame or service not known|name resolution|nodename nor servname": (
        "The name of the database's host is not known in the cluster."
    ),
    r"[Cc]onnection refused": "Nothing listens at the database's address: it is most likely not running, or elsewhere.",
    r"timeout expired|timed? ?out|[Nn]o route to host|[Nn]etwork is unreachable": (
        "The cluster does not reach the database's address: a firewall or another network is between them."
    ),
    r"password authentication failed|no password supplied|no pg_hba.conf entry": (
        "The database does not accept the user or password in the secret with the connection."
    ),
    r'database "[^"]*" does not exist|role "[^"]*" does not exist': "The server runs, and nothing made that in it.",
    r"too many clients|remaining connection slots": "The database has no connection left for it.",
    r"permission denied": "The database's user may not do that.",
    r"starting up|shutting down|recovery mode": "The database is starting or ending.",
    r"server closed the connection|SSL|OperationalError": "The database ended the connection.",
}
_IS_DATABASE = re.compile(r"OperationalError|psycopg|connection to server|\bFATAL:|asyncpg")
_IS_ERROR = re.compile(
    r"^(\w+\.)*\w*(Error|Exception|Exit|Interrupt|Timeout|Warning)\b(:|$)|\b(ERROR|CRITICAL|FATAL)\b|[Ee]rror:"
)
_IS_LESS = re.compile(
    r"^(Background on this error|\(Background|\s*Is the server running|During handling|The above exception)"
)


_ASKS_IN_VAIN = "it still asks whether the database answers"


def _telling_line(seen: _Cluster, container: _Container) -> str:
    """Return the line of a container's log that says most about its end: not always the last one."""
    name = container.pod["metadata"]["name"]
    log = ""
    if container.restarts and (container.waiting or container.running):
        log = seen.logs(name, container.name, True)
    log = log if log.strip() else seen.logs(name, container.name, False)
    # The official image prints a dot for each time that it has asked for the database in vain.
    if log.strip() and not log.strip(". \n"):
        return _ASKS_IN_VAIN
    lines = [_plain(line) for line in log.splitlines()]
    lines = [line for line in lines if line and not _IS_LESS.match(line)]
    for telling in (_IS_DATABASE, _IS_ERROR):
        found = [line for line in lines if telling.search(line) and not line.startswith(("File ", "raise ", "from "))]
        if found:
            return found[-1]
    return lines[-1] if lines else ""


def _plain(line: str) -> str:
    """Take colours, times and passwords out of a line of a log."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    line = re.sub(r"^\[?\d{4}-\d\d-\d\d[T ][\d:.,]+(Z|[+-]\d\d:?\d\d)?\]?\s*", "", line.strip())
    line = re.sub(r"^\[(debug|info|warning|error|critical)\s*\]\s*", "", line)
    line = re.sub(r"\(psycopg\d?\.\w+\) ", "", line)
    return re.sub(r"\s{2,}", " ", line).strip()


def _why_no_database(line: str) -> str:
    """Say why the database could not be used; nothing if LINE is of something else."""
    if line == _ASKS_IN_VAIN:
        return "The database is most likely not running, or the cluster does not reach its address."
    if not _IS_DATABASE.search(line):
        return ""
    return next((why for pattern, why in _DATABASE.items() if re.search(pattern, line)), "")


# --- words -----------------------------------------------------------------------------------------------------------

_FILE = "in cluster/values/base.yaml"
_VALUES = {
    "api-server": ("apiServer", "apiServer.resources"),
    "scheduler": ("scheduler", "scheduler.resources"),
    "dag-processor": ("dagProcessor", "dagProcessor.resources"),
    "triggerer": ("triggerer", "triggerer.resources"),
    MIGRATIONS: ("migrateDatabaseJob", "migrateDatabaseJob.resources"),
    "worker": ("workers", "workers.kubernetes.resources"),
}


def _values_of(pod: Item) -> str:
    if _labels(pod).get("kubernetes_pod_operator") == "True":
        return "container_resources (airflow/include/events/dbt_task.py), not resources"
    component = "worker" if _is_of_task(pod) else _component(pod)
    return _VALUES.get(component, ("", "its resources"))[1]


def _look_at_log(item: Item) -> str:
    if _labels(item).get("component") in _VALUES and not _is_of_task(item):
        return f"Read its log: nox -s cluster -- logs {_component(item)}"
    return f"Read its log: kubectl logs {item['kind'].lower()}/{item['metadata']['name']} --all-containers"


def _in(container: _Container) -> str:
    """Name a container by its pod, and by itself where it is not the pod's one purpose."""
    name = _name(container.pod)
    is_main = container.name in (name, "main", "base") or len(list(_containers(container.pod))) == 1
    return name if is_main else f"{name}'s container {container.name}"


def _trimmed(text: str) -> str:
    return " ".join(text.split()).rstrip(". ")


def _line(text: str) -> str:
    """Make TEXT one line of the terminal that begins with a capital and has no password."""
    text = re.sub(r"://([^:/@\s]+):[^@\s]+@", r"://\1:***@", " ".join(text.split()))
    if len(text) > LINE_LENGTH:
        text = text[: LINE_LENGTH - 1].rstrip() + "…"
    return text
