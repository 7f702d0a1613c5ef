"""A run whose pods, or whose services, are killed ends well by itself, within three minutes and with exact numbers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
import pytest

from feeds.interval import ALWAYS
from feeds.locks import SWAP_LOCK
from harness.kubernetes.kubectl import Kubectl
from harness.oracle.checks import compare
from harness.oracle.expected_numbers import Expected, compute
from harness.processes.command import run as run_command
from harness.processes.supervisor import Supervisor
from harness.project.paths import SAMPLE
from harness.targets.cluster_deployment import DBT_POD, ClusterDeployment, connect, warehouse_of
from tests.cluster.conftest import KIND, Cluster
from tests.events_feed import EVENTS

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

IS_SWAP_LOCK = f"(classid::bigint << 32) + objid::bigint = {SWAP_LOCK}"
DAG_ID = "events_pipeline_daily"
ENDS_WELL_IN_S = 180.0


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> Expected:  # noqa: ARG001 - it is up
    return compute([(EVENTS, str(SAMPLE))], ALWAYS, warehouse_of(KIND).admin_dsn)


@pytest.fixture
def deployment(cluster: Cluster) -> Iterator[ClusterDeployment]:
    """Give the cluster's deployment with an empty warehouse."""
    with Supervisor.launch() as supervisor:
        _, api = connect(KIND, supervisor)
        deployment = ClusterDeployment(supervisor, api, warehouse_of(KIND), KIND, cluster.kubectl, stays=True)
        deployment.reset()
        yield deployment


@dataclass(frozen=True)
class Run:
    """A run of the daily DAG."""

    deployment: ClusterDeployment
    run_id: str

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.deployment.warehouse.admin_dsn) as connection:
            return connection.execute(query).fetchall()

    def is_waiting(self) -> bool:
        """Return whether a load or a dbt build waits for its turn."""
        return bool(self.rows(f"select from pg_locks where locktype = 'advisory' and not granted and {IS_SWAP_LOCK}"))

    def has_loaded(self) -> bool:
        return self.deployment.api.task_states(DAG_ID, self.run_id)["load_events"] == "success"

    def kubectl(self, prefix: str) -> Kubectl:
        """Return kubectl for the namespace of the pods with this prefix."""
        kubectl = self.deployment.kubectl
        return kubectl.for_dbt if prefix == DBT_POD else kubectl

    def pods(self, prefix: str) -> list[str]:
        """Return the names of the running pods with this prefix."""
        return [
            pod["metadata"]["name"]
            for pod in self.kubectl(prefix).items("pods")
            if pod["metadata"]["name"].startswith(prefix) and pod["status"]["phase"] == "Running"
        ]

    def delete(self, prefix: str) -> None:
        """Delete the running pod with this prefix at once, without time to end."""
        [name] = self.pods(prefix)
        self.kubectl(prefix).run("delete", "pod", name, "--grace-period=0", "--force")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@contextmanager
def waiting(run: Run) -> Iterator[None]:
    """Let the load or the dbt build that is next wait for its lock, until the context ends."""
    with psycopg.connect(run.deployment.warehouse.admin_dsn, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (SWAP_LOCK,))
        wait_for(run.is_waiting, "the run does not wait for the lock")
        yield


@pytest.fixture
def run(deployment: ClusterDeployment, expected: Expected) -> Iterator[Run]:
    """Give a new run, which the test breaks; afterwards it must end well."""
    run = Run(deployment, deployment.api.trigger(DAG_ID, {}, replaces_scheduled=True))
    deployment.api.unpause(DAG_ID)
    started = time.monotonic()
    states: list[tuple[str, str]] = []
    yield run
    deployment.api.follow(
        DAG_ID, run.run_id, ENDS_WELL_IN_S - (time.monotonic() - started), lambda *state: states.append(state)
    )
    print(f"{time.monotonic() - started:.0f} s", states)
    with psycopg.connect(deployment.warehouse.admin_dsn) as connection:
        checks = compare(expected, connection)
    assert [check for check in checks if not check.passed] == []


def test_a_deleted_pod_of_a_load(run: Run) -> None:
    with waiting(run):
        run.delete("events-pipeline-daily-load-events-")
        wait_for(lambda: not run.is_waiting(), "the load goes on")
    wait_for(run.has_loaded, "the load is not tried again")
    assert run.rows("select status, failure from raw.loads order by load_id") == [
        ("failed", "Its process was killed."),
        ("succeeded", None),
    ]


def test_a_deleted_pod_of_dbt(run: Run) -> None:
    wait_for(run.has_loaded, "no load")
    with waiting(run):
        run.delete(DBT_POD)
        wait_for(lambda: not run.is_waiting(), "dbt goes on")


def test_a_deleted_worker_that_watches_dbt(run: Run) -> None:
    wait_for(run.has_loaded, "no load")
    with waiting(run):
        first = run.pods("events-pipeline-daily-dbt-build-")
        run.delete("events-pipeline-daily-dbt-build-")
        wait_for(lambda: run.pods("events-pipeline-daily-dbt-build-") not in ([], first), "no second try")


def test_a_deleted_api_server_during_a_load(run: Run) -> None:
    with waiting(run):
        run.delete("airflow-api-server-")


def test_a_killed_scheduler(run: Run) -> None:
    with waiting(run):
        run.delete("airflow-scheduler-")


def test_a_restarted_postgresql(run: Run) -> None:
    address = run.deployment.warehouse.admin_dsn
    with suppress(psycopg.OperationalError), waiting(run):  # its own connection breaks, too
        run_command("docker", "restart", KIND.postgres)
    assert warehouse_of(KIND).admin_dsn == address
