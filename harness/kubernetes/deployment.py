"""Deploy Airflow on a cluster: namespaces, databases, the chart, the rollout. The same for every cluster."""

import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from harness.errors import CommandFailedError, InstallFailedError, UsageError
from harness.kubernetes import chart, rollout
from harness.kubernetes.causes.objects import labels
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.project.paths import ROOT
from harness.reporting.console import Phases
from harness.warehouse.roles import ROLES, Warehouse, create_metadata_database, create_warehouse
from harness.warehouse.server import Server, identity

NAMESPACE = "events-platform"
MANIFESTS = ROOT / "cluster" / "manifests"
METADATA_ROLE = "airflow"
ROOT_CERTIFICATE_IN_PODS = "/opt/postgresql/root.crt"  # of the config map `postgresql`: values/base.yaml, dbt_pod.py
# What an earlier version made in Airflow's namespace, where dbt ran, too.
DBT_BESIDE_AIRFLOW = ("serviceaccount/dbt", "role/run-dbt", "rolebinding/run-dbt", "secret/warehouse-transformer")
# Of both namespaces: whoever has the project may deploy into them, and `down` deletes them.
LABELS = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
LABELS |= {"app.kubernetes.io/managed-by": "events-platform"}


@dataclass(frozen=True)
class Database:
    """A PostgreSQL server, and the address at which the cluster's pods reach it."""

    server: Server
    host: str
    port: int

    @property
    def for_pods(self) -> Server:
        """The server as pods reach it."""
        certificate = self.server.root_certificate
        if certificate not in ("", "system"):
            certificate = ROOT_CERTIFICATE_IN_PODS
        return replace(self.server, host=self.host, port=self.port, root_certificate=certificate)

    def apply_root_certificate(self, kubectl: Kubectl) -> None:
        """Give the pods the root certificate, if there is one: a config map in each namespace."""
        if self.for_pods.root_certificate == ROOT_CERTIFICATE_IN_PODS:
            data = {"root.crt": Path(self.server.root_certificate).read_text(encoding="utf-8")}
            for each in (kubectl, kubectl.for_dbt):
                each.apply(
                    [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "postgresql"}, "data": data}]
                )


def manifest(name: str, **values: object) -> str:
    """Return the manifest NAME with VALUES, texts or what becomes JSON, in place of their names."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return Template((MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")).substitute(texts)


def create_namespaces(kubectl: Kubectl, pull_secret: str | None = None) -> None:
    """Create Airflow's namespace and dbt's, with the rights in them; wait until one that is being deleted is gone.

    PULL_SECRET is the option's value; see `copy_pull_secret`.
    """
    for each in (kubectl, kubectl.for_dbt):
        existing = kubectl.get("namespace", each.namespace)
        if existing and existing["metadata"].get("deletionTimestamp"):
            timeout_s = pins.deadline_s("delete")
            argv = ("wait", "--for=delete", f"namespace/{each.namespace}", f"--timeout={timeout_s:.0f}s")
            kubectl.run(*argv, timeout_s=timeout_s + 10)
        if not existing or not LABELS.items() <= labels(existing).items():  # an administrator may have made it
            metadata = {"name": each.namespace, "labels": LABELS}
            kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
    kubectl.run("delete", *DBT_BESIDE_AIRFLOW, "--ignore-not-found")
    kubectl.apply(manifest("rights"))
    pull_secrets = [{"name": copy_pull_secret(kubectl, pull_secret)}] if pull_secret else []
    kubectl.for_dbt.apply(manifest("rights-dbt", NAMESPACE=kubectl.namespace, PULL_SECRETS=pull_secrets))


def copy_pull_secret(kubectl: Kubectl, named: str) -> str:
    """Copy a secret with a registry's login to both namespaces, and return its name.

    NAMED is its name in Airflow's namespace, or `NAMESPACE/NAME`. Raises UsageError if there is none.
    """
    namespace, _, name = named.rpartition("/")
    source = replace(kubectl, namespace=namespace or kubectl.namespace)
    secret = source.get("secret", name) or {}
    if secret.get("type") not in ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"):
        raise UsageError(
            f"The namespace {source.namespace} has no secret {name} with the login to a registry.",
            "It was not made yet, is in another namespace, or is of another type.",
            f"Make it: kubectl --namespace {source.namespace} create secret docker-registry {name} --docker-server …",
        )
    copy = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    for each in (kubectl, kubectl.for_dbt):
        if each.namespace != source.namespace:
            each.apply([copy | {"type": secret["type"], "data": secret["data"]}])
    return name


def create_databases(database: Database, passwords: dict[str, str]) -> tuple[Warehouse, str]:
    """Create the warehouse, its roles and Airflow's database; return the warehouse and that database's URL for pods."""
    server = database.server
    warehouse = create_warehouse(server, "warehouse", {role: passwords[role] for role in ROLES})
    return warehouse, create_metadata_database(server, passwords[METADATA_ROLE], database.host, database.port)


def database_annotation(server: Server) -> dict[str, str]:
    """Return the annotation that identifies a server's data: pods restart when the server is another one."""
    return {"events-platform/database": identity(replace(server, database=f"{METADATA_ROLE}{server.suffix}"))}


def install(
    supervisor: Supervisor,
    kubectl: Kubectl,
    archive: Path,
    values: list[Path],
    *,
    phases: Phases,
    watch: Callable[[], None],
) -> None:
    """Install the chart ARCHIVE with the files VALUES and wait for every component, all within one deadline.

    Raises RollOutFailedError, or InstallFailedError with the cause that the cluster shows if the chart's hook failed.
    """
    with phases.phase("chart installed") as phase:
        try:
            rollout.delete_failed(kubectl)
            chart.install(supervisor, kubectl, archive, values, watch)
        except InstallFailedError as error:
            if error.is_of_hook and (cause := rollout.component_cause(kubectl)):
                raise error.amended(f"{error.what} {cause.what}", cause.why, cause.next_step) from error
            raise
        phase.text = f"chart {pins.chart()['version']} installed, metadata database migrated"
    rollout.wait_for_components(kubectl, phases, watch)


def uninstall(kubectl: Kubectl, namespaces: Iterable[str]) -> None:
    """Uninstall the chart and delete NAMESPACES with everything in them, as far as they exist."""
    timeout_s = pins.deadline_s("delete")
    with contextlib.suppress(CommandFailedError):
        run(*chart.helm_argv(kubectl), "uninstall", chart.HELM_RELEASE, "--no-hooks", timeout_s=timeout_s)
    kubectl.run("delete", "namespace", *namespaces, "--ignore-not-found", "--wait", timeout_s=timeout_s)
