"""What is put on a cluster, without one: the official chart rendered for each target, and the project's own objects.

Each rule is shown to find what it is for: in objects that were changed so that it must.
"""

import base64
import configparser
import copy
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.ci import needs
from harness.docker import images
from harness.kubernetes import chart, cluster_secrets, deployment
from harness.project.paths import ROOT
from harness.targets.existing_cluster import ExistingCluster
from harness.targets.kind import UI_NODE_PORT, KindCluster
from harness.targets.minikube import MinikubeCluster
from tests import pod_rules
from tests.harness.kubernetes.object_rules import (
    API,
    CONFIG,
    KUBERNETES,
    MIGRATIONS,
    OTHER_IMAGES,
    PLACES,
    PROCESSOR,
    RULES,
    SCHEDULER,
    WORKER,
    Objects,
    in_reach,
    load,
    of_harness,
    pods,
    rights,
    too_many_rights,
)

NO_TARGETS = {"base.yaml", "metrics.yaml", "notifications.yaml", "production.yaml"}
TARGETS = sorted({path.name for path in chart.VALUES.glob("*.yaml")} - NO_TARGETS)
Change = Callable[[Objects], object]
GONE = object()


def files_of(target: str, folder: Path, *, has_metrics: bool = False) -> list[Path]:
    """Return the values of TARGET; those of a run are written into FOLDER."""
    annotations = {"events-platform/secrets": "0123456789abcdef"}
    values = chart.run_values(
        images.airflow().reference,
        {"DBT_IMAGE": images.dbt().reference},
        annotations,
        of_workers=cluster_secrets.feeds_env(),
        statsd_image=OTHER_IMAGES[0] if has_metrics else None,
    )
    (folder / "values.json").write_text(json.dumps(values))
    more = [chart.VALUES / "metrics.yaml"] if has_metrics else []
    return [chart.VALUES / "base.yaml", chart.VALUES / target, *more, folder / "values.json"]


@functools.cache
def rendered(target: str, folder: Path, *, has_metrics: bool = False) -> Objects:
    files = chart.with_merged_lists(files_of(target, folder, has_metrics=has_metrics))
    return load(chart.render(chart.locate(), deployment.NAMESPACE, files)) | of_harness(has_metrics=has_metrics)


