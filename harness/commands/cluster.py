"""Bring a cluster with Airflow up, look at it, take it down; it stays up in between."""

import argparse
from collections.abc import Sequence

from feeds.contract import read_feeds
from feeds.uri import shown
from harness.commands.arguments import add_run_options, invalid_arguments, run_options
from harness.commands.confirmation import confirm_loss
from harness.docker import images
from harness.errors import UsageError
from harness.kubernetes import chart
from harness.kubernetes.causes.objects import labels
from harness.kubernetes.kubectl import Kubectl
from harness.kubernetes.pods import pods
from harness.pipeline import run_data
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.feed_files import check_files
from harness.pipeline.runs import wait_until_parsed_again
from harness.processes.supervisor import Supervisor
from harness.project import tools
from harness.reporting.console import Phases, say, say_phases, table
from harness.reporting.report.writing import begin
from harness.reporting.summary import Section
from harness.targets import code_sync, manifests
from harness.targets.cluster_deployment import addresses, connect, warehouse_of
from harness.targets.cluster_provider import ClusterProvider
from harness.targets.kubernetes_target import KubernetesTarget, only_one_cluster, provider_of
from harness.targets.options import CLUSTERS, RunOptions

ACTIONS = {
    "up": "create or update the cluster, PostgreSQL and Airflow",
    "sync": "bring changed DAGs, load code and dbt files into the cluster, without images and roll-out",
    "status": "print the pods, the versions and the addresses",
    "ui": "print the address and the login of Airflow's UI",
    "logs": "print the logs of components, or of a task's latest run; without a name those of all components",
    "manifests": "write what `up` would install into build/manifests, without a cluster, for GitOps",
    "down": "delete the cluster, PostgreSQL, their network and the kubeconfig, whatever state they are in",
}

PAUSED = (
    "  DAGs       paused at first; a DAG that you unpause runs its last interval at once: docs/operations.md, Schedule"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `nox -s cluster`, each with its options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    for name, description in ACTIONS.items():
        action = actions.add_parser(
            name, prog=f"nox -s cluster -- {name}", description=description, help=description, allow_abbrev=False
        )
        action.add_argument("--target", default="kind", help="kind (the default), minikube or context")
        add_run_options(action)
        if name in ("up", "manifests"):
            metrics_text = "also what Prometheus reads and, on kind and minikube, a Prometheus with alerts"
            action.add_argument("--metrics", action="store_true", help=metrics_text)
        if name == "up":
            action.add_argument("--recreate", action="store_true", help="delete an existing cluster first")
            action.add_argument("--rotate-secrets", action="store_true", help="make new passwords and keys")
        if name == "logs":
            action.add_argument("names", nargs="*", metavar="COMPONENT | DAG_ID TASK_ID")
        if name == "down":
            action.add_argument("--images", action="store_true", help="also remove the images that this clone built")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace, section: Section) -> None:
    """Run `nox -s cluster`."""
    if parsed.target not in CLUSTERS:
        raise invalid_arguments(f"{shown(parsed.target)!r} is not a cluster; the clusters are {', '.join(CLUSTERS)}.")
    if parsed.action == "up":
        begin(section, section.title)  # before anything can fail
    options = run_options(parsed, reuse=True)
    if parsed.action == "up":
        for feed in read_feeds().values():
            check_files(feed, options.uri(feed))
        if parsed.recreate:
            confirm_loss(provider_of(parsed.target, options).existing_databases(), options)
        up(options, section, recreate=parsed.recreate)
        return
    provider = provider_of(parsed.target, options)
    match parsed.action:
        case "sync":
            sync(provider)
        case "status":
            status(provider)
        case "ui":
            ui(provider)
        case "logs":
            logs(provider, parsed.names)
        case "manifests":
            manifests.write(options)
        case "down":
            confirm_loss(provider.existing_databases(), options)
            down(provider, also_images=parsed.images)


def up(options: RunOptions, section: Section, *, recreate: bool) -> None:
    """Create or update what is missing or differs; after an error everything stays, and the next `up` goes on."""
    title = provider_of(options.target, options).title
    section.title = f"cluster up: {title}"
    report = begin(section, section.title)
    run_data.add_clone(report, has_images=True)
    phases = report.phases
    try:
        with KubernetesTarget(options.target).up(options, phases, recreate=recreate) as deployment:
            lines = deployment.addresses()
    finally:
        with run_data.part(report, "the pods"):
            kubectl = provider_of(options.target, options).kubectl()
            report.pods = pods(kubectl, kubectl.for_dbt) if kubectl.answers() else []
        say_phases(phases)
        section.add_phases(phases)
    for line in (f"✓ {title} is up ({phases.total_s:.0f} s)", *lines, PAUSED):
        say(line)


