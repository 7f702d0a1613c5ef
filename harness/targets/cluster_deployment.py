"""A deployment of Airflow on a cluster, while it is up."""

import base64
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feeds.contract import feed_names
from harness.errors import ChecksFailedError, NotUpError
from harness.kubernetes import cluster_secrets, metrics
from harness.kubernetes.causes.objects import labels
from harness.kubernetes.kubectl import Kubectl
from harness.kubernetes.pods import pods
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.runs import pipelines, tasks_of
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.reporting.report.run import Pod
from harness.targets.cluster_provider import ClusterProvider
from harness.targets.target import Deployment, docs_line
from harness.warehouse.roles import ROLES, Warehouse, create_warehouse, drop_warehouse, let_reader_see_ledger

DBT_POD = "dbt-build-"
LINEAGE = "lineage"  # the folder of events in the tasks' logs, and in dbt's results
POD_NAME_CHARS = 54  # of a worker's pod, before what makes it unique


@dataclass
class ClusterDeployment(Deployment):
    """Airflow on a cluster that STAYS up when this process ends, or not."""

    provider: ClusterProvider
    kubectl: Kubectl
    stays: bool

    def keep(self) -> None:
        """Leave everything up when this process ends."""
        self.supervisor.cancel_at_end()
        self.stays = True

    def put(self, content: bytes | None, uri: str) -> None:
        """Make CONTENT that of the file at URI, a path on the volume of the tasks' logs; None removes it."""
        path = shlex.quote(uri.removeprefix("file://"))
        script = f"mkdir -p $(dirname {path}) && rm -f {path}"
        if content is not None:
            script += f" && base64 -d > {path}"
        [pod, *_] = self.kubectl.items("pods", selector="component=api-server")
        into = ("exec", "--stdin", pod["metadata"]["name"], "--container", "api-server", "--", "sh", "-c", script)
        self.kubectl.run(*into, stdin=base64.b64encode(content or b"").decode())

    def reset(self) -> None:
        """Fail running DAG runs, delete the tasks' pods, and create the warehouse again, empty."""
        for dag_id in self.api.dag_ids():
            for run_id, state in self.api.runs(dag_id).items():
                if state in ("queued", "running"):
                    self.api.fail(dag_id, run_id)
        for kubectl in (self.kubectl, self.kubectl.for_dbt):
            for pod in kubectl.items("pods"):
                if is_task_pod(pod):
                    kubectl.run("delete", "pod", pod["metadata"]["name"], "--ignore-not-found", "--grace-period=1")
        drop_warehouse(self.warehouse)
        create_warehouse(self.warehouse.server, "warehouse", self.warehouse.passwords)
        if metrics.is_installed(self.kubectl):
            let_reader_see_ledger(self.warehouse)

    def addresses(self) -> list[str]:
        """Return a line for each way to reach the deployment, and the command that takes it down."""
        # Of a given server the administrator's DSN is not printed.
        dsn = self.warehouse.reader_dsn if self.warehouse.server.suffix else self.warehouse.admin_dsn
        return addresses(self.provider, self.api.password, dsn)

    def failed_dbt_runs(self) -> list[Path]:
        """Copy the tasks' log volume, where dbt's pods leave the files of failed runs, and return their folders."""
        folders = (folder for folder in (self._task_logs() / "dbt").glob("*") if folder.name != LINEAGE)
        return sorted(folders, key=lambda folder: folder.stat().st_mtime)

    def lineage_folders(self) -> list[Path]:
        """Copy the tasks' log volume, and return the folders of events: Airflow's with the loads', and dbt's.

        None where dbt's results are on another volume, which nothing can read once its pods are gone.
        """
        if not self.provider.has_one_volume:
            return []
        copied = self._task_logs()
        return [copied / LINEAGE, copied / "dbt" / LINEAGE]

    def _task_logs(self) -> Path:
        copied = self.supervisor.directory / "task-logs"
        copied.mkdir(exist_ok=True)
        self.provider.save_task_logs(copied)
        return copied

    def pods(self) -> list[Pod]:
        """Return the pods of both namespaces so far, with their times; may raise FeedError."""
        return pods(self.kubectl, self.kubectl.for_dbt)

    def check(self) -> list[str]:
        """Check that each task ran in its own pod, dbt in one more, and that only failed ones remain."""
        events = [*self.kubectl.items("events"), *self.kubectl.for_dbt.items("events")]
        scheduled = {event["involvedObject"]["name"] for event in events if event["reason"] == "Scheduled"}
        prefixes = [
            f"{dag_id}-{task_id}".replace("_", "-")[:POD_NAME_CHARS]
            for feed, dag_ids in pipelines(self.api, self.api.dag_ids(), feed_names()).items()
            for dag_id in dag_ids
            for task_id in tasks_of(feed)
        ]
        prefixes.append(DBT_POD)
        if missing := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in scheduled)]:
            raise ChecksFailedError(
                f"No pod was created for {', '.join(missing)}.",
                "Another executor or operator ran it, or the cluster has deleted its events.",
                "Compare executor in cluster/values/base.yaml and DBT_IMAGE in the workers' environment.",
            )
        remaining = [
            pod["metadata"]["name"]
            for kubectl in (self.kubectl, self.kubectl.for_dbt)
            for pod in kubectl.items("pods")
            if is_task_pod(pod) and pod["status"].get("phase") != "Failed" and not is_deleted(kubectl, pod)
        ]
        if remaining:
            raise ChecksFailedError(
                f"Pods of ended tasks remain: {', '.join(remaining)}.",
                "The executor, or the pod operator, no longer deletes its pods.",
                "Compare kubernetes_executor in cluster/values/base.yaml and on_finish_action in dbt_pod.py.",
            )
        count = sum(name.startswith(tuple(prefixes)) for name in scheduled)
        return [f"each task ran in its own pod, and dbt in one more: {count} pods, all deleted since"]


