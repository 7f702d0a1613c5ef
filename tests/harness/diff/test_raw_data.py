"""Rows that are held back come back exactly, as a load that incremental models see, and the ledger forgets it."""

# ruff: noqa: S608 - the statements' names are this test's

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import sql

from feeds.contract import CONTRACTS, Feed, read_feed
from feeds.load import load
from feeds.tables import create_tables
from harness.diff import raw_data
from harness.oracle.expected_numbers import COLUMNS
from harness.processes.dbt_process import Dbt, Process
from harness.project.paths import DATA
from harness.warehouse.roles import Warehouse
from tests.dbt.common import copy_of_the_project, replace
from tests.feeds.common import DAY, contract

EVENTS = read_feed(CONTRACTS / "events.yaml")
LEDGER = ("loads", "loaded_files", "loaded_days", "snapshot_days", "rejected_rows")
STAGING = """
select
    site,
    day,
    visitors

from {{ source('raw', 'visits') }}
"""
MODEL = """
{{
    config(
        materialized='incremental',
        incremental_strategy='replace',
        incremental_predicates=["{{ is_in_spans('old_rows.day', changed_spans()) }}"],
        on_schema_change='fail',
    )
}}
-- depends_on: {{ ref('stg_loads') }}
select
    day,
    sum(visitors) as visitors

from {{ ref('stg_visits') }}
{% if is_incremental() %}
    where {{ is_in_spans('day', changed_spans()) }}
{% endif %}
group by day
"""
CONTRACT = """
models:
  - name: visits_daily
    config: {contract: {enforced: true}}
    columns:
      - {name: day, data_type: date, constraints: [{type: primary_key}]}
      - {name: visitors, data_type: numeric}
"""

Table = list[tuple[Any, ...]]


@pytest.fixture
def feeds(tmp_path: Path) -> dict[str, Feed]:
    """Give three feeds: with a moment as their time, with a date, and without."""
    visits = """
        {name: site, logicalType: string, required: true, primaryKey: true, primaryKeyPosition: 1},
        {name: day, logicalType: date, required: true, primaryKey: true, primaryKeyPosition: 2},
        {name: visitors, logicalType: integer}
    """
    customers = "{name: customer_id, logicalType: integer, required: true, primaryKey: true}"
    return {
        "events": EVENTS,
        "visits": contract(tmp_path, "visits", visits, "{property: timeColumn, value: day}"),
        "customers": contract(tmp_path, "customers", customers),
    }


@pytest.fixture
def filled(bare_warehouse: Warehouse, feeds: dict[str, Feed], tmp_path: Path) -> Warehouse:
    """Give a warehouse with the sample of events, loaded whole and one day again, random visits, and a snapshot."""
    dsn = bare_warehouse.loader_dsn
    for feed in feeds.values():
        create_tables(dsn, feed)
    visits, customers = tmp_path / "visits.csv", tmp_path / "customers.csv"
    random = Random(7)  # noqa: S311 - no secret
    rows = [
        f"{site},{date(2019, 12, 1) + timedelta(days=number)},{random.randrange(100)}"
        for number in range(100)
        for site in random.sample("abcdefgh", random.randrange(9))
    ]
    visits.write_text("\n".join(["site,day,visitors", *rows]))
    customers.write_text("customer_id\n1\n2\n")
    for name, path in (("events", DATA / "events.csv"), ("visits", visits), ("customers", customers)):
        load(feeds[name], dsn, source_uri=str(path))
    load(EVENTS, dsn, source_uri=str(DATA / "events.csv"), start=DAY, end=DAY + timedelta(days=1))
    with psycopg.connect(bare_warehouse.admin_dsn) as connection:
        # The days of a session of the administrator are others.
        connection.execute(
            sql.SQL("alter database {} set timezone = 'America/New_York'").format(
                sql.Identifier(bare_warehouse.database)
            )
        )
        connection.execute("alter table raw.visits add column twice bigint generated always as (visitors * 2) stored")
    return bare_warehouse


def rows_of(warehouse: Warehouse, query: str) -> Table:
    with psycopg.connect(warehouse.admin_dsn, options="-c timezone=UTC") as connection:
        return connection.execute(query.encode()).fetchall()


def tables(warehouse: Warehouse, *names: str) -> dict[str, Counter[tuple[Any, ...]]]:
    """Return the rows of the tables NAMES of the schema raw, each as often as it is there."""
    return {name: Counter(rows_of(warehouse, f"select * from raw.{name}")) for name in names}


