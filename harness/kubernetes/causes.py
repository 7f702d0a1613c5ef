"""Say why Airflow does not come up on a cluster, from what the cluster itself says of its objects.

A missed deadline or a failed `helm upgrade` names a symptom. What is behind it stands in the states of containers and
in events, in words that differ between versions of Kubernetes (1.20 to 1.36 are read here), and in logs. Nothing here
asks the cluster: what is passed in is what `kubectl get … --output json` lists, and a function that returns a log.

Next steps say `kubectl` alone: it needs the cluster's own `--kubeconfig` and `--namespace`, which the caller knows.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from events.uri import without_secrets
from harness.errors import LET_IT_SPEAK_HTTP, SPEAKS_HTTP

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
# A Secret or ConfigMap that is applied beside its pod is there within seconds; the sixth look is 15 s or more later.
LOOKS = 6


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
    "node", "evicted", "claim", "unschedulable", "refused", "config", "image", "memory", "hook-timeout", "crash",
    "hook runs", "probe",
)  # fmt: skip
_STILL_RUNS = "hook runs"


def find(items: Sequence[Item], logs: Logs) -> Cause | None:
    """Return the most likely reason for which Airflow's components are not ready; None if nothing is known to be wrong.

    Args:
        items: pods (those of tasks are left out), events, persistentvolumeclaims, jobs and nodes, as far as they may be
            listed.
        logs: given a pod, a container and whether the one before its restart is meant, the last lines of its log.
    """
    seen = _Cluster(items, logs)
    pods = [pod for pod in seen.pods if not _is_of_task(pod)]
    found = (_of_nodes(seen, pods), _of_claims(seen, pods), _of_pods(seen, pods), _of_jobs(seen), _refused(seen))
    return _deepest(cause for causes in found for cause in causes)


def find_for_tasks(items: Sequence[Item], logs: Logs) -> Cause | None:
    """Return the reason for which a pod of a task could not run; None if its log has to tell what the task failed of.

    Takes what `find` takes. Failed pods of older runs are not told apart: select by the labels `dag_id` and `run_id`.
    """
    seen = _Cluster(items, logs)
    pods = [pod for pod in seen.pods if _is_of_task(pod)]
    found = (*_of_nodes(seen, pods), *_of_pods(seen, pods))
    return _deepest(cause for cause in found if cause.kind not in ("crash", "probe"))


def _deepest(causes: Iterable[Cause]) -> Cause | None:
    """Return the deepest cause as lines for the terminal; of several the first: the migrations', then newer pods'."""
    deepest = min(map(_of_full_disk, causes), key=lambda cause: _DEPTH.index(cause.kind), default=None)
    if not deepest:
        return None
    kind, *lines, is_final = deepest
    what, why, next_step = map(_line, lines)
    return Cause("hook-timeout" if kind == _STILL_RUNS else kind, what, why, next_step, is_final)


def _of_full_disk(cause: Cause) -> Cause:
    """Return CAUSE, or what is behind whatever fails on a disk that is full."""
    if not re.search("no space left on device|disk quota exceeded", cause.what, re.IGNORECASE):
        return cause
    why = "The disk is full: the node's, which on kind and minikube is the Docker engine's, or a volume's."
    return Cause("node", cause.what, why, _MORE_ROOM, is_final=True)


# --- what is seen ----------------------------------------------------------------------------------------------------


class _Cluster:
    """The objects by kind, without what no longer counts."""

    def __init__(self, items: Sequence[Item], logs: Logs) -> None:
        def of_kind(kind: str) -> list[Item]:
            return [item for item in items if item.get("kind") == kind]

        newest_first = sorted(
            of_kind("Pod"), key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True
        )
        self.pods = sorted(_current(newest_first), key=lambda pod: _component(pod) != MIGRATIONS)
        self.jobs, self.claims, self.nodes = map(of_kind, ("Job", "PersistentVolumeClaim", "Node"))
        self.events = sorted(of_kind("Event"), key=_last_seen)
        self.logs = logs

    def events_of(self, item: Item, *reasons: str, container: str = "") -> list[Item]:
        """Return what happened to ITEM, the last at the end."""
        uid = item["metadata"].get("uid")

        def is_meant(event: Item) -> bool:
            involved = event.get("involvedObject", {})
            # A pod that was made again has the name of the one before.
            is_same = involved.get("name") == item["metadata"]["name"] and uid in (None, involved.get("uid", uid))
            path = involved.get("fieldPath") or f"{{{container}}}"
            return is_same and involved.get("kind") == item["kind"] and (not container or f"{{{container}}}" in path)

        return [event for event in self.events if event.get("reason") in reasons and is_meant(event)]


def _current(newest_first: Sequence[Item]) -> Iterator[Item]:
    """Leave out what is over: pods that did their work, are going, or were followed by others of the same component."""
    hashes: dict[str, str] = {}
    ready: set[str] = set()
    for pod in newest_first:
        phase = pod["status"].get("phase")
        if pod["metadata"].get("deletionTimestamp") or phase == "Succeeded":
            continue
        release, template = _labels(pod).get("release"), _labels(pod).get("pod-template-hash", "")
        group = pod["metadata"]["name"] if _is_of_task(pod) else f"{release}/{_component(pod)}"
        is_of_replica_set_before = hashes.setdefault(group, template) != template
        is_replaced = phase == "Failed" and group in ready  # evicted, mostly
        if not is_of_replica_set_before and not is_replaced:
            yield pod
            ready |= {group} if _is_ready(pod) else set()


def _labels(item: Item) -> Mapping[str, str]:
    labels: dict[str, str] = item["metadata"].get("labels") or {}
    return labels


def _component(item: Item) -> str:
    name: str = item["metadata"]["name"]
    return _labels(item).get("component") or (MIGRATIONS if MIGRATIONS in name else name)


def _is_of_task(pod: Item) -> bool:
    labels = _labels(pod)
    makers = ("kubernetes_executor", "kubernetes_pod_operator")
    return labels.get("component") == "worker" or any(labels.get(maker) == "True" for maker in makers)


def _conditions(item: Item) -> dict[str, Item]:
    return {condition["type"]: condition for condition in item["status"].get("conditions", [])}


def _is_ready(pod: Item) -> bool:
    return bool(_conditions(pod).get("Ready", {}).get("status") == "True")


def _last_seen(event: Item) -> str:
    observed = (event.get("series") or {}).get("lastObservedTime")
    return str(observed or event.get("lastTimestamp") or event.get("eventTime") or "")


def _count(events: Iterable[Item]) -> int:
    return sum(int((event.get("series") or {}).get("count") or event.get("count") or 1) for event in events)


class _Container(NamedTuple):
    """A container with its status; the fields that Kubernetes leaves out are empty."""

    pod: Item
    name: str
    spec: Item
    restarts: int
    is_ready: bool
    waiting: Item
    running: Item
    ended: Item  # how it ended, the last time that it did

    @property
    def times(self) -> str:
        """How often it has ended, whatever it ended of, if it is more than once."""
        ends = self.restarts + (1 if self.ended and not self.running else 0)
        return f"{ends} times" if ends > 1 else ""

    @property
    def is_in_circle(self) -> bool:
        """It has ended for good; while it runs again it may succeed: what it lacked may have come."""
        return not self.running and (self.restarts >= CRASHES or self.pod["spec"].get("restartPolicy") == "Never")


def _containers(pod: Item) -> Iterator[_Container]:
    spec, status = pod["spec"], pod["status"]
    specs = {own["name"]: own for own in (*spec.get("initContainers", []), *spec.get("containers", []))}
    for told in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        state, last = told.get("state") or {}, told.get("lastState") or {}
        yield _Container(
            pod=pod,
            name=told["name"],
            spec=specs.get(told["name"], {}),
            restarts=told.get("restartCount", 0),
            is_ready=bool(told.get("ready")),
            waiting=state.get("waiting") or {},
            running=state.get("running") or {},
            ended=state.get("terminated") or last.get("terminated") or {},
        )


# --- nodes, claims and pods ------------------------------------------------------------------------------------------


def _of_nodes(seen: _Cluster, pods: Sequence[Item]) -> Iterator[Cause]:
    homes = {pod["spec"].get("nodeName") for pod in pods if not _is_ready(pod)}
    troubles = {node["metadata"]["name"]: cause for node in seen.nodes for cause in _of_node(node)}
    are_all = len(troubles) == len(seen.nodes)
    for name, cause in troubles.items():
        # One node of several may be in trouble for its own reasons. When no node takes pods, that is why nothing runs.
        if name in homes or (are_all and (None in homes or "not ready" in cause.what)):
            yield cause._replace(is_final=cause.is_final and are_all)


def _of_node(node: Item) -> Iterator[Cause]:
    name = node["metadata"]["name"]
    for kind, condition in _conditions(node).items():
        if kind.endswith("Pressure") and condition["status"] == "True":
            what = f"The node {name} is under {kind}: {condition.get('message', 'it says nothing')}"
            why = "It takes no pods, and evicts those that it has, until it has enough again."
            yield Cause("node", what, why, _MORE_ROOM, is_final=True)
        if kind == "Ready" and condition["status"] != "True":
            what = f"The node {name} is not ready: {condition.get('message', 'it says nothing')}"
            why = "Its machine or container has most likely stopped or is overloaded, or its network is not set up yet."
            next_step = f"Look at its conditions and events: kubectl describe node {name}"
            yield Cause("node", what, why, next_step, is_final=False)


def _of_claims(seen: _Cluster, pods: Sequence[Item]) -> Iterator[Cause]:
    """Explain claims that have no volume and that a pod waits for."""
    for claim in seen.claims:
        name, spec = claim["metadata"]["name"], claim["spec"]
        users = [pod for pod in pods if name in _claims_of(pod) and not _is_ready(pod)]
        if claim["status"].get("phase") == "Bound" or not users:
            continue
        waits = ("WaitForFirstConsumer", "WaitForPodScheduled")
        events = seen.events_of(claim, "FailedBinding", "ProvisioningFailed", "ExternalProvisioning", *waits)
        if events and events[-1]["reason"] in waits:
            continue  # for the pod's node, which something else keeps from being chosen
        told = events[-1]["message"] if events else f"it names the volume {spec.get('volumeName') or 'of none'}"
        # A class that is not there does not come by itself; a volume can be added, or be on its way.
        has_class = not ("storageclass" in told.lower() and "not found" in told)
        why = f"The cluster has no storage class {spec.get('storageClassName')}."
        why = "Nothing made a volume that fits it, or another claim has it." if has_class else why
        what = f"{_name(users[0])} waits for the claim {name}, which has no volume: {_trimmed(told)}"
        next_step = f"See kubectl get storageclass,persistentvolume and kubectl describe persistentvolumeclaim {name}"
        yield Cause("claim", what, why, next_step, not has_class)


def _claims_of(pod: Item) -> list[str]:
    volumes = pod["spec"].get("volumes", [])
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


def _of_pods(seen: _Cluster, pods: Sequence[Item]) -> Iterator[Cause]:
    for pod in pods:
        # A job's pod without probes is ready while it runs, which is not what is waited for.
        if _is_ready(pod) and _component(pod) != MIGRATIONS:
            continue
        if pod["status"].get("phase") == "Failed" and pod["status"].get("reason"):
            yield _put_out(pod)
        elif not pod["spec"].get("nodeName"):
            yield from _unscheduled(pod)
        else:
            yield from _not_set_up(seen, pod)
            for container in _containers(pod):
                yield from _of_container(seen, container)


def _put_out(pod: Item) -> Cause:
    """Explain a pod that the kubelet ended as a whole: evicted, mostly."""
    reason = pod["status"]["reason"]
    told = _trimmed(pod["status"].get("message") or reason)
    what = f"{_name(pod)} was {'evicted' if reason == 'Evicted' else 'ended by the node'}: {told}"
    if re.search(r"exceed(s|ed) (the|its) ", told):
        why = "It writes more to its own disk than it may."
        return Cause("evicted", what, why, f"Raise {_values_of(pod)}.limits.ephemeral-storage {_FILE}", is_final=True)
    why = "The node has too little memory or disk space for it now, or was shut down."
    return Cause("evicted", what, why, _MORE_ROOM, is_final=False)


def _unscheduled(pod: Item) -> Iterator[Cause]:
    """Explain a pod that has no node, in the scheduler's words; an autoscaler may still add a node: never final."""
    told = _conditions(pod).get("PodScheduled", {}).get("message")
    if not told:
        return
    told = _trimmed(re.split(r"\.? preemption:", told)[0])  # since 1.24: what it would have found had it put others out
    kind = "unschedulable"
    if re.search(r"persistent ?volume|volume node affinity", told, re.IGNORECASE):
        kind, why = "claim", "Its claim was not made, or has no volume that a node could use."
        next_step = "See which claims and volumes there are: kubectl get persistentvolumeclaim,persistentvolume"
    elif "Insufficient" in told or "Too many pods" in told:
        why = "The nodes have less to give than it asks for."
        next_step = f"Lower {_values_of(pod)}.requests {_FILE}, or end other pods, or add a node."
    else:
        why = "It asks for a node with labels that no node has, or does not tolerate the nodes' taints."
        next_step = f"Compare nodeSelector, affinity and tolerations {_FILE} with: kubectl describe nodes"
    yield Cause(kind, f"{_name(pod)} has no node: {told}", why, next_step, is_final=False)