def is_task_pod(pod: dict[str, Any]) -> bool:
    """Return whether a pod is a worker, or was created by a task."""
    return "task_id" in labels(pod) or labels(pod).get("component") == "worker"


def is_deleted(kubectl: Kubectl, pod: dict[str, Any]) -> bool:
    """Wait until a pod is deleted, and return whether it is: the executor does so a moment after the task's end."""
    deadline = time.monotonic() + pins.deadline_s("delete")
    while kubectl.get("pod", pod["metadata"]["name"]):
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def connect(provider: ClusterProvider, supervisor: Supervisor | None = None) -> tuple[Kubectl, AirflowApi]:
    """Return clients of what is up, or raise NotUpError; SUPERVISOR runs the port forward, if needed."""
    kubectl = provider.kubectl()
    passwords = cluster_secrets.read_secret(kubectl, "passwords") if provider.exists() and kubectl.answers() else {}
    if not passwords:
        raise NotUpError(
            f"The {provider.title} is not up.",
            "It was never brought up, it was taken down, or Docker was restarted.",
            f"Bring it up: {provider.command('up')}",
        )
    return kubectl, AirflowApi(
        provider.airflow_address(supervisor), cluster_secrets.USER, passwords[cluster_secrets.USER]
    )


def warehouse_of(provider: ClusterProvider) -> Warehouse:
    """Return the warehouse of a deployment that is up."""
    passwords = cluster_secrets.read_secret(provider.kubectl(), "passwords")
    server = provider.running_database().server
    return Warehouse(server, f"warehouse{server.suffix}", {role: passwords[role] for role in ROLES})


def addresses(provider: ClusterProvider, password: str, warehouse_dsn: str) -> list[str]:
    """Return a line for each way to reach a deployment, and the command that takes it down."""
    kubectl = provider.kubectl()
    lines = [f"  Airflow    {provider.airflow_address()}  user {cluster_secrets.USER}, password {password}"]
    if provider.forward_command:
        lines.append(f"             after: {provider.forward_command}")
    lines.append(f"  kubectl    {kubectl.command} get pods")
    if warehouse_dsn:
        lines.append(f"  warehouse  {warehouse_dsn}")
    return [*lines, *metrics.prometheus_lines(kubectl), docs_line(), f"  take it down: {provider.command('down')}"]