def test_rows_and_ledger_are_as_before(filled: Warehouse, feeds: dict[str, Feed]) -> None:
    before, ledger = tables(filled, *feeds), tables(filled, *LEDGER)
    count = raw_data.hold_back(filled, feeds)
    held = {name: before[name] - rows for name, rows in tables(filled, *feeds).items()}
    assert count == sum(map(Counter.total, held.values()))
    assert tables(filled, *LEDGER) == ledger
    assert not held["customers"]
    for name, place in (("events", 3), ("visits", 1)):
        times = sorted(row[place] for row in before[name].elements())
        median = times[(len(times) - 1) // 2]
        later = {row for row in before[name] if row[place] >= median}
        late = held[name].keys() - later
        assert later <= held[name].keys()
        assert {number_of(row[place]) % 7 for row in late} == {3}
        on_such_days = [row for row in before[name] if row not in later and number_of(row[place]) % 7 == 3]
        assert 0 < len(late) < len(on_such_days) / 2

    raw_data.put_back(filled, feeds)
    assert tables(filled, *feeds) == before
    [*_, (visits_load, visits_rows), (events_load, events_rows)] = rows_of(
        filled, "select load_id, rows_loaded from raw.loads where source_uri = 'rows held back' order by feed desc"
    )
    assert (events_rows, visits_rows) == (held["events"].total(), held["visits"].total())
    for load_id, name, place in ((events_load, "events", 3), (visits_load, "visits", 1)):
        added = Counter(day_of(row[place]) for row in held[name].elements())
        present = Counter(day_of(row[place]) for row in before[name].elements())
        days = rows_of(
            filled,
            "select day, rows_loaded, rows_added, rows_changed, rows_removed, rows_absent, rows_present"
            f" from raw.loaded_days where load_id = {load_id} order by day",
        )
        assert days == [(day, n, n, 0, 0, 0, present[day]) for day, n in sorted(added.items())]

    raw_data.forget_loads(filled)
    assert tables(filled, *LEDGER) == ledger


def day_of(moment: date | datetime) -> date:
    return moment.astimezone(UTC).date() if isinstance(moment, datetime) else moment


def number_of(moment: date | datetime) -> int:
    return (day_of(moment) - date(1970, 1, 1)).days


def test_the_load_is_one_of_all_days_whatever_the_last_load_was(filled: Warehouse, feeds: dict[str, Feed]) -> None:
    with psycopg.connect(filled.admin_dsn) as connection:  # of an older version, which had no days
        connection.execute("update raw.loads set rows_absent = null, moved_from = interval_start, run_id = 'a run'")
        connection.execute("delete from raw.loaded_days using raw.loads where feed = 'visits'")
        connection.execute("delete from raw.loaded_files; delete from raw.loads where feed = 'visits'")
    raw_data.hold_back(filled, feeds)
    raw_data.put_back(filled, feeds)
    found = rows_of(
        filled,
        "select feed, interval_start, interval_end, moved_from, rows_absent, same_as_load_id, rows_read - rows_loaded"
        " from raw.loads where source_uri = 'rows held back' order by feed",
    )
    assert found == [(feed, None, None, None, 0, None, 0) for feed in ("events", "visits")]


def test_an_incremental_run_then_gives_what_a_full_refresh_gives(
    filled: Warehouse, feeds: dict[str, Feed], processes: list[Process], tmp_path: Path
) -> None:
    project = copy_of_the_project(tmp_path)
    sources = project / "models" / "staging" / "sources.yml"
    replace(sources, "      - name: loads\n", "      - name: visits\n      - name: loads\n")
    (project / "models" / "staging" / "stg_visits.sql").write_text(STAGING)
    (project / "models" / "marts" / "fact" / "visits_daily.sql").write_text(MODEL)
    (project / "models" / "marts" / "fact" / "visits_daily.yml").write_text(CONTRACT)
    dbt = Dbt(processes[0], {"PATH": "", "DBT_TARGET": "prod", **filled.dbt_env()}, tmp_path / "run", project)
    marts = [*COLUMNS, "fact.visits_daily"]

    def built(options: str = "") -> dict[str, Table]:
        dbt.run(f"run --quiet --log-level-file none {options}")
        return {mart: sorted(rows_of(filled, f"select * from {mart}"), key=str) for mart in marts}

    raw_data.hold_back(filled, feeds)
    half = built()
    raw_data.put_back(filled, feeds)
    whole = built()
    raw_data.forget_loads(filled)
    assert built("--full-refresh") == whole
    assert all(whole[mart] != half[mart] for mart in marts)
    [(days,)] = rows_of(filled, "select count(distinct day) from raw.visits")
    assert len(whole["fact.visits_daily"]) == days