@pytest.fixture(
    scope="session", params=[pytest.param("values", marks=pytest.mark.needs("helm", "chart"), id=pytest.HIDDEN_PARAM)]
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(request.param)


@pytest.fixture(params=TARGETS)
def objects(request: pytest.FixtureRequest, folder: Path) -> Objects:
    """Give everything that is put on a target; read it only."""
    return rendered(request.param, folder)


def test_every_target_has_values_and_every_kind_of_pod_is_checked(objects: Objects) -> None:
    assert {cluster.values for cluster in (ExistingCluster, KindCluster, MinikubeCluster)} <= set(TARGETS)
    assert {name for name, _ in pods(objects)} == {API, SCHEDULER, PROCESSOR, MIGRATIONS, WORKER}
    assert len(objects) >= 25


@pytest.mark.parametrize("rule", RULES)
def test_every_target_follows_the_rules(objects: Objects, rule: str) -> None:
    assert list(RULES[rule](objects)) == []


@pytest.mark.parametrize("rule", RULES)
def test_metrics_follow_the_rules_and_change_no_pod_that_is_there_without_them(folder: Path, rule: str) -> None:
    objects = rendered("kind.yaml", folder, has_metrics=True)
    others = {f"Deployment/{name}" for name in ("airflow-statsd", "feeds-metrics", "prometheus")}
    assert {name for name, _ in pods(objects)} == {API, SCHEDULER, PROCESSOR, MIGRATIONS, WORKER} | others
    assert list(RULES[rule](objects)) == []
    assert not others & rendered("kind.yaml", folder).keys()


def test_airflow_sends_its_metrics_to_the_exporter_whose_names_the_alerts_have(folder: Path) -> None:
    objects = rendered("kind.yaml", folder, has_metrics=True)
    settings = configparser.RawConfigParser()
    settings.read_string(objects[CONFIG]["data"]["airflow.cfg"])
    found = {name: settings["metrics"][f"statsd_{name}"] for name in ("on", "host", "port", "prefix")}
    assert found == {"on": "True", "host": "airflow-statsd", "port": "9125", "prefix": "airflow"}
    assert settings["metrics"]["legacy_names_on"] == "True"
    mappings = yaml.safe_load(objects["ConfigMap/airflow-statsd"]["data"]["mappings.yml"])["mappings"]
    names = {mapping["match"]: mapping["name"] for mapping in mappings}
    assert [names[match] for match in ("airflow.dagrun.duration.failed.*", "airflow.dagrun.schedule_delay.*")] == [
        "airflow_dagrun_failed",
        "airflow_dagrun_schedule_delay",
    ]
    assert names["airflow.scheduler_heartbeat"] == "airflow_scheduler_heartbeat"
    rules = yaml.safe_load(objects["ConfigMap/prometheus"]["data"]["alerts.yml"])
    of_airflow = [rule["expr"] for group in rules["groups"] if group["name"] == "airflow" for rule in group["rules"]]
    used = set(re.findall(r"airflow_[a-z_]+?(?=_count\b|\b)", " ".join(of_airflow)))
    assert used == {names["airflow.scheduler_heartbeat"], "airflow_dagrun_failed", "airflow_dagrun_schedule_delay"}
    before = configparser.RawConfigParser()
    before.read_string(rendered("kind.yaml", folder)[CONFIG]["data"]["airflow.cfg"])
    assert before["metrics"]["statsd_on"] == "False"


def test_every_pod_has_the_pull_secret_and_those_of_the_database_its_tls(folder: Path) -> None:
    tls = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": deployment.ROOT_CERTIFICATE_IN_PODS}
    values = chart.run_values(images.airflow().reference, {}, {}, tls, "elsewhere/registry-login")
    (folder / "tls.json").write_text(json.dumps(values))
    files = chart.with_merged_lists([chart.VALUES / "base.yaml", chart.VALUES / "context.yaml", folder / "tls.json"])
    for name, spec in pods(load(chart.render(chart.locate(), deployment.NAMESPACE, files))):
        assert spec["imagePullSecrets"] == [{"name": "registry-login"}]
        for container in pod_rules.containers(spec):
            env = {variable["name"]: variable.get("value") for variable in container["env"]}
            assert {key: env.get(key) for key in tls} == (dict.fromkeys(tls) if name == WORKER else tls), name
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert mounts[str(Path(tls["PGSSLROOTCERT"]).parent)] == "postgresql"


def test_the_port_that_kind_maps_is_the_services(folder: Path) -> None:
    cluster = yaml.safe_load((ROOT / "cluster" / "kind.yaml").read_text())
    [port] = [m["containerPort"] for node in cluster["nodes"] for m in node["extraPortMappings"]]
    service = rendered("kind.yaml", folder)["Service/airflow-api-server"]["spec"]
    assert (service["type"], [p["nodePort"] for p in service["ports"]]) == ("NodePort", [port])
    assert f"{port}/tcp" == UI_NODE_PORT


@pytest.mark.parametrize("version", PLACES)
def test_each_kubernetes_of_the_workflow_takes_what_is_rendered_for_it(folder: Path, version: str) -> None:
    assert PLACES == ["1.32", "1.33", "1.34", "1.35", "1.36"]
    objects = load(chart.render(chart.locate(), deployment.NAMESPACE, files_of("kind.yaml", folder), version))
    assert {API, SCHEDULER, PROCESSOR, MIGRATIONS, WORKER} <= set(objects)
    assert list(RULES[f"Kubernetes {version}"](objects | of_harness())) == []


@pytest.mark.needs("helm3", "helm4", "chart")
def test_helm_3_and_helm_4_render_the_same_objects(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    found = []
    for major in (3, 4):
        monkeypatch.setenv("PLATFORM_HELM", str(needs.helm(major)))
        files = files_of("kind.yaml", folder)
        found.append(load(chart.render(chart.locate(), deployment.NAMESPACE, files, PLACES[0])))
    assert found[0] == found[1]
    assert {API, SCHEDULER, PROCESSOR, MIGRATIONS, WORKER} <= set(found[0])


# --- without the chart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_projects_own_objects_are_valid(version: str) -> None:
    assert {"Namespace/events-platform", "Namespace/events-platform-dbt", "Role/run-dbt"} <= set(of_harness())
    assert list(RULES[f"Kubernetes {version}"](of_harness())) == []


def test_the_projects_own_rights_are_few_and_its_manifests_have_no_secret() -> None:
    assert list(too_many_rights(of_harness())) == []
    bindings = [item for item in rights().values() if item["kind"] == "RoleBinding"]
    subjects = {item["metadata"]["name"]: [s["name"] for s in item["subjects"]] for item in bindings}
    assert subjects == {"run-workers": ["airflow-scheduler"], "run-dbt": ["airflow-worker"]}
    assert not any("kind: Secret" in path.read_text() for path in deployment.MANIFESTS.glob("*.yaml"))
    for name, namespace in (("airflow-logs", deployment.NAMESPACE), ("dbt-results", f"{deployment.NAMESPACE}-dbt")):
        claim = of_harness()[f"PersistentVolume/{name}"]["spec"]["claimRef"]
        assert claim == {"namespace": namespace, "name": name}
        assert of_harness()[f"PersistentVolumeClaim/{name}"]["metadata"]["namespace"] == namespace


def test_whoever_may_start_pods_reaches_only_what_is_beside_them(objects: Objects) -> None:
    reach = in_reach(objects)
    assert reach.keys() == {"airflow-scheduler", "airflow-worker"}
    assert reach["airflow-worker"] == {"Secret/warehouse-transformer", "ServiceAccount/dbt"}
    assert "Secret/warehouse-transformer" not in reach["airflow-scheduler"]
    assert {"Secret/airflow-keys", "Secret/passwords"} <= reach["airflow-scheduler"]  # which runs no task's code


# --- what each rule finds -------------------------------------------------------------------------------------------


def change(name: str, path: str, value: Any = GONE) -> Change:
    """Return what sets, appends (at `end`) or removes the value at PATH in the object NAME."""

    def change_it(objects: Objects) -> None:
        *parents, last = (int(part) if part.isdecimal() else part for part in path.split("/"))
        place: Any = objects[name]
        for parent in parents:
            place = place[parent]
        if value is GONE:
            del place[last]
        elif last == "end":
            place.append(value)
        else:
            place[last] = value

    return change_it


def in_pod(name: str, path: str, value: Any = GONE) -> Change:
    return change(name, f"{'spec' if name == WORKER else 'spec/template/spec'}/{path}", value)


def in_container(name: str, path: str, value: Any = GONE) -> Change:
    return in_pod(name, f"containers/0/{path}", value)


def variable(name: str, value: str, where: str = API) -> Change:
    return in_container(where, "env/0", {"name": name, "value": value})


def add(kind: str, name: str, **fields: Any) -> Change:
    return lambda objects: objects.update({f"{kind}/{name}": {"kind": kind, "metadata": {"name": name}, **fields}})


def remove(name: str) -> Change:
    return lambda objects: objects.pop(name)


METADATA = {
    "name": "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "valueFrom": {"secretKeyRef": {"name": "airflow-metadata", "key": "connection"}},
}
WAIT, WAITS = "initContainers/0", "wait-for-airflow-migrations"
BROKER = base64.b64encode(b"redis://:pw@redis").decode()
FERNET_KEY = base64.urlsafe_b64encode(bytes(32)).decode()
LAUNCHER = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}
EXEC = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}
GET_SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
SUBJECT = {"kind": "ServiceAccount", "name": "airflow-api-server"}
WORKER_IMAGE = "worker_container_repository = a\nworker_container_tag = b\n"

