"""The targets that are Kubernetes clusters. A `ClusterProvider` has what differs; what runs on them is the same."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from feeds.contract import Feed, read_feeds
from feeds.lineage import without_secrets
from harness.docker import images
from harness.errors import RollOutFailedError
from harness.kubernetes import chart, cluster_secrets, metrics, network, rollout
from harness.kubernetes.deployment import (
    NAMESPACE,
    Database,
    create_databases,
    create_namespaces,
    database_annotation,
    install,
)
from harness.kubernetes.kubectl import Kubectl
from harness.kubernetes.rollout import Watch
from harness.pipeline import lineage
from harness.pipeline.airflow_api import AirflowApi
from harness.processes.background import in_background, wait_for
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.project.paths import BUILD, ROOT
from harness.project.session_lock import session_lock
from harness.reporting.console import Phases
from harness.targets import code_sync
from harness.targets.cluster_deployment import ClusterDeployment
from harness.targets.cluster_failure import save_diagnostics, with_cause
from harness.targets.cluster_provider import ClusterProvider, values_files
from harness.targets.options import RunOptions
from harness.targets.takedown import take_down
from harness.warehouse.roles import Warehouse, let_reader_see_ledger
from harness.warehouse.server import Server, describe

LINEAGE = "/opt/airflow/logs/lineage"  # on the volume of the tasks' logs
TAKEDOWN = "PLATFORM_TAKEDOWN"  # the provider's options, as JSON, for the process that takes a run down


def provider_of(target: str, options: RunOptions) -> ClusterProvider:
    """Return the provider of TARGET, one of `options.CLUSTERS`."""
    from harness.targets.existing_cluster import ExistingCluster
    from harness.targets.kind import KindCluster
    from harness.targets.minikube import MinikubeCluster

    providers: dict[str, Callable[[RunOptions], ClusterProvider]] = {
        "kind": KindCluster,
        "minikube": MinikubeCluster,
        "context": ExistingCluster,
    }
    return providers[target](options)


class KubernetesTarget:
    """A target that is a cluster; see `harness.targets.target.Target`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @contextlib.contextmanager
    def up(self, options: RunOptions, phases: Phases, *, recreate: bool = False) -> Iterator[ClusterDeployment]:
        """Bring it up, with RECREATE anew; leaving the context takes it down, unless it is kept or was to be reused."""
        provider = provider_of(self.name, options)
        with only_one_cluster() as lock, Supervisor.launch([lock]) as supervisor:
            if not options.reuse:
                provider.check_absent()
            check_prerequisites(provider, supervisor)  # before an existing cluster is deleted
            if recreate:
                provider.delete()
            provider.check_compatible()
            if not options.reuse:
                env = {TAKEDOWN: json.dumps(provider.takedown_options())}  # a DSN must not be an argument
                argv = [sys.executable, "-m", "harness", "takedown", self.name]
                supervisor.at_end("takedown", argv, env, 3 * pins.deadline_s("delete"))
            deployment = None
            try:
                deployment = bring_up(provider, supervisor, phases)
                yield deployment
            except Exception as error:
                stays = deployment.stays if deployment else options.reuse
                failure = with_cause(error, provider, database=deployment is not None)
                dsn = deployment.warehouse.admin_dsn if deployment else None
                failure = save_diagnostics(failure, provider, supervisor, phases, dsn, stays=stays)
                if failure is error:
                    raise
                raise failure from error
            finally:
                if not (deployment.stays if deployment else options.reuse):
                    take_down(supervisor, phases)


@contextlib.contextmanager
def only_one_cluster() -> Iterator[int]:
    """Hold the lock of this clone's cluster, waiting for another session that has it; yield its descriptor."""
    BUILD.mkdir(exist_ok=True)
    with session_lock(BUILD / ".cluster.lock", "uses the cluster of this clone") as lock:
        yield lock


def check_prerequisites(provider: ClusterProvider, supervisor: Supervisor) -> None:
    """Check all prerequisites, and download what is missing; raise HarnessError if one is not met."""
    archive = chart.locate()  # before any image is pulled
    run_values = supervisor.directory / "any-values.json"
    run_values.write_text(json.dumps(chart.run_values("events-platform/airflow:any", {}, {})))
    provider.check_prerequisites(supervisor)
    chart.check_values(archive, NAMESPACE, [*values_files(provider), run_values])


def bring_up(provider: ClusterProvider, supervisor: Supervisor, phases: Phases) -> ClusterDeployment:
    """Create or update everything that is missing or differs, and wait until Airflow is healthy."""
    provider.prepare()
    platform = provider.platform()
    airflow_image, dbt_image = images.airflow(provider.options.uris, platform), images.dbt(platform)
    files = code_sync.digests(provider)  # now: somebody may edit one before the end

    def create_cluster() -> Kubectl:
        with phases.phase("cluster ready") as phase:
            phase.text = provider.create(supervisor)
        kubectl = provider.kubectl()
        create_namespaces(kubectl, provider.options.pull_secret)
        provider.create_log_volume(kubectl)
        return kubectl

    def start_database() -> Database:
        with phases.phase("PostgreSQL up") as phase:
            database = provider.start_database(supervisor)
            phase.text = f"{describe(database.server)} up"
        return database

    def provided() -> dict[str, str]:
        """Return the names of the images there, by ours; those that are missing are loaded."""
        built = {image.name: provider.load_image(supervisor, image) for image in (airflow_image, dbt_image)}
        return built | {name: provider.provide_image(supervisor, name) for name in provider.metrics_images}

    def load_images() -> None:
        with phases.phase("images built") as phase:
            built = [images.build(supervisor, image) for image in (dbt_image, airflow_image)]
            phase.text = "images built" if any(built) else "images already built"
        with phases.phase("images loaded"):
            provided()

    creating, starting, loading = (
        in_background(create_cluster),
        in_background(start_database),
        in_background(load_images),
    )
    wait_for(creating, starting, loading)
    database, references = starting.result(), provided()  # again, in case the cluster was created twice
    api, warehouse = install_airflow(provider, supervisor, phases, database, references)
    code_sync.record_deployed(creating.result(), files)
    return ClusterDeployment(supervisor, api, warehouse, provider, creating.result(), provider.options.reuse)


