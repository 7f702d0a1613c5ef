"""What others have put on the models, their grants, views, columns and comments, is kept by every build."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.oracle.expected_numbers import COLUMNS
from harness.processes.dbt_process import Dbt
from harness.warehouse.roles import Warehouse
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
from tests.events_feed import load

OTHERS = """
    create role analyst;
    create schema bi;
    grant usage on schema test_dim, test_fact, test_analysis, test_staging, bi to analyst;
    grant select on test_dim.dim_services, test_fact.fct_events, test_staging.stg_events to analyst;
    create view bi.services as select service_id, service_name_en from test_dim.dim_services;
    create view bi.facts as select * from test_fact.fct_events;
    create view bi.events as select event_id from test_staging.stg_events;
    alter table test_dim.dim_services add column note text;
    alter table test_fact.fct_events add column note text default 'none';
    update test_fact.fct_events set note = 'of ' || event_id;
    create table bi.notes (event_id bigint references test_fact.fct_events on delete cascade);
    insert into bi.notes select event_id from test_fact.fct_events;
    create table bi.days (date date references test_analysis.availability_snapshot on delete cascade);
    insert into bi.days select date from test_analysis.availability_snapshot;
    create table bi.more_facts () inherits (test_fact.fct_events);
    insert into bi.more_facts values (99, 1, 7, '2020-01-02', 3);
    create table bi.more_days () inherits (test_analysis.availability_snapshot);
    insert into bi.more_days values ('2019-12-31', 3);
    create table bi.more_services () inherits (test_dim.dim_services);
    insert into bi.more_services values (99, 'dak', 'roof');
    create function test_dim.dim_services() returns integer return 1;
    alter view test_staging.stg_events set (security_barrier = true);
    alter view test_staging.stg_loads set (security_invoker = true);
    alter table raw.events add column note text;
    update test_dim.dim_services set note = 'the garden' where service_id = 7;
    create unique index of_bi on test_fact.fct_events (professional_id, created_at);
    comment on table test_fact.fct_events is 'Ask Ada first.';
    alter view bi.services owner to analyst;
"""

# What a new table would lack.
OTHERS_ON_THE_TABLE = """
    create table bi.everything (service_name_en text not null);
    alter table test_dim.dim_services inherit bi.everything;
    alter table test_dim.dim_services set (fillfactor = 70);
    alter table test_dim.dim_services replica identity full;
    alter table test_dim.dim_services add check (service_id > 0);
    alter table test_dim.dim_services alter column service_name_nl set statistics 500;
    alter table test_dim.dim_services alter column service_name_nl set storage external;
    alter table test_dim.dim_services alter column service_name_nl set default 'onbekend';
    alter table test_dim.dim_services enable row level security;
    create policy everybody on test_dim.dim_services using (true);
    grant select (service_name_nl) on test_dim.dim_services to analyst;
    comment on table test_dim.dim_services is 'Ask Bob';
    comment on column test_dim.dim_services.service_name_nl is 'In Dutch';
"""
OF_ANOTHER_KIND = """
    drop view test_analysis.feed_days, test_staging.stg_loads;
    drop table test_analysis.professional_productivity_daily, test_dim.dim_professionals;
    create table test_staging.stg_loads as select 'precious' as note;
    create materialized view test_analysis.professional_productivity_daily as select 1 as number;
    create view test_dim.dim_professionals as select 1 as number;
    alter table test_staging.stg_loads owner to transformer;
    alter materialized view test_analysis.professional_productivity_daily owner to transformer;
    alter view test_dim.dim_professionals owner to transformer;
