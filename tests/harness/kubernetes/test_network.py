"""Who may talk to whom: the table in docs/security.md is what the policies say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CommandFailedError
from harness.kubernetes import deployment, network
from harness.project.paths import ROOT
from tests.harness.kubernetes.network_rules import Peer, may_connect
from tests.harness.kubernetes.object_rules import API_PORT, Recorder, of_harness

AIRFLOW, DBT = deployment.NAMESPACE, f"{deployment.NAMESPACE}-dbt"
COMPONENTS = {
    "API server": "api-server",
    "scheduler": "scheduler",
    "DAG processor": "dag-processor",
    "migrations": "run-airflow-migrations",
    "worker": "worker",
    "triggerer": "triggerer",
    "database cleanup": "database-cleanup",
    "PgBouncer": "pgbouncer",
}
PODS = {
    name: Peer(f"10.244.0.{number}", AIRFLOW, {"tier": "airflow", "component": component})
    for number, (name, component) in enumerate(COMPONENTS.items(), start=10)
} | {"dbt": Peer("10.244.0.30", DBT, {"dag_id": "events_pipeline_daily", "task_id": "dbt_build"})}
OTHERS = [
    Peer("203.0.113.7"),
    Peer("10.244.0.40", "somebody-else", {"component": "worker"}),
    Peer("10.244.0.41", "default", {"component": "api-server"}),
]
DATABASE = Peer("172.18.0.3")  # as in `of_harness`
ANYWHERE = Peer("198.51.100.9")
CONNECTIONS: dict[str, list[tuple[Peer, int]]] = {
    "PostgreSQL": [(DATABASE, 5432)],
    "Kubernetes' API": [(ANYWHERE, API_PORT), (ANYWHERE, 6443)],
    "web": [(ANYWHERE, 80)],
    "API server": [(PODS["API server"], 8080)],
    "PgBouncer": [(PODS["PgBouncer"], 6543)],
}


def policies() -> list[dict[str, Any]]:
    return [item for item in of_harness().values() if item["kind"] == "NetworkPolicy"]


def may(source: Peer, target: str) -> bool:
    """Return whether SOURCE may make each connection to TARGET, a column of the table; they must be alike."""
    if target == "DNS":
        found = {may_connect(policies(), source, ANYWHERE, 53, protocol) for protocol in ("UDP", "TCP")}
    elif target == "any other pod":
        open_to = {"API server": 8080, "PgBouncer": 6543}
        ports = (22, 443, 5432, 6543, 8080, 8793, 8974, 9102)
        others = [(pod, port) for name, pod in PODS.items() for port in ports if port != open_to.get(name)]
        found = {any(may_connect(policies(), source, pod, port) for pod, port in others if pod != source)}
    else:
        found = {may_connect(policies(), source, peer, port) for peer, port in CONNECTIONS[target] if peer != source}
    assert len(found) <= 1, (source, target)
    return found == {True}


def table() -> dict[str, dict[str, bool]]:
    """Return the table: by source and target, whether they may talk."""
    text = (ROOT / "docs" / "security.md").read_text()
    lines = [line for line in text.partition("| from | DNS")[2].splitlines() if line.startswith("|")]
    targets = [
        cell.strip() for cell in ("| from | DNS" + text.partition("| from | DNS")[2]).splitlines()[0].split("|")[2:-1]
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "---" not in line]
    return {
        source: {target: cell == "yes" for target, cell in zip(targets, cells, strict=True)} for source, *cells in rows
    }


def test_the_table_in_the_documentation_is_what_the_policies_say() -> None:
    for source, peer in PODS.items():
        assert {target: may(peer, target) for target in table()[source]} == table()[source], source
    for peer in OTHERS:
        inside = {target: may(peer, target) for target in ("API server", "PgBouncer", "any other pod")}
        assert inside == {target: table()["anybody else"][target] for target in inside}
    assert table().keys() == {*PODS, "anybody else"}


def test_metrics_are_read_by_anybody_and_sent_by_airflow() -> None:
    found = [item for item in of_harness(has_metrics=True).values() if item["kind"] == "NetworkPolicy"]
    made = {
        name: Peer("10.244.0.9", AIRFLOW, {"component": name}) for name in ("feeds-metrics", "statsd", "prometheus")
    }

    def reached(source: Peer, port: int, protocol: str = "TCP") -> set[str]:
        return {name for name, pod in made.items() if pod != source and may_connect(found, source, pod, port, protocol)}

    senders = {name for name, pod in PODS.items() if reached(pod, 9125, "UDP") == {"statsd"}}
    assert senders == {"API server", "scheduler", "DAG processor", "worker", "triggerer"}
    assert not any(reached(pod, port) for pod in PODS.values() for port in (9102, 9090))
    assert [reached(other, 9102) for other in OTHERS] == [{"feeds-metrics", "statsd"}] * len(OTHERS)
    assert not any(
        reached(other, port, protocol) for other in OTHERS for port, protocol in ((9125, "UDP"), (9090, "TCP"))
    )
    assert reached(made["prometheus"], 9102) == {"feeds-metrics", "statsd"}
    assert [may_connect(found, pod, DATABASE, 5432) for pod in made.values()] == [True, False, False]
    assert not any(may_connect(found, pod, ANYWHERE, port) for pod in made.values() for port in (80, 443, 6443))


def test_only_the_databases_address_is_reached_at_its_port() -> None:
    for pod in PODS.values():
        assert may_connect(policies(), pod, DATABASE, 5432)
        assert not may_connect(policies(), pod, ANYWHERE, 5432)
        assert not may_connect(policies(), pod, DATABASE, 5433)


def made(*databases: tuple[str, int], events: str = "/a", of: type[Recorder] = Recorder) -> list[dict[str, Any]]:
    kubectl = of(Path("kubectl"), AIRFLOW)
    network.restrict(kubectl, databases, [events])
    return list(kubectl.applied.values())


def test_a_host_names_address_may_change() -> None:
    found = made(("db.internal", 6000), ("2001:db8::1", 5432))
    for pod in PODS.values():
        assert may_connect(found, pod, ANYWHERE, 6000)
        assert may_connect(found, pod, Peer("2001:db8::1"), 5432)
        assert not may_connect(found, pod, Peer("2001:db8::2"), 5432)


@pytest.mark.parametrize(
    ("uri", "port"), [("https://host:9000/a.csv", 9000), ("s3://bucket/a", 443), ("http://host:x/", 80), ("/a:1/b", 80)]
)
def test_a_worker_reaches_a_feeds_files(uri: str, port: int) -> None:
    found = made(("172.18.0.3", 5432), events=uri)
    assert may_connect(found, PODS["worker"], ANYWHERE, port)
    assert not may_connect(found, PODS["dbt"], ANYWHERE, port)


def test_without_the_right_to_list_the_apis_ports_they_are_the_usual_ones() -> None:
    class Forbidden(Recorder):
        def items(self, *_kinds: str, selector: str = "") -> list[dict[str, Any]]:  # noqa: ARG002
            raise CommandFailedError(["kubectl"], "ended with exit code 1", "forbidden")

    found = made(("172.18.0.3", 5432), of=Forbidden)
    assert may_connect(found, PODS["scheduler"], ANYWHERE, 6443)
    assert not may_connect(found, PODS["scheduler"], ANYWHERE, API_PORT)


def test_a_policy_that_is_missing_is_noticed() -> None:
    everything = policies()
    without = [
        policy for policy in everything if policy["metadata"]["name"] not in ("nothing-else", "dbt-nothing-else")
    ]
    assert may_connect(without, ANYWHERE, PODS["worker"], 22)
    closed = [policy for policy in everything if policy["metadata"]["name"] != "database"]
    assert not may_connect(closed, PODS["worker"], DATABASE, 5432)
    other = [replace(PODS["worker"], labels={"component": "somebody"})]
    assert not any(may_connect(everything, pod, DATABASE, 5432) for pod in other)
