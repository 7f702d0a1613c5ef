"""The context target's cluster: an existing one, the kubeconfig's current context. It is never created nor deleted.

The project creates one namespace in it, and databases and roles on the given PostgreSQL, whose names end with a digest
of the cluster, the namespace and this clone. The takedown deletes these and nothing else.
"""

import contextlib
import functools
import hashlib
import shlex
from pathlib import Path

from events.dsn import connection_url
from harness.docker import engine, images
from harness.errors import AlreadyUpError, CommandFailedError, ImageMissingError, NotUpError, UsageError
from harness.kubernetes.causes.objects import labels
from harness.kubernetes.deployment import CLONE_LABEL, NAMESPACE, Database, uninstall
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import CLONE_ON_MACHINE
from harness.targets.cluster_provider import ClusterProvider
from harness.targets.options import RunOptions
from harness.warehouse.given import dsn_parts, given_server
from harness.warehouse.ports import check_port
from harness.warehouse.roles import drop_all
from harness.warehouse.server import Server

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ExistingCluster(ClusterProvider):
    """A namespace of an existing cluster, whose owner watches it: nothing is prepared, and every setting can change."""

    name = "context"
    values = "context.yaml"

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.namespace = options.namespace or NAMESPACE
        self._pushed: set[str] = set()

    @functools.cached_property
    def context(self) -> str:
        """The context's name, read once: a user may switch to another. Raises NotUpError if there is no current one."""
        if self.options.context:
            return self.options.context
        try:
            return run(tools.find("kubectl"), "config", "current-context").strip()
        except CommandFailedError as error:
            raise NotUpError(
                "The kubeconfig has no current context.",
                error.why,
                "Choose one: kubectl config use-context NAME (kubectl config get-contexts lists them)",
            ) from error

    @property
    def title(self) -> str:
        """The namespace and the context, for people."""
        return f"namespace {self.namespace} of the context {self.context}"

    def command(self, action: str) -> str:
        """Return the `nox -s cluster` command that does ACTION here, without the DSN's password."""
        options = f" --target context --namespace {self.namespace}"
        if self.options.warehouse_dsn:
            dsn = {"port": "5432", "dbname": "postgres", **dsn_parts(self.options.warehouse_dsn)}
            user, host, port, database = (dsn.get(part, "") for part in ("user", "host", "port", "dbname"))
            options += f" --warehouse-dsn {shlex.quote(connection_url(user, '', host, port, database))}"
        return f"nox -s cluster -- {action}{options}"

    def kubectl(self) -> Kubectl:
        """Return kubectl for the namespace."""
        return Kubectl(tools.find("kubectl"), self.namespace, context=self.context)

    def exists(self) -> bool:
        """Return whether this clone created the namespace; raise NotUpError if the cluster does not answer."""
        if not self.kubectl().answers():
            raise NotUpError(
                f"The cluster of the context {self.context} does not answer.",
                "It is not running, or your credentials for it have expired.",
                "Try: kubectl version",
            )
        found = self.kubectl().get("namespace", self.namespace)
        return bool(found and labels(found).get(CLONE_LABEL) == CLONE_ON_MACHINE)

    def check_prerequisites(self, supervisor: Supervisor) -> None:  # noqa: ARG002 - nothing is pulled
        """Check all prerequisites, the namespace's maker among them; raise HarnessError if one is not met."""
        engine.info()  # it builds the images
        self.platform()
        check_port(self.options.ui_port)
        tools.find("helm")
        if not self.exists() and self.kubectl().get("namespace", self.namespace):
            raise UsageError(
                f"The namespace {self.namespace} exists, and this clone of the project did not create it.",
                "Its contents belong to somebody else, and the takedown would delete them.",
                "Name another: --namespace NAME",
            )
        _ = self._server

    def check_absent(self) -> None:
        """Raise AlreadyUpError if a deployment exists."""
        if self.exists():
            raise AlreadyUpError(
                f"The {self.title} has a deployment of this project already.",
                "It was brought up by nox -s cluster, kept by --keep, or left by a run that was killed.",
                f"Use it with --reuse, name another with --namespace, or delete it: {self.command('down')}",
            )

    def create(self, supervisor: Supervisor) -> str:  # noqa: ARG002 - the cluster exists
        """Return which cluster is used."""
        return f"{self.title} used"

    def start_database(self, supervisor: Supervisor) -> Database:  # noqa: ARG002 - the server runs
        """Return the given PostgreSQL."""
        return self.running_database()

    def running_database(self) -> Database:
        """Return the given PostgreSQL."""
        return Database(self._server, self._server.host, self._server.port)

    @functools.cached_property
    def _server(self) -> Server:
        """The given PostgreSQL, after it was checked."""
        if not self.options.warehouse_dsn:
            raise UsageError(
                "The context target needs a PostgreSQL 18 that the cluster's pods can reach, and --warehouse-dsn is not"
                " set.",
                "This target starts no PostgreSQL in a cluster that belongs to somebody else.",
                "Name an administrator's: --warehouse-dsn postgresql://user@host/postgres, its password in PGPASSWORD",
            )
        if (host := dsn_parts(self.options.warehouse_dsn).get("host")) in LOOPBACK:
            raise UsageError(
                f"--warehouse-dsn names {host}, which pods cannot reach.",
                "Inside a pod that is the pod itself.",
                "Name the address that both this machine and the cluster's pods reach.",
            )
        uid = self.context
        with contextlib.suppress(CommandFailedError):  # without the right to read it, the context's name identifies it
            uid = (self.kubectl().get("namespace", "kube-system") or {"metadata": {"uid": uid}})["metadata"]["uid"]
        digest = hashlib.sha256(f"{uid} {self.namespace} {CLONE_ON_MACHINE}".encode()).hexdigest()
        suffix = f"_{self.namespace.replace('-', '_')[:30]}_{digest[:8]}"  # no other deployment drops these names
        return given_server(self.options.warehouse_dsn, "--warehouse-dsn", suffix)

    def platform(self) -> str:
        """Return the platform of the images: --platform, or that of the nodes; empty where it is the engine's own."""
        found = {self.options.platform} if self.options.platform else self._node_platforms()
        if len(found) > 1:
            raise UsageError(
                f"The cluster has nodes of {' and '.join(sorted(found))}, and the images are built for one platform.",
                "A pod on a node of another one fails with “exec format error”.",
                "Name it, e.g. --platform linux/amd64, and in --values FILE a nodeSelector for kubernetes.io/arch.",
            )
        return "".join(found - {engine.platform()})

    def _node_platforms(self) -> set[str]:
        """Return the platforms of the nodes that run Linux; none without the right to list nodes."""
        with contextlib.suppress(CommandFailedError):
            infos = [node["status"]["nodeInfo"] for node in self.kubectl().items("nodes")]
            return {f"linux/{info['architecture']}" for info in infos if info["operatingSystem"] == "linux"}
        return set()

    def load_image(self, supervisor: Supervisor, image: images.Image) -> str:
        """Push an image to --registry, and return the name that pods use; without --registry the nodes must have it."""
        if not self.options.registry:
            return image.reference
        reference = f"{self.options.registry.rstrip('/')}/{image.reference}"
        if reference in self._pushed:
            return reference
        run("docker", "tag", image.reference, reference)
        try:
            supervisor.command("push", ["docker", "push", "--quiet", reference], timeout_s=pins.deadline_s("pull"))
        except CommandFailedError as error:
            raise ImageMissingError(
                f"The image {reference} cannot be pushed.",
                *engine.explain_failed_pull(error, "Log in to the registry: docker login"),
            ) from error
        self._pushed.add(reference)
        return reference

    def create_log_volume(self, kubectl: Kubectl) -> None:
        """Claim the volume for the tasks' logs; with several nodes its class must allow pods on each to mount it."""
        nodes = 2
        with contextlib.suppress(CommandFailedError):  # without the right to list them there is most likely more than 1
            nodes = len(kubectl.items("nodes"))
        mode = "ReadWriteMany" if nodes > 1 else "ReadWriteOnce"
        spec: dict[str, object] = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        if self.options.storage_class is not None:
            spec["storageClassName"] = self.options.storage_class
        if not kubectl.get("persistentvolumeclaim", "airflow-logs"):  # a claim cannot be changed
            metadata = {"name": "airflow-logs"}
            kubectl.apply([{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}])

    def save_task_logs(self, folder: Path) -> None:
        """Copy the tasks' logs into FOLDER, from the API server's pod, which mounts their volume."""
        kubectl = self.kubectl()
        [pod, *_] = kubectl.items("pods", selector="component=api-server")
        source = f"{self.namespace}/{pod['metadata']['name']}:/opt/airflow/logs"
        kubectl.run("cp", "--container", "api-server", source, str(folder), timeout_s=120)

    def export(self, folder: Path) -> None:
        """Save kubectl's dump of the namespace into FOLDER."""
        options = ("--namespaces", self.namespace, "--output-directory", str(folder))
        self.kubectl().run("cluster-info", "dump", *options, timeout_s=120)

    def takedown_options(self) -> dict[str, str | None]:
        """Return the options, by name, that another process needs to delete what this one creates."""
        return {
            "context": self.context,
            "namespace": self.options.namespace,
            "warehouse_dsn": self.options.warehouse_dsn,
        }

    def delete(self) -> None:
        """Delete the namespace, if this clone created it, and the databases and roles on the given PostgreSQL."""
        server = self._server  # checked first: without it the databases would stay
        if self.exists():
            uninstall(self.kubectl())
        drop_all(server)