def _not_set_up(seen: _Cluster, pod: Item) -> Iterator[Cause]:
    """Explain a pod on a node none of whose containers was made: its volumes or its network are not there."""
    told = {container.waiting.get("reason") for container in _containers(pod)}
    events = seen.events_of(pod, "FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox")
    if not events or not told <= {"ContainerCreating", "PodInitializing"}:
        return
    # "Unable to attach or mount volumes … timed out" follows each of the telling ones two minutes later.
    telling = [event for event in events if "timed out waiting for the condition" not in event["message"]] or events
    text = _trimmed(telling[-1]["message"])
    missing = re.search(r'(secret|configmap) "[^"]+" not found|references non-existent \w+ key: \S+', text)
    if missing:
        yield _config(pod, missing[0], telling)
        return
    kind = "node" if telling[-1]["reason"] == "FailedCreatePodSandBox" else "claim"
    why = "What its volume is made of, or its node's network, is most likely not there, or not yet."
    next_step = f"Look at its volumes and events: kubectl describe pod {pod['metadata']['name']}"
    yield Cause(kind, f"{_name(pod)} is not set up on its node: {text}", why, next_step, is_final=False)


# --- containers, jobs and what gets no pods --------------------------------------------------------------------------


def _of_container(seen: _Cluster, container: _Container) -> Iterator[Cause]:
    """Explain why a container does not run, or is not ready."""
    reason = container.waiting.get("reason", "")
    exit_code = container.ended.get("exitCode", 0)
    is_migration = _component(container.pod) == MIGRATIONS
    is_done = exit_code == 0 and container.ended and not container.running and reason != "CrashLoopBackOff"
    if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
        yield _image(seen, container)
    elif reason in ("CreateContainerConfigError", "CreateContainerError"):
        events = seen.events_of(container.pod, "Failed", container=container.name)
        yield _config(container.pod, str(container.waiting.get("message", reason)), events)
    elif is_done or (container.is_ready and not is_migration):
        return
    elif container.ended.get("reason") == "OOMKilled":  # of any exit code: it can be a child that was killed
        yield _memory(container)
    elif probe := _probe(seen, container):
        yield probe
    elif exit_code == 137 and not seen.events_of(container.pod, "Killing", container=container.name):
        yield _memory(container)  # some runtimes miss it; nothing else says that it was killed
    elif is_migration:
        yield from _migrations(seen, container)
    elif exit_code or reason == "CrashLoopBackOff":
        yield from _crash(seen, container)


