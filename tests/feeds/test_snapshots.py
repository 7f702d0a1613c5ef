"""A snapshot replaces its whole table; its history depends on the snapshots and their days, not on the loads' order."""

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feeds.contract import Feed, read_feed
from feeds.errors import EmptyReplacement, TablesUnfit
from feeds.ledger import LoadResult
from feeds.load import load
from feeds.replayed_rejects import replay
from feeds.tables import create_tables
from harness.warehouse.roles import Warehouse

CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: customers
name: customers
version: 1.0.0
status: active
servers: [{server: files, type: local, path: customers.csv, format: csv}]
customProperties:
  - {property: history, value: true}
  - {property: maxRejected, value: 0.5}
schema:
  - name: customers
    properties:
      - {name: customer_id, logicalType: string, required: true, primaryKey: true, primaryKeyPosition: 2}
      - {name: country, logicalType: string, required: true, primaryKey: true, primaryKeyPosition: 1}
      - {name: city, logicalType: string, logicalTypeOptions: {pattern: '[a-z]*'}}
"""
FIRST_DAY = date(2020, 1, 1)

Rows = dict[tuple[str, str], str | None]


@pytest.fixture
def customers(tmp_path: Path) -> Feed:
    return feed(tmp_path)


HISTORY = "{property: history, value: true}"
NO_HISTORY = "{property: history, value: false}"


def feed(folder: Path, pattern: str = "[a-z]*", history: str = HISTORY) -> Feed:
    path = folder / "customers.yaml"
    path.write_text(CONTRACT.replace("[a-z]*", pattern).replace(HISTORY, history))
    return read_feed(path)


@pytest.fixture
def snapshots(bare_warehouse: Warehouse, customers: Feed) -> str:
    """Give the DSN of a warehouse with the tables of `customers`."""
    create_tables(bare_warehouse.loader_dsn, customers)
    return bare_warehouse.loader_dsn


def load_day(feed: Feed, dsn: str, path: Path, day: date, rows: Rows, **options: Any) -> LoadResult:
    lines = [f"{number},{country},{city or ''}" for (country, number), city in rows.items()]
    path.write_text("\n".join(["customer_id,country,city", *lines]))
    end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    return load(feed, dsn, source_uri=str(path), start=end - timedelta(days=1), end=end, **options)


def history_of(snapshots: dict[date, Rows]) -> set[tuple[Any, ...]]:
    """Return the history of SNAPSHOTS by day, row by row and day by day."""
    found: set[tuple[Any, ...]] = set()
    days = sorted(snapshots)
    for key in {key for rows in snapshots.values() for key in rows}:
        begun: tuple[str | None, date] | None = None
        for day in days:
            rows = snapshots[day]
            if begun and (key not in rows or rows[key] != begun[0]):
                found.add((*key, begun[0], begun[1], day))
                begun = None
            if key in rows and not begun:
                begun = (rows[key], day)
        if begun:
            found.add((*key, begun[0], begun[1], None))
    return found


def test_any_order_of_snapshots_gives_one_history(tmp_path: Path, customers: Feed, snapshots: str) -> None:
    choices = random.Random(16)  # noqa: S311 - no secret
    loaded: dict[date, Rows] = {}
    with psycopg.connect(snapshots, autocommit=True) as db:
        for _ in range(25):
            day = FIRST_DAY + timedelta(days=choices.randrange(8))
            keys = [(country, number) for country in ("be", "nl") for number in ("1", "2")]
            rows: Rows = {key: choices.choice(["gent", "delft", None]) for key in keys if choices.random() < 0.7}
            is_latest = day >= max(loaded, default=FIRST_DAY)
            result = load_day(customers, snapshots, tmp_path / "file.csv", day, rows, allow_empty=True)
            loaded[day] = rows
            assert (result.loaded, result.read) == (len(rows), len(rows))
            found = db.execute("select country, customer_id, city, valid_from, valid_to from raw.customers_history")
            assert set(found.fetchall()) == history_of(loaded)
            table = db.execute("select country, customer_id, city from raw.customers").fetchall()
            assert {(country, number): city for country, number, city in table} == loaded[max(loaded)]
            assert is_latest == (rows == loaded[max(loaded)] and day == max(loaded))


def test_a_snapshot_without_rows_is_refused_of_a_past_day_too(tmp_path: Path, customers: Feed, snapshots: str) -> None:
    path = tmp_path / "file.csv"
    for number in (0, 1):
        load_day(customers, snapshots, path, FIRST_DAY + timedelta(days=number), {("be", "1"): "gent"})
    for number in (0, 1):
        with pytest.raises(EmptyReplacement, match="would delete 1 rows"):
            load_day(customers, snapshots, path, FIRST_DAY + timedelta(days=number), {})
    with psycopg.connect(snapshots) as db:
        assert db.execute("select count(*) from raw.customers").fetchone() == (1,)
        assert db.execute("select valid_from, valid_to from raw.customers_history").fetchall() == [(FIRST_DAY, None)]


def test_a_history_that_somebody_else_keeps_is_left_alone(
    tmp_path: Path, bare_warehouse: Warehouse, customers: Feed
) -> None:
    dsn = bare_warehouse.loader_dsn
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("create table raw.customers_history (customer_id text, valid_from date, valid_to date)")
        db.execute("insert into raw.customers_history values ('7', '2020-01-01', null)")
        with pytest.raises(TablesUnfit, match=r"raw\.customers_history has rows that no load has written"):
            create_tables(dsn, customers)
        create_tables(dsn, feed(tmp_path, history=NO_HISTORY))
        assert db.execute("select * from raw.customers_history").fetchall() == [("7", FIRST_DAY, None)]


def test_rejected_rows_come_back_into_their_days(tmp_path: Path, customers: Feed, snapshots: str) -> None:
    path, days = tmp_path / "file.csv", [FIRST_DAY + timedelta(days=number) for number in range(3)]
    load_day(customers, snapshots, path, days[2], {("be", "1"): "gent", ("be", "2"): "GENT"})
    load_day(
        customers,
        snapshots,
        path,
        days[0],
        {("be", "1"): "gent", ("be", "2"): "GENT", ("nl", "1"): "DELFT"},
        max_rejected=1,
    )
    load_day(customers, snapshots, path, days[1], {("be", "1"): "GENT", ("be", "2"): "gent"})
    load_day(customers, snapshots, path, days[1], {("be", "1"): "gent", ("be", "2"): "gent"})  # instead
    result = replay(feed(tmp_path, "[A-Za-z]*"), snapshots)
    assert (result.read, result.loaded, result.outside) == (3, 3, 0)
    with psycopg.connect(snapshots) as db:
        found = db.execute(
            "select country, customer_id, city, valid_from, valid_to from raw.customers_history"
        ).fetchall()
        assert set(found) == history_of(
            {
                days[0]: {("be", "1"): "gent", ("be", "2"): "GENT", ("nl", "1"): "DELFT"},
                days[1]: {("be", "1"): "gent", ("be", "2"): "gent"},
                days[2]: {("be", "1"): "gent", ("be", "2"): "GENT"},
            }
        )
        assert db.execute("select customer_id, city from raw.customers order by 1").fetchall() == [
            ("1", "gent"),
            ("2", "GENT"),
        ]
        assert db.execute("select count(*) from raw.rejected_rows").fetchone() == (0,)


def test_without_a_history_the_table_does_not_go_back_to_an_earlier_day(
    tmp_path: Path, bare_warehouse: Warehouse
) -> None:
    path = tmp_path / "customers.yaml"
    path.write_text(CONTRACT.replace("{property: history, value: true}", "{property: history, value: false}"))
    customers, dsn, file = read_feed(path), bare_warehouse.loader_dsn, tmp_path / "file.csv"
    create_tables(dsn, customers)
    rows: Rows = {("be", "1"): "gent", ("be", "2"): "GENT"}
    assert load_day(customers, dsn, file, FIRST_DAY + timedelta(days=1), rows).loaded == 1
    earlier = load_day(customers, dsn, file, FIRST_DAY, {("nl", "1"): "delft", ("nl", "2"): "DELFT"})
    assert (earlier.loaded, earlier.outside, earlier.rejected, earlier.replaced) == (0, 1, 1, 0)
    with psycopg.connect(dsn, autocommit=True) as db:
        table = "select customer_id, city from raw.customers"
        assert db.execute(table).fetchall() == [("1", "gent")]
        assert db.execute("select raw_text from raw.rejected_rows").fetchall() == [("2,be,GENT",)]
        # The same file a day later is the snapshot of that day, too.
        again = load_day(customers, dsn, file, FIRST_DAY + timedelta(days=2), rows)
        assert again.same_as_load_id == 1
        assert load_day(customers, dsn, file, FIRST_DAY + timedelta(days=1), {("nl", "1"): "delft"}).loaded == 0
        mended = path.read_text().replace("[a-z]*", "[a-zA-Z]*")
        path.write_text(mended)
        assert replay(read_feed(path), dsn).loaded == 1
        assert db.execute(table).fetchall() == [("1", "gent"), ("2", "GENT")]
        load_day(customers, dsn, tmp_path / "other.csv", FIRST_DAY + timedelta(days=3), {("nl", "1"): "delft"})
        assert db.execute(table).fetchall() == [("1", "delft")]


HISTORY_ROWS = "select customer_id, city, valid_from, valid_to from raw.customers_history order by 1, 3"
TABLE_ROWS = "select customer_id, city from raw.customers order by 1"
DAYS = [FIRST_DAY + timedelta(days=number) for number in range(4)]


def test_a_table_that_was_dropped_has_the_latest_rows_of_its_history(
    tmp_path: Path, customers: Feed, snapshots: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file.csv"
    load_day(customers, snapshots, path, DAYS[1], {("be", "1"): "gent", ("be", "2"): "gent"})
    load_day(customers, snapshots, path, DAYS[2], {("be", "1"): "gent", ("be", "3"): "delft"})
    with psycopg.connect(snapshots, autocommit=True) as db:
        db.execute("drop table raw.customers")
        create_tables(snapshots, customers)
        caplog.set_level("INFO")
        assert load_day(customers, snapshots, path, DAYS[0], {("be", "4"): "gent"}).loaded == 1
        assert "only its history was written: raw.customers keeps the rows of a later day" in caplog.text
        assert db.execute(TABLE_ROWS).fetchall() == [("1", "gent"), ("3", "delft")]
        load_ids = "select distinct load_id from raw.customers"
        assert db.execute(load_ids).fetchall() == [(2,)]
        assert load_day(customers, snapshots, path, DAYS[3], {("be", "1"): "delft"}).replaced == 2
        assert db.execute(TABLE_ROWS).fetchall() == [("1", "delft")]


def test_a_table_that_was_dropped_without_a_history_has_no_day(tmp_path: Path, bare_warehouse: Warehouse) -> None:
    customers, dsn, path = feed(tmp_path, history=NO_HISTORY), bare_warehouse.loader_dsn, tmp_path / "file.csv"
    create_tables(dsn, customers)
    load_day(customers, dsn, path, DAYS[1], {("be", "1"): "gent"})
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("drop table raw.customers")
        create_tables(dsn, customers)
        assert load_day(customers, dsn, path, DAYS[0], {("be", "2"): "gent"}).loaded == 1
        assert db.execute(TABLE_ROWS).fetchall() == [("2", "gent")]


def test_a_history_that_is_asked_for_later_begins_with_the_table(tmp_path: Path, bare_warehouse: Warehouse) -> None:
    dsn, path = bare_warehouse.loader_dsn, tmp_path / "file.csv"
    plain = feed(tmp_path, history=NO_HISTORY)
    create_tables(dsn, plain)
    for day in (DAYS[1], DAYS[2]):
        load_day(plain, dsn, path, day, {("be", "1"): "gent"})
    customers = feed(tmp_path)
    create_tables(dsn, customers)
    with psycopg.connect(dsn, autocommit=True) as db:
        assert db.execute(HISTORY_ROWS).fetchall() == [("1", "gent", DAYS[2], None)]
        load_day(customers, dsn, path, DAYS[3], {("be", "1"): "delft"})
        load_day(customers, dsn, path, DAYS[0], {("be", "1"): "gent"})  # day 1 is forgotten
        assert db.execute(HISTORY_ROWS).fetchall() == [("1", "gent", DAYS[0], DAYS[3]), ("1", "delft", DAYS[3], None)]
        with pytest.raises(TablesUnfit, match="has a history, and the contract asks for none") as refusal:
            create_tables(dsn, plain)
        db.execute(refusal.value.next_step.split(": ")[1].encode())
        create_tables(dsn, plain)
        load_day(plain, dsn, path, DAYS[3], {("be", "1"): "paris"})
        create_tables(dsn, customers)
        assert db.execute(HISTORY_ROWS).fetchall() == [("1", "paris", DAYS[3], None)]


def test_a_history_keeps_the_values_of_a_column_that_the_contract_has_no_more(
    tmp_path: Path, customers: Feed, snapshots: str
) -> None:
    path = tmp_path / "customers.yaml"
    path.write_text(CONTRACT + "      - {name: phone, logicalType: string, required: true}\n")
    file, dsn = tmp_path / "file.csv", snapshots
    create_tables(dsn, read_feed(path))
    file.write_text("customer_id,country,city,phone\n1,be,gent,007\n")
    end = datetime(2020, 1, 2, tzinfo=UTC)
    load(read_feed(path), dsn, source_uri=str(file), start=end - timedelta(days=1), end=end)
    create_tables(dsn, customers)
    load_day(customers, dsn, file, DAYS[2], {("be", "1"): "delft"})
    with psycopg.connect(dsn) as db:
        found = db.execute("select city, phone, valid_to from raw.customers_history order by valid_from").fetchall()
        assert found == [("gent", "007", DAYS[2]), ("delft", None, None)]


def test_a_history_of_another_key_is_refused(tmp_path: Path, customers: Feed, snapshots: str) -> None:
    path = tmp_path / "customers.yaml"
    load_day(customers, snapshots, tmp_path / "file.csv", DAYS[1], {("be", "1"): "gent"})
    path.write_text(CONTRACT.replace(", primaryKey: true, primaryKeyPosition: 1", ""))
    with psycopg.connect(snapshots, autocommit=True) as db:
        for name in ("customers_history", "customers"):
            with pytest.raises(TablesUnfit, match=rf"primary key of raw\.{name} is") as refusal:
                create_tables(snapshots, read_feed(path))
            db.execute(refusal.value.next_step.split(": ")[1].encode())
    create_tables(snapshots, read_feed(path))
    assert load_day(read_feed(path), snapshots, tmp_path / "file.csv", DAYS[0], {("be", "1"): "gent"}).loaded == 1
    with psycopg.connect(snapshots) as db:
        assert db.execute(TABLE_ROWS).fetchall() == [("1", "gent")]


def test_a_required_column_more_stays_empty_in_the_history(tmp_path: Path, customers: Feed, snapshots: str) -> None:
    path, file = tmp_path / "customers.yaml", tmp_path / "file.csv"
    load_day(customers, snapshots, file, DAYS[0], {("be", "1"): "gent"})
    path.write_text(CONTRACT + "      - {name: phone, logicalType: string, required: true}\n")
    changed = read_feed(path)
    with psycopg.connect(snapshots, autocommit=True) as db:
        db.execute("drop table raw.customers")
        with pytest.raises(TablesUnfit, match=r"customers_history has rows without phone") as refusal:
            create_tables(snapshots, changed)
        db.execute(refusal.value.next_step.split(": ")[1].replace("…", "'007'").encode())
        create_tables(snapshots, changed)
        assert db.execute("select city, phone from raw.customers").fetchall() == [("gent", "007")]
