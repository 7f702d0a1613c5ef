"""The checks of the end-to-end run can fail: each tampering with a warehouse that was right is noticed."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from feeds.contract import read_feeds
from feeds.interval import ALWAYS
from feeds.tables import create_others
from harness.errors import ChecksFailedError
from harness.oracle.checks import Check, compare, compare_file, compare_history, fingerprint
from harness.oracle.expected_numbers import Expected, compute
from harness.pipeline.run_checks import check_numbers
from harness.processes.dbt_process import Dbt, Process
from harness.warehouse.roles import Warehouse, create_warehouse, drop_warehouse
from harness.warehouse.server import Server
from tests.events_feed import EVENTS, create_tables, load

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data\n"
ROWS = """\
1;created_account;7;2020-01-01 09:00:00;
2;became_able_to_propose;7;2020-01-01 10:00:00;
3;proposed;7;2020-01-03 10:00:00;4_dak_roof_1.10
4;proposed;7;2020-01-03 11:00:00;5_tuin_garden_2.20
5;created_account;8;2020-01-04 09:00:00;
not an event
"""
TAMPERINGS = {
    "update fact.fct_events set service_lead_fee = service_lead_fee + 0.01 where event_id = 3": "sum of lead fees",
    "update fact.fct_events set service_id = 4": "services in fct_events",
    "update analysis.availability_snapshot set active_professionals = 2": ("content of analysis.availability_snapshot"),
    "delete from analysis.availability_snapshot where date = '2020-01-02'": "rows of analysis.availability_snapshot",
    "update analysis.service_revenue_daily set date = date + 1 where service_id = 5": (
        "content of analysis.service_revenue_daily"
    ),
    "update analysis.professional_funnel set cohort_week_id = 201952 where professional_id = 7": (
        "content of analysis.professional_funnel"
    ),
    "update analysis.professional_productivity_daily set lead_fee_revenue_per_active_professional = 3.31"
    " where date = '2020-01-03'": "content of analysis.professional_productivity_daily",
    "delete from dim.dim_professionals where professional_id = 8": "rows of dim.dim_professionals",
    "delete from dim.dim_services where service_id = 5": "rows of dim.dim_services",
    "delete from dim.dim_date where calendar_id = 20200102": "rows of dim.dim_date",
    "delete from raw.events where event_id = 1": "rows of raw.events",
    "update raw.events set meta_data = '4_dak_roof_1.20' where event_id = 3": "digest of raw.events",
    "update raw.events set created_at = '2019-01-01' where event_id = 1": "smallest of raw.events.created_at",
    "delete from raw.rejected_rows": "rejected rows of events",
    "update raw.rejected_rows set reason = 'quoting'": "rejected rows of events: ('quoting', None)",
    "drop table fact.fct_events cascade": "rows of fact.fct_events",
}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of five events and a row that is none."""
    path = tmp_path_factory.mktemp("events") / "events.csv"
    path.write_text(HEADER + ROWS)
    return path


@pytest.fixture(scope="module")
def built(server: Server, passwords: dict[str, str], events: Path, processes: list[Process]) -> Iterator[Warehouse]:
    """Give a warehouse where the file was loaded and every model built; tests roll back what they change."""
    warehouse = create_warehouse(server, "checks", passwords)
    create_tables(warehouse.loader_dsn)
    create_others(warehouse.loader_dsn, read_feeds().values())
    load(str(events), warehouse.loader_dsn, max_rejected=0.5)
    env = {"PATH": os.environ["PATH"], "DBT_TARGET": "prod", **warehouse.dbt_env()}
    Dbt(processes[0], env, events.parent).run("run --quiet")
    yield warehouse
    drop_warehouse(warehouse)


def of(file: Path, warehouse: Warehouse) -> Expected:
    """Return what WAREHOUSE must hold of the events in FILE."""
    return compute([(EVENTS, str(file))], ALWAYS, warehouse.admin_dsn)


def test_a_warehouse_that_is_right_passes_every_check(built: Warehouse, events: Path) -> None:
    with psycopg.connect(built.admin_dsn) as connection:
        checks = compare(of(events, built), connection)
    assert [check.name for check in checks if not check.passed] == []
    assert {"sum of lead fees", "content of analysis.availability_snapshot", "digest of raw.events"} < {
        check.name for check in checks
    }