def _image(seen: _Cluster, container: _Container) -> Cause:
    reason, image = container.waiting["reason"], str(container.spec.get("image", ""))
    events = seen.events_of(container.pod, "Failed", container=container.name)
    failed = [event for event in events if "Failed to pull image" in event.get("message", "")]
    # Until 1.31 the state says nothing while the kubelet backs off, and the event says it; later ones repeat it there.
    told = container.waiting.get("message", "")
    if failed and re.fullmatch(r'(Back-off pulling image "[^"]*"\.?)?', told):
        told = failed[-1]["message"]
    # The end of a chain of errors is what the registry or the network said; the rest names the image again and again.
    chain = r'^.*("[^"]*"|(status code|request to) http\S+|failed to resolve image): '
    words = re.sub(chain, "", _trimmed(told)).removeprefix(f"{image}: ")
    first, _, rest = image.partition("/")
    registry = first if rest and re.search(r"[.:]|^localhost$", first) else "docker.io"
    pull, is_final = f"docker pull {image}", True
    if image.startswith(BUILT_HERE) and container.spec.get("imagePullPolicy") == "Always":
        why = "Its pull policy is Always, and no registry has an image that was built here."
        next_step = f"Have pullPolicy: IfNotPresent {_FILE} and what overrides it, then: nox -s cluster -- up"
    elif reason == "ErrImageNeverPull" or image.startswith(BUILT_HERE):
        why = "It was not brought into the node: a full disk, or another cluster."
        next_step = "Build it and bring it in again: nox -s cluster -- up"
        is_final = reason == "ErrImageNeverPull" or _count(failed) >= PULLS
    elif SPEAKS_HTTP.search(told):
        why = f"{registry} speaks HTTP, and the node asks it over HTTPS."
        next_step = LET_IT_SPEAK_HTTP.format(who="nodes")
    elif "x509: " in told:
        why = f"The node does not trust the certificate of {registry}: its own authority's, or a proxy's between them."
        next_step = f"Have the nodes trust that authority, or bring it in from here: {pull}, then nox -s cluster -- up"
    elif re.search(r"\b40[13]\b|unauthorized|denied|forbidden|authentication required", told, re.IGNORECASE):
        why = f"{registry} wants a login that the cluster does not have, or has no such image."
        next_step = f"Log in and bring it in: docker login {registry}; {pull}; nox -s cluster -- up"
    elif re.search(r"not found|manifest unknown|no match|invalid reference", told):
        # The registry was reached and has said no: it will say so again.
        why = f"{registry} has no image or tag of that name, or none for the node's architecture."
        next_step = f"Mend its name or tag, or bring it in. Try it: {pull}"
    else:
        why = f"The node does not reach {registry}: no route, no name, a proxy or a limit between them."
        next_step, is_final = f"Bring it in from here: {pull}, then nox -s cluster -- up", _count(failed) >= PULLS
    return Cause("image", f"{_in(container)} does not get its image {image}: {words}", why, next_step, is_final)


