"""Rejected rows that a corrected contract accepts are loaded where they belong, and the others stay."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from feeds.contract import Feed, read_feed
from feeds.load import load
from feeds.replayed_rejects import SOURCE, replay
from feeds.tables import create_tables
from harness.warehouse.roles import Warehouse
from tests.feeds.common import wait_until

CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: orders
name: orders
version: 1.0.0
status: active
servers: [{{server: files, type: local, path: orders.csv, format: {format}}}]
customProperties:
  - {{property: timeColumn, value: started_at}}
  - {{property: maxRejected, value: 0.9}}
schema:
  - name: orders
    properties:
      - {{name: order_id, logicalType: string, required: true, primaryKey: true}}
      - {{name: line_number, logicalType: integer, required: true, primaryKey: true}}
      - {{name: started_at, logicalType: timestamp, required: true}}
      - {{name: reason, logicalType: string, logicalTypeOptions: {{pattern: '{pattern}'}}}}
      - {{name: paid, logicalType: integer}}
    customProperties: [{{property: rules, value: [{{name: paid_is_bounded, sql: "{rule}"}}]}}]
"""
# `raw.loads` has a column started_at, too, and `raw.rejected_rows` one that is named reason.
DAY = datetime(2020, 1, 1, tzinfo=UTC)
HEADER = "order_id,line_number,started_at,reason,paid"


@pytest.fixture
def orders(tmp_path: Path) -> Callable[..., Feed]:
    """Give a function that returns the feed with other rules."""

    @cache
    def make(pattern: str = "[a-z]*", rule: str = "paid < 100", kind: str = "csv") -> Feed:
        path = tmp_path / "orders.yaml"
        path.write_text(CONTRACT.format(pattern=pattern, rule=rule, format=kind))
        return read_feed(path)

    return make


@pytest.fixture
def empty(bare_warehouse: Warehouse, orders: Callable[..., Feed]) -> str:
    """Give the DSN of a warehouse with the tables of `orders`."""
    create_tables(bare_warehouse.loader_dsn, orders())
    return bare_warehouse.loader_dsn


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join([HEADER, *lines]))
    return str(path)


def notes(db: psycopg.Connection) -> list[tuple[str, int]]:
    return db.execute("select reason, load_id from raw.orders order by reason").fetchall()


def quarantine(db: psycopg.Connection) -> list[tuple[int, str, str | None]]:
    rows = "select line_number, reason, column_name from raw.rejected_rows order by load_id, line_number"
    return db.execute(rows).fetchall()


