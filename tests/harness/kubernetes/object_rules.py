"""The objects that are put on a cluster, and the rules for them.

Each rule takes all objects and yields a line for everything that breaks it.
"""

import base64
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from feeds.contract import feed_names
from feeds.dsn import connection_url
from harness.docker import images
from harness.kubernetes import chart, cluster_secrets, deployment, metrics, network, rollout
from harness.kubernetes.kubectl import Kubectl
from harness.project import pins
from harness.project.settings import places
from harness.targets import port_forward
from harness.warehouse.roles import Warehouse, make_passwords
from harness.warehouse.server import Server
from tests import pod_rules

Objects = dict[str, dict[str, Any]]
API, SCHEDULER, PROCESSOR = (f"Deployment/airflow-{name}" for name in ("api-server", "scheduler", "dag-processor"))
MIGRATIONS, WORKER, CONFIG = "Job/airflow-run-airflow-migrations", "Pod/worker", "ConfigMap/airflow-config"
# The chart's placeholder, for the Redis that is not installed.
PLACEHOLDER = {"connection": base64.b64encode(b"%!s(<nil>)").decode()}
# The versions that the workflow runs, with the oldest that the chart supports and the newest that there is.
NODES = {pins.versions()["images"]["node"], *(place["node"] for place in places().values() if "node" in place)}
PLACES = sorted(re.findall(r":v(1\.\d+)\.", " ".join(NODES)))
KUBERNETES = sorted({"1.30", *PLACES, ".".join(kubernetes_validate.latest_version().split(".")[:2])})
WITHOUT_LOGS = {MIGRATIONS, *(f"Deployment/{name}" for name in ("airflow-statsd", "feeds-metrics", "prometheus"))}
OTHER_IMAGES = ("events-platform/statsd:1", "events-platform/prometheus:1")
API_PORT = 8443  # of minikube's cluster, for example
READABLE, WRITABLE = {"pods", "pods/log", "events"}, {"pods"}


def load(text: str) -> Objects:
    """Return the objects of a YAML text by kind and name, the executor's pod template among them."""
    found = {f"{item['kind']}/{item['metadata']['name']}": item for item in yaml.safe_load_all(text) if item}
    for item in list(found.values()):
        if template := item["kind"] == "ConfigMap" and item["data"].get("pod_template_file.yaml"):
            found |= {WORKER: yaml.safe_load(template)}
    return found


@dataclass(frozen=True)
class Recorder(Kubectl):
    """Kubectl for a cluster that has only what is in EXISTING; keeps what is applied."""

    applied: Objects = field(default_factory=dict)
    existing: Objects = field(default_factory=dict)

    def apply(self, manifests: str | Iterable[dict[str, Any]]) -> None:
        text = manifests if isinstance(manifests, str) else yaml.safe_dump_all(list(manifests))
        for name, item in load(text).items():
            if item["kind"] not in ("Namespace", "PersistentVolume"):
                item["metadata"]["namespace"] = self.namespace
            assert name not in self.applied, "names tell the objects of both namespaces apart"
            self.applied[name] = item

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.existing.get(f"{kind} {self.namespace}/{name}")

    def items(self, *kinds: str, selector: str = "") -> list[dict[str, Any]]:
        assert (kinds, selector, self.namespace) == (("endpointslices",), network.API_SERVICE, "default")
        return [{"ports": [{"port": API_PORT}]}]

    def run(self, *arguments: str, stdin: str | None = None, timeout_s: float = 0) -> str:  # noqa: ARG002
        assert arguments[0] == "delete"
        return ""


@functools.cache
def of_harness(*, has_metrics: bool = False) -> Objects:
    """Return what the harness itself creates, and the manifests; HAS_METRICS: with those of metrics."""
    kubectl = Recorder(Path("kubectl"), deployment.NAMESPACE)
    deployment.create_namespaces(kubectl)
    server = Server("a test", "172.18.0.3", 5432, "postgres", "secret")
    passwords = make_passwords() | {cluster_secrets.USER: "x"}
    cluster_secrets.create_secrets(
        kubectl,
        passwords,
        Warehouse(server, "warehouse", passwords),
        deployment.Database(server, server.host, server.port),
        metadata_url=connection_url("airflow", "secret", server.host, server.port, "airflow"),
        uris={feed: f"s3://bucket/{feed}.csv" for feed in feed_names()},
        has_metrics=has_metrics,
    )
    if has_metrics:
        metrics.install(
            kubectl, images.airflow().reference, [(server.host, server.port)], {"a": "b"}, "elsewhere/login"
        )
        metrics.install_prometheus(kubectl, OTHER_IMAGES[1])
    network.restrict(kubectl, [(server.host, server.port)], ["s3://bucket/events.csv"])
    kubectl.apply(deployment.manifest("logs-on-node"))
    kubectl.for_dbt.apply(deployment.manifest("results-on-node"))
    return kubectl.applied


