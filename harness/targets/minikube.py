"""The minikube target's cluster: a profile of its own with the docker driver, so that its node is a container too.

Written against the command line as minikube documents it (1.38 and 1.39: https://minikube.sigs.k8s.io/docs/commands/).
"""

import ipaddress
import re
import threading
from pathlib import Path

from harness.docker import engine, images
from harness.errors import ClusterFailedError, CommandFailedError, ToolMissingError
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import CLONE
from harness.targets import Settings
from harness.targets import port_forward as tunnel
from harness.targets.docker_cluster import OnEngine
from harness.warehouse.ports import check_port

MEMORY = "no-limit"  # as for kind's node; minikube refuses a number that is above the engine's
CPUS = "2"
START_MARGIN_S = 120  # minikube has the deadline for each thing that it waits for; its images come before


class MinikubePlace(OnEngine):
    """See `harness.targets.kubernetes_target.Place`."""

    name = "minikube"
    values = "minikube.yaml"
    cluster = f"events-platform-minikube-{CLONE}"
    node = cluster  # the docker driver names a profile's container for it
    tools = ("kubectl", "helm")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._is_made = threading.Event()

    def check(self, supervisor: Supervisor) -> None:
        """Check everything that can be checked before anything is made."""
        program()
        if self.settings.ui_port:
            check_port(self.settings.ui_port, "--ui-port")
        super().check(supervisor)

    def prepare(self) -> None:
        """Make what the cluster and PostgreSQL share: their network.

        In a network that is there minikube asks for the address after the gateway's. Docker gives a wanted address only
        where the subnet was named; and PostgreSQL, which starts at the same time, must not get that one.
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
        """Make the cluster, or start the one that is there: minikube does either."""
        was_there = engine.inspect("container", self.node)
        driver = ("--driver", "docker", "--network", self.cluster, "--cpus", CPUS, "--memory", MEMORY)
        waiting = ("--wait", "all", "--wait-timeout", f"{pins.deadline_s('cluster'):.0f}s")
        quiet = ("--embed-certs", "--interactive=false")
        argv = [*self._argv("start"), *driver, "--kubernetes-version", kubernetes_version(), *waiting, *quiet]
        try:
            supervisor.command("minikube", argv, timeout_s=pins.deadline_s("cluster") + START_MARGIN_S, env=self._env)
        except CommandFailedError as error:
            raise ClusterFailedError(
                "minikube could not start the cluster.", error.why, f"See more: minikube logs --profile {self.cluster}"
            ) from error
        self._is_made.set()
        return f"{self.title} was there" if was_there else f"{self.title} up"

    def bring(self, supervisor: Supervisor, image: images.Image) -> str:
        """Bring an image out of the engine into the node, once that runs, and return the name that pods use.

        minikube ends with exit code 0 where it loads nothing, because the node does not run yet or the load failed.

        Raises:
            ClusterFailedError: the node does not have it afterwards.
        """
        self._is_made.wait(pins.deadline_s("cluster") + START_MARGIN_S)
        if self._has(image):
            return image.reference
        argv = [*self._argv("image", "load"), "--daemon=true", image.reference]
        said = supervisor.command("import", argv, timeout_s=pins.deadline_s("import"), env=self._env)
        if not self._has(image):
            raise ClusterFailedError(
                f"minikube did not load the image {image.reference}.",
                f"Its output says: {(said.strip() or 'nothing').splitlines()[-1]}",
                f"Try by hand: minikube image load --daemon=true {image.reference} --profile {self.cluster}",
            )
        return image.reference

    def _has(self, image: images.Image) -> bool:
        return f"docker.io/{image.reference}" in self._minikube("image", "ls").split()

    def export_cluster(self, folder: Path) -> None:
        """Save what minikube knows of the cluster."""
        self._minikube("logs", "--file", str(folder / "minikube.log"))

    def address(self, supervisor: Supervisor | None = None) -> str:
        """Return where Airflow's API is reached: with the docker driver, a node's ports are not, on every system."""
        return tunnel.open_to_airflow(self.kubectl(), supervisor, self.settings.ui_port)

    @property
    def tunnel(self) -> str:
        """The command that opens the way to Airflow by hand."""
        return tunnel.command(self.kubectl(), self.settings.ui_port or tunnel.PORT)

    def delete_cluster(self) -> None:
        """Remove the profile, if there is one."""
        if tools.installed("minikube"):
            self._minikube("delete")

    def _minikube(self, *arguments: str) -> str:
        return run(*self._argv(*arguments), timeout_s=pins.deadline_s("delete"), env=self._env)

    def _argv(self, *arguments: str) -> list[str]:
        return [str(program()), *arguments, "--profile", self.cluster]

    @property
    def _env(self) -> dict[str, str]:
        # It writes to the first file that is named here, and nowhere else.
        return {"KUBECONFIG": str(self.kubeconfig), "MINIKUBE_IN_STYLE": "false", "NO_COLOR": "1"}


def program() -> Path:
    """Return minikube.

    Raises:
        ToolMissingError: it is not installed; the project pins none.
    """
    if path := tools.installed("minikube"):
        return path
    raise ToolMissingError(
        "minikube is not installed.",
        "The project fetches kind, kubectl and helm, but not minikube.",
        "Install it (https://minikube.sigs.k8s.io/docs/start), name it in PLATFORM_MINIKUBE, or use kind.",
    )


def kubernetes_version() -> str:
    """Return the version of Kubernetes that the pinned node image of kind has, `v1.35.8` say; else minikube's own."""
    found = re.search(r":(v\d+\.\d+\.\d+)", pins.image("node"))
    return found[1] if found else "stable"
