"""Builds beside loads, readers, other builds, and beside what others have put on the marts."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from events.load import load
from harness.warehouse.roles import Warehouse
from tests.dbt.brute_force import MARTS, Event, expected
from tests.dbt.common import (
    LOCK_KEY,
    MARTS_ALONE,
    Dbt,
    copy_of_the_project,
    day,
    five_days,
    loaded,
    read,
    read_by,
    replace,
    write_file,
)
from tests.poolers import pgbouncer

BUILD = f"{MARTS_ALONE} --threads 1"  # so that the number of a statement says which it is


@pytest.fixture
def bare(dbt_python: str, environment: dict[str, str]) -> Iterator[Dbt]:
    """Give a dbt that takes no lock, as one that is started by hand; staging is built."""
    with Dbt(dbt_python, environment, bare=True) as dbt:
        dbt.run("run --quiet --select staging")
        yield dbt


# --- loads -----------------------------------------------------------------------------------------------------------


# The models that take what loads have changed, one after the other: their statements begin with number 12 and end
# before number 90.
INCREMENTAL = f"{BUILD} --select dim_date int_status_events fct_events availability_snapshot"
MOMENTS = range(12, 90)
STEP = 8  # in a build a load comes before every eighth statement
MODEL_READS_EVENTS = """
    select exists (
        select from pg_locks join pg_stat_activity using (pid)
        where relation = 'raw.events'::regclass and mode = 'AccessShareLock' and application_name = 'dbt'
    )
"""


def test_no_load_is_lost_whichever_statement_of_a_build_it_comes_before(
    bare: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    """Each load corrects a day of its own, so that none mends what was missed of another."""
    log = {event.event_id: event for number in range(1, 80) for event in events_of_day(number)}
    load(str(write_file(tmp_path / "events.csv", list(log.values()))), warehouse.loader_dsn)
    bare.run(BUILD)
    days = iter(range(1, 80))
    for first in range(STEP):
        loads: list[threading.Thread] = []
        bare.send(f"pause={','.join(map(str, MOMENTS[first::STEP]))} {INCREMENTAL}")
        while bare.answer() == "paused":
            number = next(days)
            for event in events_of_day(number):
                opposite = {"became_able_to_propose": "became_unable_to_propose"}.get(
                    event.event_type, event.event_type
                )
                log[event.event_id] = event._replace(event_type=opposite, professional_id=event.professional_id + 1)
            if number % 3 == 0:  # an event comes from another day
                log[10 * number - 9] = log[10 * number - 9]._replace(created_at=day(number))
            file = str(write_file(tmp_path / f"{number}.csv", list(log.values())))
            midnight = day(number) - timedelta(hours=12)
            span = {"start": midnight, "end": midnight + timedelta(1)}
            loads.append(threading.Thread(target=load, args=(file, warehouse.loader_dsn), kwargs=span))
            loads[-1].start()
            with psycopg.connect(warehouse.admin_dsn) as connection:
                waits = connection.execute(MODEL_READS_EVENTS).fetchone() == (True,)
            if not waits:
                for thread in loads:
                    thread.join()
            bare.send("go on")
        for thread in loads:
            thread.join()

        bare.run(BUILD if first == STEP - 1 else INCREMENTAL)

        marts, wanted = read(warehouse), expected(loaded(warehouse))
        assert len(wanted["fact.fct_events"]) == 79
        for mart in MARTS if first == STEP - 1 else ("fact.fct_events", "analysis.availability_snapshot"):
            assert marts[mart] == wanted[mart]
    assert next(days) > 45  # all in all a load before each statement


def events_of_day(number: int) -> list[Event]:
    """Return a status event and a proposal."""
    status = "became_able_to_propose" if number % 2 else "became_unable_to_propose"
    return [
        Event(10 * number, status, number % 7, day(number)),
        Event(10 * number + 1, "proposed", number % 7, day(number), "7_tuin_garden_1.5"),
    ]


def corrected(log: list[Event]) -> list[Event]:
    """Return LOG with day 3 corrected, an event moved from day 4 to day 2, and one gone."""
    moved = {31: 5, 41: -2}
    return [
        event._replace(created_at=event.created_at - timedelta(hours=moved.get(event.event_id, 0)), professional_id=9)
        for event in log
        if event.event_id != 50
    ]


def test_a_build_beside_another_one_without_the_lock(
    bare: Dbt, dbt_python: str, environment: dict[str, str], warehouse: Warehouse, tmp_path: Path
) -> None:
    """The second waits for the table, and then finds nothing left to do; neither doubles or loses a row."""
    load(str(write_file(tmp_path / "events.csv", five_days())), warehouse.loader_dsn)
    bare.run(BUILD)
    log = corrected(five_days())
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
    waiting = "select count(*) from pg_locks where not granted and relation = 'test_fact.fct_events'::regclass"

    with Dbt(dbt_python, environment, bare=True) as other:
        bare.send(f"pause=__new {BUILD} --select fct_events")
        assert bare.answer() == "paused"
        other.send(f"{BUILD} --select fct_events")
        with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
            deadline = time.monotonic() + 60
            while connection.execute(waiting).fetchone() != (1,):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        bare.send("go on")
        assert bare.answer() == "exit code 0", bare.output
        assert other.answer() == "exit code 0", other.output

    bare.run(BUILD)
    assert read(warehouse) == expected(log)


# --- readers ---------------------------------------------------------------------------------------------------------


def test_readers_with_an_older_snapshot_see_the_old_rows(
    run_in_process: Callable[[str], object], warehouse: Warehouse, tmp_path: Path
) -> None:
    logs = [five_days(), corrected(five_days()), five_days()[2:]]
    load(str(write_file(tmp_path / "events.csv", logs[0])), warehouse.loader_dsn)
    run_in_process(MARTS_ALONE)
    for old, new, how in zip(logs, logs[1:], ("", " --full-refresh"), strict=False):
        load(str(write_file(tmp_path / "events.csv", new)), warehouse.loader_dsn)
        with (
            psycopg.connect(warehouse.reader_dsn, row_factory=psycopg.rows.dict_row) as repeatable,
            psycopg.connect(warehouse.reader_dsn, row_factory=psycopg.rows.dict_row) as serializable,
        ):
            repeatable.execute("set transaction isolation level repeatable read")
            serializable.execute("set transaction isolation level serializable")
            for reader in (repeatable, serializable):
                reader.execute("select 1")

            run_in_process(MARTS_ALONE + how)

            for reader in (repeatable, serializable):
                assert read_by(reader) == expected(old)
        assert read(warehouse) == expected(new)


# --- what others have put on the marts -------------------------------------------------------------------------------

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

# What a new table would be without.
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
    drop view test_staging.stg_loads;
    drop table test_analysis.professional_funnel, test_dim.dim_professionals;
    create table test_staging.stg_loads as select 'precious' as note;
    create materialized view test_analysis.professional_funnel as select 1 as number;
    create view test_dim.dim_professionals as select 1 as number;
    alter table test_staging.stg_loads owner to transformer;
    alter materialized view test_analysis.professional_funnel owner to transformer;
    alter view test_dim.dim_professionals owner to transformer;
"""


