"""What a user gets wrong at `nox -s cluster` and `e2e --target kind`: three lines, a code of its own, nothing is left.

The harness runs from a clone of its own (links to this one's folders): a cluster is named for its clone's path, so that
one that is up here is neither seen nor taken down, and nobody waits for its lock.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.docker import engine
from harness.errors import EngineMissingError, TooSmallError
from harness.project import pins, tools
from harness.project.paths import ROOT
from harness.warehouse.server import Server
from tests import programs

NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere"}
KUBECTL = """\
import json, sys
said = json.loads({said!r})
line = " ".join(sys.argv[1:])
for part, answer in said.items():
    if part in line:
        print(answer)
        sys.exit(0)
sys.exit(f"kubectl was asked {{line}}")
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a clone of the repository, with programs that do nothing; afterwards nothing of it is in the engine."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("airflow", "cluster", "dbt", "requirements", "pyproject.toml"):
        (clone / name).symlink_to(ROOT / name)
    nothing = tmp_path / "nothing"
    nothing.write_text("#!/bin/sh\n")
    nothing.chmod(0o755)
    for name in ("KIND", "KUBECTL", "HELM", "MINIKUBE", "CHART"):
        monkeypatch.setenv(f"PLATFORM_{name}", str(nothing))
    yield clone
    digest = hashlib.sha256(str(clone).encode()).hexdigest()[:6]
    for kind in (("ps", "--all"), ("network", "ls")):
        with_name = ("docker", *kind, "--filter", f"name={digest}", "--format", "{{.ID}}")
        assert not shutil.which("docker") or subprocess.run(with_name, capture_output=True, check=False).stdout == b""


def harness(clone: Path, *arguments: str, **env: str) -> tuple[int, list[str], list[str]]:
    """Run `python -m harness` and return its exit code and the lines that it says on both streams."""
    argv = [sys.executable, "-m", "harness", *arguments]
    (clone.parent / "tmp").mkdir(exist_ok=True)
    mine = {name: value for name, value in os.environ.items() if name != "NOX_PID"}
    mine |= {"PYTHONPATH": f"{clone}:{clone}/airflow/include", "TMPDIR": str(clone.parent / "tmp")}
    done = subprocess.run(argv, capture_output=True, text=True, env=mine | env, cwd=clone, timeout=120, check=False)
    assert list((clone.parent / "tmp").iterdir()) == []
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stderr.splitlines(), done.stdout.splitlines()


def check(outcome: tuple[int, list[str], list[str]], code: int, what: str) -> None:
    exit_code, lines, _ = outcome
    assert exit_code == code, outcome
    assert len(lines) == 3, lines
    assert lines[0].startswith(f"✗ {what}"), lines
    assert all(line.startswith("  ") and line.strip() for line in lines[1:])


@pytest.mark.needs("docker")
@pytest.mark.parametrize(
    "arguments",
    [
        *[("cluster", action) for action in ("up", "status", "ui", "logs", "down")],
        *[("cluster", "up", "--target", target) for target in ("minikube", "context")],
        ("e2e", "--target", "kind"),
        ("e2e", "--target", "minikube", "--reuse"),
    ],
    ids=" ".join,
)
def test_no_engine(clone: Path, arguments: tuple[str, ...]) -> None:
    what = "The cluster needs a Docker engine, and none answers at unix:///nowhere."
    check(harness(clone, *arguments, **NO_ENGINE), 54, what)


@pytest.mark.parametrize("action", ["up", "down"])
def test_no_docker_command(clone: Path, action: str) -> None:
    check(harness(clone, "cluster", action, PATH="/nowhere"), 54, "The docker command is not installed.")


@pytest.mark.parametrize(
    "said",
    [
        "Cannot connect to the Docker daemon at unix:///nowhere. Is the docker daemon running?",
        "failed to connect to the docker API at unix:///nowhere; check if the path is correct and if the daemon is "
        "running: dial unix /nowhere: connect: no such file or directory",  # Docker 29: "no such" what?
    ],
)
def test_an_engine_that_does_not_answer_is_not_one_that_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    (tmp_path / "docker").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineMissingError):
        engine.inspect("container", "any")


