"""Put Airflow onto a cluster: namespace, rights, secrets, the chart, the roll-out. The same for every cluster.

Secrets are made at the first `up` and live in the cluster alone; every later one takes them from there.

| secret | for |
| --- | --- |
| `passwords` | the harness: of the roles, of Airflow's database, of the UI's user |
| `airflow-metadata` | Airflow's components: the metadata database's URL |
| `airflow-keys`, `airflow-login` | Airflow's components: its keys; the API server: who may log in |
| `warehouse-loader` | workers: the Airflow connection |
| `events-file` | workers: its URI, which may be signed |
| `warehouse-transformer` | dbt's pod: its environment |
"""

import base64
import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from harness.errors import CommandFailedError, InstallFailedError, RollOutFailedError
from harness.kubernetes import causes, chart
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.project.paths import CLONE_ON_MACHINE, ROOT
from harness.reporting.console import Phases, say
from harness.warehouse.roles import ROLES, Warehouse, create_metadata_database, create_warehouse
from harness.warehouse.server import Server

NAMESPACE = "events-platform"
MANIFESTS = ROOT / "cluster" / "manifests"
COMPONENTS = ("api-server", "scheduler", "dag-processor")
USER = "admin"
METADATA = "airflow"  # the metadata database's role
OWNER = "events-platform/clone"  # the label of a namespace that says which clone made it
POLL_INTERVAL_S = 0.5
WATCH_INTERVAL_S = 3.0  # between two looks for a cause; each costs three calls of kubectl
OBJECTS = ("pods", "events", "persistentvolumeclaims", "jobs")


@dataclass(frozen=True)
class Database:
    """A PostgreSQL as the harness reaches it, and where the cluster's pods do."""

    server: Server
    host: str
    port: int

    @property
    def for_pods(self) -> Server:
        """The server as pods reach it."""
        return replace(self.server, host=self.host, port=self.port)


def create_namespace(kubectl: Kubectl) -> None:
    """Make the namespace and the rights in it; one that is still going, its takedown was cut off, goes first."""
    there = kubectl.get("namespace", kubectl.namespace)
    if there and there["metadata"].get("deletionTimestamp"):
        timeout_s = pins.deadline_s("delete")
        argv = ("wait", "--for=delete", f"namespace/{kubectl.namespace}", f"--timeout={timeout_s:.0f}s")
        kubectl.run(*argv, timeout_s=timeout_s + 10)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    labels |= {"app.kubernetes.io/managed-by": "events-platform", OWNER: CLONE_ON_MACHINE}
    metadata = {"name": kubectl.namespace, "labels": labels}
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
    kubectl.apply((MANIFESTS / "rights.yaml").read_text(encoding="utf-8"))


def passwords(kubectl: Kubectl) -> dict[str, str]:
    """Return the passwords that this deployment has, or new ones: of the roles, of Airflow's database, of the UI."""
    there = read_secret(kubectl, "passwords")
    return {name: there.get(name) or secrets.token_urlsafe(24) for name in (*ROLES, METADATA, USER)}


def create_databases(database: Database, mine: dict[str, str]) -> tuple[Warehouse, str]:
    """Make the warehouse, its roles and the metadata database; return the warehouse and the metadata URL for pods."""
    server = database.server
    warehouse = create_warehouse(server, "warehouse", {role: mine[role] for role in ROLES})
    return warehouse, create_metadata_database(server, mine[METADATA], database.host, database.port)


