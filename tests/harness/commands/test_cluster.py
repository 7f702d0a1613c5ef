"""What `nox -s cluster` and `nox -s e2e -- --target kind` refuse, each with an exit code of its own.

Programs stand in for docker and kubectl, so a cluster of this clone that is up is not touched.
"""

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from harness.targets import kubernetes_target
from tests import programs
from tests.harness.commands.conftest import Session

Run = Callable[..., None]
# An engine with every image; an error names what it does not have.
DOCKER = {"image inspect": "[{}]"}
CURRENT_CONTEXT = {"config current-context": "work"}
# A cluster that answers and does not have the namespace.
KUBECTL = CURRENT_CONTEXT | {
    "version": '{"serverVersion": {"gitVersion": "v1.35.0"}}',
    "get namespace kube-system": '{"metadata": {"uid": "0f3a"}}',
    "get namespace events-platform": "",
}


@pytest.fixture
def refused(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a function that runs a command and checks how it is refused.

    DOCKER and KUBECTL are the answers of the two programs, DOCKER is None for no engine; everything else exists.
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
        **env: str,
    ) -> None:
        if docker is None:
            programs.write_docker_without_engine(tmp_path / "docker")
        else:
            programs.write_docker(tmp_path / "docker", docker)
        programs.write_answers(tmp_path / "kubectl", kubectl, "error: the answer is missing")
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        session(*command.split()).is_error(exit_code, what)

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


def test_a_cluster_that_does_not_answer(refused: Run) -> None:
    refused(UP, 62, "The cluster of the context work does not answer.", kubectl=CURRENT_CONTEXT)


@pytest.mark.parametrize("name", ["mine", "mine-dbt"])
def test_a_namespace_that_the_clone_did_not_create(refused: Run, name: str) -> None:
    theirs = json.dumps({"metadata": {"name": "mine", "labels": {"app.kubernetes.io/managed-by": "Helm"}}})
    what = f"The namespace {name} exists, and this clone of the project did not create it."
    refused(
        f"{UP} --namespace mine",
        2,
        what,
        kubectl=KUBECTL | {f"get namespace {name} ": theirs, "get namespace mine": ""},
    )


def test_a_missing_postgresql(refused: Run) -> None:
    refused(UP, 2, "The context target needs a PostgreSQL 18 that the cluster's pods can reach")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_postgresql_that_pods_cannot_reach(refused: Run, host: str) -> None:
    what = f"--warehouse-dsn names {host}, which pods cannot reach."
    refused(f"{UP} --warehouse-dsn postgresql://user@{host}/postgres", 2, what)