"""


@pytest.fixture
def others(warehouse: Warehouse) -> Iterator[Callable[[], list[Any]]]:
    """Give a function that returns the objects of others on the marts; the first call creates them."""
    created: list[bool] = []

    def create_or_read() -> list[Any]:
        with psycopg.connect(warehouse.admin_dsn) as connection:
            if not created:
                connection.execute(OTHERS)
                created.append(True)
            connection.execute("set local role analyst")
            rows = connection.execute(
                "select *, (select count(*) from test_staging.stg_events) from test_fact.fct_events order by 1"
            ).fetchall()
            services = connection.execute("select * from bi.services order by 1").fetchall()
            connection.execute("reset role")
            options = "select relname, reloptions from pg_class where relname in ('stg_events', 'stg_loads') order by 1"
            return [
                rows,
                services,
                connection.execute("select service_id, note from test_dim.dim_services order by 1").fetchall(),
                connection.execute("select count(*) from bi.facts").fetchall(),
                connection.execute("select count(*) from bi.events").fetchall(),
                connection.execute("select to_regclass('test_fact.of_bi'), test_dim.dim_services()").fetchall(),
                connection.execute(options).fetchall(),
                connection.execute("select * from bi.more_days").fetchall(),
                connection.execute(
                    "select split_part(obj_description('test_fact.fct_events'::regclass), e'\n', 1)"
                ).fetchall(),
            ]

    yield create_or_read
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute("drop owned by analyst; drop role analyst")


KEPT = "run --quiet --no-write-json --select dim_date+1 intermediate dim_services fct_events staging"


@pytest.mark.usefixtures("has_five_days")
def test_builds_keep_what_others_have_put_on_the_marts(
    dbt: Dbt, others: Callable[[], list[Any]], warehouse: Warehouse, tmp_path: Path
) -> None:
    before = others()
    assert before[2] == [(7, "the garden"), (99, None)]
    assert before[6] == [("stg_events", ["security_barrier=true"]), ("stg_loads", ["security_invoker=true"])]
    dbt.run(KEPT)
    dbt.run(f"{KEPT} --full-refresh")
    assert others() == before
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute("alter table raw.events drop column note")  # no view of ours reads it

    log = [*five_days()[:3], five_days()[3]._replace(event_id=22)]  # a proposal goes, its twin comes
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
    dbt.run(KEPT)
    after = others()
    assert [(row[0], row[5]) for row in after[0]] == [(11, "of 11"), (22, "none"), (99, "none")]
    assert after[1:3] == before[1:3]
    assert after[5:] == before[5:]
    with psycopg.connect(warehouse.admin_dsn) as connection:
        assert connection.execute("select event_id from bi.notes order by 1").fetchall() == [(11,)]
        assert connection.execute("select count(*) from bi.days").fetchone() == (2,)

    # Where a policy would hide rows, the build fails, instead of taking those it sees for all.
    for table in ("events", "loads"):
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute(f"alter table raw.{table} enable row level security")
        output = dbt.run(f"{MARTS} --select fct_events dim_services", exit_code=1)
        assert f'query would be affected by row-level security policy for table "{table}"' in output
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute(f"alter table raw.{table} disable row level security")
        assert others() == after


@pytest.mark.usefixtures("has_five_days")
def test_a_table_or_view_whose_structure_changes_is_replaced_only_without_a_loss(
    dbt: Dbt, others: Callable[[], list[Any]], warehouse: Warehouse, tmp_path: Path
) -> None:
    before = others()
    project = copy_of_the_project(tmp_path)
    for file, old in (
        ("marts/dim/dim_services", "\n        service_id,\n"),
        ("staging/stg_events", "renamed as (\n\n    select\n        event_id,\n"),
    ):
        column = old.split()[-1].rstrip(",")
        replace(project / f"models/{file}.sql", old, old.replace(f"{column},", f"{column}::integer as {column},"))
        yml = project / f"models/{file}.yml"
        yml.write_text(yml.read_text().replace("data_type: bigint", "data_type: integer", 1))
    dbt = dataclasses.replace(dbt, folder=tmp_path, project=project)

    # What depends on the table is named, and nothing of it is lost with or without a full refresh.
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute(OTHERS_ON_THE_TABLE)
    output = dbt.run("run --quiet --select dim_services", exit_code=1)
    assert '"test_dim"."dim_services" differs from the model: it has no column service_id integer.' in output
    [lost] = re.findall("A new table in its place would not have: (.*)[.]\n", output)
    assert lost.split(", ") == [
        "column note text",
        "column service_id bigint",
        "comment of column service_name_nl: In Dutch",
        "comment: Ask Bob",
        "constraint CHECK ((service_id > 0))",
        "default of column service_name_nl",
        "grants {analyst=r/transformer} of column service_name_nl",
        "inheritance from bi.everything",
        "options {fillfactor=70}",
        "policy everybody on table test_dim.dim_services",
        "replica identity",
        "row level security",
        "rule _RETURN on view bi.services",
        "statistics target 500 of column service_name_nl",
        "storage of column service_name_nl",
        "table bi.more_services",
    ]
    assert "dbt build --full-refresh --select dim_services" in output
    output = dbt.run("run --quiet --select dim_services --full-refresh", exit_code=1)
    assert "would not have: rule _RETURN on view bi.services, table bi.more_services." in output
    assert others() == before

    # Without the view it is built anew where that is asked for, and grants are kept all the same.
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute("drop view bi.services; drop table bi.more_services")
    dbt.run("run --quiet --select dim_services", exit_code=1)
    dbt.run("run --quiet --select dim_services --full-refresh")
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute("set local role analyst")
        cursor = connection.execute("select * from test_dim.dim_services")
        assert tuple(column.name for column in cursor.description or ()) == COLUMNS["dim.dim_services"]
        assert cursor.fetchall() == [(7, "tuin", "garden")]

    # A view that others depend on does not lose a column.
    output = dbt.run("run --quiet --select stg_events", exit_code=1)
    assert 'cannot change data type of view column "event_id" from bigint to integer' in output
    assert "A new view in its place would not have: rule _RETURN on view bi.events." in output
    assert "CASCADE" not in output
    with psycopg.connect(warehouse.admin_dsn) as connection:
        assert connection.execute("select count(*) from bi.events").fetchone() == (10,)
        connection.execute("drop view bi.events")
    dbt.run("run --quiet --select stg_events")
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute("set local role analyst")
        assert connection.execute("select count(*) from test_staging.stg_events").fetchone() == (10,)
        connection.execute("reset role")
        assert connection.execute(
            "select reloptions from pg_class where oid = 'test_staging.stg_events'::regclass"
        ).fetchone() == (["security_barrier=true"],)


@pytest.mark.usefixtures("has_five_days")
def test_a_relation_of_another_kind_is_replaced_only_by_a_full_refresh(dbt: Dbt, warehouse: Warehouse) -> None:
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute(OF_ANOTHER_KIND)
    models = "run --quiet --select professional_productivity_daily dim_professionals"
    view = "run --quiet --select stg_loads"
    output = dbt.run(view, exit_code=1) + dbt.run(models, exit_code=1)
    assert '"stg_loads" is a table, and the model is a view.' in output
    assert '"professional_productivity_daily" is a materialized view, and the model is a table.' in output
    assert '"dim_professionals" is a view, and the model is a table.' in output
    assert (
        "It may belong to somebody else. To keep it, rename it; to drop and replace it: dbt build --full-refresh"
        in output
    )
    with psycopg.connect(warehouse.admin_dsn) as connection:
        assert connection.execute("table test_staging.stg_loads").fetchall() == [("precious",)]
    dbt.run(f"{view} --full-refresh")
    dbt.run(f"{models} --full-refresh")
    with psycopg.connect(warehouse.admin_dsn) as connection:
        kinds = "select relname, relkind from pg_class where relname = any(%s) order by relname"
        names = ["stg_loads", "professional_productivity_daily", "dim_professionals"]
        assert connection.execute(kinds, [names]).fetchall() == [
            ("dim_professionals", "r"),
            ("professional_productivity_daily", "r"),
            ("stg_loads", "v"),
        ]


def test_settings_of_the_role_and_namesakes_of_the_temporary_tables_change_nothing(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    with psycopg.connect(warehouse.admin_dsn) as connection:
        role = warehouse.role("transformer")
        for setting in (
            "default_transaction_isolation to serializable",
            "search_path to public, pg_temp",
            "datestyle to 'SQL, DMY'",
            "timezone to 'Asia/Kathmandu'",
            "quote_all_identifiers to on",
        ):
            connection.execute(f"alter role {role} in database {warehouse.database} set {setting}".encode())
        for mart in COLUMNS:
            connection.execute(f"create table public.{mart.partition('.')[2]}__new ()".encode())
    for log in (five_days(), corrected(five_days())):
        load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
        dbt.run(MARTS)
        assert read(warehouse) == expected(log)
    with psycopg.connect(warehouse.admin_dsn) as connection:  # no index was created twice
        indexes = "select count(*) from pg_indexes where schemaname = 'test_fact' and tablename = 'fct_events'"
        assert connection.execute(indexes).fetchone() == (3,)
