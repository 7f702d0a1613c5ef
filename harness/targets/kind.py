"""The kind target's cluster: one node as a container."""

import contextlib
import re
import sys
import time
from pathlib import Path
from string import Template
from typing import Any

from events.uri import shown
from harness.docker import engine, images
from harness.errors import (
    ClusterFailedError,
    CommandFailedError,
    DiskFullError,
    EngineMissingError,
    HarnessError,
    ImageMissingError,
    PortTakenError,
    UsageError,
)
from harness.kubernetes import chart
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import CLONE, ROOT
from harness.reporting.console import say
from harness.targets.docker_cluster import OnEngine
from harness.warehouse.ports import check_port, free_port

CONFIG = ROOT / "cluster" / "kind.yaml"
UI_NODE_PORT = "30080/tcp"  # values/kind.yaml
MADE = "/kind/made"  # in the node: kind came to its end. Its last steps let pods run; without them a node looks ready
KUBELET_ENDS = 3  # for the same reason: systemd starts it again at once
HALF_THERE_TIMEOUT_S = 60.0  # for a cluster that was there before to answer


def why_not() -> str:
    """Say why the kind target cannot be had here; nothing if it can."""
    try:
        engine.check_room()
        missing = [name for name in ("kind", "kubectl", "helm") if not tools.can_be_had(name)]
    except EngineMissingError:
        return "no Docker engine answers"
    except HarnessError as error:
        return f"it does not fit: {error.what.rstrip('.')}"
    if missing:
        return f"{missing[0]} is not installed and cannot be fetched"
    for name in ("node", "postgres", *images.needed_bases()):
        reference = pins.image(name)
        if not engine.has_image(reference) and not engine.can_be_pulled(reference):
            return f"the image {reference.partition('@')[0]} is not here and cannot be pulled"
    return "" if chart.can_be_had() else f"the chart cannot be had from {shown(chart.source())}"


