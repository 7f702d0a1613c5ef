"""Every target that is a Kubernetes cluster: where it is differs (`Place`), what is put onto it does not."""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from events.errors import EventsError
from harness.docker import images
from harness.errors import (
    ChecksFailedError,
    DagRunFailedError,
    NotUpError,
    RollOutFailedError,
    ServiceFailedError,
)
from harness.kubernetes import chart
from harness.kubernetes import deployment as release
from harness.kubernetes import diagnostics as cluster_diagnostics
from harness.kubernetes.causes import Cause, find, find_for_tasks
from harness.kubernetes.kubectl import Kubectl
from harness.pipeline.airflow_api import AirflowApi
from harness.processes.background import InBackground, wait_for
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.project.paths import BUILD, ROOT
from harness.project.session_lock import session_lock
from harness.reporting import diagnostics
from harness.reporting.console import Phases
from harness.targets import Settings
from harness.targets.takedown import take_down
from harness.warehouse.roles import ROLES, Warehouse, create_warehouse, drop_warehouse
from harness.warehouse.server import describe

TAKEDOWN = "PLATFORM_TAKEDOWN"  # the settings of the run to take down
TASK_IDS = ("create_tables", "load_events", "dbt_build")
DBT_POD = "dbt-build-"
LOCK = BUILD / ".cluster.lock"


class Place(Protocol):
    """A cluster, and what belongs to it: PostgreSQL, images, the volume for logs, the way to Airflow's port.

    Attributes:
        name: the target's name.
        values: the file in `cluster/values` that says what it differs in.
        title: for people: `kind cluster events-platform-1a2b3c`.
        settings: what was asked for.
    """

    name: str
    values: str
    settings: Settings

    @property
    def title(self) -> str: ...  # noqa: D102
    def command(self, action: str) -> str:
        """Return the command of `nox -s cluster` that does ACTION here."""

    def kubectl(self) -> Kubectl:
        """Return the way to talk to the namespace."""

    def is_there(self) -> bool:
        """Say whether there is anything of it."""

    def check(self, supervisor: Supervisor) -> None:
        """Check everything that can be checked before anything is made."""

    def check_is_free(self) -> None:
        """Raise AlreadyUpError if a deployment is there."""

    def check_fits(self) -> None:
        """Raise UsageError if what is there was made in another way than is asked for, and cannot be changed."""

    def check_stands(self, *, database: bool = True) -> None:
        """Raise HarnessError if what a deployment stands on has gone: its disk, and its PostgreSQL if there was one."""

    def prepare(self) -> None:
        """Make what must be there before the rest is made at once."""

    def create(self, supervisor: Supervisor) -> str:
        """Make the cluster, or take up what is there, and say which."""

    def database(self, supervisor: Supervisor) -> release.Database:
        """Start PostgreSQL, or take up the one that is there."""

    def database_that_is_up(self) -> release.Database:
        """Return the PostgreSQL that runs."""

    def bring(self, supervisor: Supervisor, image: images.Image) -> str:
        """Bring an image to where pods find it, and return the name that they use."""

    def make_volume(self, kubectl: Kubectl) -> None:
        """Make the volume claim `airflow-logs`."""

    def save_task_logs(self, folder: Path) -> None:
        """Copy the tasks' logs into FOLDER."""

    def export(self, folder: Path) -> None:
        """Save what the cluster's maker knows of it."""

    def address(self, supervisor: Supervisor | None = None) -> str:
        """Return where Airflow's API is reached from here; a tunnel is the supervisor's."""

    @property
    def tunnel(self) -> str:
        """The command that opens the way to Airflow by hand; empty where it is open."""

    def delete(self) -> None:
        """Remove everything that was made, whatever state it is in."""


def place(name: str, settings: Settings) -> Place:
    """Return the place of the target NAME."""
    from harness.targets.existing_cluster import ContextPlace
    from harness.targets.kind import KindPlace
    from harness.targets.minikube import MinikubePlace

    places: dict[str, Callable[[Settings], Place]] = {
        "kind": KindPlace,
        "minikube": MinikubePlace,
        "context": ContextPlace,
    }
    return places[name](settings)