@pytest.fixture
def others(warehouse: Warehouse) -> Iterator[Callable[[], list[Any]]]:
    """Give a function that puts things of others on the marts, and returns what is there of them when called again."""
    made: list[bool] = []

    def put_or_look() -> list[Any]:
        with psycopg.connect(warehouse.admin_dsn) as connection:
            if not made:
                connection.execute(OTHERS)
                made.append(True)
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

    yield put_or_look
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute("drop owned by analyst; drop role analyst")


def test_what_others_have_put_on_the_marts_stays(
    dbt_python: str,
    environment: dict[str, str],
    others: Callable[[], list[Any]],
    warehouse: Warehouse,
    tmp_path: Path,
) -> None:
    load(str(write_file(tmp_path / "events.csv", five_days())), warehouse.loader_dsn)
    project = copy_of_the_project(tmp_path)
    env = environment | {"DBT_TARGET_PATH": str(tmp_path / "target")}
    with Dbt(dbt_python, env, project=project) as dbt:
        dbt.run("run --quiet")
        before = others()
        assert before[2] == [(7, "the garden"), (99, None)]
        assert before[6] == [("stg_events", ["security_barrier=true"]), ("stg_loads", ["security_invoker=true"])]
        dbt.run("run --quiet")
        dbt.run("run --quiet --full-refresh")
        assert others() == before
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute("alter table raw.events drop column note")  # no view of ours reads it

        log = [*five_days()[:3], five_days()[3]._replace(event_id=22)]  # a proposal goes, its twin comes
        load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
        dbt.run("run --quiet")
        after = others()
        assert [(row[0], row[5]) for row in after[0]] == [(11, "of 11"), (22, "none"), (99, "none")]
        assert after[1:3] == before[1:3]
        assert after[5:] == before[5:]
        with psycopg.connect(warehouse.admin_dsn) as connection:
            assert connection.execute("select event_id from bi.notes order by 1").fetchall() == [(11,)]
            assert connection.execute("select count(*) from bi.days").fetchone() == (2,)

        # Where a policy would leave rows out, none is taken for all.
        for table in ("events", "loads"):
            with psycopg.connect(warehouse.admin_dsn) as connection:
                connection.execute(f"alter table raw.{table} enable row level security")
            said = dbt.run("run --quiet --exclude staging", exit_code=1)
            assert f'query would be affected by row-level security policy for table "{table}"' in said
            with psycopg.connect(warehouse.admin_dsn) as connection:
                connection.execute(f"alter table raw.{table} disable row level security")
            assert others() == after

        # Another type: what hangs on the table is named, and nothing of it goes, whatever the way.
        yml = project / "models/marts/dim/dim_services.yml"
        sql = project / "models/marts/dim/dim_services.sql"
        replace(sql, "\n        service_id,\n", "\n        service_id::integer as service_id,\n")
        yml.write_text(yml.read_text().replace("data_type: bigint", "data_type: integer", 1))
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute(OTHERS_ON_THE_TABLE)
        said = dbt.run("run --quiet --select dim_services", exit_code=1)
        assert '"test_dim"."dim_services" is not what the model makes now: it has no column service_id integer.' in said
        [kept_out] = re.findall("A new table in its place would be without: (.*)[.]\n", said)
        assert kept_out.split(", ") == [
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
        assert "dbt build --full-refresh --select dim_services" in said
        said = dbt.run("run --quiet --select dim_services --full-refresh", exit_code=1)
        assert "would be without: rule _RETURN on view bi.services, table bi.more_services." in said
        assert others() == after

        # Without the view it is made anew where that is asked for, and grants are kept all the same.
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute("drop view bi.services; drop table bi.more_services")
        dbt.run("run --quiet --select dim_services", exit_code=1)
        dbt.run("run --quiet --select dim_services --full-refresh")
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute("set local role analyst")
            cursor = connection.execute("select * from test_dim.dim_services")
            assert [column.name for column in cursor.description or ()] == [
                "service_id",
                "service_name_nl",
                "service_name_en",
            ]
            assert cursor.fetchall() == [(7, "tuin", "garden")]

        # A view that others depend on does not lose a column.
        staging = project / "models/staging/stg_events"
        selected = "renamed as (\n\n    select\n        event_id"
        replace(staging.with_suffix(".sql"), selected, f"{selected}::integer as event_id")
        yml = staging.with_suffix(".yml")
        yml.write_text(yml.read_text().replace("data_type: bigint", "data_type: integer", 1))
        said = dbt.run("run --quiet --select stg_events", exit_code=1)
        assert 'cannot change data type of view column "event_id" from bigint to integer' in said
        assert "A new view in its place would be without: rule _RETURN on view bi.events." in said
        assert "CASCADE" not in said
        with psycopg.connect(warehouse.admin_dsn) as connection:
            assert connection.execute("select count(*) from bi.events").fetchone() == (4,)
            connection.execute("drop view bi.events")
        dbt.run("run --quiet --select stg_events")
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute("set local role analyst")
            assert connection.execute("select count(*) from test_staging.stg_events").fetchone() == (4,)
            connection.execute("reset role")
            assert connection.execute(
                "select reloptions from pg_class where oid = 'test_staging.stg_events'::regclass"
            ).fetchone() == (["security_barrier=true"],)

        # What is of another kind may be somebody's: it goes only where that is asked for.
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute(OF_ANOTHER_KIND)
        said = dbt.run("run --quiet --select stg_loads professional_funnel dim_professionals", exit_code=1)
        assert '"stg_loads" is a table, and the model makes a view.' in said
        assert '"professional_funnel" is a materialized view, and the model makes a table.' in said
        assert '"dim_professionals" is a view, and the model makes a table.' in said
        assert "It may be somebody's: rename it to keep it, or have it dropped: dbt build --full-refresh" in said
        with psycopg.connect(warehouse.admin_dsn) as connection:
            assert connection.execute("table test_staging.stg_loads").fetchall() == [("precious",)]
        dbt.run("run --quiet --select stg_loads professional_funnel dim_professionals --full-refresh")
        assert all(read(warehouse).values())


def test_a_build_sets_what_it_depends_on(
    run_in_process: Callable[[str], object], warehouse: Warehouse, tmp_path: Path
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
        for mart in MARTS:  # a namesake of each temporary table
            connection.execute(f"create table public.{mart.partition('.')[2]}__new ()".encode())
    for log in (five_days(), corrected(five_days())):
        load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
        run_in_process(MARTS_ALONE)
        assert read(warehouse) == expected(log)
    with psycopg.connect(warehouse.admin_dsn) as connection:  # none was made again
        indexes = "select count(*) from pg_indexes where schemaname = 'test_fact' and tablename = 'fct_events'"
        assert connection.execute(indexes).fetchone() == (2,)


# --- the lock ---------------------------------------------------------------------------------------------------------


def test_what_is_built_when_the_lock_is_lost_is_not_committed(
    dbt_python: str, environment: dict[str, str], warehouse: Warehouse, tmp_path: Path
) -> None:
    with Dbt(dbt_python, environment) as dbt:
        load(str(write_file(tmp_path / "events.csv", five_days())), warehouse.loader_dsn)
        dbt.run("run --quiet")
        load(str(write_file(tmp_path / "events.csv", corrected(five_days()))), warehouse.loader_dsn)
        dbt.send(f"pause=dim_services__new {BUILD}")
        assert dbt.answer() == "paused"
        with psycopg.connect(warehouse.admin_dsn) as connection:
            ended = connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dbt lock'"
            ).fetchall()
        assert ended == [(True,)]
        built = read(warehouse)
        dbt.send("go on")
        assert dbt.answer() == "exit code 33"
    assert dbt.output[-3:] == [
        "✗ The warehouse's lock was lost while dbt ran.\n",
        "  Its connection was ended: by an administrator, a restart, or a pooler's limit on idle transactions.\n",
        "  Run it again: what was built before stays, and nothing was committed since.\n",
    ]
    assert read(warehouse) == built
    assert built["fact.fct_events"] == expected(five_days())["fact.fct_events"]
    assert built["dim.dim_date"] == expected(corrected(five_days()))["dim.dim_date"]  # from before


@pytest.fixture
def pooler(warehouse: Warehouse) -> Iterator[Callable[[str], int]]:
    """Give a function that starts PgBouncer in a mode and gives its port."""
    with ExitStack() as started:
        yield lambda mode: started.enter_context(pgbouncer(warehouse, "transformer", mode))


@pytest.mark.needs("pgbouncer")
def test_a_pooler_that_keeps_no_transaction_together_is_refused(
    run: Callable[..., tuple[int, str]], pooler: Callable[[str], int]
) -> None:
    exit_code, output = run("run", WAREHOUSE_HOST="127.0.0.1", WAREHOUSE_PORT=str(pooler("statement")))

    what, why, next_step = output.splitlines()
    assert exit_code == 34
    assert what == "✗ The warehouse's lock could not be taken."
    assert "server closed the connection" in why
    assert next_step.endswith("a pooler in between has to be in its mode session or transaction.")


@pytest.mark.needs("pgbouncer")
def test_the_lock_is_held_through_a_pooler_in_transaction_mode(
    dbt_python: str, environment: dict[str, str], warehouse: Warehouse, tmp_path: Path, pooler: Callable[[str], int]
) -> None:
    load(str(write_file(tmp_path / "events.csv", five_days())), warehouse.loader_dsn)
    with (
        Dbt(
            dbt_python, environment | {"WAREHOUSE_HOST": "127.0.0.1", "WAREHOUSE_PORT": str(pooler("transaction"))}
        ) as dbt,
        psycopg.connect(warehouse.loader_dsn, autocommit=True) as beside,
    ):
        for pause in ("dim_services", "dim_services__new"):  # made, then changed
            dbt.send(f"pause={pause} {MARTS_ALONE.replace('--exclude staging', '')}")
            assert dbt.answer() == "paused", dbt.output
            time.sleep(2.5)
            assert beside.execute("select pg_try_advisory_xact_lock(%s)", [LOCK_KEY]).fetchone() == (False,)
            dbt.send("go on")
            assert dbt.answer() == "exit code 0", dbt.output
            assert read(warehouse) == expected(five_days())
            assert beside.execute("select pg_try_advisory_xact_lock(%s)", [LOCK_KEY]).fetchone() == (True,)


# --- the parse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bare", [True, False], ids=["by hand", "by run.py"])
def test_an_edit_of_any_yml_changes_no_configuration(
    dbt_python: str, environment: dict[str, str], tmp_path: Path, *, bare: bool
) -> None:
    """A bare dbt parses what has changed alone; run.py everything, so that nothing else is forgotten either."""
    project = copy_of_the_project(tmp_path)
    target = tmp_path / "target"
    described = re.compile(r"(description: (?:>\n +)?)(?=\w)")

    def configurations() -> dict[str, Any]:
        manifest = json.loads((target / "manifest.json").read_text())
        nodes = {**manifest["nodes"], **manifest["sources"], **manifest["exposures"], **manifest["unit_tests"]}
        return {name: [node["config"], bare or bool(node["description"])] for name, node in nodes.items()}

    with Dbt(dbt_python, environment | {"DBT_TARGET_PATH": str(target)}, project=project, bare=bare) as dbt:
        dbt.run("parse")
        before = configurations()
        severities = {
            name.split(".")[2]: config["severity"] for name, (config, _) in before.items() if "severity" in config
        }
        assert severities["proposals_are_by_able_professionals"] == severities["lead_fees_are_not_negative"] == "warn"
        ymls = [path for path in project.rglob("*.yml") if path.parent != project]
        assert len(ymls) >= 14
        for yml in ymls if bare else [project / "models/staging/sources.yml"]:
            yml.write_text(described.sub(r"\1Edited, ", yml.read_text(), count=1))
            dbt.run("parse")
            assert configurations() == before, yml
