"""What a target is, and a deployment on it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.pipeline.airflow_api import AirflowApi
from harness.processes.supervisor import Supervisor
from harness.project.paths import DBT_DOCS, from_root
from harness.reporting.console import Phases
from harness.reporting.report.run import Pod
from harness.targets.options import RunOptions
from harness.warehouse.roles import Warehouse


@dataclass
class Deployment:
    """A target while it is up."""

    supervisor: Supervisor
    api: AirflowApi
    warehouse: Warehouse

    @property
    def left_behind(self) -> list[str]:
        """After the takedown: one line for each thing that could not be removed."""
        return self.supervisor.left_behind

    def keep(self) -> None:
        """Leave everything up when this process ends."""
        self.supervisor.keep()

    def put(self, content: bytes | None, uri: str) -> None:
        """Make CONTENT that of the file which tasks read at URI; None removes the file."""
        path = Path(uri)
        path.unlink(missing_ok=True)
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def reset(self) -> None:
        """Empty the warehouse, if an earlier run has used it."""

    def check(self) -> list[str]:
        """Check, after all runs, what only this target guarantees; return a line each, or raise ChecksFailedError."""
        return []

    @property
    def last_dbt_run(self) -> Path | None:
        """The folder with the files of the last dbt run; None where only failed ones in pods leave some."""
        return None

    def failed_dbt_runs(self) -> list[Path]:
        """Return the folders of failed dbt runs' files, the latest last; may raise FeedError or OSError."""
        raise NotImplementedError

    def lineage_folders(self) -> list[Path]:
        """Return the folders of the lineage events so far; may raise FeedError or OSError."""
        raise NotImplementedError

    def pods(self) -> list[Pod]:
        """Return the pods of a cluster so far, with their times; may raise FeedError."""
        return []

    def addresses(self) -> list[str]:
        """Return a line for each way to reach the deployment, and the command that takes it down."""
        raise NotImplementedError


def docs_line() -> str:
    """Return the line of a deployment's addresses about dbt's documentation."""
    there = from_root(DBT_DOCS) if DBT_DOCS.exists() else "nox -s dbt -- docs makes them, and a report of its own"
    return f"  dbt docs   {there}"


class Target(Protocol):
    """A place where the pipelines run."""

    name: str

    def up(self, options: RunOptions, phases: Phases) -> AbstractContextManager[Deployment]:
        """Bring a deployment up; leaving the context takes it down, unless it is kept.

        An exception, here or in the context, saves diagnostics before the takedown. Raises HarnessError.
        """
