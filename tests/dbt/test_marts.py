"""The marts, row by row: on random events, where a model violates its contract, and what the data tests report."""

import dataclasses
import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from graphlib import TopologicalSorter
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from harness.oracle.expected_numbers import COLUMNS, Event
from harness.processes.dbt_process import PROJECT, Dbt
from harness.warehouse.roles import Warehouse
from tests.dbt.common import (
    MARTS,
    copy_of_the_project,
    empty,
    expected,
    insert,
    loaded,
    read,
    read_by,
    replace,
    write,
    write_file,
)
from tests.dbt.random_events import EXAMPLES, NOON, Load, histories, streams
from tests.events_feed import load

GARDEN = "7_tuin_garden_1.5"


@pytest.fixture
def views(dbt: Dbt, warehouse: Warehouse, tmp_path: Path) -> Iterator[psycopg.Connection]:
    """Give a connection to a warehouse where each mart is a view of the statement that dbt compiles its model to."""
    dbt.run("compile --quiet --full-refresh", env={"DBT_TARGET_PATH": str(tmp_path)})
    nodes = json.loads((tmp_path / "manifest.json").read_text())["nodes"]
    models = {name: node for name, node in nodes.items() if node["resource_type"] == "model"}
    order = TopologicalSorter({name: set(node["depends_on"]["nodes"]) for name, node in models.items()})
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        for name in order.static_order():
            if name in models and models[name]["schema"] != "test_staging":
                statement = Path(models[name]["compiled_path"]).read_text()
                connection.execute(f"create schema if not exists {models[name]['schema']}".encode())
                connection.execute(f"create view {models[name]['relation_name']} as {statement}".encode())
        yield connection


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams)
@example(EXAMPLES[0])
@example(EXAMPLES[1])
@example(EXAMPLES[2])
def test_the_statement_of_every_mart_gives_the_expected_rows(views: psycopg.Connection, events: list[Event]) -> None:
    with views.transaction(force_rollback=True):
        insert(views, events)
        assert read_by(views) == expected(events)
        for mart, columns in COLUMNS.items():
            description = views.execute(f"select * from test_{mart} limit 0".encode()).description or []  # noqa: S608
            assert tuple(column.name for column in description) == columns


@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a seed cannot be shrunk
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(histories)
@example([Load(EXAMPLES[1]), Load(EXAMPLES[2][:1]), Load(EXAMPLES[0])])  # a professional without a stage vanishes
def test_after_a_full_refresh_and_incremental_builds_after_any_loads_the_marts_have_the_expected_rows(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path, history: list[Load]
) -> None:
    """What one example leaves in the tables, the full refresh of the next one has to replace."""
    empty(warehouse)
    for number, (log, start, end) in enumerate(history):
        file = write_file(tmp_path / "events.csv", log)
        load(str(file), warehouse.loader_dsn, start=start, end=end, allow_empty=True, max_rejected=1.0)
        if number == 0:
            dbt.run(f"{MARTS} --full-refresh")
            assert read(warehouse) == expected(loaded(warehouse))
        else:
            dbt.run(MARTS)
            assert read(warehouse) == expected(loaded(warehouse))


def test_without_events_every_model_builds_empty_and_the_reader_sees_the_marts_alone(
    dbt: Dbt, warehouse: Warehouse
) -> None:
    output = dbt.run("build --exclude-resource-type unit_test --select @source:raw.events", env={"DBT_TARGET": "prod"})

    assert " WARN=0 ERROR=0 SKIP=0 " in output
    assert "warning" not in output.lower()
    assert "deprecat" not in output.lower()
    assert read(warehouse, prefix="") == {mart: [] for mart in COLUMNS}
    with psycopg.connect(warehouse.reader_dsn, autocommit=True) as connection:
        for table in ("raw.events", "raw.rejected_rows", "staging.stg_events", "intermediate.int_status_events"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"table {table}")


# --- contracts -------------------------------------------------------------------------------------------------------


