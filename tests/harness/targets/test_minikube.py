"""minikube is called as it documents itself: a program that takes just the documented commands and flags is driven.

`minikube_cli.json` is what the pages of minikube 1.38.1 say: for each flag its value's type, and its short form.
"""

import ipaddress
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.docker import engine, images
from harness.errors import ClusterFailedError, CommandFailedError, ToolMissingError
from harness.processes import command as commands
from harness.processes.background import InBackground
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.targets import Settings, minikube
from harness.targets import docker_cluster as on_engine
from harness.targets.minikube import MinikubePlace
from tests import programs

INTERFACE = Path(__file__).with_name("minikube_cli.json")
CLUSTER = MinikubePlace.cluster

MINIKUBE = """\
import json, os, pathlib, re, sys

here = pathlib.Path({here!r})
interface = json.loads(pathlib.Path({interface!r}).read_text())
if "UNRECORDED" not in os.environ:
    with open(here / "calls", "a") as calls:
        calls.write(json.dumps([sys.argv[1:], os.environ.get("KUBECONFIG")]) + "\\n")

def refuse(why):
    print(why, file=sys.stderr)
    sys.exit(14)  # ExProgramUsage

def value_fits(kind, value):
    patterns = {{"bool": "1|t|T|TRUE|true|True|0|f|F|FALSE|false|False",
                "duration": r"(\\d+(\\.\\d+)?(ns|us|ms|s|m|h))+", "int": r"-?\\d+", "uint": r"\\d+", "uint16": r"\\d+"}}
    return re.fullmatch(patterns.get(kind, ".*"), value, re.DOTALL)

words = sys.argv[1:]
command = next((c for c in interface["commands"] if words[: len(c.split())] == c.split()), None)
if not command:
    refuse(f'Error: unknown command "{{" ".join(words[:1])}}" for "minikube"')
words = words[len(command.split()):]
flags = {{}}
for name, told in (interface["inherited"] | interface["commands"][command]["flags"]).items():
    kind, _, short = told.partition(", ")
    flags |= {{name: (name, kind), short or name: (name, kind)}}
given, arguments = {{"--profile": "minikube"}}, []
while words:
    word = words.pop(0)
    if not word.startswith("-") or word == "-":
        arguments.append(word)
        continue
    name, is_assigned, value = word.partition("=")
    if name not in flags:
        refuse(f"Error: unknown flag: {{name}}")
    name, kind = flags[name]
    if not is_assigned and kind == "bool":
        value = "true"
    elif not is_assigned:
        if not words:
            refuse(f"Error: flag needs an argument: {{name}}")
        value = words.pop(0)
    if not value_fits(kind, value):
        refuse(f'Error: invalid argument "{{value}}" for "{{name}}" flag')
    given[name] = value
if bool(arguments) != bool(interface["commands"][command]["arguments"]):
    refuse(f"Usage: minikube {{command}} {{interface['commands'][command]['arguments']}}")

profile = given["--profile"]
state = here / "profiles" / profile
config = pathlib.Path(os.environ.get("KUBECONFIG", "/nowhere").split(os.pathsep)[0])
match command:
    case "start":
        if (here / "start-fails").exists():
            print("* Creating docker container ...", flush=True)
            print("X Exiting due to GUEST_PROVISION: error provisioning guest", file=sys.stderr)
            sys.exit(80)
        state.mkdir(parents=True, exist_ok=True)
        (state / "images").touch()
        current = "" if given.get("--keep-context") == "true" else profile
        told = {{"kind": "Config", "contexts": [{{"name": profile}}], "current-context": current}}
        config.write_text(json.dumps(told))
    case "delete":
        if state.exists():
            (state / "images").unlink()
            state.rmdir()
        else:
            print(f'"{{profile}}" profile does not exist, trying anyways.', file=sys.stderr)
    case "status":
        if not state.exists():
            print(f'Profile "{{profile}}" not found. Run "minikube profile list" to view all profiles.')
            sys.exit(85)  # ExGuestNotFound
        told = {{"Name": profile, "Host": "Running", "Kubelet": "Running", "APIServer": "Running",
                "Kubeconfig": "Configured", "Worker": False}}
        print(json.dumps(told) if given.get("--output") == "json" else profile)
    case "image load":
        if not state.exists():
            refuse("X Exiting due to MK_USAGE: loading profile: cluster does not exist")
        if (here / "load-fails").exists():
            print("! Failed to load cached images")  # and exit code 0: "Live pushes are not considered a failure"
        else:
            with open(state / "images", "a") as there:
                there.writelines(f"docker.io/{{image}}\\n" for image in arguments)
    case "image ls":
        if not state.exists():
            refuse("X Exiting due to MK_USAGE: loading profile: cluster does not exist")
        print((state / "images").read_text())
    case "logs":
        if not state.exists():
            sys.exit(85)
        pathlib.Path(given["--file"]).write_text("==> Docker <==\\n")
"""