@pytest.mark.needs("engine")
def test_what_the_engine_does_not_have_is_none() -> None:
    assert [engine.inspect(kind, "no-such-thing-here") for kind in ("container", "image", "network")] == [None] * 3


@pytest.mark.parametrize("arguments", [("cluster", "up"), ("e2e", "--target", "kind")], ids=" ".join)
@pytest.mark.needs("engine")
def test_a_chart_that_does_not_exist(clone: Path, arguments: tuple[str, ...]) -> None:
    none = "localhost:1/none:1"  # nothing is pulled before the chart is looked for
    env = {"PLATFORM_CHART": "/nowhere", "PLATFORM_NODE_IMAGE": none, "PLATFORM_POSTGRES_IMAGE": none}
    check(harness(clone, *arguments, **env), 58, "PLATFORM_CHART names /nowhere, which does not exist.")


@pytest.mark.parametrize("arguments", [("cluster", "up"), ("e2e", "--target", "kind")], ids=" ".join)
@pytest.mark.parametrize("name", ["NODE", "POSTGRES"])
@pytest.mark.needs("room", "image")
def test_an_image_that_cannot_be_pulled(clone: Path, arguments: tuple[str, ...], name: str) -> None:
    env = {f"PLATFORM_{other}_IMAGE": pins.image("postgres") for other in ("NODE", "POSTGRES")}
    env[f"PLATFORM_{name}_IMAGE"] = "localhost:1/none:1"
    check(
        harness(clone, *arguments, **env), 56, "The image localhost:1/none:1 is not in the engine and cannot be pulled."
    )


@pytest.mark.needs("engine")
def test_a_port_that_is_taken(clone: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        what = f"Port {port} cannot be used: Address already in use."
        check(harness(clone, "cluster", "up", "--ui-port", port), 41, what)


@pytest.mark.parametrize("target", ["kind", "minikube"])
@pytest.mark.needs("engine")
def test_what_is_not_up(clone: Path, target: str) -> None:
    name = "" if target == "kind" else "minikube-"
    for action in ("status", "ui", "logs"):
        outcome = harness(clone, "cluster", action, "--target", target)
        check(outcome, 62, f"The {target} cluster events-platform-{name}")
        assert outcome[1][0].endswith(" is not up.")
    exit_code, errors, [said] = harness(clone, "cluster", "down", "--target", target)
    assert (exit_code, errors) == (0, [])
    assert said.startswith("✓ nothing was up (")


def test_a_tool_that_is_no_program(clone: Path) -> None:
    outcome = harness(clone, "cluster", "up", "--target", "minikube", PLATFORM_MINIKUBE="/nowhere")
    check(outcome, 52, "PLATFORM_MINIKUBE names /nowhere, which is not a program.")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("cluster", "up", "--target", "mainframe"), "'mainframe' is no cluster: there are kind, minikube, context."),
        (("cluster", "down", "--target", "embedded"), "'embedded' is no cluster: there are kind, minikube, context."),
        (("cluster", "up", "--recrate"), "nox -s cluster does not know --recrate."),
        (("cluster", "status", "--recreate"), "nox -s cluster does not know --recreate."),
        (("cluster", "up", "logs"), "nox -s cluster does not know logs."),
        (("cluster", "restart"), "up|status|ui|logs|down: invalid choice: 'restart'"),
        (("cluster",), "the following arguments are required: up|status|ui|logs|down."),
        (("cluster", "up", "--ui-port", "http"), "--ui-port: invalid port value: 'http'."),
        (("cluster", "up", "--max-rejected", "2"), "--max-rejected: 2 is not a share from 0 to 1."),
    ],
)
def test_a_command_line_that_makes_no_sense(clone: Path, arguments: tuple[str, ...], what: str) -> None:
    check(harness(clone, *arguments, **NO_ENGINE), 2, what)


