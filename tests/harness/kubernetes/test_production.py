"""`cluster/values/production.yaml`: what it makes of the chart follows the same rules, with few exceptions."""

import functools
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.docker import images
from harness.kubernetes import chart, deployment, pgbouncer
from harness.project.paths import ROOT
from harness.warehouse.server import Server
from tests.harness.kubernetes.object_rules import (
    API,
    CONFIG,
    MIGRATIONS,
    PROCESSOR,
    RULES,
    SCHEDULER,
    WORKER,
    Objects,
    load,
    of_harness,
    pods,
)

POOLER, CLEANUP = "Deployment/airflow-pgbouncer", "CronJob/airflow-database-cleanup"
VALUES = chart.VALUES / "production.yaml"
POOLER_IMAGES = ("pgbouncer-2025.03.05-1.23.1", "pgbouncer-exporter-2025.03.05-0.18.0")
# What is not made here: images that the chart names, the secret of the identity provider. And what is not needed.
EXCEPTIONS = {
    "images": [
        f"{POOLER}: {name}: apache/airflow:airflow-{image} is not a loaded image"
        for name, image in zip(("pgbouncer", "metrics-exporter"), POOLER_IMAGES, strict=True)
    ],
    "secrets exist": [f"{API}: airflow-sso client-id", f"{API}: airflow-sso client-secret"],
    "names": [f"{name}: claim airflow-logs" for name in (API, CLEANUP, PROCESSOR, POOLER, SCHEDULER, WORKER)],
}


@functools.cache
def rendered(folder: Path, *more: Path) -> Objects:
    """Return what `up` installs with it and MORE values, rendered with the chart's schema of values."""
    values = chart.run_values(images.airflow().reference, {"DBT_IMAGE": images.dbt().reference}, {})
    (folder / "values.json").write_text(json.dumps(values))
    files = [chart.VALUES / "base.yaml", chart.VALUES / "context.yaml", VALUES, *more, folder / "values.json"]
    chart.check_values(chart.locate(), deployment.NAMESPACE, files)
    return load(chart.render(chart.locate(), deployment.NAMESPACE, chart.with_merged_lists(files))) | of_harness()