@dataclass
class ClusterDeployment:
    """Airflow on a cluster while it is up."""

    place: Place
    kubectl: Kubectl
    supervisor: Supervisor
    api: AirflowApi
    warehouse: Warehouse
    stays: bool = False

    def keep(self) -> None:
        """Let it outlive this process."""
        self.supervisor.cancel_at_end()
        self.stays = True

    def reset(self) -> None:
        """End what still runs, remove tasks' pods and make the warehouse anew: a run begins with nothing."""
        for dag_id in self.api.dag_ids():
            for run_id, state in self.api.runs(dag_id).items():
                if state in ("queued", "running"):
                    self.api.end(dag_id, run_id)
        for pod in self.kubectl.items("pods"):
            if is_of_a_task(pod):
                self.kubectl.run("delete", "pod", pod["metadata"]["name"], "--ignore-not-found")
        drop_warehouse(self.warehouse)
        create_warehouse(self.warehouse.server, "warehouse", self.warehouse.passwords)

    def addresses(self) -> list[str]:
        """How to reach what was kept."""
        return addresses(self.place, self.api.password, shown_dsn(self.warehouse))

    @property
    def left(self) -> list[str]:
        """What could not be taken down."""
        return self.supervisor.left_behind

    def failed_dbt_runs(self) -> list[Path]:
        """Copy the volume of the tasks' logs, where dbt's pod leaves the files of each, and return where they are."""
        copied = self.supervisor.directory / "failed-dbt-runs"
        copied.mkdir(exist_ok=True)
        self.place.save_task_logs(copied)
        return sorted((copied / "dbt").glob("*"), key=lambda folder: folder.stat().st_mtime)

    def check(self) -> list[str]:
        """Check that each task ran in a pod of its own, dbt in one more, and that only those are left that failed.

        Raises:
            ChecksFailedError: one did not, or one is left.
        """
        events = [event for event in self.kubectl.items("events") if event["reason"] == "Scheduled"]
        ran = {event["involvedObject"]["name"] for event in events}
        wanted = [f"{dag_id}-{task_id}-".replace("_", "-") for dag_id in self.api.dag_ids() for task_id in TASK_IDS]
        if missing := [start for start in (*wanted, DBT_POD) if not any(name.startswith(start) for name in ran)]:
            raise ChecksFailedError(
                f"No pod was made for {', '.join(missing)}.",
                "Another executor or operator ran it, or the cluster forgot its events.",
                "Compare executor in cluster/values/base.yaml and DBT_IMAGE in the workers' environment.",
            )
        pods = [p for p in self.kubectl.items("pods") if is_of_a_task(p)]
        left = [p["metadata"]["name"] for p in pods if p["status"].get("phase") != "Failed"]
        left = [name for name in left if self._is_left(name)]
        if left:
            raise ChecksFailedError(
                f"Pods are left of tasks that have ended: {', '.join(left)}.",
                "The executor, or the pod operator, does not delete its pods any more.",
                "Compare kubernetes_executor in cluster/values/base.yaml and on_finish_action in dbt_task.py.",
            )
        of_tasks = sum(name.startswith((*wanted, DBT_POD)) for name in ran)
        return [f"each task ran in a pod of its own, and dbt in one more: {of_tasks} pods; none is left"]

    def _is_left(self, name: str) -> bool:
        """Say whether a pod stays: the executor deletes it in its next round, a moment after the task's end."""
        deadline = time.monotonic() + pins.deadline_s("delete")
        while self.kubectl.get("pod", name):
            if time.monotonic() > deadline:
                return True
            time.sleep(1)
        return False


def is_of_a_task(pod: dict[str, Any]) -> bool:
    """Say whether a pod is a worker or one that a task has started."""
    labels = pod["metadata"].get("labels", {})
    return "task_id" in labels or labels.get("component") == "worker"


