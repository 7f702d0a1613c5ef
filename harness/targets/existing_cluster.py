"""The context target's cluster: an existing one, the kubeconfig's current context. It is never created nor deleted.

The project creates two namespaces in it, and databases and roles on the given PostgreSQL, whose names end with a digest
of the cluster and the namespace. The takedown deletes these and nothing else. A deployment belongs to its namespace:
any clone, a colleague's or CI's, may upgrade it, and finds its databases by the secrets in it.
"""

import contextlib
import functools
import hashlib
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feeds.dsn import connection_url
from harness.docker import engine, images
from harness.errors import (
    AccessDeniedError,
    AlreadyUpError,
    CommandFailedError,
    ImageMissingError,
    NotUpError,
    UsageError,
)
from harness.kubernetes import access, chart
from harness.kubernetes.causes.objects import labels
from harness.kubernetes.cluster_secrets import read_secret
from harness.kubernetes.deployment import LABELS, NAMESPACE, Database, uninstall
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.reporting.console import say
from harness.targets.cluster_provider import ClusterProvider, values_files
from harness.targets.options import RunOptions
from harness.warehouse.given import dsn_parts, given_server
from harness.warehouse.ports import check_port
from harness.warehouse.roles import drop_all, made_databases
from harness.warehouse.server import Server