@functools.cache
def rights() -> Objects:
    return {name: item for name, item in of_harness().items() if item["kind"] in ("Role", "RoleBinding")}


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the spec of every pod that is created, or made from a template, at whatever depth."""

    def below(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict) and isinstance(value.get("containers"), list):
            yield value
        elif isinstance(value, dict):
            for part in value.values():
                yield from below(part)

    return ((name, spec) for name, item in objects.items() for spec in below(item))


def in_pods(objects: Objects, rule: Callable[[dict[str, Any]], Iterable[str]]) -> Iterator[str]:
    for name, spec in pods(objects):
        yield from (f"{name}: {line}" for line in rule(spec))


@functools.cache
def _schema_error(item: str, version: str) -> str:
    try:
        kubernetes_validate.validate(json.loads(item), version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return str(error.message)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


def schema_errors(objects: Objects, version: str) -> Iterator[str]:
    for name, item in objects.items():
        if error := _schema_error(json.dumps(item, sort_keys=True), version):
            yield f"{name}: {error}"


def wrong_images(objects: Objects) -> Iterator[str]:
    """Yield images that are not loaded; dbt's is named in the environment, and checked in tests/dags."""
    loaded = {images.airflow().reference, *OTHER_IMAGES}
    yield from in_pods(objects, lambda spec: pod_rules.wrong_images(spec, loaded))
    config = objects[CONFIG]["data"]["airflow.cfg"]  # wins over the pod template
    of_workers = ":".join(re.findall(r"^worker_container_(?:repository|tag) = (.*)$", config, re.MULTILINE))
    yield from (f"executor: {image} is not a loaded image" for image in {of_workers} - loaded)


def clear_secrets(objects: Objects) -> Iterator[str]:
    """Yield what can be read by anyone with the chart's values or its objects, except the harness's secrets."""
    for name, item in objects.items():
        if item["kind"] == "Secret" and name not in of_harness(has_metrics=True):
            is_placeholder = name == "Secret/airflow-broker-url" and item.get("data") == PLACEHOLDER
            if not is_placeholder or item.get("stringData") or "helm.sh/hook" not in item["metadata"]["annotations"]:
                yield f"{name}: the chart creates it"
        if item["kind"] == "ConfigMap":
            for key, value in re.findall(r"^\s*(\w+) *= *(\S.*)$", item["data"].get("airflow.cfg", ""), re.MULTILINE):
                if pod_rules.SECRET_NAME.search(key) or pod_rules.SECRET_VALUE.search(value):
                    yield f"{name}: {key} is a secret in clear"
    yield from in_pods(objects, pod_rules.clear_secrets)


def missing_secrets(objects: Objects) -> Iterator[str]:
    """Yield the secrets, and keys of them, that a pod reads and nothing creates."""
    for name, spec in pods(objects):
        references = [
            (ref["name"], ref["key"])
            for container in pod_rules.containers(spec)
            for entry in container.get("env") or []
            if (ref := (entry.get("valueFrom") or {}).get("secretKeyRef"))
        ]
        references += [(volume["secret"]["secretName"], "") for volume in spec["volumes"] if "secret" in volume]
        for secret, key in references:
            made = objects.get(f"Secret/{secret}", {}).get("data", {})
            if not made or (key and not made.get(key)):
                yield f"{name}: {secret} {key}".rstrip()