def test_a_number_that_differs_is_told_with_what_is_expected_and_found(built: Warehouse, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(HEADER + ROWS.replace("_1.10", "_1.25"))
    with pytest.raises(ChecksFailedError) as caught:
        check_numbers(of(other, built), built)
    [evidence] = caught.value.evidence
    assert evidence.startswith("| number | expected | found |\n| --- | --- | --- |\n| digest of raw.events | ")
    assert evidence.partition(" |\n| sum")[2] == (
        " of lead fees | 3.45 | 3.300000 |\n"
        "| content of analysis.service_revenue_daily "
        "| 2 rows, 1 different: 4, 2020-01-03, 1, 1.25 | 2 rows, 1 different: 4, 2020-01-03, 1, 1.100000 |\n"
        "| content of analysis.professional_productivity_daily "
        "| 4 rows, 1 different: 2020-01-03, 1, 2, 3.45, 2.000000, 3.450000 "
        "| 4 rows, 1 different: 2020-01-03, 1, 2, 3.300000, 2.000000, 3.300000 |"
    )


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_warehouse_that_is_wrong_is_noticed(built: Warehouse, events: Path, tampering: str) -> None:
    with psycopg.connect(built.admin_dsn) as connection, connection.transaction(force_rollback=True):
        connection.execute(tampering.encode())
        checks = compare(of(events, built), connection)
        assert TAMPERINGS[tampering] in [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("tampering", list(TAMPERINGS)[:-1])
def test_a_table_that_changed_has_another_fingerprint(built: Warehouse, tampering: str) -> None:
    with psycopg.connect(built.admin_dsn) as connection, connection.transaction(force_rollback=True):
        before = fingerprint(connection)
        connection.execute(tampering.encode())
        after = fingerprint(connection)
    changed = tampering.replace("delete from ", "").replace("update ", "").split()[0]
    assert changed in {table for table in before if before[table] != after[table]}


def test_a_second_load_leaves_every_fingerprint(built: Warehouse, events: Path) -> None:
    with psycopg.connect(built.admin_dsn, autocommit=True) as connection:
        before = fingerprint(connection)
        load(str(events), built.loader_dsn, max_rejected=0.5)
        assert fingerprint(connection) == before


def test_a_history_has_the_rows_of_its_table(built: Warehouse) -> None:
    feed = replace(EVENTS, name="history_of")  # of which only the columns count
    columns = "event_id, event_type, professional_id_anonymized, created_at, meta_data"
    with psycopg.connect(built.admin_dsn) as connection, connection.transaction(force_rollback=True):
        connection.execute(f"create table raw.history_of as select {columns} from raw.events")  # noqa: S608 - our names
        connection.execute(
            "create table raw.history_of_history as select *, null::date as valid_to from raw.history_of"
        )
        connection.execute("insert into raw.history_of_history select h.*, current_date from raw.history_of as h")
        assert compare_history(feed, connection).passed
        connection.execute("update raw.history_of_history set valid_to = current_date where event_id = 1")
        connection.execute(
            "insert into raw.history_of_history select h.*, null from raw.history_of as h where event_id = 2"
        )
        check = compare_history(feed, connection)
    assert (check.passed, check.actual) == (False, 2)


def test_a_model_may_bring_its_expected_rows(built: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "dim_services.csv"
    name = f"rows of dim_services in {path}"
    with psycopg.connect(built.admin_dsn) as connection:
        for text, expected, actual in (
            ("service_id,service_name_en\n5,garden\n4,roof\n", "2 rows", "2 rows"),
            ("service_id\n4\n", "1 rows", "2 rows, only here: 5"),
            ("service_id\n4\n5\n5\n", "3 rows, only here: 5", "2 rows"),
            ("service_id,service_name_en\n4,\n5,garden\n", "2 rows, only here: 4, None", "2 rows, only here: 4, roof"),
            ("service\n4\n", "rows", 'column "service" does not exist'),
            ("service_id\nfour\n", "rows", 'invalid input syntax for type bigint: "four"'),
        ):
            path.write_text(text)
            assert compare_file(connection, path) == Check(name, expected, actual, expected == actual == "2 rows")
        other = path.rename(tmp_path / "dim_service.csv")
        assert compare_file(connection, other).actual == "no model of this name"