class Docker:
    """The engine's containers and networks, as far as they are looked at, and the commands that change them."""

    def __init__(self) -> None:
        self.there: dict[tuple[str, str], dict[str, Any]] = {}
        self.commands: list[list[str]] = []

    def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.there.get((kind, name))

    def run(self, *argv: str | Path, **options: Any) -> str:
        if argv[0] != "docker":
            return commands.run(*argv, **options)
        words = [str(word) for word in argv]
        self.commands.append(words)
        _, kind, verb, *_, name = words
        if verb == "rm":
            del self.there[kind, name]
        else:
            told = dict(zip(words[3:-1:2], words[4:-1:2], strict=True))
            subnet, gateway = told.get("--subnet", "172.20.0.0/16"), told.get("--gateway", "172.20.0.1")
            config = {"Subnet": subnet, "Gateway": gateway}
            config |= {"IPRange": told["--ip-range"]} if "--ip-range" in told else {}
            self.there[kind, name] = {"IPAM": {"Config": [config]}}
        return ""


@pytest.fixture(autouse=True)
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    docker = Docker()
    monkeypatch.setattr(engine, "inspect", docker.inspect)
    monkeypatch.setattr(on_engine, "run", docker.run)
    monkeypatch.setattr(minikube, "run", docker.run)
    return docker


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Install the program that takes what is documented; give the folder that it keeps its state in."""
    programs.write(tmp_path / "minikube", MINIKUBE.format(here=str(tmp_path), interface=str(INTERFACE)))
    monkeypatch.setenv("PLATFORM_MINIKUBE", str(tmp_path / "minikube"))
    monkeypatch.setenv("KUBECONFIG", "/the/user's/own")
    monkeypatch.setenv("PLATFORM_NODE_IMAGE", "kindest/node:v1.35.8@sha256:07b2")
    return tmp_path


@pytest.fixture
def place(program: Path, monkeypatch: pytest.MonkeyPatch) -> MinikubePlace:
    monkeypatch.setattr(on_engine, "BUILD", program / "build")
    place = MinikubePlace(Settings("events.csv", 0.01))
    assert place.kubeconfig == program / "build/cluster/minikube/kubeconfig"
    return place


@pytest.fixture
def supervisor(program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setenv("TMPDIR", str(program))
    monkeypatch.setattr("tempfile.tempdir", None)
    with Supervisor.launch() as supervisor:
        yield supervisor


@pytest.fixture
def image() -> images.Image:
    return images.Image("dbt", "dbt/Dockerfile", "python:3", {}, {})


def calls(program: Path) -> list[list[str]]:
    """Return what minikube was asked so far; always with the private kubeconfig, and of our profile."""
    made = [json.loads(line) for line in (program / "calls").read_text().splitlines()]
    assert {kubeconfig for _, kubeconfig in made} == {str(program / "build/cluster/minikube/kubeconfig")}
    profiles = [argv.index("--profile") for argv, _ in made]
    assert all(argv[at + 1] == CLUSTER for (argv, _), at in zip(made, profiles, strict=True))
    return [argv[:at] + argv[at + 2 :] for (argv, _), at in zip(made, profiles, strict=True)]


def ask(program: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"UNRECORDED": "1"}
    return subprocess.run([program / "minikube", *arguments], capture_output=True, text=True, env=env, check=False)


LOAD = ["image", "load", "--daemon=true"]
START = [
    *("start", "--driver", "docker", "--network", CLUSTER, "--cpus", "2", "--memory", "no-limit"),
    *("--kubernetes-version", "v1.35.8", "--wait", "all", "--wait-timeout", f"{pins.deadline_s('cluster'):.0f}s"),
    *("--embed-certs", "--interactive=false"),
]


def test_from_nothing_to_nothing(
    place: MinikubePlace, program: Path, supervisor: Supervisor, docker: Docker, image: images.Image
) -> None:
    place.prepare()
    docker.there["container", place.postgres] = {
        "Name": place.postgres
    }  # it starts at the same time, and is no cluster
    assert place.create(supervisor) == f"minikube cluster {CLUSTER} up"
    docker.there["container", place.node] = {"Name": place.node}
    # kubectl is told of the file alone: without a current context in it, it would ask localhost:8080
    assert json.loads(place.kubeconfig.read_text())["current-context"] == CLUSTER

    assert place.bring(supervisor, image) == image.reference
    assert place.bring(supervisor, image) == image.reference  # it is there now
    place.export_cluster(program)
    assert (program / "minikube.log").read_text() == "==> Docker <==\n"
    assert place.create(supervisor) == f"minikube cluster {CLUSTER} was there"
    status = ask(program, "status", "--output", "json", "--profile", CLUSTER)
    assert (status.returncode, json.loads(status.stdout)["Host"]) == (0, "Running")

    place.delete()
    assert ask(program, "status", "--profile", CLUSTER).returncode == 85
    assert calls(program) == [
        START,
        ["image", "ls"],
        [*LOAD, image.reference],
        ["image", "ls"],
        ["image", "ls"],
        ["logs", "--file", str(program / "minikube.log")],
        START,
        ["delete"],
    ]
    assert list(docker.there) == [("container", place.node)]  # which the real one removes
    assert not place.kubeconfig.exists()


def test_the_network_leaves_minikube_its_address(place: MinikubePlace, docker: Docker) -> None:
    place.prepare()
    place.prepare()  # which changes nothing
    label = ["docker", "network", "create", "--label", f"events-platform={CLUSTER}"]
    subnet = ["--subnet", "172.20.0.0/16", "--gateway", "172.20.0.1", "--ip-range", "172.20.128.0/17"]
    assert docker.commands == [
        [*label, CLUSTER],
        ["docker", "network", "rm", CLUSTER],
        [*label, *subnet, CLUSTER],
    ]


@pytest.mark.needs("engine")
def test_an_engine_gives_a_container_that_address(place: MinikubePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    place.cluster = f"test-{uuid.uuid4().hex[:8]}"
    try:
        place.prepare()
        told = engine.inspect("network", place.cluster)
        assert told is not None
        [config] = told["IPAM"]["Config"]
        wanted = ipaddress.ip_address(config["Gateway"]) + 1
        assert wanted in ipaddress.ip_network(config["Subnet"])
        assert wanted not in ipaddress.ip_network(config["IPRange"])
        assert told["Labels"] == {"events-platform": place.cluster}
    finally:
        commands.run("docker", "network", "rm", place.cluster)


def test_an_image_is_not_brought_before_the_node_runs(
    place: MinikubePlace, program: Path, supervisor: Supervisor, image: images.Image
) -> None:
    place.prepare()
    bringing = InBackground(lambda: place.bring(supervisor, image))
    time.sleep(0.2)
    assert not bringing.has_ended
    assert not (program / "calls").exists()
    place.create(supervisor)
    assert bringing.result() == image.reference
    assert calls(program) == [START, ["image", "ls"], [*LOAD, image.reference], ["image", "ls"]]


def test_an_image_that_minikube_does_not_load_is_an_error_whatever_it_says(
    place: MinikubePlace, program: Path, supervisor: Supervisor, image: images.Image
) -> None:
    place.prepare()
    place.create(supervisor)
    (program / "load-fails").touch()
    with pytest.raises(ClusterFailedError) as caught:
        place.bring(supervisor, image)
    assert caught.value.what == f"minikube did not load the image {image.reference}."
    assert caught.value.why == "Its output says: ! Failed to load cached images"


def test_a_start_that_fails_is_explained_by_minikube(
    place: MinikubePlace, program: Path, supervisor: Supervisor
) -> None:
    place.prepare()
    (program / "start-fails").touch()
    with pytest.raises(ClusterFailedError) as caught:
        place.create(supervisor)
    assert caught.value.what == "minikube could not start the cluster."
    assert caught.value.why == "Its output says: X Exiting due to GUEST_PROVISION: error provisioning guest"
    assert caught.value.next_step == f"See more: minikube logs --profile {CLUSTER}"


def test_what_is_not_there_is_deleted_all_the_same(place: MinikubePlace, program: Path, docker: Docker) -> None:
    place.delete()
    assert calls(program) == [["delete"]]
    assert docker.commands == []


def test_without_minikube_nothing_is_made_and_everything_deleted(
    place: MinikubePlace, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLATFORM_MINIKUBE")
    monkeypatch.setenv("PATH", "/nowhere")
    place.delete()
    for attempt in (place.create, place.check):
        with pytest.raises(ToolMissingError) as caught:
            attempt(supervisor)
        assert caught.value.what == "minikube is not installed."
        assert caught.value.exit_code == 52


@pytest.mark.parametrize(
    ("node", "version"),
    [
        ("kindest/node:v1.35.8@sha256:07b2", "v1.35.8"),
        ("mirror.example.test:5000/kindest/node:v1.34.0", "v1.34.0"),
        ("kindest/node@sha256:07b2", "stable"),
        ("my/node:latest", "stable"),
    ],
)
def test_the_version_of_kubernetes_is_that_of_kinds_node(
    monkeypatch: pytest.MonkeyPatch, node: str, version: str
) -> None:
    monkeypatch.setenv("PLATFORM_NODE_IMAGE", node)
    assert minikube.kubernetes_version() == version


def test_the_pinned_node_names_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLATFORM_NODE_IMAGE", raising=False)
    assert minikube.kubernetes_version() != "stable"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start", "--netwrk", "x"], "Error: unknown flag: --netwrk"),
        (["start", "--daemon=true"], "Error: unknown flag: --daemon"),  # another command's
        (["start", "--wait-timeout", "300"], 'Error: invalid argument "300" for "--wait-timeout" flag'),
        (["start", "--embed-certs=perhaps"], 'Error: invalid argument "perhaps" for "--embed-certs" flag'),
        (["start", "--profile"], "Error: flag needs an argument: --profile"),
        (["image", "load"], "Usage: minikube image load IMAGE | ARCHIVE | -"),
        (["delete", "profile"], "Usage: minikube delete "),
        (["stat"], 'Error: unknown command "stat" for "minikube"'),
    ],
)
def test_the_program_refuses_what_is_not_documented(program: Path, arguments: list[str], says: str) -> None:
    refused = ask(program, *arguments)
    assert (refused.returncode, refused.stderr) == (14, says + "\n")


def test_an_undocumented_flag_of_ours_would_fail(place: MinikubePlace) -> None:
    with pytest.raises(CommandFailedError, match=r"exit code 14\.\nIts output says: Error: unknown flag: --fast"):
        place._minikube("delete", "--fast")
