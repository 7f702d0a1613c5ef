"""How causes name pods and containers, and the next steps that several kinds share."""

from harness.kubernetes.causes.objects import MIGRATIONS, Container, Item, component, is_of_task, labels

FILE = "in cluster/values/base.yaml"
FREE_RESOURCES = "Free memory or disk space on its machine (docker system prune), or give the cluster more."
NO_KNOWN_CAUSE = "No known cause matches; its log has more."
_RESOURCES = {
    "api-server": "apiServer.resources",
    "scheduler": "scheduler.resources",
    "dag-processor": "dagProcessor.resources",
    "triggerer": "triggerer.resources",
    MIGRATIONS: "migrateDatabaseJob.resources",
    "worker": "workers.kubernetes.resources",
}


def resources_value(pod: Item) -> str:
    """Return the chart's value that sets a pod's resources."""
    if labels(pod).get("kubernetes_pod_operator") == "True":
        return "container_resources (airflow/include/feeds/dbt_task.py), not resources"
    return _RESOURCES.get("worker" if is_of_task(pod) else component(pod), "its resources")


def read_log(item: Item) -> str:
    """Return the next step that shows the log of a pod or job."""
    if labels(item).get("component") in _RESOURCES and not is_of_task(item):
        return f"Read its log: nox -s cluster -- logs {component(item)}"
    return f"Read its log: kubectl logs {item['kind'].lower()}/{item['metadata']['name']} --all-containers"


def pod_name(pod: Item) -> str:
    """Return the component's name, or the task's as `the pod of <dag>.<task>`."""
    task_id = labels(pod).get("task_id")
    return f"the pod of {labels(pod).get('dag_id')}.{task_id}" if task_id else component(pod)


def container_name(container: Container) -> str:
    """Return the pod's name, followed by the container's unless it is the pod's main one."""
    name = pod_name(container.pod)
    return name if container.name in (name, "main", "base") else f"{name}'s container {container.name}"


def one_line(text: str) -> str:
    """Return TEXT on one line, without a full stop at its end."""
    return " ".join(text.split()).rstrip(". ")
