"""A raw table follows its contract where that loses nothing; else the refusal names the statement to run."""

from pathlib import Path

import psycopg
import pytest
from psycopg.errors import NotNullViolation

from feeds.contract import Feed, read_feed
from feeds.errors import ConstraintViolated, ContractInvalid, TablesUnfit
from feeds.ledger import LoadResult
from feeds.load import load
from feeds.migration import is_widened
from feeds.replayed_rejects import replay
from feeds.tables import create_tables
from harness.warehouse.roles import Warehouse

CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: orders
name: orders
version: 1.0.0
status: active
servers: [{server: files, type: local, path: orders.csv, format: csv}]
customProperties:
  - {property: timeColumn, value: day}
schema:
  - name: orders
    properties:
      - {name: order_id, logicalType: integer, primaryKey: true}
      - {name: day, logicalType: date, required: true}
      - {name: paid, logicalType: number, physicalType: "numeric(5,2)"}
"""
ADDED = "      - {name: class, logicalType: string}\n"
# (what is replaced in the contract, by what, the columns then)
LOSSLESS = {
    "a column more": ("$", ADDED, {"class": "text"}),
    "more digits": ("numeric(5,2)", "numeric(6,3)", {"paid": "numeric(6,3)"}),
    "any digits": (', physicalType: "numeric(5,2)"', "", {"paid": "numeric"}),
    "an integer that is a number": (
        "order_id, logicalType: integer",
        "order_id, logicalType: number",
        {"order_id": "numeric"},
    ),
}
REFUSED = {
    "a required column more": (
        "$",
        ADDED.replace("string", "string, required: true"),
        'alter table raw.orders add column "class" text not null default …',
    ),
    "fewer digits": (
        "numeric(5,2)",
        "numeric(5,3)",
        'alter column "paid" type numeric(5,3) using "paid"::numeric(5,3)',
    ),
    "another type": (
        'paid, logicalType: number, physicalType: "numeric(5,2)"',
        "paid, logicalType: string",
        "::text; if not, keep the table, and load all of it: alter table raw.orders rename to orders_kept",
    ),
    "another key": ("day, logicalType: date, required", "day, logicalType: date, primaryKey", "rename to orders_kept"),
    "another type of the time": ("day, logicalType: date", "day, logicalType: timestamp", "rename to orders_kept"),
    "another kind": ("property: timeColumn, value: day", "property: maxRejected, value: 0", "rename to orders_kept"),
}


def feed(folder: Path, old: str = "$", new: str = "") -> Feed:
    path = folder / "orders.yaml"
    path.write_text(CONTRACT + new if old == "$" else CONTRACT.replace(old, new))
    return read_feed(path)


@pytest.fixture
def orders(bare_warehouse: Warehouse, tmp_path: Path) -> str:
    """Give the loader's DSN of a warehouse with two orders."""
    create_tables(bare_warehouse.loader_dsn, feed(tmp_path))
    path = tmp_path / "orders.csv"
    path.write_text("order_id,day,paid\n1,2020-01-01,1.50\n2,2020-01-02,\n")
    assert load(feed(tmp_path), bare_warehouse.loader_dsn, source_uri=str(path)).loaded == 2
    return bare_warehouse.loader_dsn


def columns(db: psycopg.Connection) -> dict[str, str]:
    return dict(
        db.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = 'raw.orders'::regclass and attnum > 0 and attname <> 'load_id'"
        ).fetchall()
    )