def test_a_violated_contract_leaves_the_old_table(dbt: Dbt, warehouse: Warehouse) -> None:
    models = "--select +dim_professionals +dim_services --exclude staging"
    events = [Event(1, "created_account", 5, NOON), Event(2, "proposed", 5, NOON, GARDEN)]
    write(warehouse, events)
    dbt.run(f"run --quiet {models}")
    before = read_tables(warehouse, "dim_professionals", "dim_services", "fct_events")
    with psycopg.connect(warehouse.loader_dsn) as connection:  # rows that no load would write
        connection.execute("alter table raw.events alter professional_id_anonymized drop not null")
        connection.execute("insert into raw.events values (3, 'proposed', null, '2020-01-02', null, 1)")

    output = dbt.run(f"run --quiet {models}", exit_code=1)

    for column, mart in [("professional_id", "fct_events__new"), ("service_id", "int_service_days__new")]:
        assert f'null value in column "{column}" of relation "{mart}" violates not-null constraint' in output
    assert read_tables(warehouse, "dim_professionals", "dim_services", "fct_events") == before


def read_tables(warehouse: Warehouse, *names: str) -> list[list[tuple[object, ...]]]:
    """Return the rows of the marts with these NAMES."""
    marts = [mart for mart in COLUMNS if mart.partition(".")[2] in names]
    with psycopg.connect(warehouse.reader_dsn) as connection:
        return [connection.execute(f"table test_{mart}".encode()).fetchall() for mart in marts]