def _config(pod: Item, told: str, events: Sequence[Item]) -> Cause:
    text = re.sub(r"^Error: ", "", _trimmed(told))
    missing = re.search(r'(secret|configmap) "([^"]+)" not found', text)
    key = re.search(r"find key \S+ in (Secret|ConfigMap) (?:[^/\s]+/)?(\S+)", text)
    next_step = f"Look at its definition and events: kubectl describe pod {pod['metadata']['name']}"
    if missing:
        why = f"Nothing made the {missing[1]} {missing[2]} in this namespace, or it has another name."
        next_step = f"Make it again with all the rest: nox -s cluster -- up; then kubectl get {missing[1]} {missing[2]}"
    elif key:
        why = f"The {key[1].lower()} {key[2]} has other keys."
        next_step = f"See which keys it has: kubectl describe {key[1].lower()} {key[2]}"
    else:
        why = "The container's definition does not fit the node or the image."
    # It is tried again by itself, and what is applied a moment after the pod mends it: final only after a while.
    same = [event for event in events if text[:40] in event.get("message", "")]
    return Cause("config", f"{_name(pod)} cannot start: {text}", why, next_step, _count(same) >= LOOKS)


def _memory(container: _Container) -> Cause:
    pod, ended = container.pod, container.ended
    limit = container.spec.get("resources", {}).get("limits", {}).get("memory")
    what = f"{_in(container)} was killed {container.times}".rstrip()
    if limit and ended.get("reason") == "OOMKilled":
        what = f"{what} for using more memory than its limit, {limit}."
        why = "It needs more than that, or holds on to too much at once."
        next_step = f"Raise {_values_of(pod)}.limits.memory {_FILE}"
    else:
        what = f"{what}: {ended.get('reason', 'no reason')}, exit code {ended.get('exitCode')}."
        why = f"It most likely used more memory than there was for it; its limit is {limit or 'what the node has'}."
        next_step = _MORE_ROOM
    is_started_once = pod["spec"].get("restartPolicy") == "Never" or _component(pod) == MIGRATIONS
    return Cause("memory", what, why, next_step, is_started_once or container.restarts >= MEMORY_KILLS)


