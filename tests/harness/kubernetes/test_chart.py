"""What is put onto a cluster, without one: the official chart rendered for each target, and the project's own objects.

Each check is shown to find what it is for: in objects that were changed so that it must.
"""

import base64
import copy
import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from harness.docker import images
from harness.errors import InstallFailedError
from harness.kubernetes import chart
from harness.kubernetes import deployment as release
from harness.kubernetes.kubectl import Kubectl
from harness.project import pins
from harness.project.paths import ROOT
from harness.targets import port_forward
from harness.targets.existing_cluster import ExistingCluster
from harness.targets.kind import UI_NODE_PORT, KindCluster
from harness.targets.minikube import MinikubeCluster
from harness.warehouse.roles import Warehouse, make_passwords
from harness.warehouse.server import Server, connection_url
from tests import pod_rules

Objects = dict[str, dict[str, Any]]
TARGETS = sorted(path.name for path in chart.VALUES.glob("*.yaml") if path.name != "base.yaml")
KUBERNETES = (
    "1.30",
    kubernetes_validate.latest_version(),
)  # the oldest that the chart is for, the newest that there is
PLACEHOLDER = {"connection": base64.b64encode(b"%!s(<nil>)").decode()}  # the chart's, for the Redis that there is not
RIGHTS = release.MANIFESTS / "rights.yaml"
READ, WRITTEN = {"pods", "pods/log", "events"}, {"pods"}
GONE = object()


# --- the objects ----------------------------------------------------------------------------------------------------


def load(text: str) -> Objects:
    """Return the objects of a YAML text by kind and name, the executor's pod template among them."""
    found = {f"{item['kind']}/{item['metadata']['name']}": item for item in yaml.safe_load_all(text) if item}
    for item in list(found.values()):
        if template := item["kind"] == "ConfigMap" and item["data"].get("pod_template_file.yaml"):
            found |= {"Pod/worker": yaml.safe_load(template)}
    return found


@dataclass(frozen=True)
class Recorder(Kubectl):
    """Kubectl for a cluster that has nothing; keeps what is applied."""

    applied: Objects = field(default_factory=dict)

    def apply(self, manifests: str | Iterable[dict[str, Any]]) -> None:
        text = manifests if isinstance(manifests, str) else yaml.safe_dump_all(list(manifests))
        self.applied.update(load(text))

    def get(self, kind: str, name: str) -> None:  # noqa: ARG002 - it has nothing
        return None


@functools.cache
def own() -> Objects:
    """Return what the harness itself makes, and the manifests."""
    kubectl = Recorder(Path("kubectl"), release.NAMESPACE)
    release.create_namespace(kubectl)
    server = Server("a test", "db.example", 5432, "postgres", "not told")
    roles = make_passwords()
    database = release.Database(server, server.host, server.port)
    url = connection_url("airflow", "not told", server.host, server.port, "airflow")
    warehouse = Warehouse(server, "warehouse", roles)
    mine, events_uri = roles | {release.USER: "x"}, "s3://bucket/events.csv"
    release.create_secrets(kubectl, mine, warehouse, database, metadata_url=url, events_uri=events_uri)
    for path in sorted(release.MANIFESTS.glob("*.yaml")):
        kubectl.apply(path.read_text())
    return kubectl.applied


@functools.cache
def rendered(target: str, folder: Path) -> Objects:
    annotations = {"events-platform/secrets": "0123456789abcdef"}
    values = chart.values(images.airflow().reference, {"DBT_IMAGE": images.dbt().reference}, annotations)
    (folder / "values.json").write_text(json.dumps(values))
    files = [chart.VALUES / "base.yaml", chart.VALUES / target, folder / "values.json"]
    return load(chart.render(chart.locate(), release.NAMESPACE, files))


