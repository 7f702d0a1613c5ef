"""Deploy Airflow on a cluster: namespaces, databases, the chart, the rollout. The same for every cluster."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from harness.errors import CommandFailedError, InstallFailedError
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
        return replace(self.server, host=self.host, port=self.port)


def manifest(name: str, **values: object) -> str:
    """Return the manifest NAME with VALUES, texts or what becomes JSON, in place of their names."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return Template((MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")).substitute(texts)


def create_namespaces(kubectl: Kubectl) -> None:
    """Create Airflow's namespace and dbt's, with the rights in them; wait until one that is being deleted is gone."""
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
    kubectl.for_dbt.apply(manifest("rights-dbt", NAMESPACE=kubectl.namespace, PULL_SECRETS=[]))


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


def uninstall(kubectl: Kubectl) -> None:
    """Uninstall the chart and delete both namespaces with everything in them, as far as they exist."""
    timeout_s = pins.deadline_s("delete")
    with contextlib.suppress(CommandFailedError):
        run(*chart.helm_argv(kubectl), "uninstall", chart.HELM_RELEASE, "--no-hooks", timeout_s=timeout_s)
    namespaces = (kubectl.namespace, kubectl.for_dbt.namespace)
    kubectl.run("delete", "namespace", *namespaces, "--ignore-not-found", "--wait", timeout_s=timeout_s)
