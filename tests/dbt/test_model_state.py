"""The table of what each model has seen: who reads it, what removes a row of it, and what it leaves to others."""

import dataclasses
import re
import threading
import time
from pathlib import Path

import psycopg
import pytest

from harness.oracle.expected_numbers import COLUMNS
from harness.processes.dbt_process import Dbt, Process
from harness.warehouse.roles import Warehouse, copy_warehouse, drop_warehouse
from tests.dbt.common import (
    MARTS,
    copy_of_the_project,
    corrected,
    expected,
    five_days,
    read,
    replace,
    write_file,
)
from tests.dbt.conftest import dbt_on
from tests.events_feed import load

STATE = "test_intermediate.model_state"
COMMENT = "select obj_description('test_fact.fct_events'::regclass, 'pg_class')"


def test_every_table_has_its_state_and_tables_that_are_gone_have_none(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    load(str(write_file(tmp_path / "events.csv", five_days())), warehouse.loader_dsn)
    dbt.run(MARTS, env={"AIRFLOW_CTX_DAG_ID": "events_pipeline_daily", "AIRFLOW_CTX_DAG_RUN_ID": "manual__1"})
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        states = connection.execute(
            "select model, to_regclass(model)::oid = table_oid,"  # noqa: S608
            " pg_visible_in_snapshot((select max(transaction_id) from raw.loads), snapshot),"
            f" built_at between now() - interval '5 minutes' and now(), run_id from {STATE}"
        ).fetchall()
        ids = connection.execute(f"select distinct invocation_id from {STATE}").fetchall()  # noqa: S608
        connection.execute("drop table test_analysis.professional_productivity_daily")
    tables = {f"test_{mart}" for mart in COLUMNS} | {
        f"test_intermediate.int_{name}" for name in ("status_events", "other_events", "service_days")
    }
    assert {state[0] for state in states} == tables
    assert {state[1:] for state in states} == {(True, True, True, "events_pipeline_daily manual__1")}
    assert [re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", *row) is not None for row in ids] == [True]

    dbt.run(f"{MARTS} --select fct_events")

    with psycopg.connect(warehouse.transformer_dsn) as connection:
        found = connection.execute(f"select model, run_id is null from {STATE}").fetchall()  # noqa: S608
    assert dict(found) == {
        table: table == "test_fact.fct_events" for table in tables - {"test_analysis.professional_productivity_daily"}
    }


@pytest.mark.usefixtures("has_five_days")
def test_the_state_names_the_feeds_of_each_model_and_readers_see_it_also_where_it_was_older(
    dbt: Dbt, warehouse: Warehouse
) -> None:
    select = f"select distinct feeds from {STATE}"  # noqa: S608
    with psycopg.connect(warehouse.reader_dsn) as connection:
        assert connection.execute(select).fetchall() == [(["events", "loaded_days", "loads"],)]

    with psycopg.connect(warehouse.transformer_dsn) as connection:
        connection.execute(f"alter table {STATE} drop column feeds".encode())
        connection.execute(f"revoke select on {STATE} from {warehouse.role('reader')}".encode())  # noqa: S608
    dbt.run(f"{MARTS} --select fct_events int_status_events")  # two at a time
    with psycopg.connect(warehouse.reader_dsn) as connection:
        assert sorted(connection.execute(select).fetchall(), key=str) == [
            (None,),
            (["events", "loaded_days", "loads"],),
        ]


@pytest.mark.usefixtures("has_five_days")
def test_a_table_of_an_earlier_version_is_built_anew_and_keeps_what_others_wrote_in_its_comment(
    dbt: Dbt, warehouse: Warehouse
) -> None:
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        for table, comment in {
            "test_fact.fct_events": "Ask Ada.\n7630276371126845478 783:783:",
            "test_intermediate.int_status_events": "7630276371126845478 783:785:784",
            "test_analysis.availability_snapshot": "Two\nlines",
        }.items():
            connection.execute(f"delete from {table}".encode())  # noqa: S608
            connection.execute(f"comment on table {table} is '{comment}'".encode())
        connection.execute(f"drop table {STATE}".encode())

    dbt.run(MARTS)

    assert read(warehouse) == expected(five_days())
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        comments = connection.execute(
            "select obj_description('test_fact.fct_events'::regclass, 'pg_class'),"
            " obj_description('test_intermediate.int_status_events'::regclass, 'pg_class'),"
            " obj_description('test_analysis.availability_snapshot'::regclass, 'pg_class')"
        ).fetchone()
    assert comments == ("Ask Ada.", None, "Two\nlines")


def test_comments_may_be_dbts(dbt: Dbt, warehouse: Warehouse, tmp_path: Path) -> None:
    """With persist_docs, also where a table is replaced because its columns have changed."""
    load(str(write_file(tmp_path / "events.csv", five_days())), warehouse.loader_dsn)
    project = copy_of_the_project(tmp_path)
    replace(
        project / "dbt_project.yml",
        "    marts:\n",
        "    marts:\n      +persist_docs: {relation: true, columns: true}\n",
    )
    dbt = dataclasses.replace(dbt, folder=tmp_path, project=project)
    dbt.run(MARTS)
    log = corrected(five_days())
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
    dbt.run(MARTS)
    assert read(warehouse) == expected(log)
    column = "select col_description('test_fact.fct_events'::regclass, 1)"
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        assert connection.execute(COMMENT).fetchone() == ("One row per `proposed` event.\n",)
        assert connection.execute(column).fetchone() == ("The event.",)

    fact = project / "models/marts/fact/fct_events"
    replace(fact.with_suffix(".sql"), "        service_id,\n", "        service_id::integer as service_id,\n")
    before, name, after = fact.with_suffix(".yml").read_text().partition("- name: service_id")
    after = after.replace("data_type: bigint", "data_type: integer", 1)
    fact.with_suffix(".yml").write_text(before.replace("One row per", "One row per new") + name + after)
    output = dbt.run(f"{MARTS} --select fct_events", exit_code=1)
    assert "would not have: column service_id bigint.\n" in output  # neither dbt's comments nor the project's own view
    assert read(warehouse) == expected(log)
    dbt.run(f"{MARTS} --select fct_events --full-refresh")
    dbt.run(MARTS)
    assert read(warehouse) == expected(log)


def test_builds_that_create_the_table_at_the_same_time_both_end_well(
    dbt: Dbt, other_dbt: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    load(str(write_file(tmp_path / "events.csv", five_days())), warehouse.loader_dsn)
    builds = [dataclasses.replace(build, bare=True) for build in (dbt, other_dbt)]
    models = ("fct_events int_status_events", "int_other_events int_service_days")
    with psycopg.connect(warehouse.transformer_dsn) as connection:  # both wait for it
        connection.execute("create schema if not exists test_intermediate")
        connection.execute(f"select pg_advisory_xact_lock(hashtextextended('{STATE}', 0))".encode())
        for build, selected in zip(builds, models, strict=True):
            build.start(f"{MARTS} --select {selected}")
        connection.commit()
    assert [build.wait() for build in builds] == ["exit code 0"] * 2, [build.output for build in builds]
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        assert connection.execute(f"select count(*) from {STATE}".encode()).fetchone() == (4,)  # noqa: S608


@pytest.mark.usefixtures("has_five_days")
def test_a_copy_of_the_database_keeps_the_state(warehouse: Warehouse, processes: list[Process], tmp_path: Path) -> None:
    copy = copy_warehouse(warehouse, "warehouse_copy")
    try:
        with psycopg.connect(copy.transformer_dsn) as connection:
            connection.execute("delete from test_fact.fct_events")
        dbt_on(copy, processes[0], tmp_path).run(f"{MARTS} --select fct_events")
        assert read(copy)["fact.fct_events"] == []  # nothing was built again
    finally:
        drop_warehouse(copy)


@pytest.mark.usefixtures("has_five_days")
def test_a_build_waits_neither_for_vacuum_nor_loses_what_a_user_writes_meanwhile(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    log = corrected(five_days())
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
    waiting = "select count(*) from pg_locks where not granted and locktype = 'transactionid'"
    with (
        psycopg.connect(warehouse.transformer_dsn) as vacuum,
        psycopg.connect(warehouse.transformer_dsn) as user,
        psycopg.connect(warehouse.admin_dsn, autocommit=True) as admin,
    ):
        user.execute("alter table test_fact.fct_events add column note text")
        user.commit()
        vacuum.execute("lock table test_fact.fct_events in share update exclusive mode")
        user.execute("update test_fact.fct_events set note = 'of ' || event_id")
        done: list[str] = []
        build = threading.Thread(target=lambda: done.append(dbt.run(MARTS)))
        build.start()
        deadline = time.monotonic() + 60
        while admin.execute(waiting).fetchone() != (1,):  # for the user's transaction, not for the table
            assert time.monotonic() < deadline
            time.sleep(0.05)
        user.commit()
        build.join(60)
        assert done
        vacuum.rollback()
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        notes = set(connection.execute("select event_id, note from test_fact.fct_events").fetchall())
        connection.execute("alter table test_fact.fct_events drop column note")
    assert notes == {(event_id, f"of {event_id}") for event_id in (11, 21, 31, 41, 51)}
    assert read(warehouse) == expected(log)
