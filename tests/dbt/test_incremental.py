"""What an incremental build writes and reads, and that it agrees with a full refresh whatever was built before."""

from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from harness.oracle.expected_numbers import Event
from harness.processes.dbt_process import Dbt, Process
from harness.warehouse.roles import Warehouse, copy_warehouse
from tests.dbt.common import (
    MARTS,
    day,
    expected,
    five_days,
    insert,
    midnight,
    read,
    write_file,
)
from tests.dbt.conftest import DATABASE, as_template, begin_with, dbt_on
from tests.events_feed import load


def versions(warehouse: Warehouse) -> dict[tuple[str, date], tuple[Any, ...]]:
    """Return of each day's row in the marts by day which version it is: one that was rewritten is another."""
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        facts = connection.execute("select 'fact', created_at::date, xmin::text, ctid::text from test_fact.fct_events")
        days = connection.execute("select 'day', date, xmin::text, ctid::text from test_analysis.availability_snapshot")
        return {(kind, at): tuple(version) for kind, at, *version in [*facts, *days]}


def all_versions(warehouse: Warehouse) -> dict[str, set[tuple[Any, ...]]]:
    """Return the versions of the rows of each table of a model."""
    tables = sql.SQL("select schemaname, tablename from pg_tables where schemaname ~ '^test_' and tablename <> {}")
    version = sql.SQL("select xmin::text, ctid::text from {}")
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        return {
            f"{schema}.{name}": set(connection.execute(version.format(sql.Identifier(schema, name))))
            for schema, name in connection.execute(tables.format("model_state")).fetchall()
        }