def create_secrets(
    kubectl: Kubectl,
    mine: dict[str, str],
    warehouse: Warehouse,
    database: Database,
    *,
    metadata_url: str,
    events_uri: str,
) -> dict[str, str]:
    """Make the secrets, or bring them up to date; return the annotations of pods that read them."""
    inside = replace(warehouse, server=database.for_pods)
    keys = read_secret(kubectl, "airflow-keys") or {
        "fernet-key": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "api-secret-key": secrets.token_hex(32),
        "jwt-secret": secrets.token_hex(64),
    }
    contents = {
        "passwords": mine,
        "airflow-metadata": {"connection": metadata_url},
        "airflow-keys": keys,
        "airflow-login": {"passwords.json": json.dumps({USER: mine[USER]})},
        "warehouse-loader": {"connection": inside.loader_dsn},
        "events-file": {"uri": events_uri},
        "warehouse-transformer": inside.dbt_env() | {"DBT_TARGET": "prod"},
    }
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}
        for name, content in contents.items()
    )
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return {"events-platform/secrets": digest[:16]}


def identity(server: Server) -> dict[str, str]:
    """Return the annotation that tells a server's data from any other's: pods that knew another one begin anew."""
    with psycopg.connect(server.dsn) as connection:
        [(found,)] = connection.execute("select system_identifier from pg_control_system()").fetchall()
    return {"events-platform/database": str(found)}


def read_secret(kubectl: Kubectl, name: str) -> dict[str, str]:
    """Return what a secret holds; nothing if there is none."""
    secret = kubectl.get("secret", name) or {}
    return {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}


def look(kubectl: Kubectl) -> list[dict[str, Any]]:
    """Return what `causes` reads: the namespace's objects, and the nodes if they may be listed."""
    items = kubectl.items(*OBJECTS)
    with contextlib.suppress(CommandFailedError):
        items += kubectl.items("nodes")
    return items


def causes_of(kubectl: Kubectl, *finders: Callable[..., causes.Cause | None]) -> list[causes.Cause]:
    """Return the most likely cause that each of FINDERS, of `causes`, sees for what does not come up, or has ended.

    A next step has the options that kubectl needs.
    """
    items = look(kubectl)

    def logs(pod: str, container: str, previous: bool) -> str:
        return kubectl.logs(pod, container, previous, lines=50)

    kubectl_here = " ".join(["kubectl", *kubectl.argv[1:], ""])
    found = [cause for find in finders if (cause := find(items, logs))]
    return [cause._replace(next_step=cause.next_step.replace("kubectl ", kubectl_here)) for cause in found]


def cause_of(kubectl: Kubectl) -> causes.Cause | None:
    """Return the most likely cause for a component that does not come up, or has ended."""
    return next(iter(causes_of(kubectl, causes.find)), None)


