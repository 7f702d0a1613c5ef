"""The metrics of the ledger and of the models' state, as Prometheus reads them."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from feeds import metrics
from feeds.__main__ import main
from feeds.contract import CONTRACTS
from feeds.errors import FeedError
from harness.warehouse.ports import free_port
from harness.warehouse.roles import Warehouse, let_reader_see_ledger
from tests.events_feed import load
from tests.feeds.common import account, write, write_days
from tests.feeds.conftest import OwnServer

STATE = "intermediate.model_state"
EVENTS = {"events": metrics.Expected(86_400, 0.01)}


def scrape(dsn: str, feeds: Mapping[str, metrics.Expected | None] = EVENTS) -> dict[str, float]:
    """Return the value of each series, by its name and labels."""
    registry = CollectorRegistry()
    registry.register(metrics.WarehouseCollector(dsn, feeds))
    return series(generate_latest(registry).decode())


def series(text: str) -> dict[str, float]:
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def read(warehouse: Warehouse) -> Warehouse:
    """Give a warehouse whose reader may see the ledger."""
    let_reader_see_ledger(warehouse)
    return warehouse


def test_the_figures_are_those_of_the_loads(read: Warehouse, tmp_path: Path) -> None:
    first = load(write_days(tmp_path / "first.csv", 0, 1), read.loader_dsn, end=None)
    with pytest.raises(FeedError):
        load(write(tmp_path / "wrong.csv", ["not an event"]), read.loader_dsn)
    began = time.time()
    last = load(write(tmp_path / "last.csv", [account(1), account(2), "no event"]), read.loader_dsn, max_rejected=1.0)
    found = scrape(read.reader_dsn)
    assert began < found.pop("feeds_last_success_timestamp_seconds events") < time.time()
    assert 0 < found.pop("feeds_last_success_duration_seconds events") < last.seconds + 1
    assert (first.loaded, last.rejected) == (20, 1)
    assert found == {
        "feeds_up": 1,
        "feeds_cadence_seconds events": 86_400,
        "feeds_max_rejected_ratio events": 0.01,
        "feeds_loads_total events succeeded": 2,
        "feeds_loads_total events failed": 1,
        "feeds_running_loads events": 0,
        "feeds_last_load_failed events": 0,
        "feeds_last_success_read_rows events": 3,
        "feeds_last_success_loaded_rows events": 2,
        "feeds_last_success_rejected_rows events": 1,
        "feeds_last_success_outside_rows events": 0,
        "feeds_models": 0,
    }


def test_a_feed_without_loads_has_counts_and_nothing_else_and_one_without_a_contract_is_left_out(
    read: Warehouse, uri: str
) -> None:
    load(uri, read.loader_dsn)
    found = scrape(read.reader_dsn, {"invalid": None, "orders": metrics.Expected(7 * 86_400, 0.5)})
    assert found == {
        "feeds_up": 1,
        "feeds_cadence_seconds orders": 604_800,
        "feeds_max_rejected_ratio orders": 0.5,
        **{
            f"feeds_{name}": 0
            for feed in ("invalid", "orders")
            for name in (
                *(f"loads_total {feed} {status}" for status in ("succeeded", "failed")),
                *(f"running_loads {feed}", f"last_load_failed {feed}"),
            )
        },
        "feeds_models": 0,
    }


def test_a_load_runs_until_its_process_is_killed_and_then_has_failed(read: Warehouse) -> None:
    begin = (
        "insert into raw.loads (feed, source_uri, status, started_at)"
        " values ('events', 'x', 'running', now() - interval '1 h')"
    )
    lock = f"select pg_advisory_xact_lock({0x6C6F6164}, load_id::int) from raw.loads"  # noqa: S608
    names = ("loads_total events failed", "running_loads events", "last_load_failed events")
    with psycopg.connect(read.loader_dsn, autocommit=True) as connection:
        connection.execute(begin)
        with connection.transaction():
            connection.execute(lock.encode())
            assert [scrape(read.reader_dsn)[f"feeds_{name}"] for name in names] == [0, 1, 0]
        assert [scrape(read.reader_dsn)[f"feeds_{name}"] for name in names] == [1, 0, 1]


def test_the_last_load_is_the_one_that_began_last_and_has_ended(read: Warehouse) -> None:
    def insert(status: str) -> float:
        with psycopg.connect(read.loader_dsn) as connection:
            connection.execute("insert into raw.loads (feed, source_uri, status) values ('events', 'x', %s)", (status,))
        return scrape(read.reader_dsn)["feeds_last_load_failed events"]

    assert [insert(status) for status in ("failed", "succeeded", "failed", "running", "succeeded")] == [1, 0, 1, 1, 0]


def build(warehouse: Warehouse, model: str, feeds: str) -> None:
    """Write down that MODEL has seen what is there now, as dbt does."""
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        connection.execute(
            f"insert into {STATE} select %s, system_identifier::text, pg_current_snapshot(), now(), %s::text[]"  # noqa: S608
            " from pg_control_system() on conflict (model) do update set snapshot = excluded.snapshot",
            (model, feeds),
        )


@pytest.fixture
def stateful(read: Warehouse) -> Warehouse:
    """Give a warehouse with dbt's table."""
    with psycopg.connect(read.transformer_dsn) as connection:
        connection.execute("create schema intermediate")
        connection.execute(
            f"create table {STATE} (model text primary key, server text, snapshot pg_snapshot, built_at timestamptz,"
            " feeds text[])"
        )
        connection.execute(f"grant select on {STATE} to {read.role('reader')}".encode())
    return read