def _probe(seen: _Cluster, container: _Container) -> Cause | None:
    """Explain a container that a probe keeps from being ready, or gets restarted."""
    unhealthy = seen.events_of(container.pod, "Unhealthy", container=container.name)
    killing = seen.events_of(container.pod, "Killing", container=container.name)
    kills = [event for event in killing if "probe" in event.get("message", "")]
    if not unhealthy or container.ended.get("exitCode", 0) not in (0, 137, 143):
        return None  # it has ended by itself
    is_of_this_start = container.running and _last_seen(unhealthy[-1]) >= container.running.get("startedAt", "")
    if not kills and not is_of_this_start:
        return None
    # The probe that had it killed says why it is not there; of others, the last that failed.
    kind = re.search(r"failed (\w+) probe", kills[-1]["message"]) if kills else None
    same = [event for event in unhealthy if kind and event["message"].lower().startswith(kind[1])] or unhealthy
    first, _, told = _trimmed(same[-1]["message"]).partition(": ")
    text = first[:1].lower() + first[1:].replace(" and resulted in unknown state", "")
    if kills and container.restarts:
        text += ", and it was restarted" + (f" {container.restarts} times" if container.restarts > 1 else "")
    line = _telling_line(seen, container)
    if _why_no_database(line):
        why = f"{_why_no_database(line)} ({line})"
    elif "connection refused" in told.lower():
        why = "It does not listen yet: the machine is most likely slow, or it hangs while it starts."
    elif re.search(r"timed? ?out|deadline exceeded|context canceled", told, re.IGNORECASE):
        why = "It answers too slowly: the machine is most likely overloaded."
    else:
        why = "It does not do what the probe asks; its log most likely says why."
    what = f"{_in(container)}: its {text}: {told or 'it says nothing'}"
    # A probe of readiness ends nothing and may still succeed; restarts begin anew, and after some they are a circle.
    return Cause("probe", what, why, _look_at_log(container.pod), bool(kills) and container.restarts >= CRASHES)


