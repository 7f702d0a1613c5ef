"""What `nox -s cluster` and `nox -s e2e -- --target kind` refuse, each with an exit code of its own.

Programs stand in for docker and kubectl, so a cluster of this clone that is up is not touched.
"""

import json
import os
import re
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

from harness.project.paths import ROOT
from harness.targets import kubernetes_target
from tests import programs
from tests.harness.commands.conftest import Outcome, Session

Run = Callable[..., Outcome]
# An engine with every image; an error names what it does not have.
DOCKER = {"image inspect": "[{}]"}
CURRENT_CONTEXT = {"config current-context": "work"}
# A cluster that answers and does not have the namespace.
KUBECTL = CURRENT_CONTEXT | {
    "version": '{"serverVersion": {"gitVersion": "v1.35.0"}}',
    "get namespace kube-system": '{"metadata": {"uid": "0f3a"}}',
    "get namespace events-platform": "",
}

# Reviews whether the user has a right, and asks the program beside it for everything else.
RIGHTS = """\
import json, os, sys
if "create" in sys.argv:
    for item in json.load(sys.stdin)["items"]:
        of = item["spec"]["resourceAttributes"]
        kind = of["resource"] + (of.get("subresource") and "/" + of["subresource"] or "")
        print("false" if of["verb"] + " " + kind in {denied!r} else "true")
else:
    os.execv(os.path.dirname(sys.argv[0]) + "/answers", ["answers", *sys.argv[1:]])
"""
DSN = "--warehouse-dsn postgresql://user@db.internal/postgres"


