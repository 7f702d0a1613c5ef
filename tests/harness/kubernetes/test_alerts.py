"""The alerts of cluster/metrics: that each fires when it should, and only then.

Prometheus' own promtool plays made series through the rules; a real Prometheus asks the real exporter of a warehouse.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from feeds.contract import feed_names
from harness.project.paths import ROOT
from harness.warehouse.ports import free_port
from harness.warehouse.roles import Warehouse, let_reader_see_ledger

RULES = ROOT / "cluster" / "metrics" / "alerts.yml"
DAY = 86_400
DEADLINE_S = 30.0


def rules() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_each_alert_says_what_to_do_next_and_where_more_is() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert headings == list(rules())
    for name, rule in rules().items():
        assert rule["labels"] == {"severity": "page"}, name
        annotations = rule["annotations"]
        assert annotations.keys() == {"summary", "description", "runbook"}, name
        assert annotations["runbook"] == f"docs/metrics.md#{name.lower()}"
        assert all(text.endswith(".") for text in (annotations["summary"], annotations["description"])), name


@pytest.mark.needs("prometheus")
def test_prometheus_accepts_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=True)
    assert f"{len(rules())} rules found" in done.stdout


Series = dict[str, str]
Expected = dict[str, set[str]]  # by time, the alerts that fire and what they are about


def of_feed(name: str, feed: str = "events", **labels: str) -> str:
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'feeds_{name}{{job="feeds",instance="a",feed="{feed}"{more}}}'


def of_model(name: str) -> str:
    return f'feeds_model_{name}{{job="feeds",instance="a",model="fact.fct_events"}}'


def of_dag(name: str, **labels: str) -> str:
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'airflow_{name}{{job="airflow",instance="b",dag_id="events_pipeline_daily"{more}}}'


UP = {'feeds_up{job="feeds",instance="a"}': "1x20000"}
HEARTBEAT = {'airflow_scheduler_heartbeat{job="airflow",instance="b",type="counter"}': "0+60x20000"}
FINE = UP | HEARTBEAT
# A sample each minute: what the series are, and which alerts fire when.
Cases = list[tuple[str, Series, Expected]]
OF_DAYS: Cases = [
    ("nothing is wrong", FINE, {"5m": set(), "1d": set()}),
    (
        "no load for a day and a half",
        FINE
        | {
            of_feed("last_success_timestamp_seconds"): "0x20000",
            of_feed("cadence_seconds"): f"{DAY}x20000",
            of_feed("last_success_timestamp_seconds", "weekly"): "0x20000",
            of_feed("cadence_seconds", "weekly"): f"{7 * DAY}x20000",
        },
        {"36h": set(), "36h20m": {"FeedNotLoaded events"}},
    ),
    (
        "a load ends the alert",
        FINE
        | {
            of_feed("last_success_timestamp_seconds"): f"0x2300 {2300 * 60}x5000",
            of_feed("cadence_seconds"): f"{DAY}x20000",
        },
        {"38h": {"FeedNotLoaded events"}, "39h": set()},
    ),
    (
        "never loaded",
        FINE
        | {
            of_feed("loads_total", status="succeeded"): "0x5000",
            of_feed("loads_total", status="failed"): "0x5000",
            of_feed("loads_total", "orders", status="succeeded"): "1x5000",
        },
        {"35h": set(), "36h": {"FeedNeverLoaded events"}},
    ),
]
OF_HOURS: Cases = [
    (
        "rejects",
        FINE
        | {
            of_feed("last_success_read_rows"): "1000x10 1000x100",
            of_feed("last_success_rejected_rows"): "5x10 6x100",
            of_feed("max_rejected_ratio"): "0.01x200",
            of_feed("last_success_read_rows", "empty"): "0x200",
            of_feed("last_success_rejected_rows", "empty"): "0x200",
            of_feed("max_rejected_ratio", "empty"): "0.01x200",
        },
        {"10m": set(), "11m": {"FeedRejectsMany events"}},
    ),
    (
        "a failed load",
        FINE | {of_feed("last_load_failed"): "0x10 1x60 0x60", of_feed("last_load_failed", "orders"): "0x200"},
        {"40m": set(), "41m": {"LoadFailed events"}, "72m": set()},
    ),
    ("a load that is tried again in time", FINE | {of_feed("last_load_failed"): "0x10 1x28 0x60"}, {"41m": set()}),
    (
        "a build that failed",
        FINE | {of_model("oldest_unseen_load_timestamp_seconds"): "0x200", of_model("unseen_loads"): "1x200"},
        {"2h": set(), "2h10m": {"ModelBehind fact.fct_events"}},
    ),
    (
        "a build that comes late",
        FINE | {of_model("oldest_unseen_load_timestamp_seconds"): "0x110 _x100 stale"},
        {"2h10m": set()},
    ),
    (
        "no build ever",
        FINE
        | {
            'feeds_models{job="feeds",instance="a"}': "0x200",
            of_feed("last_success_timestamp_seconds"): "0x200",
            of_feed("cadence_seconds"): f"{DAY}x200",
        },
        {"2h": set(), "2h10m": {"ModelsNeverBuilt "}},
    ),
    ("no build, and no load", FINE | {'feeds_models{job="feeds",instance="a"}': "0x200"}, {"3h": set()}),
    (
        "the warehouse is down",
        HEARTBEAT | {'feeds_up{job="feeds",instance="a"}': "1x10 0x60"},
        {"20m": set(), "21m": {"WarehouseDoesNotAnswer "}},
    ),
    (
        "the exporter is down",
        HEARTBEAT | {'feeds_up{job="feeds",instance="a"}': "1x10 stale"},
        {"20m": set(), "21m": {"LedgerNotSeen "}},
    ),
    (
        "a first failed run",
        FINE | {of_dag("dagrun_failed_count"): "_x10 1x200", of_dag("dagrun_duration_count"): "0+1x200"},
        {"9m": set(), "11m": {"DagRunFailed events_pipeline_daily"}, "80m": set()},
    ),
    (
        "another failed run",
        FINE | {of_dag("dagrun_failed_count"): "3x100 4x200"},
        {"100m": set(), "102m": {"DagRunFailed events_pipeline_daily"}, "170m": set()},
    ),
    (
        "a failed run after the statsd exporter was restarted",
        FINE | {of_dag("dagrun_failed_count"): "3x100 stale _x5 1x200"},
        {"100m": set(), "108m": {"DagRunFailed events_pipeline_daily"}},
    ),
    (
        "a late run",
        FINE
        | {
            of_dag("dagrun_schedule_delay", quantile="0.99"): "1800x10 1801x10 stale",
            'airflow_dagrun_schedule_delay{quantile="0.99"}': "1800x10 1801x10 stale",
            of_dag("dagrun_schedule_delay", quantile="0.5"): "2x200",
        },
        {
            "10m": set(),
            "12m": {"DagRunLate events_pipeline_daily"},
            "60m": {"DagRunLate events_pipeline_daily"},
            "90m": set(),
        },
    ),
    (
        "the scheduler is dead",
        UP | {next(iter(HEARTBEAT)): "0+60x60 3600x100"},
        {"1h10m": set(), "1h16m": {"SchedulerSilent "}},
    ),
    ("nothing sends", UP, {"4m": set(), "5m": {"SchedulerSilent "}}),
]


# What fires, and what it is about.
FIRING = """
    sum by (alertname, about) (
        label_join(
            sum by (alertname, feed, model, dag_id) (ALERTS{alertstate='firing'}),
            'about', '', 'feed', 'model', 'dag_id'
        )
    )