def test_only_what_its_load_would_have_taken_comes_back(
    tmp_path: Path, orders: Callable[..., Feed], empty: str
) -> None:
    everything = write(
        tmp_path / "all.csv",
        "a,1,2020-01-01 09:00:00,first,1",
        "a,2,2020-01-01 09:00:00,Second,1",  # later valid
        "a,3,2020-01-02 09:00:00,Third,1",  # replaced by the second load
        "a,1,2020-01-01 09:00:00,Again,1",  # its key is in the table
        'a,4,2020-01-01 10:00:00,"Of two\nlines",1',  # later valid
        'a,4,2020-01-01 11:00:00,"Of two\nlines",1',  # then a duplicate
        "a,5,2020-01-01 09:00:00,paid,100",  # later valid
        "a,6,2020-01-01 09:00:00,paid,1000",  # refused by the new rule
        "a,7,2020-01-01 09:00:00,1,1",  # refused by the new pattern
        "a,8,2020-01-40 09:00:00,Never,1",
        "a,9,2020-01-03 09:00:00,last,1",
    )
    second = write(tmp_path / "second.csv", "b,1,2020-01-02 09:00:00,new,1", "b,2,2020-01-01 09:00:00,Outside,1")
    feed = orders()
    assert load(feed, empty, source_uri=everything).rejected == 9
    day = DAY + timedelta(days=1)
    assert load(feed, empty, source_uri=second, start=day, end=day + timedelta(days=1)).rejected == 1
    mended = orders(pattern=r"[A-Za-z\n ]*", rule="paid < 1000")
    result = replay(mended, empty)
    assert (result.read, result.loaded, result.outside, result.rejected) == (10, 3, 2, 5)
    assert result.reasons == {
        "duplicate_key": 2,
        "reason: pattern": 1,
        "started_at: type": 1,
        "paid_is_bounded: rule": 1,
    }
    with psycopg.connect(empty) as db:
        assert notes(db) == [
            ("Of two\nlines", 3), ("Second", 3), ("first", 1), ("last", 1), ("new", 2), ("paid", 3),
        ]  # fmt: skip
        stay = [
            (4, "pattern", "reason"),  # replaced
            (5, "duplicate_key", None),
            (8, "duplicate_key", None),
            (11, "rule", "paid_is_bounded"),
            (12, "pattern", "reason"),
            (13, "type", "started_at"),
            (3, "pattern", "reason"),  # outside
        ]
        assert quarantine(db) == stay
        ledger = (
            "select source_uri, rows_read, rows_loaded, interval_start, interval_end from raw.loads where load_id = 3"
        )
        end = datetime(2020, 1, 1, 10, 0, 0, 1, UTC)
        assert db.execute(ledger).fetchall() == [(SOURCE, 10, 3, DAY + timedelta(hours=9), end)]
    assert replay(mended, empty).loaded == 0
    with psycopg.connect(empty) as db:
        assert quarantine(db) == stay
        assert db.execute("select count(*) from raw.loads").fetchone() == (3,)
    # The whole file, loaded by the mended contract, gives the same rows of the days that it is the latest load of.
    assert load(mended, empty, source_uri=everything, end=day).replaced == 4
    with psycopg.connect(empty) as db:
        assert [reason for reason, _ in notes(db)] == ["Of two\nlines", "Second", "first", "last", "new", "paid"]


def test_rows_of_a_growing_file_come_back_into_their_days(
    tmp_path: Path, orders: Callable[..., Feed], empty: str
) -> None:
    first = ["a,1,2020-01-01 09:00:00,First,1", "a,2,2020-01-01 10:00:00,Changed,1", "a,3,2020-01-01 11:00:00,a,1"]
    path = write(tmp_path / "orders.csv", *first)
    day = timedelta(days=1)
    load(orders(), empty, source_uri=path, start=DAY, end=DAY + day)
    first[1] = "a,2,2020-01-01 10:30:00,Changed,1"
    late = "a,4,2020-01-01 12:00:00,Late,1"  # the first load has not seen it, and has not rejected it
    write(tmp_path / "orders.csv", *first, "a,5,2020-01-02 09:00:00,Second,1", late)
    load(orders(), empty, source_uri=path, start=DAY + day, end=DAY + 2 * day)
    write(tmp_path / "orders.csv", *first, "a,5,2020-01-02 09:00:00,Second,1", late, "a,6,2020-01-03 09:00:00,Third,1")
    load(orders(), empty, source_uri=path, start=DAY + 2 * day, end=DAY + 3 * day)
    other = write(tmp_path / "other.csv", "b,1,2020-01-01 09:00:00,b,1")
    mended = orders(pattern="[A-Za-z]*")
    result = replay(mended, empty)
    assert (result.read, result.loaded, result.outside, result.rejected) == (6, 4, 2, 0)
    with psycopg.connect(empty) as db:
        assert [reason for reason, _ in notes(db)] == ["Changed", "First", "Second", "Third", "a"]
        assert db.execute("select min(started_at) from raw.orders where reason = 'Changed'").fetchone() == (
            DAY + timedelta(hours=10),
        )
    load(orders(), empty, source_uri=path, start=DAY, end=DAY + 3 * day)
    load(orders(), empty, source_uri=other, start=DAY, end=DAY + day)
    assert replay(mended, empty).loaded == 2  # the first day is that of another file now


