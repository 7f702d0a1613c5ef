"""minikube is called as documented: a program stands in for it that takes the documented commands and flags alone.

`minikube_cli.json` has them from the documentation of minikube 1.38.1: each flag with its value's type and short form.
"""

import ipaddress
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.docker import engine, images
from harness.errors import ClusterFailedError, CommandFailedError, HarnessError, ToolMissingError
from harness.processes.background import in_background
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.targets import minikube
from harness.targets.minikube import MinikubeCluster
from harness.targets.options import RunOptions
from tests import programs

INTERFACE = Path(__file__).with_name("minikube_cli.json")
CLUSTER = MinikubeCluster.cluster

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
for name, flag in (interface["inherited"] | interface["commands"][command]["flags"]).items():
    kind, _, short = flag.partition(", ")
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
        kubeconfig = {{"kind": "Config", "contexts": [{{"name": profile}}], "current-context": current}}
        config.write_text(json.dumps(kubeconfig))
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
        status = {{"Name": profile, "Host": "Running", "Kubelet": "Running", "APIServer": "Running",
                "Kubeconfig": "Configured", "Worker": False}}
        print(json.dumps(status) if given.get("--output") == "json" else profile)
    case "image load":
        if not state.exists():
            refuse("X Exiting due to MK_USAGE: loading profile: cluster does not exist")
        if (here / "load-fails").exists():
            print("! Failed to load cached images")  # and exit code 0: "Live pushes are not considered a failure"
        else:
            with open(state / "images", "a") as there:  # an archive here is the name of its image
                there.writelines(f"docker.io/{{pathlib.Path(path).read_text()}}\\n" for path in arguments)
    case "image ls":
        if not state.exists():
            refuse("X Exiting due to MK_USAGE: loading profile: cluster does not exist")
        print((state / "images").read_text())
    case "logs":
        if not state.exists():
            sys.exit(85)
        pathlib.Path(given["--file"]).write_text("==> Docker <==\\n")
"""


DOCKER = """\
#!/bin/sh
cd 'HERE'
case "$1 $2" in
*" inspect") cat "$1 $3" 2>/dev/null || { echo "Error: No such $1" >&2; exit 1; } ;;
"network rm") rm "network $3"; echo "$@" >> docker-calls ;;
"network create")
    echo "$@" >> docker-calls
    subnet=172.20.0.0/16 gateway=172.20.0.1 range=
    while [ $# -gt 1 ]; do
        case $1 in
        --subnet) subnet=$2 ;;
        --gateway) gateway=$2 ;;
        --ip-range) range=', "IPRange": "'$2'"' ;;
        esac
        shift
    done
    echo '[{"IPAM": {"Config": [{"Subnet": "'$subnet'", "Gateway": "'$gateway'"'"$range"'}]}}]' > "network $1"
    ;;
