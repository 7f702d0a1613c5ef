"""What `nox -s cluster` does: bring a cluster with Airflow up, look at it, take it down; nothing ends by itself."""

import json
import os
from collections.abc import Sequence

from harness.docker import images
from harness.errors import NotUpError, UsageError
from harness.kubernetes import chart
from harness.kubernetes.kubectl import Kubectl
from harness.pipeline.airflow_api import AirflowApi
from harness.processes.supervisor import Supervisor
from harness.project import tools
from harness.project.paths import BUILD
from harness.project.session_lock import session_lock
from harness.reporting.console import Phases, say, table
from harness.reporting.summary import Section
from harness.targets import Settings
from harness.targets import kubernetes_target as on_cluster
from harness.targets.kubernetes_target import LOCK, bring_up, explained, save_diagnostics, that_is_up, warehouse_of

BUSY = "uses the cluster of this clone"


def up(target: str, settings: Settings, section: Section, *, recreate: bool) -> None:
    """Bring everything up that is not up, and bring up to date what differs; tell SECTION how long each phase took.

    Raises:
        HarnessError: something foreseen went wrong; what is up stays, and the next `up` goes on from there.
    """
    where = on_cluster.place(target, settings)
    section.title = f"cluster up: {where.title}"
    BUILD.mkdir(exist_ok=True)
    phases = Phases()
    with session_lock(LOCK, BUSY) as lock, Supervisor.launch([lock]) as supervisor:
        on_cluster.check(where, supervisor)  # what is up is not given away for what cannot be made
        if recreate:
            where.delete()
        where.check_fits()
        try:
            deployment = bring_up(where, supervisor, settings, phases)
        except Exception as error:
            failure = explained(error, where, None)
            save_diagnostics(failure, where, supervisor, phases, None, stays=True)
            if failure is error:
                raise
            raise failure from error
        finally:
            say("")
            phases.print()
            say("")
            section.add_phases(phases)
    say(f"✓ {where.title} is up ({phases.total_s:.0f} s)")
    for line in deployment.addresses():
        say(line)


def down(target: str, settings: Settings, *, also_images: bool) -> None:
    """Remove everything of it, whatever state it is in."""
    where = on_cluster.place(target, settings)
    phases = Phases()
    BUILD.mkdir(exist_ok=True)
    with session_lock(LOCK, BUSY):
        with phases.phase("taken down") as phase:
            phase.text = f"{where.title} taken down" if where.is_there() else "nothing was up"
            where.delete()
        if also_images:
            with phases.phase("images removed") as phase:
                phase.text = f"{len(images.remove_built())} images removed"


def status(target: str, settings: Settings) -> None:
    """Print what runs, its versions and its addresses.

    Raises:
        NotUpError: it is not up.
    """
    where = on_cluster.place(target, settings)
    with Supervisor.launch() as supervisor:  # it holds the tunnel to Airflow, where there must be one
        kubectl, api = that_is_up(where, supervisor)
        health = api.healthy()
    node = kubectl.items("nodes")[0]["status"]["nodeInfo"]
    airflow = api.version() if health else "that does not answer"
    versions = f"Airflow {airflow}, chart {chart.installed_version(kubectl)}"
    say(f"{where.title}: Kubernetes {node['kubeletVersion']}, {versions}")
    say("")
    pods = sorted(kubectl.items("pods"), key=lambda pod: pod["metadata"]["name"])
    rows = []
    for pod in pods:
        told = pod["status"].get("containerStatuses", [])
        ready = f"{sum(c['ready'] for c in told)}/{len(told)}"
        rows.append((pod["metadata"]["name"], pod["status"]["phase"], ready, str(sum(c["restartCount"] for c in told))))
    table(("pod", "phase", "ready", "restarts"), rows)
    say("")
    not_well = [name.replace("_", "-") for name, well in health.items() if not well]
    well = "all healthy" if health else "the API server does not answer"
    say(f"  health     {', '.join(not_well) + ' not healthy' if not_well else well}")
    dsn = "" if where.name == "context" and not settings.warehouse_dsn else warehouse_of(where).reader_dsn
    for line in on_cluster.addresses(where, api.password, dsn):
        say(line)
    for name in (*({"kind", "minikube"} & {where.name}), "kubectl", "helm"):
        path = tools.find(name)
        say(f"  {name:<10} {tools.version(name, path)} ({path})")


def ui(target: str, settings: Settings) -> None:
    """Print the UI's address and login."""
    where = on_cluster.place(target, settings)
    _, api = that_is_up(where)
    say(on_cluster.addresses(where, api.password, "")[0])
    if where.tunnel:
        say(f"  after: {where.tunnel}")


def logs(target: str, settings: Settings, names: Sequence[str]) -> None:
    """Print the logs of components, all of them if none is named, or of a task: `DAG_ID TASK_ID`, its latest run.

    Raises:
        NotUpError: it is not up.
        UsageError: there is no such component or task.
    """
    where = on_cluster.place(target, settings)
    with Supervisor.launch() as supervisor:
        kubectl, api = that_is_up(where, supervisor)
        if len(names) == 2 and names[0] not in components(kubectl):
            say_task_log(api, *names)
        else:
            say_pod_logs(kubectl, names)


def say_task_log(api: AirflowApi, dag_id: str, task_id: str) -> None:
    """Print the log of a task in its DAG's latest run."""
    if dag_id not in api.dag_ids():
        there = ", ".join(sorted(api.dag_ids()))
        raise UsageError(f"There is no DAG {dag_id}.", f"The DAGs are: {there}.", "Name one of them.")
    if not (runs := api.runs(dag_id)):
        raise UsageError(f"{dag_id} has not run yet.", "There is nothing to show.", "Trigger it in the UI.")
    for line in api.task_log(dag_id, next(iter(runs)), task_id):
        say(line)


def components(kubectl: Kubectl) -> list[str]:
    """Return the components that have pods."""
    return sorted({str(pod["metadata"]["labels"].get("component", "")) for pod in kubectl.items("pods")} - {""})


def say_pod_logs(kubectl: Kubectl, names: Sequence[str]) -> None:
    """Print the logs of components, of all if none is named."""
    pods = kubectl.items("pods")
    there = components(kubectl)
    for name in names or there:
        if name not in there:
            raise UsageError(
                f"There is no component {name!r} here.",
                f"There are: {', '.join(there)}. A task is named by two words: its DAG's id and its own.",
                "Name one of them, or none for all.",
            )
        for pod in pods:
            if pod["metadata"]["labels"].get("component") == name:
                for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                    say(f"── {pod['metadata']['name']} {container['name']}")
                    say(kubectl.logs(pod["metadata"]["name"], container["name"]).rstrip())


def take_down_after_run(target: str) -> None:
    """Remove everything of a run whose harness has ended: the supervisor's last command.

    Raises:
        NotUpError: something of it is still there.
    """
    where = on_cluster.place(target, Settings(**json.loads(os.environ[on_cluster.TAKEDOWN])))
    where.delete()
    if where.is_there():
        raise NotUpError(f"{where.title} is still there.", "It did not go.", "Take it down: nox -s cluster -- down")
