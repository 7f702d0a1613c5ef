"""Make the Airflow task that runs dbt: a pod on a cluster, a process elsewhere. Only this module makes pods.

| environment variable | meaning |
| --- | --- |
| `DBT_IMAGE` | the project's dbt image; if it is set, dbt runs in a pod of this image |
| `DBT_PYTHON` | otherwise: the Python of dbt's environment |
| `DBT_PROJECT_DIR` | otherwise: the folder of the dbt project, which has `run.py` |

dbt's own settings (`WAREHOUSE_…`, `DBT_…`) come from the worker's environment, or on a cluster from the secret
`warehouse-transformer`.
"""

import logging
import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, task

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30.0
LOGS = "/var/log/tasks"  # where dbt's pod mounts the volume of the tasks' logs


def dbt_task(task_id: str, *arguments: str) -> BaseOperator | Any:
    """Return the task TASK_ID that runs `dbt ARGUMENTS`; call it inside a DAG."""
    if image := os.environ.get("DBT_IMAGE"):
        return _pod(task_id, image, arguments)

    @task(task_id=task_id, execution_timeout=timedelta(hours=1))
    def run_dbt() -> None:
        run_process([os.environ["DBT_PYTHON"], str(Path(os.environ["DBT_PROJECT_DIR"]) / "run.py"), *arguments])

    return run_dbt()


def run_process(argv: list[str]) -> None:
    """Run dbt with only its own environment variables, and log each line of its output.

    Raises:
        RuntimeError: its exit code is not 0; the log has the cause.
    """
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if name in ("HOME", "LANG", "PATH", "TMPDIR", "TZ") or name.startswith(("DBT_", "WAREHOUSE_"))
    }
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=passed_on)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            log.info("%s", line.rstrip("\n"))
        code = process.wait()
    finally:
        if process.poll() is None:  # the task was stopped; dbt then releases its locks
            process.terminate()
            try:
                process.communicate(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if code:
        raise RuntimeError(f"dbt failed with exit code {code}; see the lines above")


def _pod(task_id: str, image: str, arguments: tuple[str, ...]) -> BaseOperator:
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from kubernetes.client import models as k8s

    return KubernetesPodOperator(
        task_id=task_id,
        name=task_id.replace("_", "-"),
        image=image,
        image_pull_policy="IfNotPresent",
        arguments=list(arguments),
        # The results of a failed run are kept beside the tasks' logs, in a folder named after the pod.
        env_vars=[
            k8s.V1EnvVar(
                "POD_NAME",
                value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(field_path="metadata.name")),
            ),
            k8s.V1EnvVar("DBT_FAILURES_PATH", f"{LOGS}/dbt/$(POD_NAME)"),
        ],
        volumes=[
            k8s.V1Volume(
                name="logs",
                persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(claim_name="airflow-logs"),
            ),
            k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="256Mi")),
        ],
        volume_mounts=[
            k8s.V1VolumeMount(name="logs", mount_path=LOGS),
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108 - the pod's own
        ],
        env_from=[k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name="warehouse-transformer"))],
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "250m", "memory": "256Mi"}, limits={"cpu": "2", "memory": "1Gi"}
        ),
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
