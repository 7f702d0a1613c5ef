"""Write what `nox -s cluster -- up --target context` would install, for GitOps: no cluster is asked, nothing is made.

Secrets are not among it: `secrets.md` says which must exist, with which keys.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from feeds.contract import feed_names, read_feeds
from feeds.dsn import connection_url
from harness.docker import images
from harness.kubernetes import chart, cluster_secrets, metrics, network
from harness.kubernetes.deployment import Database, create_namespaces
from harness.kubernetes.kubectl import Kubectl
from harness.project import pins
from harness.project.paths import BUILD, from_root
from harness.reporting.console import say
from harness.targets.cluster_provider import values_files
from harness.targets.existing_cluster import ExistingCluster
from harness.targets.kubernetes_target import deployment_values
from harness.targets.options import RunOptions
from harness.warehouse.given import dsn_parts
from harness.warehouse.roles import Warehouse, make_passwords
from harness.warehouse.server import Server

FOLDER = BUILD / "manifests"
TEMPLATE = Server("a template", "host", 5432, "user", "none")  # no secret of it is kept
WITHOUT_NAMESPACE = ("Namespace", "PersistentVolume", "PriorityClass")


@dataclass(frozen=True)
class Recorder(Kubectl):
    """Kubectl for an empty cluster; keeps what is applied."""

    applied: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, manifests: str | Iterable[dict[str, Any]]) -> None:
        """Keep the objects, with the namespace that they would get."""
        items = yaml.safe_load_all(manifests) if isinstance(manifests, str) else manifests
        self.applied.extend(self.with_namespace(item) for item in items if item)

    def with_namespace(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return an object with the namespace that it gets when it is applied."""
        if item["kind"].startswith("Cluster") or item["kind"] in WITHOUT_NAMESPACE:
            return item
        return item | {"metadata": {"namespace": self.namespace, **item["metadata"]}}

    def run(self, *arguments: str, stdin: str | None = None, timeout_s: float = 0) -> str:  # noqa: ARG002
        """Return the answer of an empty cluster."""
        return '{"items": []}' if "--selector" in arguments else ""


class NoCluster(ExistingCluster):
    """The same deployment, without a cluster."""

    context = "none"

    def __init__(self, options: RunOptions) -> None:
        super().__init__(options)
        self.recorder = Recorder(Path("kubectl"), self.namespace)

    def kubectl(self) -> Recorder:
        """Return the recorder."""
        return self.recorder


def write(options: RunOptions) -> None:
    """Write the manifests of a deployment with OPTIONS into FOLDER, and which secrets it needs."""
    archive = chart.locate()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    provider = NoCluster(options)
    references = {image.name: provider.reference(image) for image in (images.airflow(options.uris), images.dbt())}
    references |= {name: pins.image(name) for name in provider.metrics_images}
    kubectl = provider.recorder
    create_namespaces(kubectl)
    _keep(kubectl, "0-namespaces")
    provider.create_log_volume(kubectl)
    _keep(kubectl, "1-volumes")
    address = {"host": "", "port": "5432"} | dsn_parts(options.warehouse_dsn or "")
    database = (address["host"], int(address["port"]))
    network.restrict(kubectl, [database], [options.uri(feed) for feed in read_feeds().values()])
    _keep(kubectl, "2-network")
    if options.metrics:
        metrics.install(kubectl, references["airflow"], [database], pull_secret=options.pull_secret)
        _keep(kubectl, "4-metrics")
    kubectl.apply(_rendered(provider, archive, references))
    _keep(kubectl, "3-airflow")
    _create_secrets(kubectl, options)
    lines = [f"| {where} | {name} | {keys} |" for where, name, keys in _secrets(kubectl)]
    (FOLDER / "secrets.md").write_text("\n".join(["| namespace | secret | keys |", "| --- | --- | --- |", *lines, ""]))
    for path in sorted(FOLDER.iterdir()):
        say(f"✓ {from_root(path)}")


def _keep(kubectl: Recorder, name: str) -> None:
    """Write what was applied since the last call into a file."""
    if kubectl.applied:
        (FOLDER / f"{name}.yaml").write_text(yaml.safe_dump_all(kubectl.applied, sort_keys=False))
        kubectl.applied.clear()


def _rendered(provider: NoCluster, archive: Path, references: Mapping[str, str]) -> str:
    """Return what helm renders; REFERENCES are those of the images."""
    with tempfile.TemporaryDirectory() as folder:
        run_values = Path(folder) / "values.json"
        run_values.write_text(json.dumps(deployment_values(provider, references, {}, TEMPLATE)))
        files = [*values_files(provider), run_values]
        chart.check_values(archive, provider.namespace, files)
        return chart.render(archive, provider.namespace, chart.with_merged_lists(files))


def _create_secrets(kubectl: Recorder, options: RunOptions) -> None:
    """Let the harness make the secrets, of which only the names are kept."""
    passwords = make_passwords() | {cluster_secrets.USER: "none"}
    cluster_secrets.create_secrets(
        kubectl,
        passwords,
        Warehouse(TEMPLATE, "warehouse", passwords),
        Database(TEMPLATE, TEMPLATE.host, TEMPLATE.port),
        metadata_url=connection_url("airflow", "none", "host", 5432, "airflow"),
        uris=dict.fromkeys(feed_names(), "none"),
        has_metrics=options.metrics,
    )


def _secrets(kubectl: Recorder) -> Iterable[tuple[str, str, str]]:
    """Yield namespace, name and keys of each secret that was applied, without that of the harness itself."""
    for item in kubectl.applied:
        if item["metadata"]["name"] != "passwords":
            yield item["metadata"]["namespace"], item["metadata"]["name"], ", ".join(item["data"])