"""


def case(name: str, series: Series, expected: Expected) -> dict[str, Any]:
    """Return a test of promtool."""

    def sample(alert: str) -> dict[str, Any]:
        alertname, about = alert.split(" ")
        return {"labels": f'{{alertname="{alertname}"' + (f',about="{about}"' if about else "") + "}", "value": 1}

    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {"expr": FIRING, "eval_time": at, "exp_samples": list(map(sample, alerts))}
            for at, alerts in expected.items()
        ],
    }


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize(("cases", "step"), [(OF_HOURS, "1m"), (OF_DAYS, "10m")], ids=["hours", "days"])
def test_each_alert_fires_on_what_it_is_for_and_not_before(cases: Cases, step: str, tmp_path: Path) -> None:
    tests = {"rule_files": [str(RULES)], "evaluation_interval": step, "tests": [case(*each) for each in cases]}
    (tmp_path / "tests.yml").write_text(json.dumps(tests))
    command = ("promtool", "test", "rules", tmp_path / "tests.yml")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cases_are_of_each_alert() -> None:
    assert {
        alert.split(" ")[0] for *_, expected in OF_DAYS + OF_HOURS for alert in set().union(*expected.values())
    } == rules().keys()


# --- a real Prometheus, the real exporter, a real warehouse ----------------------------------------------------------

CONFIGURATION = """
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [rules.yml]
scrape_configs: [{job_name: feeds, static_configs: [{targets: ['127.0.0.1:%d']}]}]
"""


def at_once() -> str:
    """Return the rules of the ledger as they are, but each alert fires as soon as its condition holds."""
    groups = yaml.safe_load(RULES.read_text())["groups"][:1]
    for rule in groups[0]["rules"]:
        rule.pop("for", None)
    return json.dumps({"groups": groups})


@pytest.fixture
def running(warehouse: Warehouse, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Give the address of a Prometheus that asks the exporter of WAREHOUSE twice a second, and that exporter."""
    let_reader_see_ledger(warehouse)
    exporter, prometheus = free_port(), free_port()
    (tmp_path / "rules.yml").write_text(at_once())
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION % exporter)
    metrics = (sys.executable, "-m", "feeds", "metrics", "--port", str(exporter))
    options = ("config.file=prometheus.yml", "storage.tsdb.path=data", f"web.listen-address=127.0.0.1:{prometheus}")
    with (
        open(tmp_path / "exporter.log", "w") as log,
        subprocess.Popen(metrics, env={**os.environ, "EVENTS_DSN": warehouse.reader_dsn}, stderr=log) as serving,
        subprocess.Popen(
            ("prometheus", *(f"--{option}" for option in options)), cwd=tmp_path, stderr=subprocess.DEVNULL
        ) as asking,
    ):
        try:
            yield f"http://127.0.0.1:{prometheus}/api/v1/", serving
        finally:
            for process in (serving, asking):
                process.terminate()


