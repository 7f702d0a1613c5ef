"""A deployment belongs to its namespace: who deploys next finds its databases, and nobody breaks a running upgrade."""

import base64
import dataclasses
import json
import re
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from harness.docker import images
from harness.errors import AccessDeniedError, AlreadyUpError, ImageMissingError
from harness.kubernetes import access, chart, deployment
from harness.kubernetes.rollout import Watch
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project.paths import ROOT
from harness.targets import existing_cluster, manifests
from harness.targets.cluster_failure import with_cause
from harness.targets.existing_cluster import ExistingCluster
from harness.targets.options import RunOptions
from harness.warehouse.server import Server
from tests import programs, servers

VERSION = {"get --raw /version": "{}"}
DEPLOYED = (
    "postgresql://loader_team_0f3a1b2c:secret@db.internal:5432/warehouse_team_0f3a1b2c?sslmode=require",
    '{"conn_type": "postgres", "host": "db.internal", "login": "loader", "schema": "warehouse_team_0f3a1b2c"}',
)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExistingCluster:
    monkeypatch.setenv("PLATFORM_KUBECTL", str(tmp_path / "kubectl"))
    monkeypatch.setenv("PLATFORM_HELM", str(tmp_path / "helm"))
    options = RunOptions(
        "context", namespace="team", context="work", reuse=True, warehouse_dsn="postgresql://user@db.internal/postgres"
    )
    return ExistingCluster(options)


def answer(tmp_path: Path, answers: dict[str, str], failure: str = "Error from server (Forbidden)") -> None:
    programs.write_answers(tmp_path / "kubectl", VERSION | answers, failure)


