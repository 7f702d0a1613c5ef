"""What kind and minikube share: a cluster in the Docker engine, and PostgreSQL as a container beside it.

There is one cluster of each sort per clone, named for the clone's path; nothing of it is outside the engine but its
kubeconfig. Both containers are on a network of their own, so that pods reach PostgreSQL by its address.
"""

import contextlib
import secrets
import sys
import time
from pathlib import Path

from testcontainers.core.docker_client import DockerClient

from harness.docker import engine, image_cache, images
from harness.errors import AlreadyUpError, CommandFailedError, PostgresError, UsageError
from harness.kubernetes import deployment as release
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import BUILD
from harness.reporting.console import say
from harness.targets import Settings
from harness.warehouse.server import Server, forget_libpq_settings, wait_until_ready

RESTART_TIMEOUT_S = 30.0  # for a PostgreSQL that was there before
LOGS = "/var/lib/airflow-logs"  # on the node: manifests/logs-on-node.yaml


class OnEngine:
    """The part of a `harness.targets.kubernetes_target.Place` that is the same for both.

    Attributes:
        name: the target's name.
        values: the file in `cluster/values` that says what it differs in.
        cluster: the cluster's own name, and its network's.
        node: the node's container.
        tools: the programs that it needs.
    """

    name: str
    values: str
    cluster: str
    node: str
    tools: tuple[str, ...]

    @property
    def tunnel(self) -> str:
        """Nothing: Airflow's port is published."""
        return ""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.postgres = f"{self.cluster}-postgres"
        self.kubeconfig = BUILD / "cluster" / self.name / "kubeconfig"

    @property
    def title(self) -> str:
        """The cluster's name, for people."""
        return f"{self.name} cluster {self.cluster}"

    def command(self, action: str) -> str:
        """Return the command of `nox -s cluster` that does ACTION here."""
        return f"nox -s cluster -- {action}" + ("" if self.name == "kind" else f" --target {self.name}")

    def kubectl(self) -> Kubectl:
        """Return the way to talk to it."""
        return Kubectl(tools.find("kubectl"), release.NAMESPACE, self.kubeconfig)

    def is_there(self) -> bool:
        """Say whether there is anything of it."""
        return any(engine.inspect("container", name) for name in (self.node, self.postgres))

    def check(self, supervisor: Supervisor) -> None:
        """Check everything that can be checked before anything is made, and pull what is missing.

        Raises:
            HarnessError: something is missing, too small, taken, or cannot be reached.
        """
        engine.check_room(is_up=bool(engine.inspect("container", self.node)))
        for name in self.tools:
            tools.find(name)
        local = None if "://" in self.settings.events_uri else Path(self.settings.events_uri)
        for image in (images.airflow(local), images.dbt()):
            image_cache.load(image.name, image.reference)
        image_cache.load("postgres", pins.image("postgres"))
        engine.pull(supervisor, pins.image("postgres"))
        image_cache.save("postgres", [pins.image("postgres")])
        for base in images.needed_bases():  # pulled while the cluster is made
            engine.check_image(supervisor, pins.image(base))

    def check_fits(self) -> None:
        """Raise UsageError if what is there was made of other images than are asked for: a container keeps its own."""
        for name, wanted in self.made_of().items():
            container = engine.inspect("container", name)
            if container and (found := container["Config"]["Image"]) != wanted:
                raise UsageError(
                    f"The container {name} that is up was made from {found}, and {wanted} is asked for.",
                    "A pin was changed since, in cluster/versions.toml or by its variable.",
                    f"Make it anew: {self.command('up --recreate')}",
                )

    def made_of(self) -> dict[str, str]:
        """Return the image of each container that belongs to it."""
        return {self.postgres: pins.image("postgres")}

    def check_stands(self, *, database: bool = True) -> None:
        """Raise HarnessError if the engine's disk is full, or its PostgreSQL, if there was one, does not run."""
        engine.check_disk()
        if database:
            self.database_that_is_up()

    def check_is_free(self) -> None:
        """Raise AlreadyUpError if the cluster is there."""
        if self.is_there():
            raise AlreadyUpError(
                f"The {self.title} of this clone is up already.",
                "It was brought up by nox -s cluster, kept by --keep, or left by a run that was killed.",
                f"Use it: nox -s e2e -- --target {self.name} --reuse; or remove it: {self.command('down')}",
            )

    def prepare(self) -> None:
        """Make what the cluster and PostgreSQL share, their network, and start a node that was stopped.

        The node comes first there, always: it gets the network's first address, which it keeps through any restart. A
        control plane does not survive another one.
        """
        forget_libpq_settings()
        node = engine.inspect("container", self.node)
        if node and not node["State"]["Running"]:
            say(f"… starting the node of {self.title}, which was stopped")
            if engine.inspect("container", self.postgres):
                run("docker", "stop", self.postgres)
            with contextlib.suppress(CommandFailedError):  # then it is made anew
                run("docker", "start", self.node)
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if not engine.inspect("network", self.cluster):
            run("docker", "network", "create", "--label", f"events-platform={self.cluster}", self.cluster)

    def database(self, supervisor: Supervisor) -> release.Database:
        """Start PostgreSQL, or take up the one that is there, as soon as the node is."""
        deadline = time.monotonic() + pins.deadline_s("cluster")
        while not engine.inspect("container", self.node) and time.monotonic() < deadline:
            time.sleep(0.5)
        if engine.inspect("container", self.postgres) and not self._starts_again():
            say("… the PostgreSQL that is there does not start again; making it anew, with nothing in it")
            self._remove_postgres()
        if not engine.inspect("container", self.postgres):
            names = ("--name", self.postgres, "--network", self.cluster)
            argv = [sys.executable, "-m", "harness.warehouse.container", *names]
            env = {"POSTGRES_PASSWORD": secrets.token_urlsafe(24)}
            supervisor.command("postgres", argv, timeout_s=pins.deadline_s("postgres"), env=env)
        database = self.database_that_is_up()
        wait_until_ready(database.server, pins.deadline_s("postgres"))
        return database

    def _starts_again(self) -> bool:
        """Start the PostgreSQL that is there; say whether it still runs a moment later."""
        with contextlib.suppress(CommandFailedError, PostgresError):  # its network is gone, its data are damaged
            run("docker", "start", self.postgres)
            wait_until_ready(self.database_that_is_up().server, RESTART_TIMEOUT_S)
            return True
        return False

    def _remove_postgres(self) -> None:
        engine.settle(self.postgres)
        self._remove_container(self.postgres)

    def _remove_container(self, name: str) -> None:
        if engine.inspect("container", name):
            argv = ("docker", "container", "rm", "--force", "--volumes", name)
            run(*argv, timeout_s=pins.deadline_s("delete"))

    def _remove_network(self) -> None:
        if engine.inspect("network", self.cluster):
            run("docker", "network", "rm", self.cluster)

    def database_that_is_up(self) -> release.Database:
        """Return the PostgreSQL that runs.

        Raises:
            PostgresError: it does not.
        """
        told = engine.inspect("container", self.postgres)
        if not told or not told["State"]["Running"]:
            raise PostgresError(
                f"The PostgreSQL of {self.title}, the container {self.postgres}, does not run.",
                "Somebody ended it, or the engine was started anew.",
                f"Bring it up again: {self.command('up')}",
            )
        env = dict(line.split("=", 1) for line in told["Config"]["Env"])
        port = int(told["NetworkSettings"]["Ports"]["5432/tcp"][0]["HostPort"])
        host = DockerClient().host().replace("localhost", "127.0.0.1")
        origin = f"the container image {told['Config']['Image']}"
        server = Server(origin, host, port, "postgres", env["POSTGRES_PASSWORD"])
        return release.Database(server, told["NetworkSettings"]["Networks"][self.cluster]["IPAddress"], 5432)

    def make_volume(self, kubectl: Kubectl) -> None:
        """Make the volume for the tasks' logs: a directory of the node's that Airflow's user may write to."""
        run("docker", "exec", self.node, "mkdir", "--parents", "--mode", "777", LOGS)
        volume = kubectl.get("persistentvolume", "airflow-logs")
        if volume and volume.get("status", {}).get("phase") in ("Released", "Failed"):  # its claim is gone
            kubectl.run("delete", "persistentvolume", "airflow-logs")
        kubectl.apply((release.MANIFESTS / "logs-on-node.yaml").read_text(encoding="utf-8"))

    def export(self, folder: Path) -> None:
        """Save what the engine knows of PostgreSQL, and the cluster's maker of the cluster."""
        with contextlib.ExitStack() as steps:  # each of them, from the last, whatever becomes of the others
            steps.callback(self.export_cluster, folder)
            for name in (self.postgres, self.node):
                if engine.inspect("container", name):
                    steps.callback(self._save_container_log, name, folder / f"{name}.log")

    def _save_container_log(self, name: str, path: Path) -> None:
        path.write_text(run("docker", "logs", "--tail", "20000", name, both_streams=True))

    def export_cluster(self, folder: Path) -> None:
        """Save what the cluster's maker knows of the cluster alone."""
        raise NotImplementedError

    def save_task_logs(self, folder: Path) -> None:
        """Copy the tasks' logs into FOLDER."""
        run("docker", "cp", f"{self.node}:{LOGS}/.", str(folder), timeout_s=120)

    def delete(self) -> None:
        """Remove everything, whatever state it is in."""
        with contextlib.ExitStack() as steps:  # each of them, from the last, whatever becomes of the others
            steps.callback(self.kubeconfig.unlink, missing_ok=True)
            steps.callback(self._remove_network)
            steps.callback(self._remove_postgres)
            steps.callback(self.delete_cluster)

    def delete_cluster(self) -> None:
        """Remove the cluster alone."""
        raise NotImplementedError
