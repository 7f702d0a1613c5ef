"""Where the pipelines run: processes, kind, minikube, or a cluster that exists; one module each."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from events.uri import shown
from harness.errors import UsageError
from harness.pipeline.airflow_api import AirflowApi
from harness.reporting.console import Phases
from harness.warehouse.roles import Warehouse

CLUSTERS = ("kind", "minikube", "context")
NAMES = ("auto", "embedded", *CLUSTERS)


@dataclass(frozen=True)
class Settings:
    """What a run of a target is asked for.

    Attributes:
        events_uri: the events file, absolute; any fsspec URI.
        max_rejected: the share of rows that may be rejected, 0 to 1.
        ui_port: the port for Airflow's UI and API; None for a free one.
        reuse: use what is up, and leave it up.
        context: the kubeconfig's context; None for the current one.
        namespace: where on a given cluster.
        registry: where images are pushed to, for a given cluster.
        warehouse_dsn: an administrator's DSN of the PostgreSQL for a given cluster.
        storage_class: of the volume for task logs on a given cluster; None for its default.
        values: a file of values for the chart that win over the project's own; None for none.
    """

    events_uri: str = field(repr=False)
    max_rejected: float
    ui_port: int | None = None
    reuse: bool = False
    context: str | None = None
    namespace: str | None = None
    registry: str | None = None
    warehouse_dsn: str | None = field(default=None, repr=False)
    storage_class: str | None = None
    values: str | None = None


class Deployment(Protocol):
    """A target that is up."""

    api: AirflowApi
    warehouse: Warehouse

    def keep(self) -> None:
        """Let it outlive this process."""

    def reset(self) -> None:
        """Empty the warehouse, if it was there before."""

    def check(self) -> list[str]:
        """Check, after all runs, what holds on this target alone; return a line for each thing that does.

        Raises:
            ChecksFailedError: it does not.
        """

    def failed_dbt_runs(self) -> list[Path]:
        """Return a folder for each dbt run that failed, with the files that it wrote, the latest last.

        Raises:
            EventsError, OSError: they cannot be had.
        """

    def addresses(self) -> list[str]:
        """Return a line for each way to reach it when it was kept, and the command that takes it down."""

    @property
    def left(self) -> list[str]:
        """After it was taken down: one line for each thing that could not be."""


class Target(Protocol):
    """A place where the pipeline can run."""

    name: str

    def up(self, settings: Settings, phases: Phases) -> AbstractContextManager[Deployment]:
        """Bring it up; leaving the context takes it down, unless it is kept.

        An exception in here or in the context leaves diagnostics behind, and everything is taken down.

        Raises:
            HarnessError: something foreseen went wrong.
        """


def choose(name: str) -> tuple[Target, str]:
    """Return the target NAME, and why it is the one.

    Raises:
        UsageError: there is no such target.
    """
    from harness.targets import kind
    from harness.targets import kubernetes_target as on_cluster
    from harness.targets.embedded import Embedded

    if name == "embedded":
        return Embedded(), "as you asked"
    if name == "auto":
        if reason := kind.why_not():
            return Embedded(), f"auto chose it, because {reason}"
        return on_cluster.OnCluster(
            "kind"
        ), "auto chose it: a Docker engine answers, images and chart are there or can be had"
    if name in NAMES:
        return on_cluster.OnCluster(name), "as you asked"
    raise UsageError(
        f"There is no target {shown(name)!r}.",
        f"The targets are: {', '.join(NAMES)}.",
        "Name one of them, or leave --target out: nox -s e2e",
    )
