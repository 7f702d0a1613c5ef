"""The options of a run: one object, built from the command line and handed down to the target."""

from dataclasses import dataclass, field

from feeds.contract import Feed, feed_names
from feeds.interval import Interval

CLUSTERS = ("kind", "minikube", "context")
TARGETS = ("auto", "embedded", *CLUSTERS)
WHOLE_FILE = Interval(None, None)


@dataclass(frozen=True)
class RunOptions:
    """The options of `nox -s e2e` and `nox -s cluster`; their fields have the options' names.

    Attributes:
        uris: by feed, the files that it loads instead of its contract's: an absolute path, a pattern or any fsspec URI.
        max_rejected: the largest share of rows that may be rejected, 0 to 1; None for that of each contract.
        ui_port: the port for Airflow's UI and API; None for a free one.
        reuse: use a cluster that is up, and leave it up.
        keep: leave everything up at the end.
        values: the absolute paths of values files for the chart, which override the project's own, the last one most.
        namespace: target context: the namespace to use.
        registry: target context: the prefix of the registry that images are pushed to.
        warehouse_dsn: target context: an administrator's DSN of the PostgreSQL.
        pull_secret: target context: the secret with the registry's login, `NAME` or `NAMESPACE/NAME`.
        platform: of the images, `linux/amd64` for example; None for that of the cluster's nodes.
        storage_class: target context: of the volume for task logs; None for the cluster's default.
        yes: drop an existing warehouse on a given PostgreSQL without asking.
        rotate_secrets: make new passwords and keys.
        metrics: on a cluster: also install what Prometheus reads and, on one of our own, a Prometheus.
        context: target context: the kubeconfig's context; None for the current one. No option sets it.
    """

    target: str = "auto"
    uris: dict[str, str] = field(default_factory=dict, repr=False)  # a URI may be signed
    interval: Interval = WHOLE_FILE
    max_rejected: float | None = None
    ui_port: int | None = None
    reuse: bool = False
    keep: bool = False
    values: tuple[str, ...] = ()
    namespace: str | None = None
    registry: str | None = None
    warehouse_dsn: str | None = field(default=None, repr=False)
    pull_secret: str | None = None
    platform: str | None = None
    storage_class: str | None = None
    yes: bool = False
    rotate_secrets: bool = False
    metrics: bool = False
    context: str | None = None

    def uri(self, feed: Feed) -> str:
        """Return the path, the pattern or the URI of the files of FEED."""
        return self.uris.get(feed.name, feed.location)

    def shares(self) -> dict[str, str]:
        """Return the variables that set the largest share of rejected rows for each feed."""
        if self.max_rejected is None:
            return {}
        return {f"{feed.upper()}_MAX_REJECTED": str(self.max_rejected) for feed in feed_names()}
