"""What differs between clusters: the cluster itself, its PostgreSQL, how images get into it, how Airflow is reached."""

from pathlib import Path
from typing import Protocol

from harness.docker.images import Image, PulledImage
from harness.kubernetes import chart, metrics
from harness.kubernetes.deployment import Database
from harness.kubernetes.kubectl import Kubectl
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.targets import port_forward
from harness.targets.options import RunOptions


class ClusterProvider(Protocol):
    """A cluster and what belongs to it.

    Attributes:
        values: the name of its values file in `cluster/values`.
        has_one_volume: whether dbt's results are in the folder `dbt` of the volume of the tasks' logs.
        gets_prometheus: whether metrics come with a Prometheus of the project's own.
    """

    name: str
    values: str
    has_one_volume: bool = True
    gets_prometheus: bool = False
    options: RunOptions

    @property
    def title(self) -> str:
        """The cluster's name for people, `kind cluster events-platform-1a2b3c`."""

    @property
    def metrics_images(self) -> tuple[str, ...]:
        """The names of the pinned images that metrics need, which are also those of components; none without them."""
        if not self.options.metrics:
            return ()
        return (metrics.STATSD, metrics.PROMETHEUS) if self.gets_prometheus else (metrics.STATSD,)

    def command(self, action: str) -> str:
        """Return the `nox -s cluster` command that does ACTION here."""

    def kubectl(self) -> Kubectl:
        """Return kubectl for the namespace."""

    def exists(self) -> bool:
        """Return whether anything of it exists, running or not."""

    def check_prerequisites(self, supervisor: Supervisor) -> None:
        """Check all prerequisites, and pull missing images; raise HarnessError if one is not met."""

    def check_absent(self) -> None:
        """Raise AlreadyUpError if a deployment exists."""

    def check_compatible(self) -> None:
        """Raise UsageError if what exists has other settings than the options, and these cannot be changed."""

    def check_dependencies(self, *, database: bool = True) -> None:
        """Raise HarnessError if the engine's disk is full, or, with DATABASE, if PostgreSQL does not run."""

    def prepare(self) -> None:
        """Create what both the cluster and PostgreSQL need."""

    def create(self, supervisor: Supervisor) -> str:
        """Create the cluster, or reuse an existing one; return which, for the terminal."""

    def start_database(self, supervisor: Supervisor) -> Database:
        """Start PostgreSQL, or reuse a running one."""

    def running_database(self) -> Database:
        """Return the PostgreSQL that runs, or raise PostgresError."""

    def platform(self) -> str:
        """Return the platform of the images, `linux/amd64` for example; empty for the engine's own."""
        return self.options.platform or ""

    def load_image(self, supervisor: Supervisor, image: Image | PulledImage) -> str:
        """Load an image into the cluster or push it to its registry; return the name that pods use."""

    def provide_image(self, supervisor: Supervisor, name: str) -> str:  # noqa: ARG002 - the nodes pull it
        """Make the pinned image NAME available to the cluster; return the name that pods use."""
        return pins.image(name)

    def create_log_volume(self, kubectl: Kubectl) -> None:
        """Create the volume claims `airflow-logs` and, in dbt's namespace, `dbt-results`."""

    def save_task_logs(self, folder: Path) -> None:
        """Copy the tasks' logs into FOLDER."""

    def export(self, folder: Path) -> None:
        """Save what the engine and the cluster's own program log of it into FOLDER."""

    def airflow_address(self, supervisor: Supervisor | None = None) -> str:
        """Return the address of Airflow's API on this machine, by default a port forward that SUPERVISOR runs."""
        return port_forward.forward(self.kubectl(), supervisor, self.options.ui_port)

    @property
    def forward_command(self) -> str:
        """The command that makes the address reachable by hand; empty where none is needed."""
        return port_forward.command(self.kubectl(), self.options.ui_port)

    def takedown_options(self) -> dict[str, str | None]:
        """Return the options, by name, that another process needs to delete what this one creates."""
        return {}

    def existing_databases(self) -> dict[str, str]:
        """Return the databases that `delete` would drop on a PostgreSQL of the user's, by name, with their size."""
        return {}

    def delete(self) -> None:
        """Delete everything that was created, whatever state it is in."""


def values_files(provider: ClusterProvider) -> list[Path]:
    """Return the chart's values files; later ones override earlier ones."""
    own = [chart.VALUES / "base.yaml", chart.VALUES / provider.values]
    return [*own, *([metrics.VALUES] if provider.options.metrics else []), *map(Path, provider.options.values)]