RESULTS_READER = "dbt-results-reader"
OURS = "app.kubernetes.io/managed-by=events-platform"
DATABASE = re.compile(r"""[/"]warehouse(_\w+_[0-9a-f]{8})\b""")  # of a deployment
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ExistingCluster(ClusterProvider):
    """A namespace of an existing cluster, whose owner watches it: nothing is prepared, and every setting can change."""

    name = "context"
    values = "context.yaml"
    has_one_volume = False

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
            tls = {part: dsn[part] for part in ("sslmode", "sslrootcert") if dsn.get(part)}
            options += f" --warehouse-dsn {shlex.quote(connection_url(user, '', host, port, database, **tls))}"
        return f"nox -s cluster -- {action}{options}"

    def kubectl(self) -> Kubectl:
        """Return kubectl for the namespace."""
        return Kubectl(tools.find("kubectl"), self.namespace, context=self.context)

    def exists(self) -> bool:
        """Return whether the namespace is one of the project's; may raise AccessDeniedError or NotUpError."""
        access.check_credentials(self.kubectl(), self.context)
        return any(is_ours(found) for found in self._namespaces())

    def _namespaces(self) -> list[dict[str, Any]]:
        """Return Airflow's namespace and dbt's, as far as they exist."""
        kubectl = self.kubectl()
        found = [kubectl.get("namespace", name) for name in (kubectl.namespace, kubectl.for_dbt.namespace)]
        return [each for each in found if each]

    def check_prerequisites(self, supervisor: Supervisor) -> None:  # noqa: ARG002 - nothing is pulled
        """Check all prerequisites, the namespaces and the user's rights among them; raise HarnessError."""
        engine.info()  # it builds the images
        check_port(self.options.ui_port)
        for name in ("kubectl", "helm"):
            say(f"… {tools.choice(name)}")
        access.check_credentials(self.kubectl(), self.context)
        namespaces = self._namespaces()
        for each in namespaces:
            if not is_ours(each):
                name = each["metadata"]["name"]
                raise UsageError(
                    f"The namespace {name} exists without this project's label, {OURS}.",
                    "Its contents belong to somebody else, and the takedown would delete them.",
                    f"Name another: --namespace NAME; or, if it is empty: kubectl label namespace {name} {OURS}",
                )
        self._check_rights(namespaces)
        self.platform()  # raises if nodes of several need a choice
        self._check_storage_class()
        _ = self._server

    def _check_rights(self, namespaces: list[dict[str, Any]]) -> None:
        """Raise AccessDeniedError, which names the missing right, if the user may not make what is needed."""
        kubectl = self.kubectl()
        needed: list[tuple[str, str]] = []
        if len(namespaces) < 2:
            needed.append(("create", "namespaces"))
        if not all(LABELS.items() <= labels(each).items() for each in namespaces):
            needed.append(("patch", "namespaces"))
        if not self.options.reuse:
            needed.append(("delete", "namespaces"))
        if missing := access.missing(kubectl, [*needed, *access.NEEDED]):
            rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise AccessDeniedError(
                f"In the {self.title} you may not {', '.join(missing[:3])}{rest}.",
                f"kubectl auth can-i {missing[0]} --namespace {self.namespace} says no.",
                "Ask an administrator for the role, or the namespaces, in docs/production.md, “Who may deploy”.",
            )
        if access.missing(kubectl, [("list", "nodes")]):
            say("… you may not list nodes (kubectl auth can-i list nodes says no), so there may be several:")
            say("    volumes must be of a class that many nodes can mount: --storage-class NAME")

    def _check_storage_class(self) -> None:
        """Raise UsageError if the class of the volumes is missing; without the right to read classes it shows later."""
        classes = []
        with contextlib.suppress(CommandFailedError):
            classes = self.kubectl().items("storageclasses")
        names = [each["metadata"]["name"] for each in classes]
        with contextlib.suppress(CommandFailedError):  # a volume that an administrator made may have a class of its own
            names += [each["spec"].get("storageClassName") for each in self.kubectl().items("persistentvolumes")]
        chosen, has_default = self.options.storage_class, any(is_default(each) for each in classes)
        if not classes or not self._needs_volumes() or (has_default if chosen is None else chosen in names):
            return
        raise UsageError(
            f"The cluster has no storage class {chosen}." if chosen else "The cluster has no default storage class.",
            "Task logs need a volume, and nothing would provide it.",
            f"Name one of {', '.join(names)}: --storage-class NAME; or keep logs elsewhere: docs/production.md.",
        )

    def _needs_volumes(self) -> bool:
        """Return whether the values keep task logs on a volume, and not in an object store."""
        return bool(chart.merged_values(values_files(self))["logs"]["persistence"]["enabled"])

    def check_absent(self) -> None:
        """Raise AlreadyUpError if a deployment exists."""
        if self.exists():
            raise AlreadyUpError(
                f"The {self.title} has a deployment of this project already.",
                "It was brought up by nox -s cluster, kept by --keep, or left by a run that was killed.",
                f"Use it with --reuse, name another with --namespace, or delete it: {self.command('down')}",
            )

    def check_compatible(self) -> None:
        """Raise AlreadyUpError if somebody else installs here just now, or if a run would drop databases that exist.

        A lock of helm's that is as old as its deadline is of a killed helm, and is broken by the installation.
        """
        if not self.options.reuse and (existing := made_databases(self._server)):
            raise AlreadyUpError(
                f"Databases of an earlier deployment in the {self.title} exist: {', '.join(existing)}.",
                "Its namespace was deleted without them, and this run would drop them at its end.",
                f"Continue with them: {self.command('up')}; or drop them: {self.command('down')}",
            )
        if since := chart.installing_since(self.kubectl()):
            left_s = 2 * pins.deadline_s("migrations") - (datetime.now(UTC) - since).total_seconds()
            if left_s > 0:
                raise AlreadyUpError(
                    f"Somebody installs into the {self.title} just now, since {since:%H:%M:%S} UTC.",
                    "Another clone or CI upgrades the same deployment, or was killed while it did.",
                    f"Wait {left_s:.0f} s at most; if it was killed: helm uninstall airflow --no-hooks, in it.",
                )

    def check_dependencies(self, *, database: bool = True) -> None:  # noqa: ARG002 - PostgreSQL has its own errors
        """Raise HarnessError if the cluster no longer accepts the credentials, or does not answer."""
        access.check_credentials(self.kubectl(), self.context)

    def existing_databases(self) -> dict[str, str]:
        """Return the databases that this deployment has on the given PostgreSQL, by name, with their size."""
        return made_databases(self._server)

    def prepare(self) -> None:
        """Do nothing: cluster and PostgreSQL exist."""

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
                "The context target needs a PostgreSQL that pods can reach, and --warehouse-dsn is not set.",
                "This target starts no PostgreSQL in a cluster that belongs to somebody else.",
                "Name an administrator's: --warehouse-dsn postgresql://user@host/postgres, its password in PGPASSWORD",
            )
        access.check_credentials(self.kubectl(), self.context)
        if (host := dsn_parts(self.options.warehouse_dsn).get("host")) in LOOPBACK:
            raise UsageError(
                f"--warehouse-dsn names {host}, which pods cannot reach.",
                "Inside a pod that is the pod itself.",
                "Name the address that both this machine and the cluster's pods reach.",
            )
        return given_server(self.options.warehouse_dsn, "--warehouse-dsn", self._suffix())

    def _suffix(self) -> str:
        """Return the end of the names of this deployment's databases and roles; no other deployment has it."""
        connection = read_secret(self.kubectl(), "warehouse-loader").get("connection", "")  # a URL, or Airflow's JSON
        if deployed := DATABASE.search(connection):
            return deployed[1]
        uid = self.context
        with contextlib.suppress(CommandFailedError):  # without the right to read it, the context's name identifies it
            uid = (self.kubectl().get("namespace", "kube-system") or {"metadata": {"uid": uid}})["metadata"]["uid"]
        digest = hashlib.sha256(f"{uid} {self.namespace}".encode()).hexdigest()
        return f"_{self.namespace.replace('-', '_')[:30]}_{digest[:8]}"

    def reference(self, image: images.Image | images.PulledImage) -> str:
        """Return the name of an image that pods use."""
        prefix = f"{self.options.registry.rstrip('/')}/" if self.options.registry else ""
        return f"{prefix}{image.reference}"

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

    def load_image(self, supervisor: Supervisor, image: images.Image | images.PulledImage) -> str:
        """Push an image to --registry, and return the name that pods use; without --registry the nodes must have it."""
        reference = self.reference(image)
        if not self.options.registry or reference in self._pushed:
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
        """Claim the volumes for logs and dbt's results; with several nodes pods on each must be able to mount them."""
        if not self._needs_volumes():
            return
        nodes = 2
        with contextlib.suppress(CommandFailedError):  # without the right to list them there is most likely more than 1
            nodes = len(kubectl.items("nodes"))
        mode = "ReadWriteMany" if nodes > 1 else "ReadWriteOnce"
        spec: dict[str, object] = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        if self.options.storage_class is not None:
            spec["storageClassName"] = self.options.storage_class
        for each, name in ((kubectl, "airflow-logs"), (kubectl.for_dbt, "dbt-results")):
            if not each.get("persistentvolumeclaim", name):  # a claim cannot be changed
                claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
                each.apply([claim])

    def save_task_logs(self, folder: Path) -> None:
        """Copy the tasks' logs into FOLDER from the API server's pod, and dbt's results from a copy of a failed pod."""
        kubectl, dbt = self.kubectl(), self.kubectl().for_dbt
        [pod, *_] = kubectl.items("pods", selector="component=api-server")
        source = f"{self.namespace}/{pod['metadata']['name']}:/opt/airflow/logs"
        kubectl.run("cp", "--container", "api-server", source, str(folder), timeout_s=120)
        if failed := [pod for pod in dbt.items("pods") if pod["status"].get("phase") == "Failed"]:
            copy = ("debug", failed[0]["metadata"]["name"], f"--copy-to={RESULTS_READER}", "--container=base")
            dbt.run(*copy, "--profile=restricted", "--attach=false", "--", "sleep", "600")
            try:
                dbt.run("wait", "--for=condition=Ready", f"pod/{RESULTS_READER}", "--timeout=60s", timeout_s=70)
                source = f"{dbt.namespace}/{RESULTS_READER}:/var/log/dbt"
                dbt.run("cp", "--container", "base", source, str(folder / "dbt"), timeout_s=120)
            finally:
                dbt.run("delete", "pod", RESULTS_READER, "--ignore-not-found", "--wait=false", "--grace-period=0")

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
        """Delete the namespaces, if they are the project's, and the databases and roles on the given PostgreSQL."""
        server = self._server  # checked first: without it the databases would stay
        if ours := [each["metadata"]["name"] for each in self._namespaces() if is_ours(each)]:
            uninstall(self.kubectl(), ours)
        drop_all(server)


def is_ours(namespace: dict[str, Any]) -> bool:
    """Return whether a namespace has the project's label."""
    key, _, value = OURS.partition("=")
    return labels(namespace).get(key) == value


def is_default(storage_class: dict[str, Any]) -> bool:
    """Return whether a storage class is the cluster's default."""
    annotations = storage_class["metadata"].get("annotations") or {}
    return annotations.get("storageclass.kubernetes.io/is-default-class") == "true"
