"""Which target a run gets, and the reason that is printed."""

from pathlib import Path

import pytest

from harness.targets.choice import choose
from tests import programs

# What the kind target needs of the engine: all images, by a part of what docker is asked.
IMAGES = {f"image inspect {name}": "[{}]" for name in ("node:1", "postgres:1", "events-platform/")}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of programs of a machine that has everything that the kind target needs."""
    programs.write_docker(tmp_path / "docker", IMAGES)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path / "cache"))
    for name in ("KIND", "KUBECTL", "HELM", "CHART"):
        monkeypatch.setenv(f"PLATFORM_{name}", str(programs.write_answers(tmp_path / f"a-{name}", {})))
    for name in ("NODE", "POSTGRES"):
        monkeypatch.setenv(f"PLATFORM_{name}_IMAGE", f"{name.lower()}:1@sha256:0")
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_auto_is_kind_where_kind_can_run() -> None:
    target, reason = choose("auto")
    assert target.name == "kind"
    assert reason == "chosen by auto: a Docker engine answers, and all images are available"


NO_ENGINE = {"info --format json": "{}"}
SMALL = {"info --format json": '{"ServerVersion": "29", "MemTotal": 1000000000, "DockerRootDir": "/no/such/disk"}'}
NO_NODE = {name: answer for name, answer in IMAGES.items() if "node" not in name}


@pytest.mark.parametrize(
    ("docker", "env", "reason"),
    [
        (NO_ENGINE, {}, "no Docker engine answers"),
        (SMALL, {}, "The Docker engine has 1.0 GB of memory; the cluster needs 5.0 GB"),
        (NO_NODE, {}, "the image node:1 is not in the engine and cannot be pulled"),
        (
            IMAGES,
            {"PLATFORM_HELM": "", "PLATFORM_HELM_URL": "http://127.0.0.1:9"},
            "helm is not installed and cannot be downloaded",
        ),
        (IMAGES, {"PLATFORM_CHART": "/no/chart.tgz"}, "the chart is not available from /no/chart.tgz"),
    ],
)
def test_auto_is_embedded_elsewhere(
    machine: Path, monkeypatch: pytest.MonkeyPatch, docker: dict[str, str], env: dict[str, str], reason: str
) -> None:
    programs.write_docker(machine / "docker", docker)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    target, found = choose("auto")
    assert (target.name, found) == ("embedded", f"chosen by auto: {reason}")


@pytest.mark.parametrize("name", ["embedded", "kind", "minikube", "context"])
def test_a_named_target_is_chosen(name: str) -> None:
    target, reason = choose(name)
    assert (target.name, reason) == (name, "from --target")