@pytest.mark.parametrize("change", LOSSLESS)
def test_what_loses_nothing_is_done(tmp_path: Path, orders: str, change: str) -> None:
    old, new, expected = LOSSLESS[change]
    changed = feed(tmp_path, old, new)
    with psycopg.connect(orders, autocommit=True) as db:
        before = columns(db)
        create_tables(orders, changed)
        assert columns(db) == before | expected
        assert db.execute("select order_id, day::text, paid from raw.orders order by 1").fetchall() == [
            (1, "2020-01-01", pytest.approx(1.5)),
            (2, "2020-01-02", None),
        ]
        header = ",".join(column.name for column in changed.columns)
        path = tmp_path / "changed.csv"
        path.write_text(f"{header}\n1,2020-01-01,7" + "," * (len(changed.columns) - 3) + "\n")
        assert load(changed, orders, source_uri=str(path)).replaced == 2
        assert db.execute("select order_id, paid from raw.orders").fetchall() == [(1, 7)]


@pytest.mark.parametrize("change", REFUSED)
def test_what_could_lose_something_is_refused(tmp_path: Path, orders: str, change: str) -> None:
    old, new, statement = REFUSED[change]
    with psycopg.connect(orders, autocommit=True) as db:
        before = columns(db)
        with pytest.raises(TablesUnfit) as refusal:
            create_tables(orders, feed(tmp_path, old, new))
        assert statement in refusal.value.next_step
        assert columns(db) == before


REQUIRED = ('numeric(5,2)"', 'numeric(5,2)", required: true')


def load_rows(feed: Feed, dsn: str, path: Path, *rows: str) -> LoadResult:
    path.write_text("\n".join([",".join(column.name for column in feed.columns), *rows]))
    return load(feed, dsn, source_uri=str(path), max_rejected=1)


def test_what_the_contract_no_longer_requires_may_be_null(tmp_path: Path, bare_warehouse: Warehouse) -> None:
    dsn, path = bare_warehouse.loader_dsn, tmp_path / "orders.csv"
    create_tables(dsn, feed(tmp_path, *REQUIRED))
    result = load_rows(feed(tmp_path, *REQUIRED), dsn, path, "1,2020-01-01,1.5", "2,2020-01-02,")
    assert (result.loaded, result.rejected) == (1, 1)
    create_tables(dsn, feed(tmp_path))
    assert replay(feed(tmp_path), dsn).loaded == 1
    assert load_rows(feed(tmp_path), dsn, path, "1,2020-01-01,").loaded == 1
    create_tables(dsn, feed(tmp_path))
    with psycopg.connect(dsn) as db, pytest.raises(NotNullViolation, match="order_id"):  # of the primary key
        db.execute("insert into raw.orders (day, load_id) values ('2020-01-01', 1)")


def test_a_required_column_that_the_contract_has_no_more_stays_empty(tmp_path: Path, bare_warehouse: Warehouse) -> None:
    dsn, path = bare_warehouse.loader_dsn, tmp_path / "orders.csv"
    create_tables(dsn, feed(tmp_path, *REQUIRED))
    without = feed(tmp_path, '      - {name: paid, logicalType: number, physicalType: "numeric(5,2)"}\n')
    create_tables(dsn, without)
    assert load_rows(without, dsn, path, "1,2020-01-01").loaded == 1


def test_what_a_user_says_of_nulls_stays(tmp_path: Path, orders: str) -> None:
    path = tmp_path / "orders.csv"
    with psycopg.connect(orders, autocommit=True) as db:
        db.execute("delete from raw.orders where paid is null; alter table raw.orders alter paid set not null")
        create_tables(orders, feed(tmp_path))
        with pytest.raises(ConstraintViolated) as refusal:
            load_rows(feed(tmp_path), orders, path, "1,2020-01-01,")
        statement = "alter table raw.orders alter column paid drop not null"
        assert refusal.value.next_step.endswith(statement)
        create_tables(orders, feed(tmp_path, *REQUIRED))
        db.execute(statement)
        create_tables(orders, feed(tmp_path, *REQUIRED))
        db.execute("insert into raw.orders (order_id, day, load_id) values (7, '2020-01-01', 1)")


