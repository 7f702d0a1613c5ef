"""Which changes of a contract break readers, and which models and exposures are concerned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feeds.contract import Column, Drift, Feed, Properties, Rule
from harness.contracts.contract_changes import Project, breaking, compare, is_major
from harness.project.paths import ROOT

ID = Column("id", "id", "integer", "bigint", is_required=True)
AMOUNT = Column("amount", "Amount", "number", "numeric(8,2)", is_required=True, digits=(6, 2))
AT = Column("at", "at", "timestamp", "timestamp with time zone", is_required=True)
NOTE = Column("note", "note", "string", "text")
FEED = Feed("orders", "1.2.3", (ID, AMOUNT, AT, NOTE), ("id",), "a.csv", "csv", (), Properties(timeColumn="at"))


def changed(column: Column, **fields: Any) -> tuple[Column, ...]:
    """Return the columns of the feed with other FIELDS of COLUMN."""
    return tuple(replace(each, **fields) if each is column else each for each in FEED.columns)


@pytest.mark.parametrize(
    ("fields", "what", "breaks"),
    [
        ({}, [], False),
        ({"columns": (ID, AMOUNT, AT)}, ["note was removed"], True),
        ({"columns": changed(NOTE, name="remark")}, ["note was renamed to remark"], True),
        ({"columns": (*FEED.columns, Column("new", "new", "string", "text"))}, ["new was added"], False),
        ({"columns": (AMOUNT, ID, AT, NOTE)}, ["the order of columns was changed"], False),
        (
            {"columns": changed(AMOUNT, sql_type="numeric(10,2)", digits=(8, 2))},
            ["amount was widened from numeric(8,2) to numeric(10,2)"],
            False,
        ),
        (
            {"columns": changed(AMOUNT, sql_type="numeric(8,3)", digits=(5, 3))},
            ["amount was changed from numeric(8,2) to numeric(8,3)"],
            True,
        ),
        (
            {"columns": changed(ID, type="number", sql_type="numeric")},
            ["id was widened from bigint to numeric"],
            False,
        ),
        ({"columns": changed(ID, type="string", sql_type="text")}, ["id was changed from bigint to text"], True),
        ({"columns": changed(NOTE, is_required=True)}, ["note is required now"], False),
        ({"columns": changed(NOTE, header="Note")}, ["note has the header 'Note'"], False),
        ({"columns": changed(NOTE, pattern="a+")}, ["note has another pattern"], False),
        ({"columns": changed(NOTE, lengths=(0, 9))}, ["note has other lengths"], False),
        ({"columns": changed(NOTE, values=("a",))}, ["note has other valid values"], False),
        ({"key": ("id", "at")}, ["the key was changed from id to id, at"], True),
        (
            {"properties": Properties()},
            ["the kind was changed from an interval feed by at to a snapshot"],
            True,
        ),
        ({"rules": (Rule(name="r", sql="id > 0"),)}, ["the rule r was added"], False),
        ({"location": "b.csv"}, ["the files' location was changed to b.csv"], False),
        (
            {"properties": Properties(timeColumn="at", cadences=("weekly",), maxRejected=0.5)},
            ["the share of rows that may be rejected was changed", "the cadences were changed"],
            False,
        ),
    ],
)
def test_changes(fields: dict[str, Any], what: list[str], breaks: bool) -> None:
    changes = compare(FEED, replace(FEED, **fields))
    assert [change.what for change in changes] == what
    assert any(change.breaks for change in changes) == breaks


def test_the_column_of_new_columns_that_is_no_longer_kept_was_removed() -> None:
    before = replace(FEED, properties=Properties(timeColumn="at", drift=Drift(new_column="keep")))
    assert [(change.what, change.breaks) for change in compare(before, FEED)] == [
        ("other_columns was removed", True),
        ("drift was changed", False),
    ]


def test_a_history_that_is_removed_breaks_readers() -> None:
    before, after = (replace(FEED, properties=Properties(history=history)) for history in (True, False))
    assert [(change.what, change.breaks) for change in compare(before, after)] == [("the history was removed", True)]
    assert [(change.what, change.breaks) for change in compare(after, before)] == [("a history was added", False)]


@pytest.mark.parametrize(
    ("version", "expected"), [("2.0.0", True), ("10.0.0", True), ("1.9.9", False), ("0.9.0", False)]
)
def test_a_major_version(version: str, expected: bool) -> None:
    assert is_major(FEED, replace(FEED, version=version)) == expected


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Give a dbt project of which `amount` is renamed in staging and never null in one mart."""
    files = {
        "staging/stg_orders.sql": "select\nid,\namount as price, -- note\nat\nfrom {{ source('raw', 'orders') }}",
        "staging/stg_orders.yml": "models: [{name: stg_orders, columns: [{name: at, data_tests: [not_null]}]}]",
        "marts/revenue.sql": "with orders as (select * from {{ ref('stg_orders') }}) select sum(price) from orders",
        "marts/revenue.yml": "models: [{name: revenue, columns: [{name: price, constraints: [{type: not_null}]}]}]",
        "marts/days.sql": 'with orders as (select * from {{ ref("stg_orders") }}) select at from orders',
        "marts/copy.sql": "select * from {{ ref('revenue') }}",
        "marts/other.sql": "select amount from {{ ref('something') }}",
        "a.yml": "exposures: [{name: report, depends_on: [ref('copy')]}, {name: board, depends_on: [ref('days')]}]",
    }
    for name, text in files.items():
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("column", "models", "exposures"),
    [
        ("amount", ("stg_orders", "revenue", "copy"), ("report",)),
        ("at", ("stg_orders", "days"), ("board",)),
        ("note", (), ()),
        (None, ("stg_orders", "days", "revenue", "copy"), ("report", "board")),
    ],
)
def test_readers(project: Project, column: str | None, models: tuple[str, ...], exposures: tuple[str, ...]) -> None:
    found = project.readers("orders", column)
    assert (found.models, found.exposures) == (models, exposures)


@pytest.mark.parametrize(("column", "breaks"), [(AMOUNT, True), (AT, True), (ID, False)])
def test_required_is_dropped_only_where_nobody_relies_on_it(project: Project, column: Column, breaks: bool) -> None:
    changes = compare(FEED, replace(FEED, columns=changed(column, is_required=False)))
    assert [change.what for change in changes] == [f"{column.name} is no longer required"]
    assert bool(breaking(project, "orders", changes)) == breaks


def test_readers_of_this_projects_events() -> None:
    readers = Project(ROOT / "dbt").readers("events", "meta_data")
    assert {"stg_events", "fct_events", "dim_services", "service_revenue_daily"} <= set(readers.models)
    assert "availability_snapshot" not in readers.models
    assert "lead_fee_report" in readers.exposures