"container rm") shift 4; rm "container $1" ;;
"container create") echo "Error: No such image: $5" >&2; exit 1 ;;
"volume rm") echo "$@" >> docker-calls ;;
"info --format") echo '{"ServerVersion": "29", "MemTotal": 0, "SecurityOptions": ['"$(cat rootless 2>/dev/null)"']}' ;;
"save --output") printf %s "$4" > "$3" ;;
*) exit 1 ;;
esac
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the folder of a machine with a docker command and a minikube; they keep their state there."""
    programs.write(tmp_path / "minikube", MINIKUBE.format(here=str(tmp_path), interface=str(INTERFACE)))
    (tmp_path / "docker").write_text(DOCKER.replace("HERE", str(tmp_path)))
    (tmp_path / "docker").chmod(0o755)
    for name in ("cat", "rm"):  # for the docker command
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLATFORM_MINIKUBE", str(tmp_path / "minikube"))
    monkeypatch.setenv("KUBECONFIG", "/the/user's/own")
    monkeypatch.setenv("PLATFORM_NODE_IMAGE", "kindest/node:v1.35.8@sha256:07b2")
    return tmp_path


@pytest.fixture
def cluster(machine: Path) -> MinikubeCluster:
    cluster = MinikubeCluster(RunOptions(), build=machine / "build")
    assert cluster.kubeconfig == machine / "build/cluster/minikube/kubeconfig"
    return cluster


@pytest.fixture
def supervisor(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(tempfile, "tempdir", str(machine))
    with Supervisor.launch() as supervisor:
        yield supervisor


@pytest.fixture
def image() -> images.Image:
    return images.Image("dbt", "dbt/Dockerfile", "python:3", {}, {})


def calls(machine: Path) -> list[list[str]]:
    """Return minikube's calls so far, without the profile; all are of this clone's profile and kubeconfig."""
    found = [json.loads(line) for line in (machine / "calls").read_text().splitlines()]
    assert {kubeconfig for _, kubeconfig in found} == {str(machine / "build/cluster/minikube/kubeconfig")}
    without_profile = []
    for argv, _ in found:
        at = argv.index("--profile")
        assert argv[at + 1] == CLUSTER
        without_profile.append(argv[:at] + argv[at + 2 :])
    return without_profile


def ask(machine: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"UNRECORDED": "1"}
    return subprocess.run([machine / "minikube", *arguments], capture_output=True, text=True, env=env, check=False)


START = [
    *("start", "--driver", "docker", "--network", CLUSTER, "--cpus", "2", "--memory", "no-limit"),
    *("--kubernetes-version", "v1.35.8", "--wait", "all", "--wait-timeout", f"{pins.deadline_s('cluster'):.0f}s"),
    *("--embed-certs", "--interactive=false"),
]


def test_a_cluster_is_created_reused_and_deleted(
    cluster: MinikubeCluster, machine: Path, supervisor: Supervisor, image: images.Image
) -> None:
    cluster.prepare()
    (machine / f"container {cluster.postgres}").write_text('[{"Name": "postgres"}]')  # it starts at the same time
    assert cluster.create(supervisor) == f"minikube cluster {CLUSTER} up"
    node = machine / f"container {cluster.node}"
    node.write_text('[{"State": {"Running": true}}]')
    # kubectl gets this file alone: without a current context in it, it would ask localhost:8080
    assert json.loads(cluster.kubeconfig.read_text())["current-context"] == CLUSTER

    assert cluster.load_image(supervisor, image) == image.reference
    assert cluster.load_image(supervisor, image) == image.reference  # the node has it now
    cluster.export_cluster(machine)
    assert (machine / "minikube.log").read_text() == "==> Docker <==\n"
    assert cluster.create(supervisor) == f"minikube cluster {CLUSTER} reused"
    status = ask(machine, "status", "--output", "json", "--profile", CLUSTER)
    assert (status.returncode, json.loads(status.stdout)["Host"]) == (0, "Running")

    cluster.delete()
    assert ask(machine, "status", "--profile", CLUSTER).returncode == 85
    assert calls(machine) == [
        START,
        ["image", "ls"],
        ["image", "load", str(supervisor.directory / "dbt.tar")],
        ["image", "ls"],
        ["image", "ls"],
        ["logs", "--file", str(machine / "minikube.log")],
        START,
        ["delete"],
    ]
    node.unlink()  # the real minikube deletes it
    assert not [*machine.glob("container *"), *machine.glob("network *")]
    assert not cluster.kubeconfig.exists()


def test_the_network_keeps_minikubes_address_free(cluster: MinikubeCluster, machine: Path) -> None:
    cluster.prepare()
    cluster.prepare()  # changes nothing
    create = f"network create --label events-platform={CLUSTER}"
    assert (machine / "docker-calls").read_text().splitlines() == [
        f"{create} {CLUSTER}",
        f"network rm {CLUSTER}",
        f"{create} --subnet 172.20.0.0/16 --gateway 172.20.0.1 --ip-range 172.20.128.0/17 {CLUSTER}",
    ]


@pytest.mark.needs("engine")
def test_an_engine_takes_the_networks_ranges(tmp_path: Path) -> None:
    cluster = MinikubeCluster(RunOptions(), build=tmp_path)
    cluster.cluster = f"test-{uuid.uuid4().hex[:8]}"
    try:
        cluster.prepare()
        network = engine.inspect("network", cluster.cluster)
        assert network is not None
        [config] = network["IPAM"]["Config"]
        address = ipaddress.ip_address(config["Gateway"]) + 1
        assert address in ipaddress.ip_network(config["Subnet"])
        assert address not in ipaddress.ip_network(config["IPRange"])
        assert network["Labels"] == {"events-platform": cluster.cluster}
    finally:
        run("docker", "network", "rm", cluster.cluster)


def test_an_image_is_loaded_once_the_node_runs(
    cluster: MinikubeCluster, machine: Path, supervisor: Supervisor, image: images.Image
) -> None:
    cluster.prepare()
    loading = in_background(lambda: cluster.load_image(supervisor, image))
    time.sleep(0.2)
    assert not loading.done()
    assert not (machine / "calls").exists()
    cluster.create(supervisor)
    assert loading.result() == image.reference
    archive = supervisor.directory / "dbt.tar"
    assert calls(machine) == [START, ["image", "ls"], ["image", "load", str(archive)], ["image", "ls"]]
    assert not archive.exists()


def test_an_image_that_is_missing_after_the_load_is_an_error(
    cluster: MinikubeCluster, machine: Path, supervisor: Supervisor, image: images.Image
) -> None:
    cluster.prepare()
    cluster.create(supervisor)
    (machine / "load-fails").touch()
    with pytest.raises(ClusterFailedError) as caught:
        cluster.load_image(supervisor, image)
    assert caught.value.what == f"minikube did not load the image {image.reference}."
    assert caught.value.why == "Its output ends with: ! Failed to load cached images"


@pytest.mark.parametrize("user", [0, 1000])
def test_root_is_refused_before_anything_starts(
    cluster: MinikubeCluster, machine: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(HarnessError) as caught:
        cluster.check_prerequisites(supervisor)
    assert (
        caught.value.what
        == {
            0: "minikube's docker driver refuses to run as root.",
            1000: "The Docker engine has 0.0 GB of memory; the cluster needs 5.0 GB.",  # the next check
        }[user]
    )
    assert not (machine / "calls").exists()


def test_a_rootless_engine_gets_containerd(cluster: MinikubeCluster, machine: Path, supervisor: Supervisor) -> None:
    (machine / "rootless").write_text('"name=seccomp,profile=builtin", "name=rootless"')
    cluster.prepare()
    cluster.create(supervisor)
    rootless = ["--rootless", "--container-runtime", "containerd"]
    [start] = calls(machine)
    at = start.index("--rootless")
    assert start == [*START[:at], *rootless, *START[at:]]


def test_a_failed_start_is_explained_by_minikube(
    cluster: MinikubeCluster, machine: Path, supervisor: Supervisor
) -> None:
    cluster.prepare()
    (machine / "start-fails").touch()
    with pytest.raises(ClusterFailedError) as caught:
        cluster.create(supervisor)
    assert caught.value.what == "minikube could not start the cluster."
    assert caught.value.why == "Its output says: X Exiting due to GUEST_PROVISION: error provisioning guest"
    assert caught.value.next_step == f"See more: minikube logs --profile {CLUSTER}"


def test_a_missing_cluster_can_be_deleted(cluster: MinikubeCluster, machine: Path) -> None:
    cluster.delete()
    assert calls(machine) == [["delete"]]
    assert not (machine / "docker-calls").exists()


def test_without_minikube_nothing_is_created_and_everything_deleted(
    cluster: MinikubeCluster, machine: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLATFORM_MINIKUBE")
    (machine / "minikube").unlink()
    (machine / f"container {CLUSTER}").write_text('[{"Name": "it"}]')
    cluster.delete()
    assert not (machine / f"container {CLUSTER}").exists()
    assert (machine / "docker-calls").read_text() == f"volume rm --force {CLUSTER}\n"
    for attempt in (cluster.create, cluster.check_prerequisites):
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
def test_kubernetes_has_the_version_of_kinds_node(monkeypatch: pytest.MonkeyPatch, node: str, version: str) -> None:
    monkeypatch.setenv("PLATFORM_NODE_IMAGE", node)
    assert minikube.kubernetes_version() == version


def test_the_pinned_node_names_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLATFORM_NODE_IMAGE", raising=False)
    assert minikube.kubernetes_version() != "stable"


@pytest.mark.parametrize(
    ("arguments", "error"),
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
def test_the_program_refuses_what_is_not_documented(machine: Path, arguments: list[str], error: str) -> None:
    refused = ask(machine, *arguments)
    assert (refused.returncode, refused.stderr) == (14, error + "\n")


def test_an_undocumented_flag_of_ours_would_fail(cluster: MinikubeCluster) -> None:
    with pytest.raises(CommandFailedError, match=r"exit code 14\.\nIts output says: Error: unknown flag: --fast"):
        cluster._minikube("delete", "--fast")