BROKEN: dict[str, list[tuple[Change, str]]] = {
    "images": [
        (
            in_pod(API, f"{WAIT}/image", "busybox:1"),
            f"{API}: wait-for-airflow-migrations: busybox:1 is not a loaded image",
        ),
        (in_container(WORKER, "image", "apache/airflow:3"), f"{WORKER}: base: apache/airflow:3 is not a loaded image"),
        (
            in_container(MIGRATIONS, "imagePullPolicy", "Always"),
            f"{MIGRATIONS}: run-airflow-migrations: its pull policy is not IfNotPresent",
        ),
        (change(CONFIG, "data/airflow.cfg", WORKER_IMAGE), "executor: a:b is not a loaded image"),
    ],
    "no secret in clear": [
        (
            add("Secret", "airflow-fernet-key", metadata={"annotations": {}}, data={}),
            "Secret/airflow-fernet-key: the chart creates it",
        ),
        (
            change("Secret/airflow-broker-url", "data/connection", BROKER),
            "Secret/airflow-broker-url: the chart creates it",
        ),
        (change(CONFIG, "data/airflow.cfg", "[api]\nsecret_key = abc"), f"{CONFIG}: secret_key is a secret in clear"),
        (variable("PGPASSWORD", "abc"), f"{API}: api-server: PGPASSWORD is a secret in clear"),
        (variable("X", "postgresql://a:b@db/x"), f"{API}: api-server: X is a secret in clear"),
        (variable("X", FERNET_KEY), f"{API}: api-server: X is a secret in clear"),
        (
            variable("AIRFLOW__CORE__FERNET_KEY", "abc", WORKER),
            f"{WORKER}: base: AIRFLOW__CORE__FERNET_KEY is a secret in clear",
        ),
        (in_container(SCHEDULER, "args/end", "--password abc"), f"{SCHEDULER}: scheduler: a secret in its arguments"),
        (
            in_container(MIGRATIONS, "args/end", "export TOKEN=abc"),
            f"{MIGRATIONS}: run-airflow-migrations: a secret in its arguments",
        ),
    ],
    "secrets exist": [
        (remove("Secret/airflow-login"), f"{API}: airflow-login"),
        (remove("Secret/warehouse-loader"), f"{WORKER}: warehouse-loader connection"),
        (remove("Secret/feeds"), f"{WORKER}: feeds events"),
    ],
    "restricted pods": [
        (in_pod(API, f"{WAIT}/securityContext/runAsUser", 0), f"{API}: {WAITS}: its user is root, or not known"),
        (in_pod(WORKER, "securityContext/runAsUser"), f"{WORKER}: base: its user is root, or not known"),
        (in_pod(WORKER, "securityContext/runAsNonRoot"), f"{WORKER}: base: may run as root"),
        (in_pod(WORKER, "securityContext/seccompProfile"), f"{WORKER}: base: no seccomp profile"),
        (
            in_container(MIGRATIONS, "securityContext/capabilities/add", ["CHOWN"]),
            f"{MIGRATIONS}: run-airflow-migrations: keeps capabilities",
        ),
        (
            in_container(MIGRATIONS, "securityContext/capabilities/drop"),
            f"{MIGRATIONS}: run-airflow-migrations: keeps capabilities",
        ),
        (
            in_container(PROCESSOR, "securityContext/allowPrivilegeEscalation"),
            f"{PROCESSOR}: dag-processor: may gain privileges",
        ),
        (in_container(PROCESSOR, "securityContext/privileged", True), f"{PROCESSOR}: dag-processor: is privileged"),
        (in_container(API, "ports/0/hostPort", 80), f"{API}: api-server: has a port of the node"),
        (in_pod(SCHEDULER, "hostNetwork", True), f"{SCHEDULER}: uses the node's network or processes: hostNetwork"),
        (
            in_pod(WORKER, "volumes/0", {"name": "logs", "hostPath": {"path": "/"}}),
            f"{WORKER}: volume logs: its kind is not allowed",
        ),
    ],
    "read-only roots": [
        (
            in_container(MIGRATIONS, "securityContext/readOnlyRootFilesystem"),
            f"{MIGRATIONS}: run-airflow-migrations: may write to its image's files",
        ),
        (
            in_pod(API, f"{WAIT}/securityContext/readOnlyRootFilesystem", False),
            f"{API}: {WAITS}: may write to its image's files",
        ),
    ],
    "secrets of workers": [
        (in_container(WORKER, "env/end", METADATA), "airflow-metadata"),
        (in_pod(WORKER, "volumes/0", {"name": "x", "secret": {"secretName": "airflow-keys"}}), "airflow-keys"),
    ],
    "resources": [
        (in_container(WORKER, "resources/limits/memory"), f"{WORKER}: base: no limits of memory"),
        (in_pod(SCHEDULER, f"{WAIT}/resources/requests/cpu"), f"{SCHEDULER}: {WAITS}: no requests of cpu"),
    ],
    "rights": [
        (change("Role/run-dbt", "rules/end", EXEC), "Role/run-dbt: create pods/exec"),
        (change("Role/run-workers", "rules/end", GET_SECRETS), "Role/run-workers: get secrets"),
        (change("Role/run-workers", "rules/0/verbs", ["*"]), "Role/run-workers: * pods"),
        (add("Role", "airflow-pod-launcher-role", rules=[LAUNCHER]), "Role/airflow-pod-launcher-role: may start pods"),
        (add("RoleBinding", "x", roleRef={"name": "run-dbt"}, subjects=[SUBJECT]), "RoleBinding/x: binds run-dbt"),
        (add("ClusterRoleBinding", "x"), "ClusterRoleBinding/x: is valid beyond the namespace"),
        (
            change("ServiceAccount/airflow-dag-processor", "automountServiceAccountToken", True),
            "ServiceAccount/airflow-dag-processor: has a token and no rights",
        ),
        (in_pod(PROCESSOR, "automountServiceAccountToken", True), f"{PROCESSOR}: has a token and no rights"),
        (in_pod(PROCESSOR, "serviceAccountName", "x"), f"{PROCESSOR}: there is no ServiceAccount/x"),
        (remove("Role/run-dbt"), "there is no Role/run-dbt"),
    ],
    "names": [
        (change(API, "metadata/labels/component", "webserver"), "deployment of api-server"),
        (remove(PROCESSOR), "deployment of dag-processor"),
        (change("Service/airflow-api-server", "spec/ports/0/port", 80), "Service/airflow-api-server at port 8080"),
        (remove("ServiceAccount/airflow-worker"), "account airflow-worker"),
        (change(CONFIG, "data/airflow_local_settings.py"), "hook for workers' pods"),
        (in_pod(WORKER, "volumes/0", {"name": "logs", "emptyDir": {}}), f"{WORKER}: claim airflow-logs"),
        (remove("PersistentVolumeClaim/airflow-logs"), "claim airflow-logs"),
        (remove("PersistentVolumeClaim/dbt-results"), "claim dbt-results"),
    ],
} | {
    f"Kubernetes {version}": [
        (change(API, "spec/replicas", "one"), f"{API}: spec.replicas: 'one' is not of type 'integer', 'null'"),
        (
            change("Role/run-dbt", "rule", []),
            "Role/run-dbt: : Additional properties are not allowed ('rule' was unexpected)",
        ),
        (
            in_container(WORKER, "image_", "a"),
            f"{WORKER}: spec.containers.0: Additional properties are not allowed ('image_' was unexpected)",
        ),
        (
            change(SCHEDULER, "apiVersion", "extensions/v1beta1"),
            f"{SCHEDULER}: Couldn't find schema for kind Deployment with api version extensions/v1beta1"
            f" for kubernetes version {version}",
        ),
    ]
    for version in KUBERNETES
}


def test_every_rule_is_tried() -> None:
    assert BROKEN.keys() == RULES.keys()


@pytest.mark.parametrize(
    ("rule", "change_it", "line"), [(rule, *case) for rule, cases in BROKEN.items() for case in cases]
)
def test_what_breaks_a_rule_is_found(folder: Path, rule: str, change_it: Change, line: str) -> None:
    objects = copy.deepcopy(rendered("kind.yaml", folder))
    change_it(objects)
    assert list(RULES[rule](objects)) == [line]