def sync(provider: ClusterProvider) -> None:
    """Bring changed code into the cluster; name the changed files that need an `up`. May raise NotUpError."""
    phases = Phases()
    with only_one_cluster(), Supervisor.launch() as supervisor:
        kubectl, api = connect(provider, supervisor)
        changes = code_sync.find_changes(provider, kubectl)
        if changes.synced or code_sync.synced_files(kubectl)[0]:
            with phases.phase("code synced") as phase:
                parsed_at = api.parsed_at()
                code_sync.sync(kubectl, changes.synced)
                wait_until_parsed_again(api, parsed_at)
                count = len(changes.synced)
                differing = f"{count} changed file{'s' * (count > 1)}" if count else "the code of its images again"
                phase.text = f"{provider.title} has {differing}"
        else:
            say(f"✓ {provider.title} has all code already")
    for path in changes.synced:
        say(f"    {path}")
    if changes.others:
        say(f"… these need {provider.command('up')}: {', '.join(changes.others)}")


def down(provider: ClusterProvider, *, also_images: bool) -> None:
    """Delete everything of the cluster, whatever state it is in."""
    phases = Phases()
    with only_one_cluster():
        with phases.phase("taken down") as phase:
            phase.text = f"{provider.title} taken down" if provider.exists() else "nothing was up"
            provider.delete()
        if also_images:
            with phases.phase("images removed") as phase:
                phase.text = f"{len(images.remove_built())} images removed"


def status(provider: ClusterProvider) -> None:
    """Print the pods, the versions and the addresses; raise NotUpError if the cluster is not up."""
    with Supervisor.launch() as supervisor:  # it runs the port forward to Airflow, if one is needed
        kubectl, api = connect(provider, supervisor)
        health = api.healthy()
        airflow = api.version() if health else "(does not answer)"
    versions = f"Airflow {airflow}, chart {chart.installed_version(kubectl)}"
    say(f"{provider.title}: Kubernetes {kubectl.server_version()}, {versions}")
    say("")
    rows = []
    for pod in sorted(kubectl.items("pods"), key=lambda pod: pod["metadata"]["name"]):
        containers = pod["status"].get("containerStatuses", [])
        ready = f"{sum(container['ready'] for container in containers)}/{len(containers)}"
        restarts = str(sum(container["restartCount"] for container in containers))
        rows.append((pod["metadata"]["name"], pod["status"]["phase"], ready, restarts))
    table(("pod", "phase", "ready", "restarts"), rows)
    say("")
    unhealthy = [name.replace("_", "-") for name, is_healthy in health.items() if not is_healthy]
    healthy = "all healthy" if health else "the API server does not answer"
    say(f"  health     {', '.join(unhealthy) + ' not healthy' if unhealthy else healthy}")
    files, at = code_sync.synced_files(kubectl)
    if files:
        say(f"  synced     {', '.join(files)}, at {at}; the next `up` builds images with them")
    has_dsn = provider.name != "context" or provider.options.warehouse_dsn
    for line in addresses(provider, api.password, warehouse_of(provider).reader_dsn if has_dsn else ""):
        say(line)
    for name in (*({"kind", "minikube"} & {provider.name}), "kubectl", "helm"):
        path = tools.find(name) if name in tools.PINNED else tools.installed(name)
        say(f"  {name:<10} {tools.version(name, path)} ({path})" if path else f"  {name:<10} not installed")


def ui(provider: ClusterProvider) -> None:
    """Print the UI's address and login; raise NotUpError if the cluster is not up."""
    _, api = connect(provider)
    say(addresses(provider, api.password, "")[0])
    if provider.forward_command:
        say(f"  after: {provider.forward_command}")


def logs(provider: ClusterProvider, names: Sequence[str]) -> None:
    """Print the logs of NAMES: components, by default all, or `DAG_ID TASK_ID`; may raise NotUpError, UsageError."""
    with Supervisor.launch() as supervisor:
        kubectl, api = connect(provider, supervisor)
        if len(names) == 2 and names[0] not in components(kubectl):
            print_task_log(api, *names)
        else:
            print_pod_logs(kubectl, names)


def print_task_log(api: AirflowApi, dag_id: str, task_id: str) -> None:
    """Print the log of a task in its DAG's latest run."""
    if dag_id not in api.dag_ids():
        dags = ", ".join(sorted(api.dag_ids()))
        raise UsageError(f"There is no DAG {dag_id}.", f"The DAGs are {dags}.", "Name one of them.")
    if not (runs := api.runs(dag_id)):
        raise UsageError(
            f"{dag_id} has not run yet.", "A task has a log when it has run.", "Trigger the DAG in the UI."
        )
    for line in api.task_log(dag_id, next(iter(runs)), task_id):
        say(line)


def components(kubectl: Kubectl) -> list[str]:
    """Return the components that have pods."""
    return sorted({labels(pod).get("component", "") for pod in kubectl.items("pods")} - {""})


def print_pod_logs(kubectl: Kubectl, names: Sequence[str]) -> None:
    """Print the logs of the components NAMES, or of all."""
    pods = kubectl.items("pods")
    existing = components(kubectl)
    for name in names or existing:
        if name not in existing:
            raise UsageError(
                f"There is no component {name!r} here.",
                f"The components are {', '.join(existing)}. A task is named by two words: its DAG's id and its own.",
                "Name one of them, or none to get all.",
            )
        for pod in pods:
            if labels(pod).get("component") == name:
                for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                    say(f"── {pod['metadata']['name']} {container['name']}")
                    say(kubectl.logs(pod["metadata"]["name"], container["name"]).rstrip())
