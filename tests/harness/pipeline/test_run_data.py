"""What the report of a run gets from its warehouse."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from feeds.errors import TooManyRejected
from feeds.load import load
from feeds.tables import create_tables
from harness.oracle.checks import Check
from harness.oracle.expected_numbers import Rows
from harness.pipeline import run_data
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.rejected_rows import RejectedRows
from harness.reporting.report.run import Run
from harness.warehouse.roles import Warehouse
from tests.clones import git
from tests.events_feed import EVENTS

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"


def test_a_warehouse_without_marts(warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(f"{HEADER}\n1;created_account;1;2020-01-01 00:00:00;\nx;created_account;1;2020-01-01 00:00:00;\n")
    create_tables(warehouse.loader_dsn, EVENTS)
    with pytest.raises(TooManyRejected):
        load(EVENTS, warehouse.loader_dsn, source_uri=str(path), max_rejected=0)
    load(EVENTS, warehouse.loader_dsn, source_uri=str(path), max_rejected=1)
    run = Run("e2e")
    run_data.add_warehouse(run, warehouse, None, {"raw.events": 1})
    assert run.notes == []
    [refused, loaded] = run.loads
    assert refused.failure.startswith(f"1 of 2 rows of {path} were rejected; at most 0% are allowed. The file ")
    assert (loaded.feed, loaded.status, loaded.read, loaded.loaded, loaded.rejected) == ("events", "succeeded", 2, 1, 1)
    sizes = {table.name: (table.rows, table.size_bytes > 0) for table in run.tables}
    assert sizes["raw.events"] == (1, True)  # of its partitions, which are not listed themselves
    assert sizes["raw.loads"] == (None, True)
    assert not [name for name in sizes if name.startswith("raw.events_")]
    assert [list(series.points) for series in run.series] == [[], []]
    assert [(each.reason, each.rows, list(each.examples)) for each in run.rejects] == [
        ("events: event_id: type", 1, [(3, "x;created_account;1;2020-01-01 00:00:00;")])
    ]
    assert (run.has_warehouse, run.older_loads, run.days) == (True, 0, None)


def test_the_computed_series_are_beside_the_warehouses(warehouse: Warehouse) -> None:
    first, second = date(2020, 1, 1), date(2020, 1, 2)
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute("create schema analysis")
        connection.execute(
            "create table analysis.availability_snapshot as select * from (values (%s::date, 4)) as t (date,"
            " active_professionals)",
            [first],
        )
        connection.execute(
            "create table analysis.service_revenue_daily as select * from (values (1, %(day)s::date, 1.5),"
            " (2, %(day)s, 2.25)) as t (service_id, date, lead_fee_revenue)",
            {"day": first},
        )
    marts: dict[str, Rows] = {
        run_data.AVAILABILITY: {(first, 4), (second, 5)},
        run_data.REVENUE: {(1, first, 1, Decimal("1.5")), (2, first, 1, Decimal(2))},
    }
    run = Run("e2e")
    run_data.add_warehouse(run, warehouse, marts)
    assert [series.points for series in run.series] == [[(first, 4, 4), (second, 5, None)], [(first, 3.5, 3.75)]]


def test_what_cannot_be_collected_is_said(warehouse: Warehouse) -> None:
    class Api:
        def task_instances(self) -> list[Any]:
            raise ValueError(f"no answer, {warehouse.admin_dsn}")

    run = Run("e2e")
    run_data.add_warehouse(run, warehouse)
    run_data.add_airflow(run, cast(AirflowApi, Api()))
    run_data.add_dbt(run, Path("nowhere"), warehouse.admin_dsn)
    [note] = run.notes
    assert note.startswith("The report does not have Airflow's tasks: no answer, postgresql://")
    assert warehouse.server.password not in note or not warehouse.server.password


def test_the_checks_and_the_rejected_rows() -> None:
    rejected = RejectedRows({"a": 10**6, "b": 1}, [("a", 3, "x"), ("b", 4, "y"), ("a", 5, "z")])
    run = Run("e2e")
    run_data.add_checks(run, [Check("rows", 1, None, passed=False)], ["a line"], rejected)
    assert [(each.expected, each.found, each.is_right) for each in run.numbers] == [("1", "None", False)]
    assert [(each.reason, each.rows, list(each.examples)) for each in run.rejects] == [
        ("a", 10**6, [(3, "x"), (5, "z")]),
        ("b", 1, [(4, "y")]),
    ]


def test_a_commit_of_the_default_branch_without_changes_is_main(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_data, "ROOT", tmp_path)

    def is_main() -> bool:
        run = Run("e2e")
        run_data.add_clone(run)
        return run.is_main

    assert not is_main()  # there is no clone
    (tmp_path / "a").write_text("")
    for command in ("init --quiet --initial-branch=main", "add .", "commit --quiet --message=one"):
        git(tmp_path, *command.split())
    assert is_main()
    (tmp_path / "a").write_text("changed")
    assert not is_main()
    git(tmp_path, "checkout", "--quiet", "-b", "feature")
    git(tmp_path, "commit", "--quiet", "--all", "--message=two")
    assert not is_main()
    git(tmp_path, "checkout", "--quiet", "--detach", "main")
    assert is_main()