@pytest.fixture
def refused(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a function that runs a command and checks how it is refused.

    DOCKER and KUBECTL are the answers of the two programs, DOCKER is None for no engine; everything else exists. The
    text of KUBECTL for no argument is how it fails otherwise; the user has all rights but those DENIED.
    """
    monkeypatch.setattr(kubernetes_target, "BUILD", tmp_path)  # nobody waits for the lock of this clone's cluster
    nothing = str(programs.write_answers(tmp_path / "nothing", {"": ""}))
    for name in ("KIND", "HELM", "MINIKUBE", "CHART"):
        monkeypatch.setenv(f"PLATFORM_{name}", nothing)
    monkeypatch.setenv("PLATFORM_KUBECTL", str(tmp_path / "kubectl"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def refused(
        command: str,
        exit_code: int,
        what: str,
        *,
        docker: Mapping[str, str] | None = DOCKER,
        kubectl: Mapping[str, str] = KUBECTL,
        denied: Collection[str] = (),
        **env: str,
    ) -> Outcome:
        if docker is None:
            programs.write_docker_without_engine(tmp_path / "docker")
        else:
            programs.write_docker(tmp_path / "docker", docker)
        failure = kubectl.get("", "error: the answer is missing")
        answers = {key: text for key, text in kubectl.items() if key}
        programs.write_answers(tmp_path / "answers", answers, failure)
        programs.write(tmp_path / "kubectl", RIGHTS.format(denied=denied))
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        outcome = session(*command.split())
        outcome.is_error(exit_code, what)
        return outcome

    return refused


@pytest.mark.parametrize(
    "command",
    [
        "cluster up",
        "cluster status",
        "cluster down",
        "cluster up --target minikube",
        "cluster up --target context",
        "e2e --target kind",
        "e2e --target minikube --reuse",
    ],
)
def test_no_engine(refused: Run, command: str) -> None:
    what = "The cluster needs a Docker engine, and none answers at unix:///var/run/docker.sock."
    refused(command, 54, what, docker=None)


def test_no_docker_command(refused: Run) -> None:
    refused("cluster up", 54, "The docker command is not installed.", PATH="/nowhere")


def test_a_missing_chart(refused: Run) -> None:
    refused("cluster up", 58, "PLATFORM_CHART names /nowhere, which does not exist.", PLATFORM_CHART="/nowhere")


@pytest.mark.parametrize("name", ["NODE", "POSTGRES"])
def test_an_image_that_cannot_be_pulled(refused: Run, name: str) -> None:
    images = {f"PLATFORM_{other}_IMAGE": "there:1" for other in ("NODE", "POSTGRES")}
    images[f"PLATFORM_{name}_IMAGE"] = "none:1"
    docker = {f"image inspect {image}": "[{}]" for image in ("there:1", "events-platform/")}
    refused(
        "e2e --target kind", 56, "The image none:1 is not in the engine and cannot be pulled.", docker=docker, **images
    )


@pytest.mark.parametrize("name", ["STATSD", "PROMETHEUS"])
def test_an_image_for_metrics_that_cannot_be_pulled(refused: Run, name: str) -> None:
    images = {f"PLATFORM_{other}_IMAGE": "there:1" for other in ("NODE", "POSTGRES", "STATSD", "PROMETHEUS")}
    images[f"PLATFORM_{name}_IMAGE"] = "none:1"
    docker = {f"image inspect {image}": "[{}]" for image in ("there:1", "events-platform/")}
    what = "The image none:1 is not in the engine and cannot be pulled."
    refused("cluster up --metrics", 56, what, docker=docker, **images)


def test_a_port_in_use(refused: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(f"cluster up --ui-port {port}", 41, f"Port {port} cannot be used: Address already in use.")


@pytest.mark.parametrize(
    "command", ["cluster status", "cluster ui", "cluster logs", "cluster status --target minikube"]
)
def test_a_cluster_that_is_not_up(refused: Run, command: str) -> None:
    target = "minikube" if "minikube" in command else "kind"
    refused(command, 62, f"The {target} cluster events-platform-")


def test_a_missing_events_file(session: Session) -> None:
    session("cluster", "up", "--events", "/missing.csv").is_error(10, "/missing.csv does not exist.")


# --- an existing cluster --------------------------------------------------------------------------------------------

UP = "cluster up --target context"


@pytest.mark.parametrize("action", ["up", "status", "down"])
def test_a_kubeconfig_without_a_context(refused: Run, action: str) -> None:
    command = f"cluster {action} --target context --warehouse-dsn postgresql://user@db.internal/postgres"
    refused(command, 62, "The kubeconfig has no current context.", kubectl={})


# What kubectl 1.34 prints: a server that is down, a proxy, a certificate.
@pytest.mark.parametrize(
    ("action", "output"),
    [
        ("up", "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?"),
        ("status", "Unable to connect to the server: net/http: TLS handshake timeout"),
        ("down", "Unable to connect to the server: tls: failed to verify certificate: x509: certificate has expired"),
    ],
)
def test_a_cluster_that_does_not_answer(refused: Run, action: str, output: str) -> None:
    command = f"cluster {action} --target context {DSN}"
    what = "The cluster of the context work does not answer."
    outcome = refused(command, 62, what, kubectl=CURRENT_CONTEXT | {"": output})
    assert outcome.errors[1] == f"  Its output says: {output}"


@pytest.mark.parametrize(
    ("action", "output"),
    [
        ("up", "error: You must be logged in to the server (Unauthorized)"),
        (
            "status",
            "Unable to connect to the server: getting credentials: exec: executable aws failed with exit code 255",
        ),
        (
            "down",
            "error: You must be logged in to the server (the server has asked for the client to provide credentials)",
        ),
    ],
)
def test_credentials_that_have_expired(refused: Run, action: str, output: str) -> None:
    command = f"cluster {action} --target context {DSN}"
    what = "The cluster of the context work does not accept your credentials."
    assert refused(command, 67, what, kubectl=CURRENT_CONTEXT | {"": output}).errors[1].endswith(output)


@pytest.mark.parametrize("name", ["mine", "mine-dbt"])
@pytest.mark.parametrize("labels", [{"app.kubernetes.io/managed-by": "Helm"}, {}])
def test_a_namespace_with_other_labels(refused: Run, name: str, labels: dict[str, str]) -> None:
    theirs = {f"get namespace {name} ": json.dumps({"metadata": {"name": name, "labels": labels}})}
    nothing = {"get namespace mine ": "", "get namespace mine-dbt ": ""}
    label = "app.kubernetes.io/managed-by=events-platform"
    what = f"The namespace {name} exists without this project's label, {label}."
    outcome = refused(f"{UP} --namespace mine", 2, what, kubectl=KUBECTL | nothing | theirs)
    assert outcome.errors[2].endswith(f"kubectl label namespace {name} {label}")


@pytest.mark.parametrize(
    ("command", "denied", "named"),
    [
        (UP, ["create namespaces"], "create namespaces"),
        (UP, ["create roles", "create pods/exec"], "create pods/exec, create roles.rbac.authorization.k8s.io"),
        ("e2e --target context", ["delete namespaces"], "delete namespaces"),
        (
            UP,
            ["get secrets", "get pods", "get pods/log", "delete pods"],
            "get secrets, get pods, get pods/log and 1 more",
        ),
    ],
)
def test_a_missing_right_is_named(refused: Run, command: str, denied: list[str], named: str) -> None:
    what = f"In the namespace events-platform of the context work you may not {named}."
    outcome = refused(f"{command} {DSN}", 67, what, denied=denied)
    first = re.split(",| and ", named)[0]
    assert outcome.errors[1] == f"  kubectl auth can-i {first} --namespace events-platform says no."


def test_the_right_to_list_nodes_is_named_and_not_needed(refused: Run) -> None:
    """Without it several nodes are assumed; the next check fails here."""
    outcome = refused(UP, 2, "The context target needs a PostgreSQL that pods can reach", denied=["list nodes"])
    assert (
        "… you may not list nodes (kubectl auth can-i list nodes says no), so there may be several:" in outcome.output
    )


CLASSES = json.dumps({"items": [{"metadata": {"name": "slow"}}, {"metadata": {"name": "fast", "annotations": {}}}]})


@pytest.mark.parametrize(
    ("option", "what"),
    [
        (" --storage-class quick", "The cluster has no storage class quick."),
        ("", "The cluster has no default storage class."),
    ],
)
def test_a_missing_storage_class(refused: Run, option: str, what: str) -> None:
    outcome = refused(f"{UP}{option}", 2, what, kubectl=KUBECTL | {"get storageclasses": CLASSES})
    assert outcome.errors[2].startswith("  Name one of slow, fast: --storage-class NAME;")


def test_with_logs_in_an_object_store_no_storage_class_is_needed(refused: Run) -> None:
    values = f"--storage-class quick --values {ROOT}/cluster/values/production.yaml"
    what = "The context target needs a PostgreSQL that pods can reach"
    refused(f"{UP} {values}", 2, what, kubectl=KUBECTL | {"get storageclasses": CLASSES})


def test_a_missing_postgresql(refused: Run) -> None:
    refused(UP, 2, "The context target needs a PostgreSQL that pods can reach")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_postgresql_that_pods_cannot_reach(refused: Run, host: str) -> None:
    what = f"--warehouse-dsn names {host}, which pods cannot reach."
    refused(f"{UP} --warehouse-dsn postgresql://user@{host}/postgres", 2, what)
