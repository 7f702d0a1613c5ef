"""A DAG's `executor_config` gets its workers no other account and no other secret."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from feeds.worker_pods import pod_mutation_hook, secrets

ROOT = Path(__file__).parents[2]
LOADER = {"name": "DSN", "valueFrom": {"secretKeyRef": {"name": "warehouse-loader", "key": "connection"}}}
KEY = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "airflow-keys", "key": "fernet-key"}}}
TEMPLATE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "worker", "labels": {"kubernetes_executor": "True"}},
    "spec": {
        "serviceAccountName": "airflow-worker",
        "imagePullSecrets": [{"name": "registry-login"}],
        # The chart's variable, which the project overrides.
        "containers": [{"name": "base", "env": [LOADER, KEY, {"name": "KEY", "value": ""}]}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}


@pytest.fixture(autouse=True)
def template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text(json.dumps(TEMPLATE))
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE", str(tmp_path / "template.yaml"))


def pod(**spec: Any) -> Any:
    """Return the template's pod with other fields, as the executor gives it to the hook."""
    made = json.loads(json.dumps(TEMPLATE))
    made["spec"] |= spec

    class Response:
        data = json.dumps(made)

    return ApiClient().deserialize(Response(), k8s.V1Pod)


def container(*env: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "base", "env": [LOADER, KEY, {"name": "KEY", "value": ""}, *env], **fields}


def volume(**source: Any) -> list[dict[str, Any]]:
    return [{"name": "stolen", **source}]


def test_the_template_and_other_resources_are_accepted() -> None:
    pod_mutation_hook(pod())
    limits = {"limits": {"memory": "8Gi"}}
    pod_mutation_hook(
        pod(containers=[container({"name": "X", "value": "1"}, resources=limits)], nodeSelector={"a": "b"})
    )
    pod_mutation_hook(pod(imagePullSecrets=[{"name": "another"}], volumes=volume(configMap={"name": "a"})))


@pytest.mark.parametrize(
    "spec",
    [
        {"volumes": volume(secret={"secretName": "airflow-keys"})},
        {"volumes": volume(projected={"sources": [{"secret": {"name": "airflow-keys"}}]})},
        {"volumes": volume(csi={"driver": "a", "nodePublishSecretRef": {"name": "airflow-keys"}})},
        {"containers": [container(KEY)]},  # the last one counts
        {"containers": [container(KEY | {"name": "ANOTHER"})]},
        {"containers": [container(envFrom=[{"secretRef": {"name": "airflow-keys"}}])]},
        {"containers": [container(), container(KEY, name="sidecar")]},
        {"initContainers": [container(KEY)]},
    ],
)
def test_another_secret_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(PermissionError, match=r"asks for secrets that workers do not have: airflow-keys$"):
        pod_mutation_hook(pod(**spec))


@pytest.mark.parametrize("account", ["airflow-scheduler", None])
def test_another_account_is_refused(account: str | None) -> None:
    with pytest.raises(PermissionError, match="asks for another account than the workers'"):
        pod_mutation_hook(pod(serviceAccountName=account))


def test_pods_of_others_are_not_judged() -> None:
    other = pod(serviceAccountName="dbt")
    other.metadata.labels = {"kubernetes_pod_operator": "True"}
    pod_mutation_hook(other)
    other.metadata.labels = None
    pod_mutation_hook(other)


def test_airflow_asks_it_before_it_starts_a_pod(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "cluster" / "values" / "base.yaml").read_text())
    (tmp_path / "airflow_local_settings.py").write_text(values["airflowLocalSettings"])
    program = (
        "from types import SimpleNamespace as Any; from airflow.settings import pod_mutation_hook;"
        "pod_mutation_hook(Any(metadata=Any(labels={'kubernetes_executor': 'True'})))"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path), "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": "/no/template"}
    asked = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert "No such file or directory: '/no/template'" in asked.stderr


def test_secrets_of_a_template() -> None:
    assert list(secrets(TEMPLATE["spec"])) == ["warehouse-loader"]