class OnCluster:
    """A target that is a cluster; see `harness.targets.Target`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @contextlib.contextmanager
    def up(self, settings: Settings, phases: Phases) -> Iterator[ClusterDeployment]:
        """Bring it up; leaving the context takes it down, unless it is kept or was there before."""
        where = place(self.name, settings)
        BUILD.mkdir(exist_ok=True)
        with session_lock(LOCK, "uses the cluster of this clone") as lock, Supervisor.launch([lock]) as supervisor:
            if not settings.reuse:
                where.check_is_free()
            check(where, supervisor)
            where.check_fits()
            if not settings.reuse:
                told = {TAKEDOWN: json.dumps(asdict(where.settings))}  # the DSN among it: not an argument
                argv = [sys.executable, "-m", "harness", "takedown", self.name]
                supervisor.at_end("takedown", argv, told, 3 * pins.deadline_s("delete"))
            deployment = None
            try:
                deployment = bring_up(where, supervisor, settings, phases)
                yield deployment
            except Exception as error:
                stays = settings.reuse or bool(deployment and deployment.stays)
                failure = explained(error, where, deployment)
                save_diagnostics(failure, where, supervisor, phases, deployment, stays=stays)
                if failure is error:
                    raise
                raise failure from error
            finally:
                if not (settings.reuse or (deployment and deployment.stays)):
                    take_down(supervisor, phases)


def check(where: Place, supervisor: Supervisor) -> None:
    """Check what can be checked before anything is made, and have at hand what must be there for it.

    Raises:
        HarnessError: something is missing, too small, taken, or cannot be reached.
    """
    archive = chart.locate()  # before anything is pulled
    run_values = supervisor.directory / "any-values.json"
    run_values.write_text(json.dumps(chart.values("events-platform/airflow:any", {}, {})))
    where.check(supervisor)
    chart.check_values(archive, release.NAMESPACE, [*values_files(where), run_values])


def values_files(where: Place) -> list[Path]:
    """Return the chart's values that are kept in files, the ones that win last."""
    own = [Path(where.settings.values)] if where.settings.values else []
    return [chart.VALUES / "base.yaml", chart.VALUES / where.values, *own]


def bring_up(where: Place, supervisor: Supervisor, settings: Settings, phases: Phases) -> ClusterDeployment:
    """Bring everything up that is not up, bring up to date what differs, and wait until Airflow is healthy."""
    archive = chart.locate()
    where.prepare()
    is_local = "://" not in settings.events_uri
    airflow_image = images.airflow(Path(settings.events_uri) if is_local else None)
    events_uri = images.EVENTS if is_local else settings.events_uri
    dbt_image = images.dbt()

    def create() -> Kubectl:
        with phases.phase("cluster ready") as phase:
            phase.text = where.create(supervisor)
        kubectl = where.kubectl()
        release.create_namespace(kubectl)
        where.make_volume(kubectl)
        return kubectl

    def start_database() -> release.Database:
        with phases.phase("PostgreSQL up") as phase:
            database = where.database(supervisor)
            phase.text = f"{describe(database.server)} up"
        return database

    def bring_images() -> list[str]:
        with phases.phase("images built") as phase:
            is_new = [images.build(supervisor, image) for image in (dbt_image, airflow_image)]
            phase.text = "images built" if any(is_new) else "images were built before"
        with phases.phase("images brought in"):
            return [where.bring(supervisor, image) for image in (airflow_image, dbt_image)]

    making, starting, bringing = InBackground(create), InBackground(start_database), InBackground(bring_images)
    wait_for(making, starting, bringing)
    for image in (airflow_image, dbt_image):
        where.bring(supervisor, image)  # is done, unless the cluster had to be made twice
    kubectl, database, (airflow_reference, dbt_reference) = making.result(), starting.result(), bringing.result()

    with phases.phase("databases, roles and secrets made"):
        mine = release.passwords(kubectl)
        warehouse, metadata_url = release.create_databases(database, mine)
        annotations = release.create_secrets(
            kubectl, mine, warehouse, database, metadata_url=metadata_url, events_uri=events_uri
        )
        annotations |= release.identity(database.server)
    env = {"DBT_IMAGE": dbt_reference, "EVENTS_MAX_REJECTED": str(settings.max_rejected)}
    mine_values = supervisor.directory / "values.json"
    mine_values.write_text(json.dumps(chart.values(airflow_reference, env, annotations)))
    watch = release.Watch(kubectl, where.check_stands)
    with phases.phase("chart ready"):
        files = [*values_files(where), mine_values]
        release.install(supervisor, kubectl, archive, files, phases=phases, watch=watch)

    api = AirflowApi(where.address(supervisor), release.USER, mine[release.USER])
    with phases.phase("Airflow healthy") as phase:
        if late := api.wait_until_healthy(pins.deadline_s("healthy")):
            raise RollOutFailedError(
                f"{late} does not report that it is healthy after {pins.deadline_s('healthy'):.0f} s.",
                "Its pod runs, but it does not reach the metadata database or another component.",
                f"See what it says: nox -s cluster -- logs {late}",
            )
        phase.text = f"Airflow healthy at {api.address}"
    api.watch = release.Watch(kubectl, where.check_stands, of_tasks=True)
    return ClusterDeployment(where, kubectl, supervisor, api, warehouse)