def test_an_events_file_that_does_not_exist(clone: Path) -> None:
    outcome = harness(clone, "cluster", "up", "--events", "missing.csv", **NO_ENGINE)
    check(outcome, 10, f"{clone}/missing.csv does not exist.")


# --- the context target: nothing is reached but a kubectl ---------------------------------------------------------


@pytest.mark.parametrize("action", ["up", "status", "ui", "logs", "down"])
@pytest.mark.needs("engine", "kubectl")
def test_a_kubeconfig_without_a_context(clone: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    monkeypatch.delenv("PLATFORM_KUBECTL")
    env = {"KUBECONFIG": "/nowhere", "PLATFORM_KUBECTL": str(tools.find("kubectl"))}
    outcome = harness(clone, "cluster", action, "--target", "context", **env)
    check(outcome, 62, "The kubeconfig has no current context.")


FREE = {"version": "{}", "get namespace events-platform": ""}  # a cluster that answers and has no such namespace


def context(
    clone: Path, *arguments: str, said: Mapping[str, str] = FREE, **env: str
) -> tuple[int, list[str], list[str]]:
    """Run `cluster up` on a cluster whose kubectl answers what is SAID, by a part of what it is asked."""
    always = {"config current-context": "work", "get namespace kube-system": '{"metadata": {"uid": "0f3a"}}'}
    kubectl = programs.write(clone.parent / "kubectl", KUBECTL.format(said=json.dumps(always | dict(said))))
    return harness(clone, "cluster", "up", "--target", "context", *arguments, PLATFORM_KUBECTL=str(kubectl), **env)


@pytest.mark.needs("engine")
def test_a_cluster_that_does_not_answer(clone: Path) -> None:
    check(context(clone, said={}), 62, "The cluster of the context work does not answer.")


@pytest.mark.needs("engine")
def test_a_namespace_that_is_somebody_elses(clone: Path) -> None:
    theirs = json.dumps({"metadata": {"name": "mine", "labels": {"app.kubernetes.io/managed-by": "Helm"}}})
    outcome = context(clone, "--namespace", "mine", said={"version": "{}", "get namespace mine": theirs})
    check(outcome, 2, "The namespace mine is there, and was not made by this clone of the project.")


@pytest.mark.needs("engine")
def test_a_context_without_a_postgresql(clone: Path) -> None:
    what = "The context target needs a PostgreSQL 18 that the cluster's pods reach, and none is named."
    check(context(clone), 2, what)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.needs("engine")
def test_a_postgresql_that_pods_do_not_reach(clone: Path, server: Server, host: str) -> None:
    dsn = f"postgresql://{server.user}@{host}:{server.port}/postgres"
    outcome = context(clone, "--warehouse-dsn", dsn, PGPASSWORD=server.password)
    check(outcome, 2, f"--warehouse-dsn names {host}, which pods do not reach.")


# --- the engine's room ----------------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def room(monkeypatch: pytest.MonkeyPatch, memory: int, free: int, root: Path) -> None:
    told: dict[str, Any] = {"MemTotal": memory, "DockerRootDir": str(root)}
    monkeypatch.setattr(engine, "info", lambda: told)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free * 2, free, free))
    engine.check_size()


def test_too_little_memory_or_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enough = engine.MIN_MEMORY_BYTES, engine.MIN_FREE_BYTES
    room(monkeypatch, *enough, tmp_path)
    room(monkeypatch, enough[0], 1, tmp_path / "another machine's")
    with pytest.raises(TooSmallError) as memory:
        room(monkeypatch, enough[0] - 1_000_000_000, enough[1], tmp_path)
    assert memory.value.what == "The Docker engine has 4.0 GB of memory; the cluster needs 5.0 GB."
    assert memory.value.exit_code == 55
    with pytest.raises(TooSmallError) as disk:
        room(monkeypatch, enough[0], enough[1] - 1_000_000_000, tmp_path)
    assert disk.value.what == f"The Docker engine's disk ({tmp_path}) has 5.0 GB free; the cluster needs 6.0 GB."
