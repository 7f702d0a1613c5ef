"""The places where the whole pipeline runs: one module each, behind one small protocol."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from harness.airflow_api import AirflowApi
from harness.console import Phases
from harness.errors import UsageError
from harness.warehouse import Warehouse


@dataclass(frozen=True)
class Settings:
    """What a run of a target is asked for.

    Attributes:
        events_uri: the events file, absolute; any fsspec URI.
        max_rejected: the share of rows that may be rejected, 0 to 1.
        ui_port: the port for Airflow's UI and API; None for a free one.
    """

    events_uri: str
    max_rejected: float
    ui_port: int | None = None


class Deployment(Protocol):
    """A target that is up."""

    api: AirflowApi
    warehouse: Warehouse

    def keep(self) -> None:
        """Let it outlive this process."""

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
    from harness.targets.embedded import Embedded

    if name == "embedded":
        return Embedded(), "as you asked"
    if name == "auto":
        return Embedded(), "auto chose it, because the kind target does not exist yet"
    raise UsageError(
        f"There is no target {name!r}.",
        "The targets are: auto, embedded.",
        "Name one of them, or leave --target out: nox -s e2e",
    )