def _migrations(seen: _Cluster, container: _Container) -> Iterator[Cause]:
    line = _telling_line(seen, container)
    why, next_step = _why_no_database(line), _look_at_log(container.pod)
    if container.ended.get("exitCode"):
        what = f"The migration of Airflow's database failed with {_how_ended(container, line)}"
        yield Cause("hook-timeout", what, why or _NOT_FORESEEN, next_step, container.is_in_circle)
    elif container.running:
        told = line if line == _ASKS_IN_VAIN else f"its last words: {line}" if line else "its log is empty so far"
        what = f"The migration of Airflow's database has not ended yet; {told}"
        why = why or "The machine is most likely slow: nothing says that it failed."
        next_step = f"{next_step}; if it goes on, raise the deadline 'migrations' in cluster/versions.toml"
        yield Cause(_STILL_RUNS, what, why, next_step, is_final=False)


def _crash(seen: _Cluster, container: _Container) -> Iterator[Cause]:
    line, told = _telling_line(seen, container), _trimmed(container.ended.get("message", ""))
    if container.name == WAITS_FOR_MIGRATIONS and ("unapplied migrations" in line or "TimeoutError" in line):
        return  # what keeps these is said by themselves
    what, next_step = f"{_in(container)} ended with {_how_ended(container, line)}", _look_at_log(container.pod)
    why = _why_no_database(line) or _NOT_FORESEEN
    if not container.ended.get("exitCode"):
        why = "Its program most likely does its work and ends, while it should stay."
    elif "exec format error" in line + told:
        why = "Its image is of another architecture than the node: build or pull it for the node's."
    elif container.ended.get("reason") in ("StartError", "ContainerCannotRun") or "unable to start" in told:
        # The runtime's chain of errors says at its end what it could not do.
        said = re.sub(r"^.*unable to start container process: (error during container init: )?", "", told)
        what = f"{_in(container)} could not be started: {said}"
        why = "Its image has no such program, or it may not be run."
        next_step = f"Compare command and args {_FILE} with its image."
    yield Cause("crash", what, why, next_step, container.is_in_circle)