def test_a_column_becomes_required_if_no_row_is_without_it(tmp_path: Path, orders: str) -> None:
    with psycopg.connect(orders, autocommit=True) as db:
        with pytest.raises(TablesUnfit) as refusal:
            create_tables(orders, feed(tmp_path, *REQUIRED))
        statement = 'update raw.orders set "paid" = … where "paid" is null'
        assert refusal.value.next_step == f"Give them one: {statement}"
        db.execute(statement.replace("…", "0").encode())
        create_tables(orders, feed(tmp_path, *REQUIRED))
        with pytest.raises(NotNullViolation, match="paid"):
            db.execute("insert into raw.orders (order_id, day, load_id) values (7, '2020-01-01', 1)")
    assert load_rows(feed(tmp_path, *REQUIRED), orders, tmp_path / "orders.csv", "1,2020-01-01,2").loaded == 1
    create_tables(orders, feed(tmp_path))
    assert load_rows(feed(tmp_path), orders, tmp_path / "orders.csv", "1,2020-01-01,").loaded == 1


def test_days_become_times_of_the_contract_s_zone(tmp_path: Path, bare_warehouse: Warehouse) -> None:
    day = ADDED.replace("string", "date")
    create_tables(bare_warehouse.loader_dsn, feed(tmp_path, "$", day))
    contract = CONTRACT.replace("schema:", "  - {property: timeZone, value: Europe/Brussels}\nschema:", 1)
    (tmp_path / "orders.yaml").write_text(contract + day.replace("date", "timestamp"))
    with pytest.raises(TablesUnfit) as refusal:
        create_tables(bare_warehouse.loader_dsn, read_feed(tmp_path / "orders.yaml"))
    assert """using "class"::timestamp at time zone 'Europe/Brussels';""" in refusal.value.next_step


def test_a_dry_run_alters_nothing_and_says_so(tmp_path: Path, orders: str) -> None:
    wider, path = feed(tmp_path, "numeric(5,2)", "numeric(6,2)"), tmp_path / "orders.csv"
    with pytest.raises(TablesUnfit, match="Load without a dry run, which alters the table"):
        load(wider, orders, source_uri=str(path), dry_run=True)


def test_a_view_over_the_column_is_named(tmp_path: Path, orders: str) -> None:
    with psycopg.connect(orders, autocommit=True) as db:
        db.execute("create view raw.of_user as select paid from raw.orders")
        with pytest.raises(TablesUnfit, match=r"view raw.of_user depends on column"):
            create_tables(orders, feed(tmp_path, "numeric(5,2)", "numeric(6,2)"))
        assert columns(db)["paid"] == "numeric(5,2)"


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("paid >", "syntax error at or near"),
        ("paid > 0); drop table raw.orders; select (1", "semicolon"),
        ("price > 0", 'column "price" does not exist'),
        ("paid", "argument of IS NOT FALSE must be type boolean"),
        ("paid > (select 1)", "cannot use subquery"),
        ("paid like 'a%'", "operator does not exist"),
    ],
)
def test_a_rule_that_is_no_condition_is_refused(tmp_path: Path, orders: str, rule: str, problem: str) -> None:
    rules = f'    customProperties: [{{property: rules, value: [{{name: own, sql: "{rule}"}}]}}]\n'
    with pytest.raises(ContractInvalid, match=problem):
        create_tables(orders, feed(tmp_path, "$", rules))
    with psycopg.connect(orders) as db:
        assert db.execute("select count(*) from raw.orders").fetchone() == (2,)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("bigint", "numeric", True),
        ("bigint", "numeric(19,0)", True),
        ("bigint", "numeric(20,2)", False),
        ("numeric", "bigint", False),
        ("numeric(5,2)", "numeric", True),
        ("numeric(5,2)", "numeric(6,3)", True),
        ("numeric(5,2)", "numeric(6,4)", False),
        ("numeric", "numeric(6,4)", False),
        ("bigint", "text", False),
        ("date", "timestamp with time zone", False),
    ],
)
def test_only_numbers_get_wider(before: str, after: str, expected: bool) -> None:
    assert is_widened(before, after) == expected
