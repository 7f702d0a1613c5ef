"""What a DAG may choose of its workers' pods with `executor_config`: no other account, and no other secret.

The scheduler starts workers in Airflow's namespace, where it may use every account and secret; so it must not start
whatever a DAG asks for. Airflow finds the function through `airflow_local_settings`: see cluster/values/base.yaml.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFERENCES = ("secret", "secretRef", "secretKeyRef", "nodePublishSecretRef")


def pod_mutation_hook(pod: Any) -> None:
    """Raise PermissionError for a worker's POD that reaches more than the executor's template; ignore other pods."""
    if (pod.metadata.labels or {}).get("kubernetes_executor") != "True":
        return
    import yaml
    from airflow.providers.common.compat.sdk import conf
    from kubernetes.client import ApiClient

    template = yaml.safe_load(Path(conf.get("kubernetes_executor", "pod_template_file")).read_text(encoding="utf-8"))
    chosen, allowed = ApiClient().sanitize_for_serialization(pod)["spec"], template["spec"]
    if more := sorted({*secrets(chosen)} - {*secrets(allowed)}):
        raise PermissionError(f"executor_config asks for secrets that workers do not have: {', '.join(more)}")
    if (account := chosen.get("serviceAccountName")) != allowed.get("serviceAccountName"):
        raise PermissionError(f"executor_config asks for another account than the workers': {account}")


def secrets(part: Any) -> Iterator[str]:
    """Yield the names of the secrets that PART of a pod gives to its containers; the registry's login is not given."""
    if isinstance(part, list):
        # Of two variables with the same name, the last one counts.
        for item in {each["name"]: each for each in part if "name" in each}.values() if _is_env(part) else part:
            yield from secrets(item)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "secretName":
                yield value
            elif key in REFERENCES and isinstance(value, dict) and "name" in value:
                yield value["name"]
            elif key != "imagePullSecrets":
                yield from secrets(value)


def _is_env(part: list[Any]) -> bool:
    """Return whether PART is a list of variables."""
    return all(isinstance(item, dict) and item.keys() <= {"name", "value", "valueFrom"} for item in part)