def deployment_values(
    provider: ClusterProvider, references: Mapping[str, str], annotations: dict[str, str], database: Server
) -> dict[str, Any]:
    """Return the values of the chart that only a run knows; REFERENCES of images and DATABASE are as pods use them."""
    env = {
        "DBT_IMAGE": references["dbt"],
        "DBT_NAMESPACE": provider.kubectl().for_dbt.namespace,
        **provider.options.shares(),
        **without_secrets(lineage.variables(os.environ, LINEAGE)),
    }
    # Between Airflow and PgBouncer there is no TLS; its own configuration has what is beyond it.
    pooled = chart.merged_values(values_files(provider)).get("pgbouncer", {}).get("enabled")
    tls_env = {} if pooled else database.tls_env
    pull_secret, of_workers = provider.options.pull_secret, cluster_secrets.feeds_env()
    return chart.run_values(
        references["airflow"],
        env,
        annotations,
        tls_env,
        pull_secret,
        of_workers=of_workers,
        statsd_image=references.get(metrics.STATSD),
    )


def uri_in_pods(feed: Feed, given: str | None) -> str:
    """Return the URI by which pods read FEED's files, those GIVEN or the contract's."""
    if given is not None:
        return images.in_pods(feed.name, given)
    path = Path(feed.location)
    return f"/opt/{path.relative_to(ROOT)}" if path.is_relative_to(ROOT) else feed.location


def install_airflow(
    provider: ClusterProvider,
    supervisor: Supervisor,
    phases: Phases,
    database: Database,
    references: Mapping[str, str],
) -> tuple[AirflowApi, Warehouse]:
    """Create databases, roles and secrets, install the chart, and wait until Airflow is healthy.

    REFERENCES are the names there of the images `airflow` and `dbt` and, with metrics, of theirs. Raises
    InstallFailedError or RollOutFailedError.
    """
    kubectl, options = provider.kubectl(), provider.options
    with phases.phase("databases, roles and secrets created"):
        passwords = cluster_secrets.passwords(kubectl, rotate=options.rotate_secrets)
        warehouse, metadata_url = create_databases(database, passwords)
        secrets = cluster_secrets.create_secrets(
            kubectl,
            passwords,
            warehouse,
            database,
            metadata_url=metadata_url,
            uris={feed.name: uri_in_pods(feed, options.uris.get(feed.name)) for feed in read_feeds().values()},
            rotate=options.rotate_secrets,
            has_metrics=options.metrics,
        )
        annotations = cluster_secrets.annotation(secrets) | database_annotation(database.server)
        database.apply_root_certificate(kubectl)
        uris = [*secrets[cluster_secrets.FEEDS_SECRET].values(), *(feed.location for feed in read_feeds().values())]
        databases = cluster_secrets.databases(secrets)
        network.restrict(kubectl, databases, uris)
        if options.metrics:
            let_reader_see_ledger(warehouse)
            metrics.install(kubectl, references["airflow"], databases, annotations, options.pull_secret)
            if prometheus := references.get(metrics.PROMETHEUS):
                metrics.install_prometheus(kubectl, prometheus)
        else:
            metrics.remove(kubectl)
    code_sync.remove_synced(kubectl)
    run_values = supervisor.directory / "values.json"
    run_values.write_text(json.dumps(deployment_values(provider, references, annotations, database.for_pods)))
    watch = Watch(kubectl, provider.check_dependencies)
    with phases.phase("chart ready"):
        files = chart.with_merged_lists([*values_files(provider), run_values])
        install(supervisor, kubectl, chart.locate(), files, phases=phases, watch=watch)
        if options.metrics:
            rollout.wait_for_components(kubectl, phases, watch, (metrics.EXPORTER, *provider.metrics_images))

    api = AirflowApi(provider.airflow_address(supervisor), cluster_secrets.USER, passwords[cluster_secrets.USER])
    with phases.phase("Airflow healthy") as phase:
        if late := api.wait_until_healthy(pins.deadline_s("healthy")):
            raise RollOutFailedError(
                f"{late} does not report that it is healthy after {pins.deadline_s('healthy'):.0f} s.",
                "Its pod runs, but it does not reach the metadata database or another component.",
                f"Read its log: nox -s cluster -- logs {late}",
            )
        phase.text = f"Airflow healthy at {api.address}"
    if options.rotate_secrets:
        with phases.phase("connections and variables encrypted with the new key"):
            argv = ("exec", "deployment/airflow-scheduler", "--container", "scheduler", "--")
            kubectl.run(*argv, "airflow", "rotate-fernet-key", timeout_s=pins.deadline_s("migrations"))
    api.watch = Watch(kubectl, provider.check_dependencies, of_tasks=True)
    return api, warehouse
