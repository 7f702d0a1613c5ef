"""What kind and minikube share: a cluster in the Docker engine, with PostgreSQL as a container beside it.

A clone has one cluster of each kind, named for the clone's path; outside the engine there is only its kubeconfig. Both
containers are in a network of their own, where pods reach PostgreSQL by its address.
"""

import contextlib
import re
import secrets
import sys
import time
from pathlib import Path

from testcontainers.core.docker_client import DockerClient

from harness.docker import engine, images
from harness.errors import AlreadyUpError, CommandFailedError, PortTakenError, PostgresError, UsageError
from harness.kubernetes.deployment import NAMESPACE, Database, manifest
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import BUILD
from harness.reporting.console import say
from harness.targets.cluster_provider import ClusterProvider
from harness.targets.options import RunOptions
from harness.warehouse.server import Server, forget_libpq_settings, wait_until_ready

RESTART_TIMEOUT_S = 30.0  # for an existing PostgreSQL
LOGS = "/var/lib/airflow-logs"  # on the node: manifests/logs-on-node.yaml


class DockerCluster(ClusterProvider):
    """The common part of the two cluster providers; see `harness.targets.cluster_provider`.

    Attributes:
        cluster: the name of the cluster, and of its network.
        node: the name of the node's container.
    """

    gets_prometheus = True
    cluster: str
    node: str
    tools: tuple[str, ...]

    def __init__(self, options: RunOptions, build: Path = BUILD) -> None:
        self.options = options
        self.postgres = f"{self.cluster}-postgres"
        self.kubeconfig = build / "cluster" / self.name / "kubeconfig"

    @property
    def title(self) -> str:
        """The cluster's name for people."""
        return f"{self.name} cluster {self.cluster}"

    def command(self, action: str) -> str:
        """Return the `nox -s cluster` command that does ACTION here."""
        return f"nox -s cluster -- {action}" + ("" if self.name == "kind" else f" --target {self.name}")

    def kubectl(self) -> Kubectl:
        """Return kubectl for the namespace."""
        return Kubectl(tools.find("kubectl"), NAMESPACE, self.kubeconfig)

    def exists(self) -> bool:
        """Return whether one of its containers exists, running or not."""
        return any(engine.inspect("container", name) for name in (self.node, self.postgres))

    def check_prerequisites(self, supervisor: Supervisor) -> None:
        """Check all prerequisites, and pull missing images; raise HarnessError if one is not met."""
        engine.check_size(is_up=bool(engine.inspect("container", self.node)))
        for name in self.tools:
            say(f"… {tools.choice(name)}")
        if images_by_tag := pins.without_digest():
            say(f"… {', '.join(images_by_tag)}: by tag, not by the pinned digest")
        engine.pull(supervisor, pins.image("postgres"))
        for name in self.metrics_images:
            engine.pull(supervisor, pins.image(name))
        for base in images.needed_bases():  # pulled while the cluster is created
            engine.check_image(supervisor, pins.image(base))

    def check_absent(self) -> None:
        """Raise AlreadyUpError if the cluster exists."""
        if self.exists():
            raise AlreadyUpError(
                f"The {self.title} of this clone is up already.",
                "It was brought up by nox -s cluster, kept by --keep, or left by a run that was killed.",
                f"Use it: nox -s e2e -- --target {self.name} --reuse; or delete it: {self.command('down')}",
            )

    def check_compatible(self) -> None:
        """Raise UsageError if an existing container was made from another image: a container's image cannot change."""
        for name, wanted in self.container_images().items():
            container = engine.inspect("container", name)
            if container and (found := container["Config"]["Image"]) != wanted:
                raise UsageError(
                    f"The existing container {name} was made from {found}, not from {wanted}.",
                    "The pin was changed since, in cluster/versions.toml or by its variable.",
                    f"Create it again: {self.command('up --recreate')}",
                )

    def container_images(self) -> dict[str, str]:
        """Return the image of each of its containers, by the container's name."""
        return {self.postgres: pins.image("postgres")}

    def check_dependencies(self, *, database: bool = True) -> None:
        """Raise HarnessError if the engine's disk is full, or, with DATABASE, if PostgreSQL does not run."""
        engine.check_disk()
        if database:
            self.running_database()

    def prepare(self) -> None:
        """Create the network, and start an existing node that was stopped.

        The node always comes first in the network: it gets its first address, which it keeps through restarts. A
        control plane does not survive another address.
        """
        forget_libpq_settings()
        node = engine.inspect("container", self.node)
        if node and not node["State"]["Running"]:
            say(f"… starting the stopped node of {self.title}")
            if engine.inspect("container", self.postgres):
                run("docker", "stop", self.postgres)
            with contextlib.suppress(CommandFailedError):  # then it is created again
                run("docker", "start", self.node)
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if not engine.inspect("network", self.cluster):
            run("docker", "network", "create", "--label", f"events-platform={self.cluster}", self.cluster)

    def start_database(self, supervisor: Supervisor) -> Database:
        """Start PostgreSQL as soon as the node's container exists, or reuse an existing container."""
        deadline = time.monotonic() + pins.deadline_s("cluster")
        while not engine.inspect("container", self.node) and time.monotonic() < deadline:
            time.sleep(0.5)
        if engine.inspect("container", self.postgres) and not self._restart_database():
            say("… the existing PostgreSQL does not start; creating an empty one in its place")
            self._remove_postgres()
        if not engine.inspect("container", self.postgres):
            names = ("--name", self.postgres, "--network", self.cluster)
            argv = [sys.executable, "-m", "harness.warehouse.container", *names]
            env = {"POSTGRES_PASSWORD": secrets.token_urlsafe(24)}
            supervisor.command("postgres", argv, timeout_s=pins.deadline_s("postgres"), env=env)
        database = self.running_database()
        wait_until_ready(database.server, pins.deadline_s("postgres"))
        return database

    def _restart_database(self) -> bool:
        """Start the existing PostgreSQL, in its network; return whether it answers a moment later.

        Raises PortTakenError if another program has its port: its rows are not damaged.
        """
        with contextlib.suppress(CommandFailedError, PostgresError):  # its network is gone, its data are damaged
            container = engine.inspect("container", self.postgres)
            if container and self.cluster not in container["NetworkSettings"]["Networks"]:
                run("docker", "stop", self.postgres)  # its port is published only at a start
                run("docker", "network", "connect", self.cluster, self.postgres)
            try:
                run("docker", "start", self.postgres)
            except CommandFailedError as error:
                if not re.search(engine.PORT_TAKEN, error.output):
                    raise
                raise PortTakenError(
                    f"The port of {self.title}'s PostgreSQL, {self.postgres}, is in use.",
                    error.why,
                    f"End the program that has it, then: {self.command('up')}",
                ) from error
            wait_until_ready(self.running_database().server, RESTART_TIMEOUT_S)
            return True
        return False

    def running_database(self) -> Database:
        """Return the PostgreSQL that runs, or raise PostgresError."""
        container = engine.inspect("container", self.postgres)
        if not container or not container["State"]["Running"]:
            raise PostgresError(
                f"The PostgreSQL of {self.title}, the container {self.postgres}, does not run.",
                "Somebody stopped it, or the engine was restarted.",
                f"Start it again: {self.command('up')}",
            )
        ports, networks = container["NetworkSettings"]["Ports"] or {}, container["NetworkSettings"]["Networks"]
        if self.cluster not in networks or not ports.get("5432/tcp"):
            raise PostgresError(
                f"The PostgreSQL of {self.title}, the container {self.postgres}, is not in its network.",
                f"Somebody disconnected it from the network {self.cluster}.",
                f"Connect it again: {self.command('up')}",
            )
        env = dict(line.split("=", 1) for line in container["Config"]["Env"])
        port = int(ports["5432/tcp"][0]["HostPort"])
        host = DockerClient().host().replace("localhost", "127.0.0.1")
        origin = f"the container image {container['Config']['Image']}"
        server = Server(origin, host, port, "postgres", env["POSTGRES_PASSWORD"])
        return Database(server, networks[self.cluster]["IPAddress"], 5432)

    def provide_image(self, supervisor: Supervisor, name: str) -> str:
        """Pull the pinned image NAME and load it into the cluster; return the name that pods use."""
        with images.pulled(supervisor, name) as image:
            return self.load_image(supervisor, image)

    def create_log_volume(self, kubectl: Kubectl) -> None:
        """Create the volumes for the tasks' logs and dbt's results: directories on the node that pods may write to."""
        run("docker", "exec", self.node, "mkdir", "--parents", "--mode", "777", LOGS, f"{LOGS}/dbt")
        for name in ("airflow-logs", "dbt-results"):
            volume = kubectl.get("persistentvolume", name)
            if volume and volume.get("status", {}).get("phase") in ("Released", "Failed"):  # its claim was deleted
                kubectl.run("delete", "persistentvolume", name)
        kubectl.apply(manifest("logs-on-node"))
        kubectl.for_dbt.apply(manifest("results-on-node"))

    def save_task_logs(self, folder: Path) -> None:
        """Copy the tasks' logs into FOLDER."""
        run("docker", "cp", f"{self.node}:{LOGS}/.", str(folder), timeout_s=120)

    def export(self, folder: Path) -> None:
        """Save both containers' logs and the cluster's own into FOLDER."""
        with contextlib.ExitStack() as steps:  # run from the last to the first, each even if another fails
            steps.callback(self.export_cluster, folder)
            for name in (self.postgres, self.node):
                if engine.inspect("container", name):
                    steps.callback(self._save_container_log, name, folder / f"{name}.log")

    def _save_container_log(self, name: str, path: Path) -> None:
        path.write_text(run("docker", "logs", "--tail", "20000", name, both_streams=True))

    def export_cluster(self, folder: Path) -> None:
        """Save the logs of the cluster itself into FOLDER."""
        raise NotImplementedError

    def delete(self) -> None:
        """Delete everything that was created, whatever state it is in."""
        with contextlib.ExitStack() as steps:  # run from the last to the first, each even if another fails
            steps.callback(self.kubeconfig.unlink, missing_ok=True)
            steps.callback(self._remove_network)
            steps.callback(self._remove_postgres)
            steps.callback(self.delete_cluster)

    def delete_cluster(self) -> None:
        """Delete the cluster, and nothing beside it."""
        raise NotImplementedError

    def _remove_postgres(self) -> None:
        engine.wait_until_created_or_absent(self.postgres)
        self._remove_container(self.postgres)

    def _remove_container(self, name: str) -> None:
        if engine.inspect("container", name):
            argv = ("docker", "container", "rm", "--force", "--volumes", name)
            run(*argv, timeout_s=pins.deadline_s("delete"))

    def _remove_network(self) -> None:
        if engine.inspect("network", self.cluster):
            run("docker", "network", "rm", self.cluster)
