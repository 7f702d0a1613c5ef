"""Airflow sends its metrics by the names that the chart's mapping knows; tests/harness/kubernetes has that mapping."""

import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow._shared.observability.metrics import stats
from airflow._shared.observability.metrics.statsd_logger import get_statsd_logger
from airflow.models.dagrun import DagRun
from airflow.utils.state import DagRunState
from statsd import StatsClient


def test_airflow_sends_the_names_that_the_charts_mapping_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_factory", "_backend", "_export_legacy_names"):
        monkeypatch.setattr(stats, name, getattr(stats, name))  # put back at the end
    run: Any = DagRun(dag_id="events_pipeline_daily", run_id="a", run_type="scheduled", state=DagRunState.FAILED)
    run.start_date = datetime(2020, 1, 1, tzinfo=UTC)
    run.end_date = run.start_date + timedelta(minutes=1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.bind(("127.0.0.1", 0))
        exporter.settimeout(10)
        host, port = exporter.getsockname()

        def logger() -> Any:
            return get_statsd_logger(stats_class=StatsClient, host=host, port=port, prefix="airflow")

        stats.initialize(
            factory=logger,
            export_legacy_names=True,  # cluster/values/metrics.yaml
        )
        run._emit_duration_stats_for_finished_state()
        stats.timing("dagrun.schedule_delay", timedelta(seconds=2), tags={"dag_id": run.dag_id})
        stats.incr("scheduler_heartbeat", 1, 1)
        sent = {exporter.recv(1024).decode() for _ in range(5)}
    assert sent >= {
        "airflow.dagrun.duration.failed.events_pipeline_daily:60000.000000|ms",
        "airflow.dagrun.schedule_delay.events_pipeline_daily:2000.000000|ms",
        "airflow.scheduler_heartbeat:1|c",
    }