@pytest.fixture(
    scope="module", params=[pytest.param("values", marks=pytest.mark.needs("helm", "chart"), id=pytest.HIDDEN_PARAM)]
)
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return rendered(tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("rule", RULES)
def test_it_follows_the_rules_of_every_target(objects: Objects, rule: str) -> None:
    assert {name for name, _ in pods(objects)} == {API, SCHEDULER, PROCESSOR, MIGRATIONS, WORKER, POOLER, CLEANUP}
    assert sorted(RULES[rule](objects)) == sorted(EXCEPTIONS.get(rule, []))


def test_two_of_each_are_spread_and_survive_a_drained_node(objects: Objects) -> None:
    for name in (API, SCHEDULER, POOLER):
        component = name.rpartition("-")[2] if name != API else "api-server"
        spec = objects[name]["spec"]
        assert spec["replicas"] == 2
        for constraint in (constraints := spec["template"]["spec"]["topologySpreadConstraints"]):
            assert constraint["labelSelector"]["matchLabels"] == {"component": component}
            assert spec["template"]["metadata"]["labels"]["component"] == component
        assert "kubernetes.io/hostname" in {constraint["topologyKey"] for constraint in constraints}
        [budget] = [
            item
            for item in objects.values()
            if item["kind"] == "PodDisruptionBudget"
            and item["spec"]["selector"]["matchLabels"]["component"] == component
        ]
        assert budget["spec"]["maxUnavailable"] == 1


def test_a_node_is_not_removed_under_a_running_task(objects: Objects) -> None:
    wanted = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    assert objects[WORKER]["metadata"]["annotations"].items() >= wanted.items()
    settings = yaml.safe_load(VALUES.read_text())["config"]["dbt_pod"]
    assert json.loads(settings["annotations"]) == wanted
    assert f"annotations = {settings['annotations']}\n" in objects[CONFIG]["data"]["airflow.cfg"]


def test_users_come_through_tls_and_tasks_do_not(objects: Objects) -> None:
    [ingress] = [item for item in objects.values() if item["kind"] == "Ingress"]
    [rule] = ingress["spec"]["rules"]
    assert ingress["spec"]["tls"] == [{"hosts": [rule["host"]], "secretName": "airflow-tls"}]
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == "airflow-api-server"
    config = objects[CONFIG]["data"]["airflow.cfg"]
    assert f"base_url = https://{rule['host']}\n" in config
    service = objects["Service/airflow-api-server"]
    [port] = [each["port"] for each in service["spec"]["ports"]]
    assert f"execution_api_server_url = http://{service['metadata']['name']}:{port}/execution/\n" in config


def test_logs_go_to_an_object_store_and_no_volume_is_needed(objects: Objects) -> None:
    config = objects[CONFIG]["data"]["airflow.cfg"]
    assert "remote_logging = True\n" in config
    assert "remote_base_log_folder = s3://" in config
    for name, spec in pods(objects):
        assert not [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume], name


def test_connections_of_components_are_pooled(objects: Objects) -> None:
    """A worker has none."""
    [port] = [
        each["port"] for each in objects[f"Service/{pgbouncer.SERVICE}"]["spec"]["ports"] if each["name"] == "pgbouncer"
    ]
    assert port == pgbouncer.PORT
    made = pgbouncer.secrets(
        "postgresql+psycopg2://air%40flow:p%22w@db.example:5433/airflow_x", Server("any", "db.example", 5433, "a", "b")
    )
    connection = made[pgbouncer.POOLED]["connection"]
    assert connection == "postgresql+psycopg2://air%40flow:p%22w@airflow-pgbouncer:6543/airflow_x"
    config = made["airflow-pgbouncer"]
    assert "airflow_x = host=db.example port=5433 dbname=airflow_x pool_size=20\n" in config["pgbouncer.ini"]
    assert config["users.txt"] == '"air@flow" "p""w"\n'
    for name, spec in pods(objects):
        used = {
            ref["name"]
            for container in [*(spec.get("initContainers") or []), *spec["containers"]]
            for variable in container.get("env") or []
            if (ref := (variable.get("valueFrom") or {}).get("secretKeyRef")) and ref["key"] == "connection"
        }
        assert used - {"warehouse-loader"} <= {pgbouncer.POOLED}, name
    assert objects[f"Secret/{pgbouncer.POOLED}"]


@pytest.mark.parametrize(
    ("sslmode", "certificate", "lines"),
    [
        ("", "", ["server_tls_sslmode = prefer"]),
        (
            "verify-full",
            "system",
            ["server_tls_sslmode = verify-full", "server_tls_ca_file = /etc/ssl/certs/ca-certificates.crt"],
        ),
        ("verify-ca", "/opt/x.crt", ["server_tls_sslmode = verify-ca", "server_tls_ca_file = /opt/x.crt"]),
    ],
)
def test_what_is_beyond_the_pooler_has_the_chosen_tls(sslmode: str, certificate: str, lines: list[str]) -> None:
    server = Server("any", "db", 5432, "a", "b", sslmode=sslmode, root_certificate=certificate)
    config = pgbouncer.secrets("postgresql://a:b@db:5432/x", server)["airflow-pgbouncer"]["pgbouncer.ini"]
    assert [line for line in config.splitlines() if line.startswith("server_tls")] == lines


@pytest.mark.needs("helm", "chart")
def test_what_one_old_node_runs_of_it_needs_nothing_else(tmp_path: Path) -> None:
    """No budgets and cron jobs of newer versions, no images of others, no secret that is missing."""
    objects = rendered(tmp_path, ROOT / "tests" / "cluster" / "production-on-one-node.yaml")
    assert {name for name, _ in pods(objects)} == {API, SCHEDULER, PROCESSOR, MIGRATIONS, WORKER}
    assert objects.keys() & {"Ingress/airflow-ingress", "PodDisruptionBudget/airflow-scheduler-pdb"} == {
        "Ingress/airflow-ingress"
    }
    assert [objects[name]["spec"]["replicas"] for name in (API, SCHEDULER)] == [2, 2]
    for rule in RULES:
        assert list(RULES[rule](objects)) == [], rule


# --- single sign-on -------------------------------------------------------------------------------------------------

CLAIMS = {"email": "ada@example.com", "given_name": "Ada", "groups": ["data-engineers"]}


@pytest.fixture
def sign_on(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give the names that the configuration of the API server defines; its modules are Airflow's."""

    class Override:
        oauth_remotes = types.MappingProxyType({"sso": types.SimpleNamespace(userinfo=lambda token: CLAIMS | token)})

    override = "airflow.providers.fab.auth_manager.security_manager.override"
    for name, content in (
        (override, {"FabAirflowSecurityManagerOverride": Override}),
        ("flask_appbuilder.const", {"AUTH_OAUTH": 4}),
    ):
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        for parent in (name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)):
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    values = yaml.safe_load(VALUES.read_text())["apiServer"]
    for variable in values["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "x"))
    names: dict[str, Any] = {}
    exec(values["apiServerConfig"], names)  # noqa: S102
    return names


def test_groups_of_the_identity_provider_become_roles(sign_on: dict[str, Any]) -> None:
    manager: Callable[[], Any] = sign_on["SECURITY_MANAGER_CLASS"]
    info = manager().get_oauth_user_info("sso", {})
    assert info == {
        "username": "ada@example.com",
        "email": "ada@example.com",
        "first_name": "Ada",
        "last_name": "",
        "role_keys": ["data-engineers"],
    }
    assert sign_on["AUTH_ROLES_MAPPING"][info["role_keys"][0]] == ["Op"]
    assert sign_on["AUTH_USER_REGISTRATION_ROLE"] == "Public"
    [provider] = sign_on["OAUTH_PROVIDERS"]
    assert provider["remote_app"]["server_metadata_url"].startswith("https://login.example.com/")


def test_no_password_of_a_user_is_left(objects: Objects) -> None:
    config = objects[CONFIG]["data"]["airflow.cfg"]
    assert "auth_manager = airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager\n" in config
    [container] = objects[API]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["bash", "-c", "exec airflow api-server --proxy-headers"]
