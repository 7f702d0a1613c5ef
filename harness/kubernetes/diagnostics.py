"""Save what a cluster shows of a failure: unhealthy objects, every log, task logs, the chart's values.

Whatever cannot be saved, often because it is what failed, does not keep the rest from being saved.
"""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from feeds.errors import FeedError
from harness.kubernetes import chart
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.reporting.console import say
from harness.reporting.diagnostics import log_and_continue

KINDS = "pods,deployments,replicasets,jobs,services,persistentvolumeclaims,serviceaccounts,configmaps"
LOG_LINES = 20_000


class Cluster(Protocol):
    """The part of a cluster provider that diagnostics need; see `harness.targets`."""

    def exists(self) -> bool: ...  # noqa: D102
    def export(self, folder: Path) -> None: ...  # noqa: D102
    def kubectl(self) -> Kubectl: ...  # noqa: D102
    def save_task_logs(self, folder: Path) -> None: ...  # noqa: D102


def save(folder: Path, cluster: Cluster, values: Sequence[Path]) -> None:
    """Save everything into FOLDER; VALUES are the files with the chart's values."""
    with log_and_continue("the chart's values"):
        for path in values:
            shutil.copy(path, make(folder / "chart"))
    exists = False
    with log_and_continue("the state of the cluster"):
        exists = cluster.exists()
    if not exists:
        return
    with log_and_continue("the cluster's export"):
        cluster.export(make(folder / "export"))
    kubectl = cluster.kubectl()
    if not kubectl.answers():
        say("  the diagnostics have no Kubernetes objects: the cluster's API does not answer")
        return
    save_namespace(folder, kubectl)
    save_namespace(folder / "dbt-namespace", kubectl.for_dbt)
    steps: dict[str, Callable[[], None]] = {
        "nodes": lambda: save_text(folder / "nodes.txt", kubectl, "describe", "nodes"),
        "task logs": lambda: cluster.save_task_logs(make(folder / "tasks")),
        "the chart as rendered": lambda: save_rendered_chart(folder / "chart", kubectl),
    }
    take(steps)


def save_namespace(folder: Path, kubectl: Kubectl) -> None:
    """Save events, objects and logs of a namespace into FOLDER."""
    make(folder)
    take(
        {
            "events": lambda: save_text(folder / "events.txt", kubectl, "get", "events", "--sort-by=.lastTimestamp"),
            "objects": lambda: save_text(folder / "objects.txt", kubectl, "get", KINDS, "--output", "wide"),
            "unhealthy objects": lambda: describe_unhealthy(folder / "describe", kubectl),
            "logs": lambda: save_logs(folder / "pods", kubectl),
        }
    )


def take(steps: dict[str, Callable[[], None]]) -> None:
    """Take STEPS, each even if another fails."""
    for name, step in steps.items():
        with log_and_continue(name):
            step()


def make(folder: Path) -> Path:
    """Make FOLDER and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_text(path: Path, kubectl: Kubectl, *arguments: str) -> None:
    """Write the output of kubectl with ARGUMENTS to PATH."""
    path.write_text(kubectl.run(*arguments))


def is_healthy(item: dict[str, Any]) -> bool:
    """Return whether an object has succeeded, or is ready without restarts."""
    status = item.get("status", {})
    match item["kind"]:
        case "Pod":
            ready = all(s["ready"] and not s["restartCount"] for s in status.get("containerStatuses", [{"ready": 0}]))
            return status.get("phase") == "Succeeded" or (status.get("phase") == "Running" and ready)
        case "Deployment":
            return bool(status.get("availableReplicas", 0) >= item["spec"]["replicas"])
        case "Job":
            return bool(status.get("succeeded"))
        case "PersistentVolumeClaim":
            return bool(status.get("phase") == "Bound")
    return True


def describe_unhealthy(folder: Path, kubectl: Kubectl) -> None:
    """Write the output of `describe`, which ends with the events, for every unhealthy object."""
    for item in kubectl.items("pods", "deployments", "jobs", "persistentvolumeclaims"):
        if not is_healthy(item):
            kind, name = item["kind"].lower(), item["metadata"]["name"]
            with contextlib.suppress(FeedError):  # gone in the meantime
                save_text(make(folder) / f"{kind}-{name}.txt", kubectl, "describe", kind, name)


def save_logs(folder: Path, kubectl: Kubectl) -> None:
    """Write the log of every container, and of the one before its restart."""
    for pod in kubectl.items("pods"):
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            container = each["name"]
            for previous in (False, True) if each["restartCount"] else (False,):
                if text := kubectl.logs(name, container, previous, lines=LOG_LINES):
                    end = ".previous.log" if previous else ".log"
                    (make(folder / name) / f"{container}{end}").write_text(text)


def save_rendered_chart(folder: Path, kubectl: Kubectl) -> None:
    """Write values, manifests and hooks as helm rendered them; they name secrets and have none."""
    argv = chart.helm_argv(kubectl)
    for what in ("values", "manifest", "hooks"):
        text = run(*argv, "get", what, chart.HELM_RELEASE, *(["--all"] if what == "values" else []))
        (make(folder) / f"{what}.yaml").write_text(text)
