"""Save what a cluster knows about a failure: objects that are not well, every log, task logs, the chart's values.

Each thing is saved for itself: what is broken is often what cannot tell, and the rest must not be lost with it.
"""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from events.errors import EventsError
from harness.kubernetes import chart
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.reporting.console import say
from harness.reporting.diagnostics import complaining

KINDS = "pods,deployments,replicasets,jobs,services,persistentvolumeclaims,serviceaccounts,configmaps"
LOG_LINES = 20_000


class Cluster(Protocol):
    """The part of a cluster provider that diagnostics need; see `harness.targets`."""

    def exists(self) -> bool: ...  # noqa: D102
    def export(self, folder: Path) -> None: ...  # noqa: D102
    def kubectl(self) -> Kubectl: ...  # noqa: D102
    def save_task_logs(self, folder: Path) -> None: ...  # noqa: D102


def save(folder: Path, where: Cluster, values: Sequence[Path]) -> None:
    """Save everything into FOLDER; VALUES are the chart's values as they were given."""
    with complaining("the chart's values"):
        for path in values:
            shutil.copy(path, made(folder / "chart"))
    there = False
    with complaining("what the cluster knows"):
        there = where.exists()
    if not there:
        return
    with complaining("the cluster's export"):
        where.export(made(folder / "export"))
    kubectl = where.kubectl()
    if not kubectl.answers():
        say("  the diagnostics lack what Kubernetes knows: its API does not answer")
        return
    steps: dict[str, Callable[[], None]] = {
        "events": lambda: save_text(folder / "events.txt", kubectl, "get", "events", "--sort-by=.lastTimestamp"),
        "objects": lambda: save_text(folder / "objects.txt", kubectl, "get", KINDS, "--output", "wide"),
        "nodes": lambda: save_text(folder / "nodes.txt", kubectl, "describe", "nodes"),
        "pods that are not well": lambda: describe_unwell(folder / "describe", kubectl),
        "logs": lambda: save_logs(folder / "pods", kubectl),
        "task logs": lambda: where.save_task_logs(made(folder / "tasks")),
        "the chart as rendered": lambda: save_release(folder / "chart", kubectl),
    }
    for name, step in steps.items():
        with complaining(name):
            step()


def made(folder: Path) -> Path:
    """Make FOLDER and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_text(path: Path, kubectl: Kubectl, *arguments: str) -> None:
    """Write what kubectl says."""
    path.write_text(kubectl.run(*arguments))


def is_well(item: dict[str, Any]) -> bool:
    """Say whether an object is as it should be."""
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


def describe_unwell(folder: Path, kubectl: Kubectl) -> None:
    """Write `describe`, which ends with its events, of every object that is not well."""
    for item in kubectl.items("pods", "deployments", "jobs", "persistentvolumeclaims"):
        if not is_well(item):
            kind, name = item["kind"].lower(), item["metadata"]["name"]
            with contextlib.suppress(EventsError):  # gone in the meantime
                save_text(made(folder) / f"{kind}-{name}.txt", kubectl, "describe", kind, name)


def save_logs(folder: Path, kubectl: Kubectl) -> None:
    """Write the log of every container, and of the one before where it restarted."""
    for pod in kubectl.items("pods"):
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for told in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            container = told["name"]
            for previous in (False, True) if told["restartCount"] else (False,):
                if text := kubectl.logs(name, container, previous, lines=LOG_LINES):
                    end = ".previous.log" if previous else ".log"
                    (made(folder / name) / f"{container}{end}").write_text(text)


def save_release(folder: Path, kubectl: Kubectl) -> None:
    """Write values, manifests and hooks as they were rendered; secrets are not among them, they are named only."""
    argv = chart.helm_argv(kubectl)
    for what in ("values", "manifest", "hooks"):
        told = run(*argv, "get", what, chart.RELEASE, *(["--all"] if what == "values" else []))
        (made(folder) / f"{what}.yaml").write_text(told)