class KindPlace(OnEngine):
    """See `harness.targets.kubernetes_target.Place`."""

    name = "kind"
    values = "kind.yaml"
    cluster = f"events-platform-{CLONE}"
    node = f"{cluster}-control-plane"
    tools = ("kind", "kubectl", "helm")

    def check(self, supervisor: Supervisor) -> None:
        """Check everything that can be checked before anything is made, and pull what is missing."""
        node, wanted = engine.inspect("container", self.node), self.settings.ui_port
        if wanted and not (node and published(node) == wanted):
            check_port(wanted, "--ui-port")
        if re.match(r"(tcp|ssh)://(?!localhost\b|127\.|\[::1\])", address := engine.address()):
            raise UsageError(
                f"The Docker engine is another machine's: {address}.",
                "kind gives the cluster's ports to that machine's loopback address, which is not reached from here.",
                "Run it there, or name an engine of this machine in DOCKER_HOST.",
            )
        super().check(supervisor)
        engine.pull(supervisor, pins.image("node"))

    def check_fits(self) -> None:
        """Raise UsageError if the cluster that is there has another port or node image than is asked for."""
        node, wanted = engine.inspect("container", self.node), self.settings.ui_port
        if node and wanted and (port := published(node)) != wanted:
            raise UsageError(
                f"Airflow's port is {port}, and cannot become {wanted} while the cluster is up.",
                "A port of a kind cluster is given to its node when it is made.",
                f"Make the cluster anew: nox -s cluster -- up --recreate --ui-port {wanted}",
            )
        super().check_fits()

    def made_of(self) -> dict[str, str]:
        """Return the image of each container that belongs to it."""
        return super().made_of() | {self.node: pins.image("node")}

    def prepare(self) -> None:
        """Make what is shared, and remove a cluster that is there and does not answer."""
        super().prepare()
        if engine.inspect("container", self.node):
            self._forget_kubeconfig()
            try:
                run("docker", "exec", self.node, "test", "-f", MADE)
                self.kind("export", "kubeconfig", "--name", self.cluster, "--kubeconfig", str(self.kubeconfig))
                self._wait_for_node(HALF_THERE_TIMEOUT_S)
            except (CommandFailedError, ClusterFailedError):
                say("… the cluster that is there does not answer, or was never finished; making it anew")
                self.delete_cluster()

    def create(self, supervisor: Supervisor) -> str:
        """Make the cluster, unless it is there, and wait until pods can be made; say which."""
        if engine.inspect("container", self.node):
            return f"{self.title} was there"
        try:
            self._create(supervisor)
        except CommandFailedError as error:
            self._check_port_was_free(error)
            self._check_kubelet_starts(error)
            say(f"… the cluster was not made ({error.why.removeprefix('Its output says: ')}); once more")
            self.delete_cluster()
            try:
                self._create(supervisor)
            except CommandFailedError as second:
                raise ClusterFailedError(
                    "kind could not make the cluster, twice.",
                    second.why,
                    f"Try by hand: kind create cluster --name {self.cluster}",
                ) from second
        self._wait_for_node(pins.deadline_s("cluster"))
        return f"{self.title} up"

    def _check_port_was_free(self, error: CommandFailedError) -> None:
        """Raise PortTakenError if kind failed because somebody took the wanted port; another free one may be tried."""
        if self.settings.ui_port and re.search(r"port is already allocated|address already in use", error.output):
            raise PortTakenError(
                f"Port {self.settings.ui_port} was taken while the cluster was made.",
                error.why,
                "Name another with --ui-port, or leave it out to get a free one.",
            ) from error

    def _check_kubelet_starts(self, error: CommandFailedError) -> None:
        """Raise ClusterFailedError if the node's kubelet ends at each start: kind waits for it, and sees nothing."""
        journal = ""
        with contextlib.suppress(CommandFailedError):  # there is no node
            argv = ("journalctl", "--unit", "kubelet", "--output", "cat", "--no-pager", "--lines", "1000")
            journal = run("docker", "exec", self.node, *argv)
        if said := why_kubelet_ends(journal):
            raise ClusterFailedError(
                f"The kubelet of {self.title} ends again and again.",
                f"It says: {said}",
                "Mend its configuration in cluster/kind.yaml, or name another node in PLATFORM_NODE_IMAGE.",
            ) from error

    def _create(self, supervisor: Supervisor) -> None:
        config = supervisor.directory / "kind.yaml"
        port = self.settings.ui_port or free_port()
        config.write_text(Template(CONFIG.read_text(encoding="utf-8")).substitute(UI_PORT=port))
        # What could not be made stays, for the diagnostics to tell why; `delete_cluster` removes it.
        options = ("--name", self.cluster, "--image", pins.image("node"), "--config", str(config), "--retain")
        argv = [str(tools.find("kind")), "create", "cluster", *options, "--kubeconfig", str(self.kubeconfig)]
        supervisor.command("kind", argv, timeout_s=pins.deadline_s("cluster"), env=self._env)
        run("docker", "exec", self.node, "touch", MADE)

    def _wait_for_node(self, timeout_s: float) -> None:
        """Wait until the node is ready and pods may be made: their default account comes last."""
        deadline = time.monotonic() + timeout_s
        kubectl = Kubectl(tools.find("kubectl"), "default", self.kubeconfig)
        while True:
            with contextlib.suppress(CommandFailedError):
                conditions = [c for node in kubectl.items("nodes") for c in node["status"]["conditions"]]
                is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
                if is_ready and kubectl.get("serviceaccount", "default"):
                    return
            if time.monotonic() > deadline:
                raise ClusterFailedError(
                    f"The node of {self.title} is not ready after {timeout_s:.0f} s.",
                    "The machine is most likely too busy, or the image does not fit this version of kind.",
                    f"See what the node says: docker logs {self.node}",
                )
            time.sleep(0.5)

    def bring(self, supervisor: Supervisor, image: images.Image) -> str:
        """Bring an image into the node, and return the name that pods use."""
        argv = [sys.executable, "-m", "harness.docker.image_stream", self.node, image.reference]
        try:
            supervisor.command("import", argv, timeout_s=pins.deadline_s("import"))
        except CommandFailedError as error:
            engine.check_disk()
            kind = DiskFullError if "no space left" in error.output.lower() else ImageMissingError
            raise kind(
                f"The image {image.reference} could not be brought into the node {self.node}.",
                error.why,
                "See what the node has room for: docker system df; then nox -s cluster -- up",
            ) from error
        return image.reference

    def export_cluster(self, folder: Path) -> None:
        """Save what kind knows of the cluster; it goes on when a part cannot be had, and then fails at the end."""
        try:
            self.kind("export", "logs", str(folder), "--name", self.cluster)
        except CommandFailedError:
            if not any(folder.rglob("*.log")):
                raise

    def address(self, supervisor: Supervisor | None = None) -> str:  # noqa: ARG002 - others need it
        """Return where Airflow's API is reached from here."""
        node = engine.inspect("container", self.node)
        return f"http://127.0.0.1:{published(node) if node else 0}"

    def delete_cluster(self) -> None:
        """Remove the cluster alone."""
        self._forget_kubeconfig()
        engine.settle(self.node)
        if engine.inspect("container", self.node):
            self.kind("delete", "cluster", "--name", self.cluster, "--kubeconfig", str(self.kubeconfig))
            self._remove_container(self.node)  # one that kind does not know for its own

    def _forget_kubeconfig(self) -> None:
        """Remove the kubeconfig: kind refuses to go on where one that was killed left half a file, or its lock."""
        self.kubeconfig.unlink(missing_ok=True)
        Path(f"{self.kubeconfig}.lock").unlink(missing_ok=True)

    def kind(self, *arguments: str) -> str:
        """Run kind, on this cluster's network."""
        return run(tools.find("kind"), *arguments, timeout_s=pins.deadline_s("delete"), env=self._env)

    @property
    def _env(self) -> dict[str, str]:
        # kind's own name for it. The network that it uses otherwise belongs to all clusters of the machine, and stays.
        return {"KIND_EXPERIMENTAL_DOCKER_NETWORK": self.cluster}


def why_kubelet_ends(journal: str) -> str:
    """Return what a kubelet's JOURNAL says that it ends of each time; nothing if it has not ended often."""
    # 1.20 ends with a line of the level "fatal"; newer ones with an error whose field says why.
    end = re.compile(r'^F\d{4} .*?\] (.+)|"(?:command failed|Failed to run kubelet)" err="(.+)"', re.MULTILINE)
    reasons = ["".join(found) for found in end.findall(journal)][-KUBELET_ENDS:]
    return reasons[0][:300] if len(reasons) == KUBELET_ENDS and len(set(reasons)) == 1 else ""


def published(node: dict[str, Any]) -> int:
    """Return the port of this machine that Airflow's NodePort is published on."""
    bindings = node["HostConfig"]["PortBindings"].get(UI_NODE_PORT) or [{"HostPort": "0"}]
    return int(bindings[0]["HostPort"])
