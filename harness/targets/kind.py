"""The kind target's cluster: one node, a container."""

import contextlib
import re
import sys
import time
from pathlib import Path
from string import Template
from typing import Any

from feeds.uri import shown
from harness.docker import engine, images
from harness.errors import (
    ClusterFailedError,
    CommandFailedError,
    DiskFullError,
    EngineMissingError,
    HarnessError,
    ImageMissingError,
    NotUpError,
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
from harness.targets.docker_cluster import DockerCluster
from harness.warehouse.ports import check_port, free_port

CONFIG = ROOT / "cluster" / "kind.yaml"
UI_NODE_PORT = "30080/tcp"  # values/kind.yaml
COMPLETE = "/kind/made"  # a file in the node: kind ended well. A node looks ready before kind's last steps
KUBELET_FAILURES = 3  # with the same reason, one after the other; systemd restarts the kubelet at once
EXISTING_TIMEOUT_S = 60.0  # for an existing cluster to answer


def why_unavailable() -> str:
    """Return why the kind target cannot run on this machine; empty if it can."""
    try:
        engine.check_size()
        engine.check_rootless()
        missing = [name for name in ("kind", "kubectl", "helm") if not tools.is_available(name)]
    except EngineMissingError:
        return "no Docker engine answers"
    except HarnessError as error:
        return error.what.rstrip(".")
    if missing:
        return f"{missing[0]} is not installed and cannot be downloaded"
    for name in ("node", "postgres", *images.needed_bases()):
        reference = pins.image(name)
        if not engine.has_image(reference) and not engine.is_pullable(reference):
            return f"the image {reference.partition('@')[0]} is not in the engine and cannot be pulled"
    return "" if chart.is_available() else f"the chart is not available from {shown(chart.source())}"


class KindCluster(DockerCluster):
    """A kind cluster with one node; see `harness.targets.cluster_provider`."""

    name = "kind"
    values = "kind.yaml"
    cluster = f"events-platform-{CLONE}"
    node = f"{cluster}-control-plane"
    tools = ("kind", "kubectl", "helm")

    def check_prerequisites(self, supervisor: Supervisor) -> None:
        """Check everything that can be checked before anything is created, and pull missing images."""
        node, wanted = engine.inspect("container", self.node), self.options.ui_port
        if not (node and published_port(node) == wanted):
            check_port(wanted)
        if re.match(r"(tcp|ssh)://(?!localhost\b|127\.|\[::1\])", address := engine.address()):
            raise UsageError(
                f"The Docker engine runs on another machine: {address}.",
                "kind publishes the cluster's ports on that machine's loopback address, which this one cannot reach.",
                "Run it on that machine, or set DOCKER_HOST to an engine on this one.",
            )
        engine.check_rootless()
        super().check_prerequisites(supervisor)
        engine.pull(supervisor, pins.image("node"))

    def platform(self) -> str:
        """Return the platform of the images: that of the node's image, where it is not the engine's own."""
        node = engine.inspect("image", pins.image("node"))
        found = f"{node['Os']}/{node['Architecture']}" if node else ""
        return self.options.platform or ("" if found == engine.platform() else found)

    def check_compatible(self) -> None:
        """Raise UsageError if an existing cluster has another port or image than the options and pins name."""
        node, wanted = engine.inspect("container", self.node), self.options.ui_port
        if node and wanted and (port := published_port(node)) != wanted:
            raise UsageError(
                f"Airflow's port is {port}, and cannot become {wanted} while the cluster is up.",
                "A kind cluster's ports are fixed when its node is created.",
                f"Create the cluster again: nox -s cluster -- up --recreate --ui-port {wanted}",
            )
        super().check_compatible()

    def container_images(self) -> dict[str, str]:
        """Return the image of each of its containers, by the container's name."""
        return super().container_images() | {self.node: pins.image("node")}

    def prepare(self) -> None:
        """Create the network, and delete an existing cluster that does not answer."""
        super().prepare()
        if engine.inspect("container", self.node):
            self._remove_kubeconfig()
            try:
                run("docker", "exec", self.node, "test", "-f", COMPLETE)
                self.kind("export", "kubeconfig", "--name", self.cluster, "--kubeconfig", str(self.kubeconfig))
                self._wait_for_node(EXISTING_TIMEOUT_S)
            except (CommandFailedError, ClusterFailedError):
                say("… the existing cluster does not answer, or is incomplete; creating it again")
                self.delete_cluster()

    def create(self, supervisor: Supervisor) -> str:
        """Create the cluster, unless it exists, and wait until pods can be created; return which, for the terminal."""
        if engine.inspect("container", self.node):
            return f"{self.title} reused"
        for is_last in (False, True):
            try:
                self._create(supervisor)
                break
            except CommandFailedError as error:
                self._check_port_was_free(error)
                self._check_kubelet_starts(error)
                if is_last:
                    program = tools.typed(tools.find("kind"))
                    by_hand = f"Try by hand: {program} create cluster --name {self.cluster}"
                    raise ClusterFailedError("kind failed twice to create the cluster.", error.why, by_hand) from error
                say(f"… kind could not create the cluster; trying once more. {error.why}")
                self.delete_cluster()
        self._wait_for_node(pins.deadline_s("cluster"))
        return f"{self.title} up"

    def _check_port_was_free(self, error: CommandFailedError) -> None:
        """Raise PortTakenError if ERROR, kind's, says that --ui-port was taken; without it another port is tried."""
        if self.options.ui_port and re.search(engine.PORT_TAKEN, error.output):
            raise PortTakenError(
                f"Port {self.options.ui_port} was taken by another program while the cluster was created.",
                error.why,
                "Name another with --ui-port, or leave it out to get a free one.",
            ) from error

    def _check_kubelet_starts(self, error: CommandFailedError) -> None:
        """Raise ClusterFailedError if the node's kubelet fails at each start, which kind does not report as ERROR."""
        journal = ""
        with contextlib.suppress(CommandFailedError):  # no node was created
            argv = ("journalctl", "--unit", "kubelet", "--output", "cat", "--no-pager", "--lines", "1000")
            journal = run("docker", "exec", self.node, *argv)
        if reason := why_kubelet_fails(journal):
            raise ClusterFailedError(
                f"The kubelet of {self.title} fails at each start.",
                f"Its log says: {reason}",
                "Fix its configuration in cluster/kind.yaml, or set PLATFORM_NODE_IMAGE to another image.",
            ) from error

    def _create(self, supervisor: Supervisor) -> None:
        config = supervisor.directory / "kind.yaml"
        port = self.options.ui_port or free_port()
        config.write_text(Template(CONFIG.read_text(encoding="utf-8")).substitute(UI_PORT=port))
        # --retain: the diagnostics need a cluster that failed; `delete_cluster` deletes it.
        options = ("--name", self.cluster, "--image", pins.image("node"), "--config", str(config), "--retain")
        argv = [str(tools.find("kind")), "create", "cluster", *options, "--kubeconfig", str(self.kubeconfig)]
        supervisor.command("kind", argv, timeout_s=pins.deadline_s("cluster"), env=self._env)
        run("docker", "exec", self.node, "touch", COMPLETE)

    def _wait_for_node(self, timeout_s: float) -> None:
        """Wait until the node is ready and pods can be created: the default service account comes last."""
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
                    "The machine is most likely too busy, or this version of kind does not support the node's image.",
                    f"Read the node's log: docker logs {self.node}",
                )
            time.sleep(0.5)

    def load_image(self, supervisor: Supervisor, image: images.Image | images.PulledImage) -> str:
        """Load an image into the node, and return the name that pods use."""
        argv = [sys.executable, "-m", "harness.docker.image_stream", self.node, image.reference]
        try:
            supervisor.command("import", argv, timeout_s=pins.deadline_s("import"))
        except CommandFailedError as error:
            engine.check_disk()
            kind = DiskFullError if "no space left" in error.output.lower() else ImageMissingError
            raise kind(
                f"The image {image.reference} could not be loaded into the node {self.node}.",
                error.why,
                "See what takes the engine's disk space: docker system df; then nox -s cluster -- up",
            ) from error
        return image.reference

    def export_cluster(self, folder: Path) -> None:
        """Save the logs that kind exports: it saves all that it can get, and fails if one is missing."""
        try:
            self.kind("export", "logs", str(folder), "--name", self.cluster)
        except CommandFailedError:
            if not any(folder.rglob("*.log")):
                raise

    def airflow_address(self, supervisor: Supervisor | None = None) -> str:  # noqa: ARG002 - the port is published
        """Return the address of Airflow's API on this machine."""
        node = engine.inspect("container", self.node)
        if not node or not (port := published_port(node)):
            raise NotUpError(
                f"The {self.title} publishes no port for Airflow.",
                "Its node was deleted, or was not created by this project.",
                f"Create it again: {self.command('up --recreate')}",
            )
        return f"http://127.0.0.1:{port}"

    @property
    def forward_command(self) -> str:
        """Empty: Airflow's port is published."""
        return ""

    def delete_cluster(self) -> None:
        """Delete the cluster, and nothing beside it."""
        self._remove_kubeconfig()
        engine.wait_until_created_or_absent(self.node)
        if engine.inspect("container", self.node):
            self.kind("delete", "cluster", "--name", self.cluster, "--kubeconfig", str(self.kubeconfig))
            self._remove_container(self.node)  # where kind does not recognize it as its own

    def _remove_kubeconfig(self) -> None:
        """Remove the kubeconfig and its lock: kind refuses the incomplete file and the lock of a killed kind."""
        self.kubeconfig.unlink(missing_ok=True)
        Path(f"{self.kubeconfig}.lock").unlink(missing_ok=True)

    def kind(self, *arguments: str) -> str:
        """Run kind, on this cluster's network."""
        return run(tools.find("kind"), *arguments, timeout_s=pins.deadline_s("delete"), env=self._env)

    @property
    def _env(self) -> dict[str, str]:
        # By default all clusters of a machine share a network that kind never removes.
        return {"KIND_EXPERIMENTAL_DOCKER_NETWORK": self.cluster}


def why_kubelet_fails(journal: str) -> str:
    """Return the reason for the last failures in a kubelet's JOURNAL; empty if they are few or have several."""
    # 1.20 logs a line of the level "fatal"; newer versions log an error with the reason in a field.
    failure = re.compile(r'^F\d{4} .*?\] (.+)|"(?:command failed|Failed to run kubelet)" err="(.+)"', re.MULTILINE)
    reasons = ["".join(found) for found in failure.findall(journal)][-KUBELET_FAILURES:]
    return reasons[0][:300] if len(reasons) == KUBELET_FAILURES and len(set(reasons)) == 1 else ""


def published_port(node: dict[str, Any]) -> int | None:
    """Return the port on this machine where Airflow's NodePort is published, or None if it is not."""
    bindings = (node["HostConfig"]["PortBindings"] or {}).get(UI_NODE_PORT)
    return int(bindings[0]["HostPort"]) if bindings else None