def _how_ended(container: _Container, line: str) -> str:
    times = f" ({container.times})" if container.times else ""
    told = line or _trimmed(container.ended.get("message", "")) or "its log is empty"
    return f"exit code {container.ended.get('exitCode')}{times}: {told}"


def _of_jobs(seen: _Cluster) -> Iterator[Cause]:
    """Explain jobs that were given up, whose pods the cluster deletes with their logs."""
    owners = {owner["name"] for pod in seen.pods for owner in pod["metadata"].get("ownerReferences", [])}
    for job in seen.jobs:
        name, failed = job["metadata"]["name"], _conditions(job).get("Failed", {})
        if failed.get("status") != "True" or name in owners:
            continue
        subject = "The migration of Airflow's database" if MIGRATIONS in name else f"The job {name}"
        why = "It failed again and again; its pods, and their logs with them, were deleted."
        if failed.get("reason") == "DeadlineExceeded":
            why = "It took longer than it may: the machine is most likely slow, or it waits for something."
        next_step = f"Run it again: nox -s cluster -- up. {_look_at_log(job)}"
        what = f"{subject} was given up: {failed.get('message') or failed.get('reason', '')}"
        yield Cause("hook-timeout", what, why, next_step, is_final=True)


def _refused(seen: _Cluster) -> Iterator[Cause]:
    """Explain owners of pods that the cluster does not let make any."""
    failed = [event for event in seen.events if event.get("reason") == "FailedCreate"]
    last = {(event["involvedObject"]["kind"], event["involvedObject"]["name"]): event for event in failed}
    running_jobs = {job["metadata"]["name"] for job in seen.jobs if not job["status"].get("conditions")}
    for (kind, name), event in last.items():
        # Events outlive their objects for an hour. The pods of a ReplicaSet and of the next have the Deployment's name.
        family = name.rpartition("-")[0] if kind == "ReplicaSet" else name
        has_pods = any(pod["metadata"]["name"].startswith(f"{family}-") for pod in seen.pods)
        if has_pods or (kind == "Job" and name not in running_jobs):
            continue
        told = re.sub(r'^Error creating: (pods "[^"]*" is forbidden: )?', "", _trimmed(event["message"]))
        why = "A rule of the cluster does not allow it, or it names what is not there."
        next_step = f"Look at its events: kubectl describe {kind.lower()} {name}"
        is_final = "violates PodSecurity" in told
        if is_final:
            why = "The namespace's security level does not allow what its containers ask for."
            next_step = f"Compare securityContexts {_FILE} with: kubectl get namespace --show-labels"
        # A quota is free again when others end, and an account may come.
        yield Cause("refused", f"The cluster makes no pods for the {kind} {name}: {told}", why, next_step, is_final)


# --- logs ------------------------------------------------------------------------------------------------------------