@pytest.fixture(
    scope="session",
    params=[pytest.param("values", marks=pytest.mark.needs("helm", "chart"), id=pytest.HIDDEN_PARAM)],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for what is rendered."""
    return tmp_path_factory.mktemp(request.param)


@pytest.mark.parametrize(
    ("text", "what", "why"),
    [
        ("scheduler: [", "The chart does not take the values in ", "own.yaml"),
        ("scheduler: {replicas: many}", "The chart does not take the values in ", "replicas"),
        ("schedulerr: {replicas: 1}", "The chart has no value schedulerr, which ", "misspelt"),
        ("scheduler: {replicass: 1}", "The chart does not take the values in ", "replicass"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_values_that_the_chart_does_not_take(tmp_path: Path, text: str, what: str, why: str) -> None:
    own, of_run = tmp_path / "own.yaml", tmp_path / "values.json"
    own.write_text(text)
    of_run.write_text(json.dumps(chart.values("events-platform/airflow:any", {}, {})))
    files = [chart.VALUES / "base.yaml", chart.VALUES / "kind.yaml"]
    chart.check_values(chart.locate(), release.NAMESPACE, [*files, of_run])
    with pytest.raises(InstallFailedError) as caught:
        chart.check_values(chart.locate(), release.NAMESPACE, [*files, own, of_run])
    assert caught.value.what.startswith(what)
    assert why in caught.value.why


@pytest.fixture(params=TARGETS)
def objects(request: pytest.FixtureRequest, folder: Path) -> Objects:
    """Give everything that is put onto a target; read it only."""
    return rendered(request.param, folder) | own()


@pytest.fixture
def changeable(folder: Path) -> Objects:
    """Give everything that is put onto kind, to be changed."""
    return copy.deepcopy(rendered("kind.yaml", folder) | own())


def change(name: str, path: str, value: Any = GONE) -> Callable[[Objects], None]:
    """Return what sets, or removes, what is at PATH in the object NAME."""

    def change_it(objects: Objects) -> None:
        *parents, last = (int(part) if part.isdecimal() else part for part in path.split("/"))
        place: Any = objects[name]
        for parent in parents:
            place = place[parent]
        if value is GONE:
            del place[last]
        elif isinstance(place, list) and last == len(place):
            place.append(value)
        else:
            place[last] = value

    return change_it


def add(item: dict[str, Any]) -> Callable[[Objects], None]:
    """Return what adds an object."""
    return lambda objects: objects.update({f"{item['kind']}/{item['metadata']['name']}": item})


def remove(name: str) -> Callable[[Objects], None]:
    """Return what removes an object."""
    return lambda objects: objects.__delitem__(name)


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the spec of every pod that there is or that is made from a template, at whatever depth."""

    def below(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict) and isinstance(value.get("containers"), list):
            yield value
        elif isinstance(value, dict):
            for part in value.values():
                yield from below(part)

    return ((name, spec) for name, item in objects.items() for spec in below(item))


def in_pods(objects: Objects, check: Callable[[dict[str, Any]], Iterable[str]]) -> list[str]:
    """Return what CHECK says of every pod."""
    return [f"{name}: {line}" for name, spec in pods(objects) for line in check(spec)]


def finds(*cases: tuple[Callable[[Objects], None], str]) -> pytest.MarkDecorator:
    """Run a test with each change, and the one line that it must give."""
    return pytest.mark.parametrize(("change_it", "line"), cases, ids=[line[-70:] for _, line in cases])


API, SCHEDULER, PROCESSOR = (f"Deployment/airflow-{name}" for name in ("api-server", "scheduler", "dag-processor"))
MIGRATIONS, WORKER, CONFIG = "Job/airflow-run-airflow-migrations", "Pod/worker", "ConfigMap/airflow-config"
POD = "spec/template/spec"


def test_every_target_has_values_and_every_kind_of_pod_is_looked_at(objects: Objects) -> None:
    assert {cluster.values for cluster in (ExistingCluster, KindCluster, MinikubeCluster)} <= set(TARGETS)
    assert {name for name, _ in pods(objects)} == {API, SCHEDULER, PROCESSOR, MIGRATIONS, WORKER}


# --- schemas --------------------------------------------------------------------------------------------------------


@functools.cache
def schema_error(item: str, version: str) -> str:
    try:
        kubernetes_validate.validate(json.loads(item), version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return str(error.message)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


def schema_errors(objects: Objects, version: str) -> list[str]:
    said = {name: schema_error(json.dumps(item, sort_keys=True), version) for name, item in objects.items()}
    return [f"{name}: {error}" for name, error in said.items() if error]


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_is_valid(objects: Objects, version: str) -> None:
    assert len(objects) >= 25
    assert schema_errors(objects, version) == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_projects_own_objects_are_right_where_there_is_no_chart(version: str) -> None:
    assert {"Namespace/events-platform", "PersistentVolume/airflow-logs", "Role/run-dbt"} <= set(own())
    assert schema_errors(own(), version) == []
    assert list(too_many_rights(own())) == []
    claim = own()["PersistentVolume/airflow-logs"]["spec"]["claimRef"]
    assert claim == {"namespace": release.NAMESPACE, "name": "airflow-logs"}


@pytest.mark.parametrize("version", KUBERNETES)
@finds(
    (change(API, "spec/replicas", "one"), f"{API}: spec.replicas: 'one' is not of type 'integer', 'null'"),
    (
        change("Role/run-dbt", "rule", []),
        "Role/run-dbt: : Additional properties are not allowed ('rule' was unexpected)",
    ),
    (
        change(WORKER, "spec/containers/0/image_", "a"),
        f"{WORKER}: spec.containers.0: Additional properties are not allowed ('image_' was unexpected)",
    ),
    (
        change(SCHEDULER, "apiVersion", "extensions/v1beta1"),
        f"{SCHEDULER}: Couldn't find schema for kind Deployment with api version extensions/v1beta1"
        " for kubernetes version {version}",
    ),
)
def test_an_invalid_object_is_found(
    changeable: Objects, version: str, change_it: Callable[[Objects], None], line: str
) -> None:
    change_it(changeable)
    version_said = ".".join(version.split(".")[:2])
    assert schema_errors(changeable, version) == [line.format(version=version_said)]


# --- images ---------------------------------------------------------------------------------------------------------


def wrong_images(objects: Objects) -> list[str]:
    brought_in = {images.airflow().reference}  # dbt's image is named in the environment, and checked in tests/dags
    config = objects[CONFIG]["data"]["airflow.cfg"]
    of_workers = ":".join(re.findall(r"^worker_container_(?:repository|tag) = (.*)$", config, re.MULTILINE))
    return [
        *in_pods(objects, lambda spec: pod_rules.wrong_images(spec, brought_in)),
        *(
            f"executor: {image} is not brought in" for image in {of_workers} - brought_in
        ),  # it comes before the template's
    ]


def test_every_image_is_one_that_is_brought_in(objects: Objects) -> None:
    assert wrong_images(objects) == []
    assert not re.search(r"image: (?!events-platform/airflow:[0-9a-f]{16})", yaml.safe_dump_all(objects.values()))


@finds(
    (
        change(API, f"{POD}/initContainers/0/image", "busybox:1"),
        f"{API}: wait-for-airflow-migrations: busybox:1 is not brought in",
    ),
    (
        change(WORKER, "spec/containers/0/image", "apache/airflow:3.3.2"),
        f"{WORKER}: base: apache/airflow:3.3.2 is not brought in",
    ),
    (
        change(MIGRATIONS, f"{POD}/containers/0/imagePullPolicy", "Always"),
        f"{MIGRATIONS}: run-airflow-migrations: what is brought in may be pulled",
    ),
    (
        change(CONFIG, "data/airflow.cfg", "worker_container_repository = a\nworker_container_tag = b\n"),
        "executor: a:b is not brought in",
    ),
)
def test_another_image_is_found(changeable: Objects, change_it: Callable[[Objects], None], line: str) -> None:
    change_it(changeable)
    assert wrong_images(changeable) == [line]


# --- secrets --------------------------------------------------------------------------------------------------------


def clear_secrets(objects: Objects) -> Iterator[str]:
    """Yield what anyone may read who has the chart's values or may see its objects; the harness's secrets apart."""
    for name, item in objects.items():
        if item["kind"] == "Secret" and name not in own():
            is_placeholder = name == "Secret/airflow-broker-url" and item.get("data") == PLACEHOLDER
            if not is_placeholder or item.get("stringData") or "helm.sh/hook" not in item["metadata"]["annotations"]:
                yield f"{name}: the chart makes it"
        if item["kind"] == "ConfigMap":
            for key, value in re.findall(r"^\s*(\w+) *= *(\S.*)$", item["data"]["airflow.cfg"], re.MULTILINE):
                if pod_rules.SECRET_NAME.search(key) or pod_rules.SECRET_VALUE.search(value):
                    yield f"{name}: {key} is a secret in clear"
    yield from in_pods(objects, pod_rules.clear_secrets)


def test_no_secret_is_in_clear(objects: Objects) -> None:
    assert list(clear_secrets(objects)) == []
    manifests = [item for path in release.MANIFESTS.glob("*.yaml") for item in load(path.read_text()).values()]
    assert "Secret" not in {item["kind"] for item in manifests}


def variable(name: str, value: str, where: str = API, path: str = f"{POD}/containers/0") -> Callable[[Objects], None]:
    return change(where, f"{path}/env/0", {"name": name, "value": value})


@finds(
    (
        add({"kind": "Secret", "metadata": {"name": "airflow-fernet-key", "annotations": {}}, "data": {}}),
        "Secret/airflow-fernet-key: the chart makes it",
    ),
    (
        change("Secret/airflow-broker-url", "data/connection", base64.b64encode(b"redis://:pw@redis").decode()),
        "Secret/airflow-broker-url: the chart makes it",
    ),
    (
        change(CONFIG, "data/airflow.cfg", "[api]\nsecret_key = abc"),
        f"{CONFIG}: secret_key is a secret in clear",
    ),
    (variable("PGPASSWORD", "abc"), f"{API}: api-server: PGPASSWORD is a secret in clear"),
    (variable("X", "postgresql://a:b@db/x"), f"{API}: api-server: X is a secret in clear"),
    (variable("X", base64.urlsafe_b64encode(bytes(32)).decode()), f"{API}: api-server: X is a secret in clear"),
    (
        variable("AIRFLOW__CORE__FERNET_KEY", "abc", WORKER, "spec/containers/0"),
        f"{WORKER}: base: AIRFLOW__CORE__FERNET_KEY is a secret in clear",
    ),
    (
        change(SCHEDULER, f"{POD}/containers/0/args/3", "--password abc"),
        f"{SCHEDULER}: scheduler: a secret among its arguments",
    ),
    (
        change(MIGRATIONS, f"{POD}/containers/0/args/3", "export TOKEN=abc"),
        f"{MIGRATIONS}: run-airflow-migrations: a secret among its arguments",
    ),
)
def test_a_secret_in_clear_is_found(changeable: Objects, change_it: Callable[[Objects], None], line: str) -> None:
    change_it(changeable)
    assert list(clear_secrets(changeable)) == [line]


def missing_secrets(objects: Objects) -> Iterator[str]:
    """Yield the secrets, and keys of them, that a pod reads and nobody makes."""
    for name, spec in pods(objects):
        references = [
            (ref["name"], ref["key"])
            for container in pod_rules.containers(spec)
            for entry in container.get("env") or []
            if (ref := (entry.get("valueFrom") or {}).get("secretKeyRef"))
        ]
        references += [(volume["secret"]["secretName"], "") for volume in spec["volumes"] if "secret" in volume]
        for secret, key in references:
            made = objects.get(f"Secret/{secret}", {}).get("stringData", {})
            if not made or (key and not made.get(key)):
                yield f"{name}: {secret} {key}".rstrip()


def test_every_secret_that_a_pod_reads_is_made(objects: Objects) -> None:
    assert list(missing_secrets(objects)) == []


@finds(
    (remove("Secret/airflow-login"), f"{API}: airflow-login"),
    (remove("Secret/warehouse-loader"), f"{WORKER}: warehouse-loader connection"),
    (remove("Secret/events-file"), f"{WORKER}: events-file uri"),
)
def test_a_secret_that_nobody_makes_is_found(
    changeable: Objects, change_it: Callable[[Objects], None], line: str
) -> None:
    change_it(changeable)
    assert list(missing_secrets(changeable)) == [line]


# --- containers -----------------------------------------------------------------------------------------------------


def test_every_pod_is_restricted(objects: Objects) -> None:
    assert in_pods(objects, pod_rules.not_restricted) == []


@finds(
    (
        change(API, f"{POD}/initContainers/0/securityContext/runAsUser", 0),
        f"{API}: wait-for-airflow-migrations: its user",
    ),
    (change(WORKER, "spec/securityContext/runAsUser"), f"{WORKER}: base: its user"),
    (change(WORKER, "spec/securityContext/runAsNonRoot"), f"{WORKER}: base: may run as root"),
    (change(WORKER, "spec/securityContext/seccompProfile"), f"{WORKER}: base: no seccomp"),
    (change(MIGRATIONS, f"{POD}/containers/0/securityContext/capabilities/add", ["CHOWN"]), "keeps capabilities"),
    (change(MIGRATIONS, f"{POD}/containers/0/securityContext/capabilities/drop"), "keeps capabilities"),
    (change(PROCESSOR, f"{POD}/containers/0/securityContext/allowPrivilegeEscalation"), "may gain privileges"),
    (change(PROCESSOR, f"{POD}/containers/0/securityContext/privileged", True), "is privileged"),
    (change(API, f"{POD}/containers/0/ports/0/hostPort", 80), "has a port of the node"),
    (change(SCHEDULER, f"{POD}/hostNetwork", True), f"{SCHEDULER}: has the node's: hostNetwork"),
    (change(WORKER, "spec/volumes/0", {"name": "logs", "hostPath": {"path": "/"}}), "volume logs: its kind"),
)
def test_an_unrestricted_pod_is_found(changeable: Objects, change_it: Callable[[Objects], None], line: str) -> None:
    change_it(changeable)
    [found] = in_pods(changeable, pod_rules.not_restricted)
    assert line in found


def test_every_container_has_requests_and_limits(objects: Objects) -> None:
    assert in_pods(objects, pod_rules.without_resources) == []


@finds(
    (change(WORKER, "spec/containers/0/resources/limits/memory"), f"{WORKER}: base: no limits of memory"),
    (
        change(SCHEDULER, f"{POD}/initContainers/0/resources/requests/cpu"),
        f"{SCHEDULER}: wait-for-airflow-migrations: no requests of cpu",
    ),
)
def test_a_container_without_a_limit_is_found(
    changeable: Objects, change_it: Callable[[Objects], None], line: str
) -> None:
    change_it(changeable)
    assert in_pods(changeable, pod_rules.without_resources) == [line]


# --- rights ---------------------------------------------------------------------------------------------------------


def too_many_rights(objects: Objects) -> Iterator[str]:
    """Yield who may more than read, the accounts apart that rights.yaml names."""
    ours = load(RIGHTS.read_text())
    for name, item in objects.items():
        if item["kind"].startswith("ClusterRole"):
            yield f"{name}: holds beyond the namespace"
        elif item["kind"] == "Role":
            for rule in item["rules"]:
                writes = set(rule["verbs"]) - {"get", "list", "watch"}
                beyond = set(rule["resources"]) - (WRITTEN if writes else READ)
                if beyond or set(rule["apiGroups"]) != {""} or writes - {"create", "patch", "delete"}:
                    yield f"{name}: {', '.join(rule['verbs'])} {', '.join(rule['resources'])}"
                elif writes and name not in ours:
                    yield f"{name}: may start pods"
        elif item["kind"] == "RoleBinding" and name not in ours and f"Role/{item['roleRef']['name']}" in ours:
            yield f"{name}: binds {item['roleRef']['name']}"


def wrong_accounts(objects: Objects) -> Iterator[str]:
    """Yield which accounts and roles there are not, and who has a token though he has no rights."""
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


def test_nobody_may_more_than_he_needs(objects: Objects) -> None:
    assert [*too_many_rights(objects), *wrong_accounts(objects)] == []
    bindings = [item for item in load(RIGHTS.read_text()).values() if item["kind"] == "RoleBinding"]
    subjects = {item["metadata"]["name"]: [s["name"] for s in item["subjects"]] for item in bindings}
    assert subjects == {"run-workers": ["airflow-scheduler"], "run-dbt": ["airflow-worker"]}


LAUNCHER = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}
SUBJECT = {"kind": "ServiceAccount", "name": "airflow-api-server"}


@finds(
    (
        change("Role/run-dbt", "rules/3", {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}),
        "Role/run-dbt: create pods/exec",
    ),
    (
        change("Role/run-workers", "rules/1", {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}),
        "Role/run-workers: get secrets",
    ),
    (change("Role/run-workers", "rules/0/verbs", ["*"]), "Role/run-workers: * pods"),
    (
        add({"kind": "Role", "metadata": {"name": "airflow-pod-launcher-role"}, "rules": [LAUNCHER]}),
        "Role/airflow-pod-launcher-role: may start pods",
    ),
    (
        add({"kind": "RoleBinding", "metadata": {"name": "x"}, "roleRef": {"name": "run-dbt"}, "subjects": [SUBJECT]}),
        "RoleBinding/x: binds run-dbt",
    ),
    (
        add({"kind": "ClusterRoleBinding", "metadata": {"name": "x"}}),
        "ClusterRoleBinding/x: holds beyond the namespace",
    ),
    (
        change("ServiceAccount/airflow-dag-processor", "automountServiceAccountToken", True),
        "ServiceAccount/airflow-dag-processor: has a token and no rights",
    ),
    (change(PROCESSOR, f"{POD}/automountServiceAccountToken", True), f"{PROCESSOR}: has a token and no rights"),
    (change(PROCESSOR, f"{POD}/serviceAccountName", "x"), f"{PROCESSOR}: there is no ServiceAccount/x"),
    (remove("Role/run-dbt"), "there is no Role/run-dbt"),
)
def test_a_right_too_many_is_found(changeable: Objects, change_it: Callable[[Objects], None], line: str) -> None:
    change_it(changeable)
    assert [*too_many_rights(changeable), *wrong_accounts(changeable)] == [line]


# --- names ----------------------------------------------------------------------------------------------------------


def missing_names(objects: Objects) -> Iterator[str]:
    """Yield what the harness relies on and is not there under that name."""
    for component in release.COMPONENTS:
        labels = objects.get(f"Deployment/{chart.RELEASE}-{component}", {}).get("metadata", {}).get("labels", {})
        if labels.get("component") != component:
            yield f"deployment of {component}"
    service = port_forward.SERVICE.replace("service", "Service")
    if [port["port"] for port in objects.get(service, {"spec": {"ports": []}})["spec"]["ports"]] != [port_forward.PORT]:
        yield f"{service} at port {port_forward.PORT}"
    for account in ("airflow-scheduler", "airflow-worker"):
        if f"ServiceAccount/{account}" not in objects:
            yield f"account {account}"
    for name, spec in pods(objects):
        claims = {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        if name != MIGRATIONS and claims != {"airflow-logs"}:
            yield f"{name}: claim airflow-logs"
    if "PersistentVolumeClaim/airflow-logs" not in objects:
        yield "claim airflow-logs"


def test_what_the_harness_relies_on_has_the_names_that_it_knows(objects: Objects) -> None:
    assert list(missing_names(objects)) == []


@finds(
    (change(API, "metadata/labels/component", "webserver"), "deployment of api-server"),
    (remove(PROCESSOR), "deployment of dag-processor"),
    (change("Service/airflow-api-server", "spec/ports/0/port", 80), "Service/airflow-api-server at port 8080"),
    (remove("ServiceAccount/airflow-worker"), "account airflow-worker"),
    (change(WORKER, "spec/volumes/0", {"name": "logs", "emptyDir": {}}), f"{WORKER}: claim airflow-logs"),
    (remove("PersistentVolumeClaim/airflow-logs"), "claim airflow-logs"),
)
def test_another_name_is_found(changeable: Objects, change_it: Callable[[Objects], None], line: str) -> None:
    change_it(changeable)
    assert list(missing_names(changeable)) == [line]


def test_the_port_that_kind_maps_is_the_services(folder: Path) -> None:
    cluster = yaml.safe_load((ROOT / "cluster" / "kind.yaml").read_text())
    [port] = [m["containerPort"] for node in cluster["nodes"] for m in node["extraPortMappings"]]
    service = rendered("kind.yaml", folder)["Service/airflow-api-server"]["spec"]
    assert (service["type"], [p["nodePort"] for p in service["ports"]]) == ("NodePort", [port])
    assert f"{port}/tcp" == UI_NODE_PORT


# --- pins and their documentation -----------------------------------------------------------------------------------


def wrong_pins(versions: dict[str, Any], requirements: Iterable[Any]) -> Iterator[str]:
    for name, reference in versions["images"].items():
        tag = re.fullmatch(r"[\w./-]+:([\w.-]+)(@sha256:[0-9a-f]{64})?", reference)
        if not tag or tag[1] == "latest":
            yield f"{name}: no tag, or a floating one"
        elif name == "node" and not tag[2]:
            yield f"{name}: no digest"
    airflow = versions["chart"]["airflow"]
    if not re.search(rf":{re.escape(airflow)}(-|$)", versions["images"]["airflow"]):
        yield "airflow: the image's version is not the chart's"
    if f"apache-airflow=={airflow}" not in requirements:
        yield "airflow: the version that is tested is not the chart's"
    if versions["chart"]["url"].rpartition("/")[2] != f"airflow-{versions['chart']['version']}.tgz":
        yield "chart: its address names another version"


def pinned() -> tuple[dict[str, Any], list[Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return tomllib.loads(pins.VERSIONS.read_text()), project["dependency-groups"]["airflow"]


def test_the_pins_agree() -> None:
    assert list(wrong_pins(*pinned())) == []


@pytest.mark.parametrize(
    ("table", "name", "value", "lines"),
    [
        ("images", "postgres", "postgres", ["postgres: no tag, or a floating one"]),
        ("images", "python", "python:latest", ["python: no tag, or a floating one"]),
        ("images", "node", "kindest/node:v1.35.8", ["node: no digest"]),
        ("images", "airflow", "apache/airflow:3.3.20", ["airflow: the image's version is not the chart's"]),
        ("chart", "version", "1.0", ["chart: its address names another version"]),
        (
            "chart",
            "airflow",
            "3.3.1",
            [
                "airflow: the image's version is not the chart's",
                "airflow: the version that is tested is not the chart's",
            ],
        ),
    ],
)
def test_a_wrong_pin_is_found(table: str, name: str, value: str, lines: list[str]) -> None:
    versions, requirements = pinned()
    versions[table][name] = value
    assert list(wrong_pins(versions, requirements)) == lines


def variables() -> set[str]:
    """Return the variables that the harness reads; those that it makes of a name's pattern, for each name."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "harness").rglob("*.py")))
    versions, _ = pinned()
    of_tools = {name.upper() for name in versions["tools"]}
    patterns = {
        "PLATFORM_{}_IMAGE": {name.upper() for name in versions["images"]},
        "PLATFORM_{}": of_tools | {"MINIKUBE"},
        "PLATFORM_{}_URL": of_tools,
        "PLATFORM_DEADLINE_{}": {"…"},  # one row for all of them
    }
    used = {re.sub(r"\{.*?\}", "{}", pattern) for pattern in re.findall(r'f"(PLATFORM_\w*\{[^}]*\}\w*)[=" ]', text)}
    assert used <= set(patterns)
    literal = set(re.findall(r"\bPLATFORM_[A-Z_]*[A-Z]\b(?![_{])", text)) - {"PLATFORM_TAKEDOWN"}  # to itself
    return literal | {pattern.format(name) for pattern, names in patterns.items() for name in names}


def undocumented(text: str) -> set[str]:
    cells = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("|"))
    return variables() - set(re.findall(r"`(PLATFORM_[A-Z_]+…?)`", cells))


def test_every_variable_is_documented() -> None:
    assert undocumented((ROOT / "docs" / "operations.md").read_text()) == set()


def test_an_undocumented_variable_is_found() -> None:
    rows = "".join(f"| `{name}` | … |\n" for name in variables() - {"PLATFORM_CHART"})
    assert undocumented(f"{rows}`PLATFORM_CHART`") == {"PLATFORM_CHART"}