def behind(warehouse: Warehouse) -> dict[str, float]:
    found = scrape(warehouse.reader_dsn)
    return {name.split()[1]: value for name, value in found.items() if name.startswith("feeds_model_unseen_loads")}


def test_a_model_is_behind_the_changes_of_its_feeds_that_it_has_not_seen(stateful: Warehouse, tmp_path: Path) -> None:
    uri = write_days(tmp_path / "events.csv", 0)
    build(stateful, "fact.of_events", "{events,events}")
    build(stateful, "fact.of_orders", "{orders}")
    assert behind(stateful) == {"fact.of_events": 0, "fact.of_orders": 0}

    load(uri, stateful.loader_dsn)
    ended_at = scrape(stateful.reader_dsn)["feeds_last_success_timestamp_seconds events"]
    load(uri, stateful.loader_dsn)  # nothing to do
    with pytest.raises(FeedError):
        load(write(tmp_path / "wrong.csv", ["not an event"]), stateful.loader_dsn)
    assert behind(stateful) == {"fact.of_events": 1, "fact.of_orders": 0}
    load(write_days(tmp_path / "events.csv", 0, 1), stateful.loader_dsn)
    assert behind(stateful) == {"fact.of_events": 2, "fact.of_orders": 0}
    found = scrape(stateful.reader_dsn)
    since = {name: value for name, value in found.items() if "oldest" in name}
    assert since == {"feeds_model_oldest_unseen_load_timestamp_seconds fact.of_events": pytest.approx(ended_at)}
    assert found["feeds_models"] == 2

    build(stateful, "fact.of_events", "{events}")
    assert behind(stateful) == {"fact.of_events": 0, "fact.of_orders": 0}


def test_a_load_that_began_before_a_build_and_was_published_after_it_is_not_seen(stateful: Warehouse, uri: str) -> None:
    load(uri, stateful.loader_dsn)
    with psycopg.connect(stateful.loader_dsn) as connection:
        connection.execute("update raw.loads set transaction_id = pg_current_xact_id()")
        build(stateful, "fact.of_events", "{events}")
    assert behind(stateful) == {"fact.of_events": 1}


@pytest.mark.parametrize(
    "change", ["alter table {} drop column feeds", "revoke select on {} from {reader}"], ids=["older", "not granted"]
)
def test_what_is_not_known_of_the_models_is_left_out_until_the_next_build(change: str, stateful: Warehouse) -> None:
    with psycopg.connect(stateful.transformer_dsn) as connection:
        connection.execute(change.format(STATE, reader=stateful.role("reader")).encode())
    found = scrape(stateful.reader_dsn)
    assert found["feeds_up"] == 1
    assert not [name for name in found if "model" in name]


def test_the_reader_sees_figures_of_the_ledger_and_no_rows(read: Warehouse) -> None:
    with psycopg.connect(read.reader_dsn) as connection:
        tables = connection.execute(
            "select relname::text from pg_class where relnamespace = 'raw'::regnamespace and relkind in ('r', 'p')"
            " and has_any_column_privilege(oid, 'select, insert, update')"
        ).fetchall()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select source_uri from raw.loads")
    assert tables == [("loads",)]


def test_a_warehouse_that_does_not_answer_is_a_figure(
    bare_warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    assert scrape(bare_warehouse.loader_dsn)["feeds_up"] == 1  # no table yet
    nobody = f"postgresql://reader:s3cret@127.0.0.1:{free_port()}/warehouse"
    assert scrape(nobody) == {"feeds_up": 0}
    assert "the warehouse does not answer" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_lock_on_the_ledger_costs_one_scrape(read: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_SETTINGS", metrics._SETTINGS.replace("'5s'", "'100ms'"))
    with psycopg.connect(read.loader_dsn) as connection:
        connection.execute("lock table raw.loads in access exclusive mode")
        assert scrape(read.reader_dsn) == {"feeds_up": 0}
    assert scrape(read.reader_dsn)["feeds_up"] == 1


def test_a_server_that_was_restarted_is_asked_again_over_a_new_connection(
    own_server: OwnServer, own: Warehouse
) -> None:
    let_reader_see_ledger(own)
    registry = CollectorRegistry()
    registry.register(metrics.WarehouseCollector(own.reader_dsn, EVENTS))

    def up() -> float:
        return series(generate_latest(registry).decode())["feeds_up"]

    assert [up(), up()] == [1, 1]
    with psycopg.connect(own.admin_dsn) as connection:
        count = "select count(*) from pg_stat_activity where usename = %s"
        assert connection.execute(count, (own.role("reader"),)).fetchone() == (1,)
    own_server.kill()
    assert up() == 0
    own_server.start()
    assert up() == 1


@pytest.fixture
def served(read: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the address of `python -m feeds metrics`."""
    monkeypatch.setenv("EVENTS_DSN", read.reader_dsn)
    command = (sys.executable, "-m", "feeds", "metrics", "--port", str(port := free_port()))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert f"metrics at http://127.0.0.1:{port}/metrics" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}/metrics"
        process.terminate()


def test_the_command_serves_them_to_several_at_a_time(served: str) -> None:
    import httpx

    found: list[dict[str, float]] = []
    threads = [threading.Thread(target=lambda: found.append(series(httpx.get(served).text))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 8
    assert found[0].keys() >= {f"feeds_loads_total {path.stem} failed" for path in CONTRACTS.glob("*.yaml")}


def test_a_port_that_is_taken_is_named(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = re.findall(r":(\d+)/", served)[0]
    assert main(["metrics", "--port", port]) == 29
    assert capsys.readouterr().err.startswith(f"✗ Nothing can listen at 127.0.0.1:{port}: Address already in use.\n")
