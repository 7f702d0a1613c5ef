"""Find the most likely cause for which Airflow's components, or a task's pod, do not run."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from feeds.uri import without_secrets
from harness.errors import CommandFailedError
from harness.kubernetes.causes import configuration, crashes, images, migrations, nodes, probes, scheduling, storage
from harness.kubernetes.causes.cause import KINDS, Cause
from harness.kubernetes.causes.objects import (
    MIGRATIONS,
    Container,
    Item,
    Logs,
    Objects,
    component,
    containers,
    is_ready,
)
from harness.kubernetes.kubectl import Kubectl

LINE_LENGTH = 200
LOG_LINES = 50

Finder = Callable[[Sequence[Item], Logs], Cause | None]


def find_component_cause(items: Sequence[Item], logs: Logs) -> Cause | None:
    """Return why Airflow's components, not tasks, are not ready; None if nothing is known to be wrong."""
    objects = Objects(items, logs, of_tasks=False)
    causes_of = (nodes.unhealthy, storage.unbound_claims, _pod_causes, migrations.given_up_jobs, scheduling.refused)
    return _deepest(cause for find in causes_of for cause in find(objects))


def find_task_cause(items: Sequence[Item], logs: Logs) -> Cause | None:
    """Return why a task's pod, of any run, could not run; None if only the task's log can say why it failed."""
    objects = Objects(items, logs, of_tasks=True)
    found = (*nodes.unhealthy(objects), *_pod_causes(objects))
    return _deepest(cause for cause in found if cause.kind not in ("crash", "probe"))


def find_causes(kubectl: Kubectl, *finders: Finder) -> list[Cause]:
    """Return the causes that FINDERS find, those of tasks in dbt's namespace too; next steps have kubectl's options.

    Raises CommandFailedError if kubectl fails.
    """
    of_cluster: list[Item] = []
    with contextlib.suppress(CommandFailedError):
        of_cluster = kubectl.items("nodes")
    found = []
    for each in (kubectl, kubectl.for_dbt) if find_task_cause in finders else (kubectl,):
        items = each.items("pods", "events", "persistentvolumeclaims", "jobs")
        command = " ".join(["kubectl", *each.argv[1:], ""])
        logs = functools.partial(each.logs, lines=LOG_LINES)
        causes = [cause for find in finders if (cause := find([*items, *of_cluster], logs))]
        found += [replace(cause, next_step=cause.next_step.replace("kubectl ", command)) for cause in causes]
    return found


def _deepest(causes: Iterable[Cause]) -> Cause | None:
    """Return the deepest cause, its lines fit for a terminal; of several the migrations', then the newest pod's."""
    deepest = min(map(nodes.or_full_disk, causes), key=lambda cause: KINDS.index(cause.kind), default=None)
    if not deepest:
        return None
    what, why, next_step = map(_short, (deepest.what, deepest.why, deepest.next_step))
    return Cause(deepest.kind, what, why, next_step, deepest.is_final)


def _short(text: str) -> str:
    """Return TEXT as one line, without secrets and not too long."""
    text = without_secrets(" ".join(text.split()))
    return text if len(text) <= LINE_LENGTH else text[: LINE_LENGTH - 1].rstrip() + "…"


def _pod_causes(objects: Objects) -> Iterator[Cause]:
    for pod in objects.pods:
        # The migrations' pod has no probes: it is ready while it runs, and is waited for until it ends.
        if is_ready(pod) and component(pod) != MIGRATIONS:
            continue
        if pod["status"].get("phase") == "Failed" and pod["status"].get("reason"):
            yield scheduling.evicted(pod)
        elif not pod["spec"].get("nodeName"):
            yield from scheduling.unscheduled(pod)
        else:
            yield from storage.failed_mounts(objects, pod)
            for container in containers(pod):
                yield from _container_causes(objects, container)


def _container_causes(objects: Objects, container: Container) -> Iterator[Cause]:
    reason = container.waiting.get("reason", "")
    exit_code = container.ended.get("exitCode", 0)
    is_migration = component(container.pod) == MIGRATIONS
    is_done = exit_code == 0 and container.ended and not container.running and reason != "CrashLoopBackOff"
    if reason in images.REASONS:
        yield images.explain(objects, container)
    elif reason in configuration.REASONS:
        events = objects.events_of(container.pod, "Failed", container=container.name)
        yield configuration.explain(container.pod, str(container.waiting.get("message", reason)), events)
    elif is_done or (container.is_ready and not is_migration):
        return
    elif container.ended.get("reason") == "OOMKilled":  # of any exit code: it can be a child that was killed
        yield crashes.explain_memory(container)
    elif cause := probes.explain(objects, container):
        yield cause
    elif exit_code == 137 and not objects.events_of(container.pod, "Killing", container=container.name):
        yield crashes.explain_memory(container)  # some runtimes miss it; nothing else says that it was killed
    elif is_migration:
        yield from migrations.explain(objects, container)
    elif exit_code or reason == "CrashLoopBackOff":
        yield from crashes.explain(objects, container)
