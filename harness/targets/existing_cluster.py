"""The context target: a cluster that is somebody's, the current kubeconfig context. It is never made nor deleted.

What is made in it is one namespace and what is in that; what is made on the given PostgreSQL has a suffix made of the
namespace's name, the cluster's own id and this clone. Both go when it is taken down, and nothing else does.
"""

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from harness.docker import engine, images
from harness.errors import AlreadyUpError, CommandFailedError, ImageMissingError, NotUpError, UsageError
from harness.kubernetes import deployment as release
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import CLONE_ON_MACHINE
from harness.targets import Settings
from harness.targets import port_forward as tunnel
from harness.warehouse.given import given_server
from harness.warehouse.ports import check_port
from harness.warehouse.roles import drop_all
from harness.warehouse.server import Server

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ContextPlace:
    """See `harness.targets.kubernetes_target.Place`."""

    name = "context"
    values = "context.yaml"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.namespace = settings.namespace or release.NAMESPACE
        self._given: Server | None = None
        self._pushed: set[str] = set()

    @property
    def context(self) -> str:
        """The current context's name, the one at the first call: a user may switch while a run goes on.

        Raises:
            NotUpError: there is none.
        """
        if not self.settings.context:
            try:
                found = run(tools.find("kubectl"), "config", "current-context").strip()
                self.settings = replace(self.settings, context=found)
            except CommandFailedError as error:
                raise NotUpError(
                    "The kubeconfig has no current context.",
                    error.why,
                    "Choose one: kubectl config use-context NAME (kubectl config get-contexts lists them)",
                ) from error
        return str(self.settings.context)

    @property
    def title(self) -> str:
        """The namespace and the cluster, for people."""
        return f"namespace {self.namespace} of the context {self.context}"

    def command(self, action: str) -> str:
        """Return the command that does ACTION here; a password that the DSN has is left out."""
        options = f" --target context --namespace {self.namespace}"
        if self.settings.warehouse_dsn:
            told = conninfo_to_dict(self.settings.warehouse_dsn)
            where = f"{told.get('host')}:{told.get('port') or 5432}/{told.get('dbname') or 'postgres'}"
            options += f" --warehouse-dsn postgresql://{told.get('user', '')}@{where}"
        return f"nox -s cluster -- {action}{options}"

    def kubectl(self) -> Kubectl:
        """Return the way to talk to the namespace."""
        return Kubectl(tools.find("kubectl"), self.namespace, context=self.context)

    def is_there(self) -> bool:
        """Say whether the namespace is there and ours.

        Raises:
            NotUpError: the cluster does not answer.
        """
        self.check_it_answers()
        found = self.kubectl().get("namespace", self.namespace)
        return bool(found and found["metadata"].get("labels", {}).get(release.OWNER) == CLONE_ON_MACHINE)

    def check_it_answers(self) -> None:
        """Raise NotUpError unless the cluster answers."""
        if not self.kubectl().answers():
            raise NotUpError(
                f"The cluster of the context {self.context} does not answer.",
                "It is not running, or your credentials for it have expired.",
                "Try: kubectl version",
            )

    def check(self, supervisor: Supervisor) -> None:  # noqa: ARG002 - nothing is pulled
        """Check everything that can be checked before anything is made.

        Raises:
            HarnessError: the cluster does not answer, the namespace is somebody else's, or there is no PostgreSQL.
        """
        engine.info()  # the images are built with it
        if self.settings.ui_port:
            check_port(self.settings.ui_port, "--ui-port")
        tools.find("helm")
        if not self.is_there() and self.kubectl().get("namespace", self.namespace):
            raise UsageError(
                f"The namespace {self.namespace} is there, and was not made by this clone of the project.",
                "What is in it belongs to somebody, and taking it down would remove that.",
                "Name another: --namespace NAME",
            )
        self._server()

    def check_is_free(self) -> None:
        """Raise AlreadyUpError if a deployment is there."""
        if self.is_there():
            raise AlreadyUpError(
                f"The {self.title} has a deployment of this project already.",
                "It was brought up by nox -s cluster, kept by --keep, or left by a run that was killed.",
                f"Use it with --reuse, name another with --namespace, or remove it: {self.command('down')}",
            )

    def check_fits(self) -> None:
        """Nothing of it has been made for good."""

    def check_stands(self, *, database: bool = True) -> None:
        """Its PostgreSQL and its disks are somebody else's to watch."""

    def prepare(self) -> None:
        """There is nothing to make before the rest."""

    def create(self, supervisor: Supervisor) -> str:  # noqa: ARG002 - the cluster is there
        """Say which cluster it is."""
        return f"{self.title} taken"

    def database(self, supervisor: Supervisor) -> release.Database:  # noqa: ARG002 - the server is there
        """Return the given PostgreSQL."""
        return self.database_that_is_up()

    def database_that_is_up(self) -> release.Database:
        """Return the given PostgreSQL."""
        server = self._server()
        return release.Database(server, server.host, server.port)

    def _server(self) -> Server:
        """Return the given PostgreSQL, looked at once."""
        if self._given:
            return self._given
        if not self.settings.warehouse_dsn:
            raise UsageError(
                "The context target needs a PostgreSQL 18 that the cluster's pods reach, and none is named.",
                "It makes none, on a cluster that it does not own.",
                "Name an administrator's: --warehouse-dsn postgresql://user@host/postgres, its password in PGPASSWORD",
            )
        if (host := host_of(self.settings.warehouse_dsn)) in LOOPBACK:
            raise UsageError(
                f"--warehouse-dsn names {host}, which pods do not reach.",
                "Inside a pod that is the pod itself.",
                "Name the address that both this machine and the cluster's pods reach.",
            )
        uid = self.context
        with contextlib.suppress(CommandFailedError):  # who may not read it: the context's name has to do
            uid = (self.kubectl().get("namespace", "kube-system") or {"metadata": {"uid": uid}})["metadata"]["uid"]
        digest = hashlib.sha256(f"{uid} {self.namespace} {CLONE_ON_MACHINE}".encode()).hexdigest()
        suffix = f"_{self.namespace.replace('-', '_')[:30]}_{digest[:8]}"  # nobody else's to drop
        self._given = given_server(self.settings.warehouse_dsn, "--warehouse-dsn", suffix)
        return self._given

    def bring(self, supervisor: Supervisor, image: images.Image) -> str:
        """Push an image to the registry, and return the name that pods use; without one, nodes must have the image."""
        if not self.settings.registry:
            return image.reference
        reference = f"{self.settings.registry.rstrip('/')}/{image.reference}"
        if reference in self._pushed:
            return reference
        run("docker", "tag", image.reference, reference)
        try:
            supervisor.command("push", ["docker", "push", "--quiet", reference], timeout_s=pins.deadline_s("pull"))
        except CommandFailedError as error:
            raise ImageMissingError(
                f"The image {reference} cannot be pushed.",
                *engine.why_refused(error, "Log in to the registry: docker login"),
            ) from error
        self._pushed.add(reference)
        return reference

    def make_volume(self, kubectl: Kubectl) -> None:
        """Claim the volume for the tasks' logs. Pods on several nodes need a class that may be mounted on several."""
        nodes = 2
        with contextlib.suppress(CommandFailedError):  # who may not list them has most likely more than one
            nodes = len(kubectl.items("nodes"))
        mode = "ReadWriteMany" if nodes > 1 else "ReadWriteOnce"
        spec: dict[str, object] = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        if self.settings.storage_class is not None:
            spec["storageClassName"] = self.settings.storage_class
        if not kubectl.get("persistentvolumeclaim", "airflow-logs"):  # nothing of a claim may change
            metadata = {"name": "airflow-logs"}
            kubectl.apply([{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}])

    def save_task_logs(self, folder: Path) -> None:
        """Copy the tasks' logs into FOLDER, out of the API server's pod, which has their volume."""
        kubectl = self.kubectl()
        [pod, *_] = kubectl.items("pods", selector="component=api-server")
        source = f"{self.namespace}/{pod['metadata']['name']}:/opt/airflow/logs"
        kubectl.run("cp", "--container", "api-server", source, str(folder), timeout_s=120)

    def export(self, folder: Path) -> None:
        """Save what the cluster says of the namespace."""
        options = ("--namespaces", self.namespace, "--output-directory", str(folder))
        self.kubectl().run("cluster-info", "dump", *options, timeout_s=120)

    def address(self, supervisor: Supervisor | None = None) -> str:
        """Return where Airflow's API is reached, through a tunnel."""
        return tunnel.open_to_airflow(self.kubectl(), supervisor, self.settings.ui_port)

    @property
    def tunnel(self) -> str:
        """The command that opens the way to Airflow by hand."""
        return tunnel.command(self.kubectl(), self.settings.ui_port or tunnel.PORT)

    def delete(self) -> None:
        """Remove the namespace, if it is ours, and what was made on the given PostgreSQL."""
        server = self._server()  # before anything is removed: without it the databases would stay
        if self.is_there():
            release.uninstall(self.kubectl())
        drop_all(server)


def host_of(dsn: str) -> str:
    """Return the host that a DSN (URL or key=value) names; nothing if it names none, or is none."""
    try:
        return str(conninfo_to_dict(dsn).get("host") or "")
    except psycopg.Error:  # `given` says what is wrong with it
        return ""