def secrets_of_workers(objects: Objects) -> Iterator[str]:
    """Yield the secrets that a task can read in its pod, beside those that it needs: nothing of Airflow's own."""
    spec = objects[WORKER]["spec"]
    effective = {variable["name"]: variable for container in spec["containers"] for variable in container["env"]}
    read = {(entry.get("valueFrom") or {}).get("secretKeyRef", {}).get("name") for entry in effective.values()}
    read |= {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    yield from sorted(read - {None, "warehouse-loader", cluster_secrets.FEEDS_SECRET})


def in_reach(objects: Objects) -> dict[str, set[str]]:
    """Return, by account that may start pods, the secrets and accounts of these pods' namespace: it can use all."""
    reach: dict[str, set[str]] = {}

    def namespace(item: dict[str, Any]) -> str:
        return str(item["metadata"].get("namespace") or deployment.NAMESPACE)

    for binding in (item for item in objects.values() if item["kind"] == "RoleBinding"):
        role = objects[f"Role/{binding['roleRef']['name']}"]
        if any("pods" in rule["resources"] and "create" in rule["verbs"] for rule in role["rules"]):
            found = {
                name
                for name, item in objects.items()
                if item["kind"] in ("Secret", "ServiceAccount") and namespace(item) == namespace(binding)
            }
            for subject in binding["subjects"]:
                reach.setdefault(subject["name"], set()).update(found)
    return reach


def too_many_rights(objects: Objects) -> Iterator[str]:
    """Yield whoever may do more than read, except the accounts that the manifests name."""
    for name, item in objects.items():
        if item["kind"].startswith("ClusterRole"):
            yield f"{name}: is valid beyond the namespace"
        elif item["kind"] == "Role":
            for rule in item["rules"]:
                writes = set(rule["verbs"]) - {"get", "list", "watch"}
                beyond = set(rule["resources"]) - (WRITABLE if writes else READABLE)
                if beyond or set(rule["apiGroups"]) != {""} or writes - {"create", "patch", "delete"}:
                    yield f"{name}: {', '.join(rule['verbs'])} {', '.join(rule['resources'])}"
                elif writes and name not in rights():
                    yield f"{name}: may start pods"
        elif item["kind"] == "RoleBinding" and name not in rights() and f"Role/{item['roleRef']['name']}" in rights():
            yield f"{name}: binds {item['roleRef']['name']}"


def wrong_accounts(objects: Objects) -> Iterator[str]:
    """Yield accounts and roles that do not exist, and tokens of accounts without rights."""
    bindings = [item for item in objects.values() if item["kind"] == "RoleBinding"]
    bound = {f"ServiceAccount/{subject['name']}" for item in bindings for subject in item["subjects"]}
    accounts = {name: item for name, item in objects.items() if item["kind"] == "ServiceAccount"}
    roles = {f"Role/{item['roleRef']['name']}" for item in bindings}
    yield from (f"there is no {name}" for name in sorted((bound | roles) - set(objects)))
    for name, account in accounts.items():
        if name not in bound and account.get("automountServiceAccountToken") is not False:
            yield f"{name}: has a token and no rights"
    for name, spec in pods(objects):
        account_name = f"ServiceAccount/{spec.get('serviceAccountName', 'default')}"
        if account_name not in accounts:
            yield f"{name}: there is no {account_name}"
        elif spec.get("automountServiceAccountToken") and account_name not in bound:
            yield f"{name}: has a token and no rights"


def missing_names(objects: Objects) -> Iterator[str]:
    """Yield what the harness relies on and what does not have that name."""
    for component in rollout.COMPONENTS:
        labels = objects.get(f"Deployment/{chart.HELM_RELEASE}-{component}", {}).get("metadata", {}).get("labels", {})
        if labels.get("component") != component:
            yield f"deployment of {component}"
    service = port_forward.SERVICE.replace("service", "Service")
    ports = objects.get(service, {"spec": {"ports": []}})["spec"]["ports"]
    if [port["port"] for port in ports] != [port_forward.PORT]:
        yield f"{service} at port {port_forward.PORT}"
    if "import pod_mutation_hook" not in objects.get(CONFIG, {"data": {}})["data"].get("airflow_local_settings.py", ""):
        yield "hook for workers' pods"
    for account in ("airflow-scheduler", "airflow-worker"):
        if f"ServiceAccount/{account}" not in objects:
            yield f"account {account}"
    for name, spec in pods(objects):
        claims = {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        if name not in WITHOUT_LOGS and claims != {"airflow-logs"}:
            yield f"{name}: claim airflow-logs"
    for claim in ("airflow-logs", "dbt-results"):
        if f"PersistentVolumeClaim/{claim}" not in objects:
            yield f"claim {claim}"


RULES: dict[str, Callable[[Objects], Iterable[str]]] = {
    "images": wrong_images,
    "no secret in clear": clear_secrets,
    "secrets exist": missing_secrets,
    "restricted pods": lambda objects: in_pods(objects, pod_rules.not_restricted),
    "read-only roots": lambda objects: in_pods(objects, pod_rules.writable_roots),
    "secrets of workers": secrets_of_workers,
    "resources": lambda objects: in_pods(objects, pod_rules.without_resources),
    "rights": lambda objects: [*too_many_rights(objects), *wrong_accounts(objects)],
    "names": missing_names,
    **{f"Kubernetes {name}": functools.partial(schema_errors, version=name) for name in KUBERNETES},
}