@pytest.mark.usefixtures("has_five_days")
def test_only_the_corrected_day_is_rewritten_and_the_counts_from_there_on(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    before = versions(warehouse)

    log = five_days()
    log[4] = log[4]._replace(event_type="became_unable_to_propose")  # of day 3
    file = str(write_file(tmp_path / "events.csv", log))
    load(file, warehouse.loader_dsn, start=midnight(3), end=midnight(4))
    dbt.run(MARTS)
    after = versions(warehouse)

    assert after.keys() == before.keys()
    rewritten = sorted((kind, at.day) for kind, at in before if before[kind, at] != after[kind, at])
    assert rewritten == [("day", 3), ("day", 4), ("day", 5)]  # the day's proposal is the same
    assert read(warehouse) == expected(log)

    load(file, warehouse.loader_dsn, start=midnight(3), end=midnight(4))  # the same once more
    with psycopg.connect(warehouse.loader_dsn) as connection:  # and a load of another feed, of all time
        connection.execute(
            "insert into raw.loads (feed, source_uri, status, transaction_id)"
            " values ('other', 'test', 'succeeded', pg_current_xact_id())"
        )
    dbt.run(MARTS)
    assert versions(warehouse) == after

    with psycopg.connect(warehouse.transformer_dsn) as connection:  # changes that are in no load
        connection.execute("update test_fact.fct_events set service_id = 8 where created_at < '2020-01-02'")
        connection.execute("delete from test_fact.fct_events where created_at > '2020-01-05'")
    dbt.run(f"{MARTS} --full-refresh")
    assert read(warehouse) == expected(log)
    rewritten = sorted(
        (kind, at.day) for (kind, at), version in versions(warehouse).items() if after[kind, at] != version
    )
    assert rewritten == [("fact", 1), ("fact", 5)]


def test_a_build_writes_only_rows_that_a_load_has_changed(dbt: Dbt, warehouse: Warehouse, tmp_path: Path) -> None:
    log = [Event(1, "created_account", 1, day(1)), *five_days()]
    file = str(write_file(tmp_path / "events.csv", log))
    load(file, warehouse.loader_dsn)
    dbt.run(MARTS)
    before = all_versions(warehouse)
    assert {table: len(rows) for table, rows in before.items()} == {
        "test_analysis.availability_snapshot": 5,
        "test_analysis.professional_funnel": 5,
        "test_analysis.professional_productivity_daily": 5,
        "test_analysis.service_revenue_daily": 5,
        "test_dim.dim_date": 5,
        "test_dim.dim_professionals": 5,
        "test_dim.dim_services": 1,
        "test_fact.fct_events": 5,
        "test_intermediate.int_other_events": 1,
        "test_intermediate.int_service_days": 5,
        "test_intermediate.int_status_events": 5,
    }

    assert load(file, warehouse.loader_dsn, force=True).replaced == len(log)  # writes all rows again
    dbt.run(MARTS)
    assert all_versions(warehouse) == before
    dbt.run(f"{MARTS} --full-refresh")  # compares all rows
    assert all_versions(warehouse) == before

    log[6] = log[6]._replace(meta_data="7_tuin_garden_2")  # the proposal of day 3
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
    dbt.run(MARTS)
    after = all_versions(warehouse)
    assert read(warehouse) == expected(log)
    assert {table: len(before[table] - rows) for table, rows in after.items() if before[table] != rows} == {
        "test_analysis.professional_productivity_daily": 1,
        "test_analysis.service_revenue_daily": 1,
        "test_fact.fct_events": 1,
        "test_intermediate.int_service_days": 1,
    }


def test_a_load_that_commits_after_a_later_one_is_seen(dbt: Dbt, warehouse: Warehouse) -> None:
    log = five_days()
    statement = (
        "insert into raw.loads (feed, source_uri, status, interval_start, interval_end, transaction_id)"
        " values ('events', 'test', 'succeeded', %s, %s, pg_current_xact_id()) returning load_id"
    )
    with psycopg.connect(warehouse.loader_dsn) as slow:
        [(slow_id,)] = slow.execute(statement, [midnight(2), midnight(3)])
        with psycopg.connect(warehouse.loader_dsn) as fast:
            [(fast_id,)] = fast.execute(statement, [midnight(1), midnight(2)])
            insert(fast, log[:2])
        assert fast_id > slow_id
        dbt.run(MARTS)
        assert read(warehouse) == expected(log[:2])
        insert(slow, log[2:4])

    dbt.run(MARTS)
    assert read(warehouse) == expected(log[:4])


@pytest.fixture(scope="module", params=[1, 3])
def three_days_template(
    request: pytest.FixtureRequest,
    built_template: Warehouse,
    processes: list[Process],
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Warehouse:
    """Give a warehouse with three of the five days, from the first or the third, and the marts of them."""
    warehouse = copy_warehouse(built_template, DATABASE)
    file = str(write_file(tmp_path_factory.mktemp("events") / "events.csv", five_days()))
    load(file, warehouse.loader_dsn, start=midnight(request.param), end=midnight(request.param + 3))
    dbt_on(warehouse, processes[0], folder).run(MARTS)
    return as_template(warehouse, "three_days")


@pytest.mark.parametrize(
    "alone", ["availability_snapshot", "professional_funnel", "dim_date", "int_status_events", "fct_events"]
)
def test_a_model_that_was_built_without_the_others_agrees_with_them_after_the_next_build(
    dbt: Dbt, warehouse: Warehouse, three_days_template: Warehouse, tmp_path: Path, alone: str
) -> None:
    begin_with(warehouse, three_days_template)
    log = five_days()
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)

    dbt.run(f"{MARTS} --select {alone}")
    dbt.run(MARTS)

    assert read(warehouse) == expected(log)


@pytest.mark.usefixtures("has_five_days")
def test_a_table_whose_state_is_unknown_is_built_anew(dbt: Dbt, warehouse: Warehouse) -> None:
    changes = {
        "test_intermediate.int_status_events": "update test_intermediate.model_state set server = '1' where model = %s",
        "test_fact.fct_events": "delete from test_intermediate.model_state where model = %s",
        "test_analysis.availability_snapshot": (
            "update test_intermediate.model_state set snapshot = null where model = %s"
        ),
        "test_dim.dim_professionals": "update test_intermediate.model_state set table_oid = 1 where model = %s",
    }
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        for name, change in changes.items():
            connection.execute(sql.SQL("delete from {}").format(sql.Identifier(*name.split("."))))
            assert connection.execute(change.encode(), [name]).rowcount == 1

    dbt.run(MARTS)

    assert read(warehouse) == expected(five_days())


@pytest.mark.usefixtures("has_five_days")
def test_a_day_that_was_deleted_comes_back_with_the_next_build(dbt: Dbt, warehouse: Warehouse) -> None:
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        connection.execute("delete from test_analysis.availability_snapshot where date = '2020-01-03'")
    before = versions(warehouse)

    dbt.run(MARTS)  # without news from a load

    assert read(warehouse) == expected(five_days())
    assert versions(warehouse).items() >= before.items()


def test_an_incremental_build_reads_only_the_partitions_of_the_changed_days(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feeds.partitions.MIN_ROWS", 1)  # each day has its own partition
    file = str(write_file(tmp_path / "events.csv", five_days()))
    for number in range(1, 6):
        load(file, warehouse.loader_dsn, start=midnight(number), end=midnight(number + 1))
    dbt.run(MARTS)
    log = [e._replace(professional_id=9) if e.created_at == day(3) else e for e in five_days()]
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)  # all days are read again
    scans = """
        select sum(seq_scan + coalesce(idx_scan, 0)), relname
        from pg_stat_user_tables where relname ~ '^events_[0-9]+_[0-9a-f]+$' group by relname
    """
    partition_of = "select tableoid::regclass::text, created_at from raw.events where event_type = 'proposed'"
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        days = {table.removeprefix("raw."): at.day for table, at in connection.execute(partition_of)}
        assert sorted(days.values()) == [1, 2, 3, 4, 5]
        connection.execute("select pg_stat_force_next_flush()")
        before = {table: count for count, table in connection.execute(scans)}
        dbt.run(MARTS)
        after = {table: count for count, table in connection.execute(scans)}

    assert [days[table] for table in days if after[table] != before[table]] == [3]