def test_rows_of_a_file_that_is_written_anew_each_day_come_back(
    tmp_path: Path, orders: Callable[..., Feed], empty: str
) -> None:
    for number in range(3):
        day = DAY + timedelta(days=number)
        path = write(tmp_path / "latest.csv", f"a,{number},{day:%Y-%m-%d} 09:00:00,Bad{number},1")
        load(orders(), empty, source_uri=path, start=day, end=day + timedelta(days=1), max_rejected=1)
    assert replay(orders(pattern="[A-Za-z0-9]*"), empty).loaded == 3


def test_the_days_of_a_replay_are_counted_in_one_pass_over_them(
    tmp_path: Path, orders: Callable[..., Feed], empty: str
) -> None:
    days = [DAY + timedelta(days=number) for number in range(20)]
    lines = [
        f"{note},{number},{day:%Y-%m-%d} 09:00:00,{note},1"
        for number, day in enumerate(days)
        for note in ("kept", "Back")
    ]
    load(orders(), empty, source_uri=write(tmp_path / "orders.csv", *lines), max_rejected=1)
    scans = "select sum(seq_scan + coalesce(idx_scan, 0)) from pg_stat_user_tables where relname ~ '^orders(_|$)'"
    # A session reports its statistics before it ends.
    others = (
        "select exists (select from pg_stat_activity"
        " where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid())"
    )
    with psycopg.connect(empty, autocommit=True) as db:
        wait_until(lambda: db.execute(others).fetchone() == (False,))
        [(before,)] = db.execute(scans)
        load_id = replay(orders(pattern="[A-Za-z]*"), empty).load_id
        wait_until(lambda: db.execute(others).fetchone() == (False,))
        [(after,)] = db.execute(scans)
        found = db.execute(
            "select day, rows_loaded, rows_added, rows_changed, rows_removed, rows_absent, rows_present"
            " from raw.loaded_days where load_id = %s order by day",
            (load_id,),
        ).fetchall()
    assert found == [(day.date(), 1, 1, 0, 0, 0, 2) for day in days]
    assert after - before < len(days)


def test_of_rows_with_one_key_the_first_of_the_file_counts(
    tmp_path: Path, orders: Callable[..., Feed], empty: str
) -> None:
    path = write(tmp_path / "a.csv", "a,1,2020-01-02 09:00:00,Outside,1", "a,1,2020-01-01 09:00:00,Inside,1")
    load(orders(), empty, source_uri=path, start=DAY, end=DAY + timedelta(days=1), max_rejected=1)
    result = replay(orders(pattern="[A-Za-z]*"), empty)
    assert (result.loaded, result.outside, result.reasons) == (0, 1, {"duplicate_key": 1})


def test_a_refused_load_keeps_what_a_load_of_the_same_file_has_rejected(
    tmp_path: Path, orders: Callable[..., Feed], empty: str
) -> None:
    path = write(tmp_path / "orders.csv", "a,1,2020-01-01 09:00:00,A,1", "a,2,2020-01-01 10:00:00,b,1")
    load(orders(), empty, source_uri=path)
    write(tmp_path / "orders.csv", "a,1,2020-01-01 09:00:00,0,1")
    for _ in range(2):
        with pytest.raises(Exception, match="were rejected"):
            load(orders(), empty, source_uri=path)
    with psycopg.connect(empty) as db:
        assert quarantine(db) == [(2, "pattern", "reason")] * 2  # of the first load, and of the last
    assert replay(orders(pattern="[A-Za-z]*"), empty).loaded == 1


def test_a_refused_load_gives_nothing_back(tmp_path: Path, orders: Callable[..., Feed], empty: str) -> None:
    path = write(tmp_path / "file.csv", "a,1,2020-01-01 09:00:00,A,1")
    with pytest.raises(Exception, match="were rejected"):
        load(orders(), empty, source_uri=path)
    result = replay(orders(pattern="A"), empty)
    assert (result.read, result.load_id) == (0, 0)