_ASKS_IN_VAIN = "it still asks whether the database answers"
_DATABASE = {
    _ASKS_IN_VAIN: "The database is most likely not running, or the cluster does not reach its address.",
    "could not translate host name": "The name of the database's host is not known in the cluster.",
    "[Cc]onnection refused": "Nothing listens at the database's address: it is most likely not running, or elsewhere.",
    "password authentication failed|pg_hba.conf": "The database does not accept the connection's user or password.",
}
_IS_DATABASE = re.compile(rf"OperationalError|psycopg|connection to server|\bFATAL:|asyncpg|{_ASKS_IN_VAIN}")
_IS_ERROR = re.compile(r"^[\w.]*(Error|Exception|Exit|Interrupt|Timeout|Warning)\b(:|$)|\b(ERROR|CRITICAL)\b|[Ee]rror:")


def _telling_line(seen: _Cluster, container: _Container) -> str:
    """Return the line of a container's log that says most about its end: not always the last one."""
    name = container.pod["metadata"]["name"]
    log = ""
    if container.restarts and (container.waiting or container.running):
        log = seen.logs(name, container.name, True).strip()
    log = log or seen.logs(name, container.name, False).strip()
    # The official image prints a dot for each time that it has asked for the database in vain.
    if log and not log.strip(". \n"):
        return _ASKS_IN_VAIN
    lines = [line for line in map(_plain, log.splitlines()) if line]
    for telling in (_IS_DATABASE, _IS_ERROR):
        found = [line for line in lines if telling.search(line) and not line.startswith(("File ", "raise ", "from "))]
        if found:
            return found[-1]
    return lines[-1] if lines else ""


def _plain(line: str) -> str:
    """Take colours, times and levels out of a line of a log."""
    line = re.sub(r"\x1b\[[0-9;]*m|\(psycopg\d?\.\w+\) ", "", line).strip()
    line = re.sub(r"^\[?\d{4}-\d\d-\d\d[T ][\d:.,]+(Z|[+-]\d\d:?\d\d)?\]?\s*", "", line)
    return " ".join(re.sub(r"^\[(debug|info|warning|error|critical)\s*\]", "", line).split())


def _why_no_database(line: str) -> str:
    """Say why the database could not be used; nothing if LINE is of something else, or says it best itself."""
    whys = (why for pattern, why in _DATABASE.items() if re.search(pattern, line))
    return next(whys, "") if _IS_DATABASE.search(line) else ""


# --- words -----------------------------------------------------------------------------------------------------------

_FILE = "in cluster/values/base.yaml"
_MORE_ROOM = "End other programs on its machine, or free disk space: docker system prune; or give the cluster more."
_NOT_FORESEEN = "It was not foreseen; its log has more."
_VALUES = {
    "api-server": "apiServer.resources",
    "scheduler": "scheduler.resources",
    "dag-processor": "dagProcessor.resources",
    "triggerer": "triggerer.resources",
    MIGRATIONS: "migrateDatabaseJob.resources",
    "worker": "workers.kubernetes.resources",
}


def _values_of(pod: Item) -> str:
    if _labels(pod).get("kubernetes_pod_operator") == "True":
        return "container_resources (airflow/include/events/dbt_task.py), not resources"
    return _VALUES.get("worker" if _is_of_task(pod) else _component(pod), "its resources")


def _look_at_log(item: Item) -> str:
    if _labels(item).get("component") in _VALUES and not _is_of_task(item):
        return f"Read its log: nox -s cluster -- logs {_component(item)}"
    return f"Read its log: kubectl logs {item['kind'].lower()}/{item['metadata']['name']} --all-containers"


def _name(pod: Item) -> str:
    """Name a pod as the user knows it."""
    labels = _labels(pod)
    return f"the pod of {labels.get('dag_id')}.{labels['task_id']}" if "task_id" in labels else _component(pod)


def _in(container: _Container) -> str:
    """Name a container by its pod, and by itself where it is not the pod's one purpose."""
    name = _name(container.pod)
    return name if container.name in (name, "main", "base") else f"{name}'s container {container.name}"


def _trimmed(text: str) -> str:
    return " ".join(text.split()).rstrip(". ")


def _line(text: str) -> str:
    """Make TEXT one line of the terminal without secrets."""
    text = without_secrets(" ".join(text.split()))
    return text if len(text) <= LINE_LENGTH else text[: LINE_LENGTH - 1].rstrip() + "…"