def firing(address: str) -> dict[str, dict[str, str]]:
    """Return the annotations of the alerts that fire, by what they are called and about."""
    try:
        alerts = httpx.get(f"{address}alerts").raise_for_status().json()["data"]["alerts"]
    except (httpx.TransportError, httpx.HTTPStatusError):  # it does not answer yet
        return {"none yet": {}}
    labels = [(alert, alert["labels"]) for alert in alerts if alert["state"] == "firing"]
    return {
        " ".join((found["alertname"], found.get("feed") or found.get("model") or "")): alert["annotations"]
        for alert, found in labels
    }


def wait_for(address: str, expected: Iterable[str]) -> dict[str, dict[str, str]]:
    deadline = time.monotonic() + DEADLINE_S
    while (found := firing(address)).keys() != set(expected):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def ledger(warehouse: Warehouse, statement: str) -> None:
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute(statement.encode())


STATE = """
    create schema intermediate;
    create table intermediate.model_state (
        model text, server text, snapshot pg_snapshot, built_at timestamptz, feeds text[]
    );
    insert into intermediate.model_state
    select 'fact.fct_events', system_identifier::text, pg_current_snapshot(), now(), '{{events}}'
    from pg_control_system();
    grant select on intermediate.model_state to {reader}
"""
LOAD = """
    insert into raw.loads (
        feed, source_uri, status, started_at, ended_at, transaction_id,
        rows_read, rows_loaded, rows_rejected, rows_outside
    )
    select
        'events', 'events.csv', '{status}', now() - interval '{age}', now() - interval '{age}', pg_current_xact_id(),
        1000, 1000 - {rejected}, {rejected}, 0
"""


@pytest.mark.needs("prometheus")
def test_a_real_prometheus_fires_each_alert_of_the_ledger_when_it_is_provoked(
    running: tuple[str, subprocess.Popen[bytes]], warehouse: Warehouse
) -> None:
    address, exporter = running
    never = {f"FeedNeverLoaded {feed}" for feed in feed_names() if feed != "events"}
    found = wait_for(address, never | {"FeedNeverLoaded events"})
    assert found["FeedNeverLoaded events"]["summary"] == "The feed events has a contract and was never loaded."

    ledger(warehouse, LOAD.format(status="succeeded", age="1 minute", rejected=5))
    wait_for(address, never)

    ledger(warehouse, LOAD.format(status="failed", age="0 minutes", rejected=0))
    wait_for(address, never | {"LoadFailed events"})

    ledger(warehouse, LOAD.format(status="succeeded", age="0 minutes", rejected=6))
    found = wait_for(address, never | {"FeedRejectsMany events"})
    assert found["FeedRejectsMany events"]["summary"] == "The latest load of events rejected 0.6% of its rows."

    ledger(
        warehouse,
        "update raw.loads set rows_rejected = 0, rows_loaded = rows_read, ended_at = ended_at - interval '3 h'",
    )
    wait_for(address, never | {"ModelsNeverBuilt "})
    with psycopg.connect(warehouse.transformer_dsn) as connection:  # as dbt does
        connection.execute(STATE.format(reader=warehouse.role("reader")).encode())
    wait_for(address, never)

    ledger(warehouse, LOAD.format(status="succeeded", age="3 hours", rejected=0))
    found = wait_for(address, never | {"ModelBehind fact.fct_events"})
    summary = found["ModelBehind fact.fct_events"]["summary"]
    assert re.fullmatch(r"fact.fct_events does not have what was loaded 3h 0m \d+s ago\.", summary)
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        connection.execute("update intermediate.model_state set snapshot = pg_current_snapshot()")
    wait_for(address, never)

    ledger(warehouse, "update raw.loads set ended_at = now() - interval '37 h'")
    wait_for(address, never | {"FeedNotLoaded events"})
    ledger(warehouse, "drop table raw.loads cascade")
    ledger(warehouse, "create table raw.loads (load_id int)")
    wait_for(address, {"WarehouseDoesNotAnswer "})
    exporter.terminate()
    wait_for(address, {"LedgerNotSeen "})
