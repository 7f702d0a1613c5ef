"""`up --metrics`: a real Prometheus reads real metrics of Airflow and of the ledger, and says which run has failed."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from harness.kubernetes import metrics
from harness.kubernetes.cluster_secrets import READER_SECRET
from harness.processes.supervisor import Supervisor
from harness.targets.cluster_deployment import connect
from harness.warehouse.ports import free_port
from tests.cluster.conftest import KIND, Cluster
from tests.cluster.test_deployment import succeed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.needs("statsd-image", "prometheus-image")]

DAILY, WEEKLY = "events_pipeline_daily", "events_pipeline_weekly"
INVERTED = {"start": "2020-01-02", "end": "2020-01-01"}
DEADLINE_S = 180.0


@contextmanager
def forwarded(cluster: Cluster) -> Iterator[str]:
    """Have Prometheus at a port of this machine, as the closing lines say."""
    port = free_port()
    argv = [*cluster.kubectl.argv, "port-forward", f"service/{metrics.PROMETHEUS}", f"{port}:{metrics.PROMETHEUS_PORT}"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as forwarding:
        try:
            yield f"http://127.0.0.1:{port}/api/v1/"
        finally:
            forwarding.terminate()


def ask(address: str, expression: str) -> dict[str, float]:
    """Return the value of EXPRESSION for each DAG, feed, model or job; none while Prometheus does not answer."""
    try:
        answer = httpx.get(f"{address}query", params={"query": expression}).raise_for_status().json()
    except httpx.HTTPError:
        return {}
    results: list[dict[str, Any]] = answer["data"]["result"]
    names = ("dag_id", "feed", "model", "job")
    return {
        next((each["metric"][name] for name in names if name in each["metric"]), ""): float(each["value"][1])
        for each in results
    }


def wait_for(address: str, expression: str, expected: dict[str, float]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (found := ask(address, expression)) != expected:
        assert time.monotonic() < deadline, (expression, found)
        time.sleep(1)


def test_prometheus_reads_both_and_says_which_run_failed(cluster: Cluster) -> None:
    assert "  Prometheus http://127.0.0.1:9090/alerts\n" in succeed("cluster", "up", "--metrics")
    assert "  Prometheus http://127.0.0.1:9090/alerts\n" in succeed("cluster", "status")
    assert "metrics at http://0.0.0.0:9102/metrics" in succeed("cluster", "logs", metrics.EXPORTER)
    firing = "ALERTS{alertstate='firing'}"
    with Supervisor.launch() as supervisor, forwarded(cluster) as address:
        _, api = connect(KIND, supervisor)
        wait_for(address, "up", {"airflow": 1, "feeds": 1})
        wait_for(address, "increase(airflow_scheduler_heartbeat[1m]) > bool 0", {"airflow": 1})
        assert ask(address, firing) == {}

        run_id = api.trigger(DAILY, {}, replaces_scheduled=True)
        api.unpause(DAILY)
        api.follow(DAILY, run_id, DEADLINE_S, lambda *_: None)
        wait_for(address, "feeds_loads_total{status='succeeded'} > bool 0", {"events": 1})
        wait_for(address, "sum(feeds_model_unseen_loads)", {"": 0})
        assert ask(address, "feeds_models > bool 5") == {"feeds": 1}
        assert ask(address, firing) == {}

        api.trigger(WEEKLY, INVERTED, replaces_scheduled=True)
        api.unpause(WEEKLY)
        wait_for(address, firing, {WEEKLY: 1})

    succeed("cluster", "up")
    kinds = ("deployments", "services", "networkpolicies", "configmaps", "serviceaccounts", "secrets")
    names = {item["metadata"]["name"] for item in cluster.items(*kinds)}
    assert not names & {"airflow-statsd", "feeds-metrics", "prometheus", "scrapes", "to-statsd", READER_SECRET}
