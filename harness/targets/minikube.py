"""The minikube target's cluster: a profile of its own with the docker driver, so that its node is a container too.

Written from the documentation of minikube 1.38 and 1.39: https://minikube.sigs.k8s.io/docs/commands/
"""

import ipaddress
import os
import re
import threading
from pathlib import Path

from harness.docker import engine, images
from harness.errors import ClusterFailedError, CommandFailedError, ToolMissingError, UsageError
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import BUILD, CLONE
from harness.targets.docker_cluster import DockerCluster
from harness.targets.options import RunOptions
from harness.warehouse.ports import check_port

MEMORY = "no-limit"  # as for kind's node; minikube refuses a number that is above the engine's
CPUS = "2"
START_MARGIN_S = 120  # minikube applies the deadline to each thing that it waits for, after it has pulled its images


class MinikubeCluster(DockerCluster):
    """A minikube profile. Airflow is reached by a port forward: not every system reaches the driver's node ports."""

    name = "minikube"
    values = "minikube.yaml"
    cluster = f"events-platform-minikube-{CLONE}"
    node = cluster  # the docker driver gives a profile's container its name
    tools = ("kubectl", "helm")

    def __init__(self, options: RunOptions, build: Path = BUILD) -> None:
        super().__init__(options, build)
        self._is_created = threading.Event()

    def check_prerequisites(self, supervisor: Supervisor) -> None:
        """Check everything that can be checked before anything is created."""
        program()
        engine.info()
        if os.geteuid() == 0:
            raise UsageError(
                "minikube's docker driver refuses to run as root.",
                "minikube writes its files for the user who runs it, and its node is a privileged container.",
                "Run it as a user of the group docker, or use kind: nox -s e2e -- --target kind",
            )
        check_port(self.options.ui_port)
        super().check_prerequisites(supervisor)

    def prepare(self) -> None:
        """Create the network, with the address that minikube asks for kept free.

        In an existing network minikube asks for the address after the gateway's. Docker assigns an address on request
        only where the subnet was specified; and PostgreSQL, which starts at the same time, must not get that one.
        """
        super().prepare()
        [config, *_] = (engine.inspect("network", self.cluster) or {})["IPAM"]["Config"]
        if config.get("IPRange"):
            return
        _, upper_half = ipaddress.ip_network(config["Subnet"]).subnets()
        run("docker", "network", "rm", self.cluster)
        addresses = ("--subnet", config["Subnet"], "--gateway", config["Gateway"], "--ip-range", str(upper_half))
        run("docker", "network", "create", "--label", f"events-platform={self.cluster}", *addresses, self.cluster)

    def create(self, supervisor: Supervisor) -> str:
        """Create the cluster, or start an existing one (minikube's start does either); return which."""
        exists = engine.inspect("container", self.node)
        driver = ["--driver", "docker", "--network", self.cluster, "--cpus", CPUS, "--memory", MEMORY]
        waiting = ("--wait", "all", "--wait-timeout", f"{pins.deadline_s('cluster'):.0f}s")
        quiet = ("--embed-certs", "--interactive=false")
        if engine.is_rootless():
            driver += ["--rootless", "--container-runtime", "containerd"]  # the only one that runs without root
        argv = [*self._argv("start"), *driver, "--kubernetes-version", kubernetes_version(), *waiting, *quiet]
        try:
            supervisor.command("minikube", argv, timeout_s=pins.deadline_s("cluster") + START_MARGIN_S, env=self._env)
        except CommandFailedError as error:
            raise ClusterFailedError(
                "minikube could not start the cluster.",
                error.why,
                f"See more: {tools.typed(program())} logs --profile {self.cluster}",
            ) from error
        self._is_created.set()
        return f"{self.title} reused" if exists else f"{self.title} up"

    def load_image(self, supervisor: Supervisor, image: images.Image | images.PulledImage) -> str:
        """Load an image from the engine into the node, once that runs, and return the name that pods use.

        The image goes through a file of the run: from the engine itself minikube reads it into memory, and keeps a copy
        in its own cache. minikube ends with exit code 0 even where it loads nothing: the node does not run yet, or the
        load failed. So ClusterFailedError is raised where the node does not have the image afterwards.
        """
        self._is_created.wait(pins.deadline_s("cluster") + START_MARGIN_S)
        if self._has(image):
            return image.reference
        archive = supervisor.directory / f"{image.name}.tar"
        timeout_s = pins.deadline_s("import")
        try:
            supervisor.command("save", ["docker", "save", "--output", archive, image.reference], timeout_s=timeout_s)
            argv = [*self._argv("image", "load"), str(archive)]
            output = supervisor.command("import", argv, timeout_s=timeout_s, env=self._env)
        finally:
            archive.unlink(missing_ok=True)
        if not self._has(image):
            by_hand = f"{tools.typed(program())} image load --daemon=true {image.reference} --profile {self.cluster}"
            raise ClusterFailedError(
                f"minikube did not load the image {image.reference}.",
                f"Its output ends with: {(output.strip() or 'nothing').splitlines()[-1]}",
                f"Try by hand: {by_hand}",
            )
        return image.reference

    def _has(self, image: images.Image | images.PulledImage) -> bool:
        return f"docker.io/{image.reference}" in self._minikube("image", "ls").split()

    def export_cluster(self, folder: Path) -> None:
        """Save minikube's log of the cluster."""
        self._minikube("logs", "--file", str(folder / "minikube.log"))

    def delete_cluster(self) -> None:
        """Delete the profile, if there is one; where minikube was uninstalled meanwhile, its container and volume."""
        if tools.installed("minikube"):
            self._minikube("delete")
        elif engine.inspect("container", self.node):
            self._remove_container(self.node)
            run("docker", "volume", "rm", "--force", self.cluster)

    def _minikube(self, *arguments: str) -> str:
        return run(*self._argv(*arguments), timeout_s=pins.deadline_s("delete"), env=self._env)

    def _argv(self, *arguments: str) -> list[str]:
        return [str(program()), *arguments, "--profile", self.cluster]

    @property
    def _env(self) -> dict[str, str]:
        # minikube writes to the first file of KUBECONFIG, and to no other.
        return {"KUBECONFIG": str(self.kubeconfig), "MINIKUBE_IN_STYLE": "false", "NO_COLOR": "1"}


def program() -> Path:
    """Return minikube's path, or raise ToolMissingError: the project pins none."""
    if path := tools.installed("minikube"):
        return path
    raise ToolMissingError(
        "minikube is not installed.",
        "The project downloads kind, kubectl and helm, but not minikube.",
        "Install it (https://minikube.sigs.k8s.io/docs/start), set PLATFORM_MINIKUBE to its path, or use kind.",
    )


def kubernetes_version() -> str:
    """Return the Kubernetes version of the pinned kind node, `v1.35.8`; `stable` where its image names none."""
    found = re.search(r":(v\d+\.\d+\.\d+)", pins.image("node"))
    return found[1] if found else "stable"
