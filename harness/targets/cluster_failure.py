"""Find the cause of a failure on a cluster, and save its diagnostics before the takedown."""

import contextlib
import re
from collections.abc import Callable

from feeds.errors import FeedError
from harness.errors import ChecksFailedError, DagRunFailedError, HarnessError, ServiceFailedError
from harness.kubernetes import diagnostics as cluster_diagnostics
from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.search import find_causes, find_component_cause, find_task_cause
from harness.processes.supervisor import Supervisor
from harness.reporting import diagnostics
from harness.reporting.console import Phases
from harness.targets.cluster_provider import ClusterProvider, values_files

KUBECTL = r"\bkubectl (?=(describe|get|logs) )"


def with_cause(error: Exception, provider: ClusterProvider, *, database: bool) -> Exception:
    """Return the error to raise in ERROR's place: with the cause that the engine or the cluster names, or ERROR itself.

    DATABASE is whether PostgreSQL was running when ERROR was raised.
    """
    if not isinstance(error, ChecksFailedError):
        try:
            provider.check_dependencies(database=database)
        except FeedError as dependency:
            return dependency
    finders: tuple[Callable[..., Cause | None], ...]
    match error:
        case DagRunFailedError():  # its task's log says more than a component that was restarted
            finders = (find_task_cause,)
        case ServiceFailedError():
            finders = (find_component_cause, find_task_cause)
        case _:
            return error
    with contextlib.suppress(FeedError):  # ERROR matters more than that the cluster cannot be asked
        for cause in find_causes(provider.kubectl(), *finders)[:1]:
            return error.amended(f"{error.what} {cause.what}", cause.why, cause.next_step)
    return error


def save_diagnostics(
    error: Exception,
    provider: ClusterProvider,
    supervisor: Supervisor,
    phases: Phases,
    warehouse_dsn: str | None,
    *,
    stays: bool,
) -> Exception:
    """Save what explains ERROR, and return the error to raise in its place: it names the diagnostics.

    Unless the cluster STAYS up, its next step does not ask to look at it.
    """
    if isinstance(error, HarnessError):
        error = with_usable_next_step(error, provider, stays=stays)
    folders = {"commands": supervisor.directory / "logs"}
    files = values_files(provider)
    return diagnostics.save(
        error, folders, warehouse_dsn, lambda folder: cluster_diagnostics.save(folder, provider, files), phases
    )


def with_usable_next_step(error: HarnessError, provider: ClusterProvider, *, stays: bool) -> HarnessError:
    """Return ERROR with commands that work as they are printed: where the cluster STAYS up, and where it does not."""
    if not stays and re.search(r"kubectl |cluster -- logs", error.next_step):
        return error.amended(next_step=f"Read the diagnostics, or look at it while it is up: {provider.command('up')}")
    if stays and re.search(KUBECTL, error.next_step):
        return error.amended(next_step=re.sub(KUBECTL, f"{provider.kubectl().command} ", error.next_step))
    return error