def test_a_duplicated_key_fails_in_each_mart_and_leaves_the_published_table(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    events = [Event(1, "became_able_to_propose", 5, NOON), Event(2, "proposed", 5, NOON, GARDEN)]
    write(warehouse, events)
    dbt.run(MARTS)
    published = read(warehouse)
    assert all(published.values())
    write(warehouse, [*events, Event(3, "proposed", 6, NOON + timedelta(1), "8_dak_roof_2")])
    project = copy_of_the_project(tmp_path)
    for mart in COLUMNS:
        file = project / f"models/marts/{mart.replace('.', '/')}.sql"
        [last] = re.findall(r"^select \* from \w+$", file.read_text(), re.MULTILINE)
        replace(file, f"\n{last}\n", f"\n{last}\nunion all\n{last}\n")
    dbt = dataclasses.replace(dbt, folder=tmp_path, project=project)
    output = "".join(  # of models that do not depend on one another: dbt skips what depends on a failed one
        dbt.run(f"{MARTS} --select {models}", exit_code=1)
        for models in (
            "fct_events dim_services service_revenue_daily",
            "dim_date dim_professionals",
            "availability_snapshot professional_funnel",
            "professional_productivity_daily",
        )
    )
    for mart in COLUMNS:
        model = mart.partition(".")[2]
        assert f'duplicate key value violates unique constraint "{model}__new_pkey"' in output
    assert read(warehouse) == published


def test_a_renamed_column_is_refused(dbt: Dbt, tmp_path: Path) -> None:
    dbt.run(f"{MARTS} --select int_service_days dim_services")
    project = copy_of_the_project(tmp_path)
    sql = project / "models/marts/analysis/service_revenue_daily.sql"
    replace(sql, " lead_fee_revenue\n", " lead_fee_revenue as revenue\n")

    output = dataclasses.replace(dbt, folder=tmp_path, project=project).run(f"run --select {sql.stem}", exit_code=1)

    assert "This model has an enforced contract that failed." in output
    rows = [line.split("|")[1:-1] for line in output.splitlines() if "missing in" in line]
    assert [[cell.strip() for cell in cells] for cells in rows] == [
        ["lead_fee_revenue", "", "DECIMAL", "missing in definition"],
        ["revenue", "DECIMAL", "", "missing in contract"],
    ]


# --- data tests ------------------------------------------------------------------------------------------------------


def test_possible_mistakes_in_the_log_are_warnings_that_show_their_rows(dbt: Dbt, warehouse: Warehouse) -> None:
    write(
        warehouse,
        [
            Event(1, "proposed", 5, NOON, GARDEN),  # no status yet
            Event(3, "became_able_to_propose", 5, NOON),
            Event(2, "proposed", 5, NOON, GARDEN),  # at the same time, but before by its id
            Event(4, "proposed", 5, NOON, "7_tuin_garden_-0.10"),
            Event(5, "became_unable_to_propose", 5, NOON + timedelta(1)),
            Event(6, "proposed", 5, NOON + timedelta(2), GARDEN),
            Event(7, "proposed", 6, NOON, GARDEN),  # never a status
            Event(8, "created_account", 7, NOON.replace(year=2012)),
            Event(9, "created_account", 8, NOON.replace(year=2012)),
            Event(10, "created_account", 8, NOON.replace(year=2021, day=3)),  # 366 days later
            Event(11, "created_account", 8, NOON.replace(year=2022, day=5)),  # 367 days later
        ],
    )

    output = dbt.run("build --exclude-resource-type unit_test")

    assert " WARN=3 ERROR=0 SKIP=0 " in output
    assert rows_shown(output, "proposals_are_by_able_professionals") == [
        "event_id | professional_id | created_at",
        "1 | 5 | 2020-01-01 12:00:00",
        "2 | 5 | 2020-01-01 12:00:00",
        "6 | 5 | 2020-01-03 12:00:00",
        "7 | 6 | 2020-01-01 12:00:00",
    ]
    assert rows_shown(output, "lead_fees_are_not_negative") == [
        "event_id | professional_id | created_at | service_lead_fee",
        "4 | 5 | 2020-01-01 12:00:00 | -0.100000",
    ]

    assert rows_shown(output, "days_are_near_each_other") == [
        "event_date | events",
        "2012-01-01 | 2",
        "2022-01-05 | 1",
    ]

    with psycopg.connect(warehouse.transformer_dsn) as connection:
        connection.execute("update test_analysis.availability_snapshot set active_professionals = 2")
    output = dbt.run("test --select last_day_agrees_with_a_direct_count", exit_code=1)
    assert rows_shown(output, "last_day_agrees_with_a_direct_count") == [
        "date | active_in_snapshot | active_by_direct_count",
        "2022-01-05 | 2 | 0",
    ]


def rows_shown(output: str, test: str) -> list[str]:
    """Return the rows that fail TEST, sorted, below their header, as OUTPUT shows them."""
    _, below = output.split(f"rows that fail {test}, at most 10:\n")
    rows = list(itertools.takewhile(lambda line: line.startswith("  "), below.splitlines()))
    return [rows[0].strip(), *sorted(row.strip() for row in rows[1:])]


def test_a_failing_test_of_a_source_shows_its_rows(dbt: Dbt, warehouse: Warehouse) -> None:
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute("alter table raw.loads drop constraint loads_status_check")
        connection.execute("insert into raw.loads (feed, source_uri, status) values ('events', 'test', 'forgotten')")

    output = dbt.run("test --select raw_loads_have_a_known_status", exit_code=1)

    rows = [
        "rows that fail raw_loads_have_a_known_status, at most 10:",
        "  value_field | n_records",
        "  forgotten | 1",
    ]
    *shown, hint = output.splitlines()[-4:]
    assert shown == rows
    command = hint.removeprefix("to see all of them: ")
    for_all = " show --limit -1 --select raw_loads_have_a_known_status"
    assert command == f"{dbt.process.python} {PROJECT / 'run.py'}{for_all}"
    done = subprocess.run(  # the hint works as it is
        shlex.split(command),
        env=dbt.env | {"DBT_TARGET_PATH": str(dbt.folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| forgotten   |         1 |" in done.stdout

    by_nox = dbt.run("test --select raw_loads_have_a_known_status", 1, {"NOX_CURRENT_SESSION": "dbt"})
    assert by_nox.splitlines()[-1] == f"to see all of them: nox -s dbt --{for_all}"
    of_a_task = {"DBT_FAILURES_PATH": str(dbt.folder / "failures")}
    assert dbt.run("test --select raw_loads_have_a_known_status", 1, of_a_task).splitlines()[-3:] == rows


@pytest.mark.parametrize(
    ("hours", "exit_code", "line"),
    [
        (1, 0, "PASS freshness of raw.events"),
        (40, 0, "WARN freshness of raw.events"),
        (80, 1, "ERROR STALE freshness of raw.events"),
    ],
)
def test_freshness_is_the_age_of_the_last_load_that_succeeded(
    dbt: Dbt, warehouse: Warehouse, hours: int, exit_code: int, line: str
) -> None:
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute(
            "insert into raw.loads (feed, source_uri, status, ended_at) values"
            " ('events', 'test', 'succeeded', now() - %s), ('events', 'test', 'failed', now()),"
            " ('other', 'test', 'succeeded', now())",
            [timedelta(hours=hours)],
        )

    assert line in dbt.run("source freshness", exit_code)