def suffix(cluster: ExistingCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the end of the names that the deployment's databases get."""

    def given_server(_: str, option: str, suffix: str) -> Server:
        return Server(option, "db.internal", 5432, "user", "", suffix=suffix)

    monkeypatch.setattr(existing_cluster, "given_server", given_server)
    return cluster.running_database().server.suffix


@pytest.mark.parametrize("deployed", DEPLOYED)
def test_a_deployment_keeps_its_databases_whoever_upgrades_it(
    cluster: ExistingCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deployed: str
) -> None:
    secret = {"data": {"connection": base64.b64encode(deployed.encode()).decode()}, "metadata": {}}
    answer(tmp_path, {"get secret warehouse-loader": json.dumps(secret)})
    assert suffix(cluster, monkeypatch) == "_team_0f3a1b2c"


def test_the_first_deployment_is_named_for_cluster_and_namespace_alone(
    cluster: ExistingCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for uid in ("one", "two"):
        answers = {"get namespace kube-system": json.dumps({"metadata": {"uid": uid}}), "get secret": ""}
        answer(tmp_path, answers)
        found[uid] = suffix(ExistingCluster(cluster.options), monkeypatch)
    assert found["one"] == "_team_9e3d42a0"  # printf "one team" | sha256sum, on any machine
    assert found["two"] != found["one"]


def test_without_the_right_to_read_the_clusters_id_the_context_stands_for_it(
    cluster: ExistingCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(tmp_path, {"get secret": ""})
    assert suffix(cluster, monkeypatch).startswith("_team_")


def status(tmp_path: Path, state: str, age: timedelta) -> None:
    info = {"status": state, "last_deployed": f"{datetime.now(UTC) - age:%Y-%m-%dT%H:%M:%S}.123456789Z"}
    programs.write_answers(tmp_path / "helm", {"status": json.dumps({"info": info})})


@pytest.mark.parametrize(
    ("state", "minutes", "is_refused"),
    [
        ("pending-upgrade", 1, True),
        ("pending-install", 1, True),
        ("pending-upgrade", 60, False),
        ("deployed", 0, False),
    ],
)
def test_an_installation_of_somebody_else_is_not_broken(
    cluster: ExistingCluster, tmp_path: Path, state: str, minutes: int, is_refused: bool
) -> None:
    status(tmp_path, state, timedelta(minutes=minutes))
    answer(tmp_path, {})
    if not is_refused:
        cluster.check_compatible()
        return
    with pytest.raises(
        AlreadyUpError, match=r"^Somebody installs into the namespace team of the context work just now"
    ):
        cluster.check_compatible()


def test_only_namespaces_of_the_project_are_deleted(
    cluster: ExistingCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"metadata": {"name": "team", "labels": deployment.LABELS}}
    theirs = {"metadata": {"name": "team-dbt", "labels": {}}}
    log = tmp_path / "log"
    source = f"import sys\nopen({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
    is_first = "('namespace', 'team') in zip(sys.argv, sys.argv[1:])"
    source += f"print({json.dumps(ours)!r} if {is_first} else {json.dumps(theirs)!r})"
    programs.write(tmp_path / "kubectl", source)
    programs.write_answers(tmp_path / "helm", {"": ""})
    monkeypatch.setattr(existing_cluster, "drop_all", lambda _: None)
    monkeypatch.setattr(ExistingCluster, "_server", None)
    cluster.delete()
    [deletion] = [line.partition("delete ")[2] for line in log.read_text().splitlines() if " delete " in line]
    assert deletion == "namespace team --ignore-not-found --wait"


def test_nothing_is_installed(cluster: ExistingCluster, tmp_path: Path) -> None:
    answer(tmp_path, {})
    programs.write_answers(tmp_path / "helm", {}, "Error: release: not found")
    assert chart.installing_since(cluster.kubectl()) is None


@pytest.mark.parametrize("error", [RuntimeError("any"), AlreadyUpError("a", "b", "c")])
def test_credentials_that_expire_in_the_middle_are_the_cause(
    cluster: ExistingCluster, tmp_path: Path, error: Exception
) -> None:
    """Whatever failed because of them, and also while the harness waits."""
    programs.write_answers(tmp_path / "kubectl", {}, "error: You must be logged in to the server (Unauthorized)")
    what = "The cluster of the context work does not accept your credentials."
    cause = with_cause(error, cluster, database=True)
    assert isinstance(cause, AccessDeniedError)
    assert (cause.what, cause.exit_code) == (what, 67)
    with pytest.raises(AccessDeniedError):
        Watch(cluster.kubectl(), cluster.check_dependencies)()


def test_namespaces_that_an_administrator_made_are_used_as_they_are(cluster: ExistingCluster) -> None:
    class Made(manifests.Recorder):
        def get(self, kind: str, name: str) -> dict[str, object]:  # noqa: ARG002
            return {"metadata": {"name": name, "labels": {**deployment.LABELS, "team": "data"}}}

    made = Made(Path("kubectl"), cluster.namespace)
    deployment.create_namespaces(made)
    assert "Namespace" not in {item["kind"] for item in made.applied}
    empty = manifests.Recorder(Path("kubectl"), cluster.namespace)
    deployment.create_namespaces(empty)
    made_now = {
        item["metadata"]["name"]: item["metadata"]["labels"] for item in empty.applied if item["kind"] == "Namespace"
    }
    assert made_now == {"team": deployment.LABELS, "team-dbt": deployment.LABELS}


class Refusing(servers.Handler):
    """A registry that wants a login, or has no room for the team of the logged-in user."""

    status = 401

    def respond(self) -> None:
        self.send_response(self.status if self.path != "/v2/" or self.status == 401 else 200)
        self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT = do_PATCH = respond  # noqa: N815


class Full(Refusing):
    status = 403


@pytest.mark.needs("engine")
@pytest.mark.parametrize(
    ("registry", "why"), [(Refusing, "no basic auth credentials|unauthorized"), (Full, "403|denied|[Ff]orbidden")]
)
def test_a_registry_that_refuses_is_explained(
    tmp_path: Path, registry: type[Refusing], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real engine pushes to it; loopback addresses may speak HTTP."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))  # without the user's logins
    name = "events-platform/refused:test"
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    run("docker", "import", tmp_path / "empty.tar", name)
    try:
        with servers.serving(registry) as address, Supervisor.launch() as supervisor:
            cluster = ExistingCluster(RunOptions("context", context="work", registry=f"{address}/team"))
            image = dataclasses.replace(images.dbt(), name="refused")
            monkeypatch.setattr(images.Image, "reference", name)
            with pytest.raises(ImageMissingError) as caught:
                cluster.load_image(supervisor, image)
            run("docker", "rmi", f"{address}/team/{name}")
    finally:
        run("docker", "rmi", name)
    assert (caught.value.exit_code, caught.value.what) == (56, f"The image {address}/team/{name} cannot be pushed.")
    assert re.search(why, caught.value.why)
    assert caught.value.next_step == "Log in to the registry: docker login"


def test_the_documented_role_has_every_right_that_is_asked_for() -> None:
    [text] = re.findall(
        r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "production.md").read_text(), re.MULTILINE | re.DOTALL
    )
    rules = yaml.safe_load(text)["rules"]
    for verb, what in (
        *access.NEEDED,
        *((verb, "namespaces") for verb in ("create", "patch", "delete")),
        ("list", "nodes"),
    ):
        kind, _, subresource = what.partition("/")
        resource, _, group = kind.partition(".")
        name = f"{resource}/{subresource}" if subresource else resource
        granted = [
            rule
            for rule in rules
            if group in rule["apiGroups"] and name in rule["resources"] and {verb, "*"} & set(rule["verbs"])
        ]
        assert granted, f"{verb} {what}"
