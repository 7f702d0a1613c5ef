"""What a target and a deployment on it are, and which target a run gets."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from events.uri import shown
from harness.errors import UsageError
from harness.pipeline.airflow_api import AirflowApi
from harness.reporting.console import Phases
from harness.targets.options import TARGETS, RunOptions
from harness.warehouse.roles import Warehouse


class Deployment(Protocol):
    """A target while it is up."""

    api: AirflowApi
    warehouse: Warehouse

    def keep(self) -> None:
        """Leave everything up when this process ends."""

    def reset(self) -> None:
        """Empty the warehouse, if an earlier run has used it."""

    def check(self) -> list[str]:
        """Check, after all runs, what only this target guarantees; return a line each, or raise ChecksFailedError."""

    def failed_dbt_runs(self) -> list[Path]:
        """Return a folder for each failed dbt run, with dbt's files, the latest last; raise EventsError or OSError."""

    def addresses(self) -> list[str]:
        """Return a line for each way to reach the deployment, and the command that takes it down."""

    @property
    def left_behind(self) -> list[str]:
        """After the takedown: one line for each thing that could not be removed."""


class Target(Protocol):
    """A place where the pipelines run."""

    name: str

    def up(self, options: RunOptions, phases: Phases) -> AbstractContextManager[Deployment]:
        """Bring a deployment up; leaving the context takes it down, unless it is kept.

        An exception, here or in the context, saves diagnostics before the takedown. Raises HarnessError.
        """


def choose(name: str) -> tuple[Target, str]:
    """Return the target NAME and the reason for it, or raise UsageError."""
    from harness.targets import kind
    from harness.targets.embedded import EmbeddedTarget
    from harness.targets.kubernetes_target import KubernetesTarget

    if name not in TARGETS:
        raise UsageError(
            f"There is no target {shown(name)!r}.",
            f"The targets are: {', '.join(TARGETS)}.",
            "Name one of them, or leave --target out: nox -s e2e",
        )
    if name == "auto":
        if reason := kind.why_unavailable():
            return EmbeddedTarget(), f"chosen by auto: {reason}"
        return KubernetesTarget("kind"), "chosen by auto: a Docker engine answers, and all images are available"
    return EmbeddedTarget() if name == "embedded" else KubernetesTarget(name), "from --target"