def test_json_lines_come_back(tmp_path: Path, orders: Callable[..., Feed], empty: str) -> None:
    path = tmp_path / "file.jsonl"
    row = '{"order_id": "a\\t", "line_number": 1, "started_at": "2020-01-01T09:00:00Z", "reason": "\\u00c4\\n",'
    row += ' "paid": 1e0}'
    path.write_text(f"{row}\n{row.replace('1,', '2,', 1).replace('u00c4', 'nb')}\n")
    assert load(orders(pattern=r"[\n-z]*", kind="jsonl"), empty, source_uri=str(path)).rejected == 1
    assert replay(orders(pattern=r"(?s).*", kind="jsonl"), empty).loaded == 1
    with psycopg.connect(empty) as db:
        assert notes(db) == [("\nb\n", 1), ("Ä\n", 2)]
        assert quarantine(db) == []


def test_rows_of_a_file_with_other_columns_stay(tmp_path: Path, orders: Callable[..., Feed], empty: str) -> None:
    path = write(tmp_path / "file.csv", "a,1,2020-01-01 09:00:00,a,1", "a,2,2020-01-01 09:00:00,B,1")
    assert load(orders(), empty, source_uri=path).rejected == 1
    renamed = tmp_path / "orders.yaml"
    renamed.write_text(renamed.read_text().replace("name: paid,", "name: price,").replace("paid <", "price <"))
    create_tables(empty, read_feed(renamed))
    assert replay(read_feed(renamed), empty).read == 0
    with psycopg.connect(empty) as db:
        assert quarantine(db) == [(3, "pattern", "reason")]


class Step(NamedTuple):
    """A load of a file that has another content each time: a line is a key, a day, and whether it is valid."""

    name: int
    lines: list[tuple[int, int, bool]]
    days: tuple[int, int]  # of the interval, the last one not in it

    def row(self, place: int) -> str:
        key, day, is_valid = self.lines[place]
        return f"{key},1,2020-01-0{day} 00:00:00,{'valid' if is_valid else 'BAD'},1"


lines = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 3), st.booleans()),
    min_size=1,
    max_size=4,
    unique_by=lambda line: line[0],
)
steps = st.builds(Step, st.integers(0, 1), lines, st.sampled_from([(1, 2), (2, 3), (3, 4), (1, 3), (1, 4)]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, min_size=2, max_size=5))
def test_after_any_loads_the_rows_that_their_day_was_loaded_without_come_back(
    tmp_path: Path, orders: Callable[..., Feed], empty: str, history: list[Step]
) -> None:
    """A line comes back if the last load of its day has rejected it, whatever was loaded besides."""
    feed = orders()
    with psycopg.connect(empty) as db:
        for name in ("orders", "rejected_rows", "loaded_days", "loaded_files", "loads"):
            db.execute(sql.SQL("delete from {}").format(sql.Identifier("raw", name)))
    table: dict[int, int] = {}  # the day of each key
    for step in history:
        path = write(tmp_path / f"{step.name}.csv", *map(step.row, range(len(step.lines))))
        start, end = (DAY + timedelta(days=day - 1) for day in step.days)
        load(feed, empty, source_uri=path, start=start, end=end, max_rejected=1, allow_empty=True)
        valid: dict[int, int] = {}
        for key, day, is_valid in step.lines:
            if is_valid:
                valid.setdefault(key, day)
        inside = {key: day for key, day in valid.items() if day in range(*step.days)}
        table = {key: day for key, day in table.items() if day not in range(*step.days)} | inside
    back: dict[int, set[int]] = {}  # the days on which a key may come back, one of them does
    for day in (1, 2, 3):
        covers = [step for step in history if day in range(*step.days)]
        for key, of, is_valid in covers[-1].lines if covers else ():
            if of == day and not is_valid and key not in table:
                back.setdefault(key, set()).add(day)
    assert replay(orders(pattern="(?s).*"), empty).loaded == len(back)
    with psycopg.connect(empty) as db:
        found = db.execute("select order_id::int, extract(day from started_at)::int from raw.orders").fetchall()
    assert len(found) == len(table | back)
    assert all(day in back.get(key, {table.get(key)}) for key, day in found)