class Watch:
    """Called again and again while something is waited for: raises where it will never be.

    ALSO is called each time that it looks: it raises where what the cluster stands on is gone.
    """

    def __init__(self, kubectl: Kubectl, also: Callable[[], None] = lambda: None, *, of_tasks: bool = False) -> None:
        self._kubectl = kubectl
        self._also = also
        self._finders = (causes.find, causes.find_for_tasks) if of_tasks else (causes.find,)
        self._next = 0.0

    def __call__(self) -> None:
        """Look, if the last look was long enough ago.

        Raises:
            RollOutFailedError: waiting longer is pointless, and why.
            HarnessError: what `also` raises.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + WATCH_INTERVAL_S
        self._also()
        try:
            found = causes_of(self._kubectl, *self._finders)
        except CommandFailedError:
            return  # the API server is busy, or being rolled out; whoever waits has a deadline
        for cause in found:
            if cause.is_final:
                raise RollOutFailedError(cause.what, cause.why, cause.next_step)


def wait_for_roll_out(kubectl: Kubectl, component: str, deadline: float, watch: Watch) -> None:
    """Wait until COMPONENT runs as it was last installed, and nothing older of it does.

    Raises:
        RollOutFailedError: it does not before the DEADLINE, or never will; with the cause, as far as it is recognised.
    """
    timeout_s = pins.deadline_s("roll_out")
    while True:
        with contextlib.suppress(CommandFailedError):  # as in Watch
            if is_rolled_out(kubectl.items("deployments", "pods"), component):
                return
        watch()
        if time.monotonic() > deadline:
            cause = cause_of(kubectl)
            raise RollOutFailedError(
                f"{component} is not ready after {timeout_s:.0f} s" + (f": {cause.what}" if cause else "."),
                cause.why if cause else "The cluster names no cause: the machine is most likely too slow or too busy.",
                cause.next_step if cause else f"See what it says: nox -s cluster -- logs {component}",
            )
        time.sleep(POLL_INTERVAL_S)


def is_rolled_out(items: list[dict[str, Any]], component: str) -> bool:
    """Say by a namespace's objects whether a component runs as it was last installed.

    Not by the deployment's own count of what is available: before Kubernetes 1.21 the kubelet takes a minute to call a
    container ready that has a startup probe and no readiness probe. That it has started is what it means.
    """
    deployment = next((i for i in items if i["kind"] == "Deployment" and _component(i) == component), None)
    if not deployment:
        return False
    status = deployment.get("status", {})
    wanted = deployment["spec"]["replicas"]
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return False
    if status.get("updatedReplicas", 0) != wanted or status.get("replicas", 0) != wanted:
        return False
    pods = [i for i in items if i["kind"] == "Pod" and _component(i) == component]
    pods = [pod for pod in pods if pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")]  # evicted, say
    return len(pods) == wanted and all(_is_up(pod) for pod in pods)


def _component(item: dict[str, Any]) -> str:
    return str(item["metadata"].get("labels", {}).get("component", ""))


def _is_up(pod: dict[str, Any]) -> bool:
    has_readiness = {container["name"]: "readinessProbe" in container for container in pod["spec"]["containers"]}
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return len(statuses) == len(has_readiness) and all(
        status["ready"]
        or (status.get("started") and "running" in status["state"] and not has_readiness[status["name"]])
        for status in statuses
    )


def clear_failed(kubectl: Kubectl) -> None:
    """Remove what failed before: a migration that was given up, and pods that are not well.

    Helm leaves them as they are where nothing of them changes; what was mended would be tried again in minutes only,
    and their old states be taken for new ones.
    """
    for item in kubectl.items("jobs", "pods"):
        component, name = _component(item), item["metadata"]["name"]
        if item["kind"] == "Job" and component == "run-airflow-migrations" and not item["status"].get("succeeded"):
            kubectl.run("delete", "job", name, "--ignore-not-found", "--wait=false")
        if item["kind"] == "Pod" and component in COMPONENTS and not _is_up(item):
            kubectl.run("delete", "pod", name, "--ignore-not-found", "--wait=false")


def install(
    supervisor: Supervisor,
    kubectl: Kubectl,
    archive: Path,
    values: list[Path],
    *,
    phases: Phases,
    watch: Watch,
) -> None:
    """Install the chart and wait for every component, all within one deadline.

    Raises:
        InstallFailedError, RollOutFailedError: see there.
    """
    with phases.phase("chart installed") as phase:
        try:
            clear_failed(kubectl)
            chart.install(supervisor, kubectl, archive, values, retried=lambda why: say(f"… {why}"), watch=watch)
        except InstallFailedError as error:
            if error.is_of_hook and (cause := cause_of(kubectl)):
                error.what, error.why, error.next_step = f"{error.what} {cause.what}", cause.why, cause.next_step
            raise
        phase.text = f"chart {pins.chart()['version']} installed, metadata database migrated"
    deadline = time.monotonic() + pins.deadline_s("roll_out")
    for component in COMPONENTS:
        with phases.phase(f"{component} ready"):
            wait_for_roll_out(kubectl, component, deadline, watch)


def uninstall(kubectl: Kubectl) -> None:
    """Remove the release and the namespace, with all that is in it; what is not there is not missed."""
    argv = chart.helm_argv(kubectl)
    with contextlib.suppress(CommandFailedError):
        run(*argv, "uninstall", chart.RELEASE, "--no-hooks", timeout_s=pins.deadline_s("delete"))
    timeout_s = pins.deadline_s("delete")
    kubectl.run("delete", "namespace", kubectl.namespace, "--ignore-not-found", "--wait", timeout_s=timeout_s)
