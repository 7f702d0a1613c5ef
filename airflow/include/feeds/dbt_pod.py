"""The pod that runs dbt on a cluster; only this module makes pods."""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s

from feeds.dbt_task import RUN_VARIABLES, failure

RESULTS = "/var/log/dbt"  # where the pod mounts the volume for the results of failed runs
FILES = "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH"


class DbtPodOperator(KubernetesPodOperator):
    """Run dbt in a pod; its failure is one line, and of a kind that tells whether another try may help."""

    def execute(self, context: Any) -> Any:
        """Run it, as a child of this task in lineage."""
        from feeds.lineage import parents  # not when Airflow parses the DAG

        variables = lineage_variables(os.environ) | parents(context)
        self.env_vars = [*self.env_vars, *(k8s.V1EnvVar(*variable) for variable in variables.items())]
        return super().execute(context)

    def cleanup(self, pod: Any, remote_pod: Any, *arguments: Any, **options: Any) -> None:
        """Delete a pod that succeeded.

        Raises:
            DbtFailedError, DbtEndedError: the pod failed; see `failure`.
        """
        try:
            super().cleanup(pod, remote_pod, *arguments, **options)
        except AirflowException:
            name, status = remote_pod.metadata.name, remote_pod.status
            ended = [s.state.terminated for s in status.container_statuses or [] if s.name == self.base_container_name]
            if not ended or not ended[0]:
                raise failure(None, f"the pod {name}", status.reason or status.phase) from None
            raise failure(ended[0].exit_code, f"the pod {name}", ended[0].reason) from None


def lineage_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which dbt's pod emits events where its worker of ENVIRON does; files to its own volume.

    A key is a secret, which no pod's specification has: the pod has it of the secret `warehouse-transformer`.
    """
    from feeds.lineage import client_variables, without_secrets

    found = without_secrets(client_variables(environ))
    if FILES in found:
        found[FILES] = f"{RESULTS}/lineage/event"
    return found


def dbt_pod(task_id: str, image: str, arguments: tuple[str, ...], namespace: str | None = None) -> DbtPodOperator:
    """Return the task TASK_ID that runs `dbt ARGUMENTS` in a pod of IMAGE in NAMESPACE, by default the worker's.

    The section `dbt_pod` of Airflow's configuration says on which nodes it runs, and where results of failed runs stay.
    """
    claim = conf.get("dbt_pod", "results_claim", fallback="dbt-results")
    results = (
        {"persistent_volume_claim": k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)}
        if claim
        else {"empty_dir": k8s.V1EmptyDirVolumeSource(size_limit="256Mi")}
    )
    return DbtPodOperator(
        task_id=task_id,
        name=task_id.replace("_", "-"),
        namespace=namespace,
        image=image,
        image_pull_policy="IfNotPresent",
        arguments=list(arguments),
        # The results of a failed run stay, in a folder named after the pod.
        env_vars=[
            k8s.V1EnvVar(
                "POD_NAME",
                value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(field_path="metadata.name")),
            ),
            k8s.V1EnvVar("DBT_FAILURES_PATH", f"{RESULTS}/$(POD_NAME)"),
            *map(k8s.V1EnvVar, RUN_VARIABLES, ("{{ dag.dag_id }}", "{{ run_id }}")),
        ],
        volumes=[
            k8s.V1Volume(name="results", **results),
            k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="256Mi")),
            # The root certificate, where PostgreSQL is reached over TLS.
            k8s.V1Volume(name="postgresql", config_map=k8s.V1ConfigMapVolumeSource(name="postgresql", optional=True)),
            # What `nox -s cluster -- sync` brings; see dbt/entrypoint.sh.
            k8s.V1Volume(name="synced", config_map=k8s.V1ConfigMapVolumeSource(name="synced-code", optional=True)),
        ],
        volume_mounts=[
            k8s.V1VolumeMount(name="results", mount_path=RESULTS),
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108 - the pod's own
            k8s.V1VolumeMount(name="postgresql", mount_path="/opt/postgresql", read_only=True),
            k8s.V1VolumeMount(name="synced", mount_path="/opt/synced", read_only=True),
        ],
        env_from=[k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name="warehouse-transformer"))],
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "250m", "memory": "256Mi"}, limits={"cpu": "2", "memory": "1Gi"}
        ),
        annotations=json.loads(conf.get("dbt_pod", "annotations", fallback="{}")),
        node_selector=json.loads(conf.get("dbt_pod", "node_selector", fallback="{}")),
        tolerations=json.loads(conf.get("dbt_pod", "tolerations", fallback="[]")),
        service_account_name="dbt",
        automount_service_account_token=False,
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True, fs_group=0, seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault")
        ),
        container_security_context=k8s.V1SecurityContext(
            read_only_root_filesystem=True,
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        random_name_suffix=True,
        startup_timeout_seconds=300,
        startup_check_interval_seconds=1,
        execution_timeout=timedelta(hours=1),
        active_deadline_seconds=3600,
        get_logs=True,
        log_events_on_failure=True,
        on_finish_action="delete_succeeded_pod",
        do_xcom_push=False,
    )