def that_is_up(where: Place, supervisor: Supervisor | None = None) -> tuple[Kubectl, AirflowApi]:
    """Return the ways to a deployment that is up; nothing is changed.

    Raises:
        NotUpError: there is none, or it does not answer.
    """
    kubectl = where.kubectl()
    mine = release.read_secret(kubectl, "passwords") if where.is_there() and kubectl.answers() else {}
    if not mine:
        raise NotUpError(
            f"The {where.title} is not up.",
            "Nobody brought it up, or it was taken down, or Docker was started anew.",
            f"Bring it up: {where.command('up')}",
        )
    return kubectl, AirflowApi(where.address(supervisor), release.USER, mine[release.USER])


def warehouse_of(where: Place) -> Warehouse:
    """Return the warehouse of a deployment that is up."""
    mine = release.read_secret(where.kubectl(), "passwords")
    server = where.database_that_is_up().server
    return Warehouse(server, f"warehouse{server.suffix}", {role: mine[role] for role in ROLES})


def shown_dsn(warehouse: Warehouse) -> str:
    """Return the DSN to show: the administrator's, where its password was made for this deployment, else a reader's."""
    return warehouse.reader_dsn if warehouse.server.suffix else warehouse.admin_dsn


def addresses(where: Place, password: str, warehouse_dsn: str) -> list[str]:
    """Return a line for each way to reach a deployment that stays, and the command that takes it down."""
    lines = [f"  Airflow    {where.address()}  user {release.USER}, password {password}"]
    if where.tunnel:
        lines.append(f"             after: {where.tunnel}")
    kubectl = where.kubectl()
    config = f"KUBECONFIG={os.path.relpath(kubectl.kubeconfig, ROOT)} " if kubectl.kubeconfig else ""
    lines.append(f"  kubectl    {config}kubectl --namespace {kubectl.namespace} get pods")
    if warehouse_dsn:
        lines.append(f"  warehouse  {warehouse_dsn}")
    return [*lines, f"  take it down: {where.command('down')}"]


def explained(error: Exception, where: Place, deployment: ClusterDeployment | None) -> Exception:
    """Return the failure that is behind ERROR: what the deployment stood on, or the cluster's own cause of it."""
    if not isinstance(error, ChecksFailedError):
        try:
            where.check_stands(database=deployment is not None)
        except EventsError as behind:
            return behind
    finders: tuple[Callable[..., Cause | None], ...]
    match error:
        case DagRunFailedError():  # its task's log says more than a component that has ended and runs again
            finders = (find_for_tasks,)
        case ServiceFailedError():
            finders = (find, find_for_tasks)
        case _:
            return error
    with contextlib.suppress(EventsError):  # the failure itself matters more
        for cause in release.causes_of(where.kubectl(), *finders)[:1]:
            error.what = f"{error.what} {cause.what}"
            error.why, error.next_step = cause.why, cause.next_step
    return error


def save_diagnostics(
    error: Exception,
    where: Place,
    supervisor: Supervisor,
    phases: Phases,
    deployment: ClusterDeployment | None,
    *,
    stays: bool,
) -> None:
    """Save what explains ERROR, before anything is taken down, unless it STAYS."""
    admin_dsn = deployment.warehouse.admin_dsn if deployment else None
    if not stays and isinstance(error, EventsError) and re.search(r"kubectl |cluster -- logs", error.next_step):
        error.next_step = f"Read what was saved, or look at it while it is up ({where.command('up')})."
    folders = {"commands": supervisor.directory / "logs"}
    files = values_files(where)
    diagnostics.save(error, folders, admin_dsn, lambda folder: cluster_diagnostics.save(folder, where, files), phases)
