"""The objects of a namespace, as `kubectl get --output json` lists them, without those that no longer matter."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Item = dict[str, Any]
Logs = Callable[[str, str, bool], str]
"""Returns the end of a log, given a pod, a container, and whether the container before the restart is meant."""

MIGRATIONS = "run-airflow-migrations"

# How often a container must have been restarted before it is taken to fail always. The kubelet waits 10, 20, 40 s
# between restarts: a database or a volume that was merely late is there by then.
MIN_RESTARTS = 3


class Objects:
    """The pods of tasks, or all others, and the other objects of a namespace by kind.

    ITEMS are pods, events, persistentvolumeclaims, jobs and nodes, as far as they may be listed.
    """

    def __init__(self, items: Sequence[Item], logs: Logs, *, of_tasks: bool) -> None:
        def of_kind(kind: str) -> list[Item]:
            return [item for item in items if item.get("kind") == kind]

        pods = [pod for pod in of_kind("Pod") if is_of_task(pod) == of_tasks]
        newest_first = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)
        self.pods = sorted(_current(newest_first), key=lambda pod: component(pod) != MIGRATIONS)
        self.jobs, self.claims, self.nodes = map(of_kind, ("Job", "PersistentVolumeClaim", "Node"))
        self.events = sorted(of_kind("Event"), key=last_seen)
        self.logs = logs

    def events_of(self, item: Item, *reasons: str, container: str = "") -> list[Item]:
        """Return the events of ITEM, or of one of its containers, for any of REASONS; the last at the end."""
        uid = item["metadata"].get("uid")

        def matches(event: Item) -> bool:
            involved = event.get("involvedObject", {})
            # A pod that was created again has the name of the one before.
            is_same = involved.get("name") == item["metadata"]["name"] and uid in (None, involved.get("uid", uid))
            path = involved.get("fieldPath") or f"{{{container}}}"
            return is_same and involved.get("kind") == item["kind"] and (not container or f"{{{container}}}" in path)

        return [event for event in self.events if event.get("reason") in reasons and matches(event)]


def _current(newest_first: Sequence[Item]) -> Iterator[Item]:
    """Leave out pods that succeeded, are being deleted, or were followed by others of the same component."""
    hashes: dict[str, str] = {}
    ready: set[str] = set()
    for pod in newest_first:
        phase = pod["status"].get("phase")
        if pod["metadata"].get("deletionTimestamp") or phase == "Succeeded":
            continue
        template = labels(pod).get("pod-template-hash", "")
        group = pod["metadata"]["name"] if is_of_task(pod) else f"{labels(pod).get('release')}/{component(pod)}"
        is_of_previous_replica_set = hashes.setdefault(group, template) != template
        is_replaced = phase == "Failed" and group in ready  # most likely evicted
        if not is_of_previous_replica_set and not is_replaced:
            yield pod
            ready |= {group} if is_ready(pod) else set()


def labels(item: Item) -> Mapping[str, str]:
    """Return an object's labels."""
    found: dict[str, str] = item["metadata"].get("labels") or {}
    return found


def component(item: Item) -> str:
    """Return the component of Airflow that an object belongs to, or the object's name."""
    name: str = item["metadata"]["name"]
    return labels(item).get("component") or (MIGRATIONS if MIGRATIONS in name else name)


def is_of_task(pod: Item) -> bool:
    """Return whether a pod runs a task: a worker, or a pod of the pod operator."""
    makers = ("kubernetes_executor", "kubernetes_pod_operator")
    return labels(pod).get("component") == "worker" or any(labels(pod).get(maker) == "True" for maker in makers)


def conditions(item: Item) -> dict[str, Item]:
    """Return an object's conditions by type."""
    return {condition["type"]: condition for condition in item["status"].get("conditions", [])}


def is_ready(pod: Item) -> bool:
    """Return whether Kubernetes calls a pod ready."""
    return bool(conditions(pod).get("Ready", {}).get("status") == "True")


def last_seen(event: Item) -> str:
    """Return when an event happened last, as an ISO timestamp."""
    observed = (event.get("series") or {}).get("lastObservedTime")
    return str(observed or event.get("lastTimestamp") or event.get("eventTime") or "")


def count(events: Iterable[Item]) -> int:
    """Return how often EVENTS happened."""
    return sum(int((event.get("series") or {}).get("count") or event.get("count") or 1) for event in events)


@dataclass(frozen=True)
class Container:
    """A container with its status, empty where Kubernetes says nothing; `ended` is how it ended the last time."""

    pod: Item
    name: str
    spec: Item
    restarts: int
    is_ready: bool
    waiting: Item
    running: Item
    ended: Item

    @property
    def times(self) -> str:
        """How often it has ended, for whatever reason: `4 times`, or nothing for once."""
        ends = self.restarts + (1 if self.ended and not self.running else 0)
        return f"{ends} times" if ends > 1 else ""

    @property
    def keeps_failing(self) -> bool:
        """It will most likely fail again; while it runs, it may succeed."""
        return not self.running and (self.restarts >= MIN_RESTARTS or self.pod["spec"].get("restartPolicy") == "Never")


def containers(pod: Item) -> Iterator[Container]:
    """Yield the containers of a pod that have a status, the init containers first."""
    spec, status = pod["spec"], pod["status"]
    specs = {each["name"]: each for each in (*spec.get("initContainers", []), *spec.get("containers", []))}
    for each in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        state, last = each.get("state") or {}, each.get("lastState") or {}
        yield Container(
            pod=pod,
            name=each["name"],
            spec=specs.get(each["name"], {}),
            restarts=each.get("restartCount", 0),
            is_ready=bool(each.get("ready")),
            waiting=state.get("waiting") or {},
            running=state.get("running") or {},
            ended=state.get("terminated") or last.get("terminated") or {},
        )
