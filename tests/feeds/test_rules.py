"""A rule refuses exactly the rows of which it is false, and the quarantine names their lines."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from feeds.contract import read_feed
from feeds.errors import ContractInvalid
from feeds.load import load
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
  - {property: maxRejected, value: 1}
schema:
  - name: orders
    properties:
      - {name: order_id, logicalType: string, required: true, primaryKey: true}
      - {name: paid, logicalType: integer}
      - {name: note, logicalType: string}
    customProperties: [{property: rules, value: [{name: one, sql: "RULE"}, {name: two, sql: paid <> 7}]}]
"""
# PostgreSQL's COPY cannot execute some of them as they are.
RULES: dict[str, Callable[[int | None, str | None], bool]] = {
    "paid >= 3": lambda paid, _: paid is None or paid >= 3,
    "not (paid < 3)": lambda paid, _: paid is None or paid >= 3,
    "not (note = 'x' or paid > 5)": lambda paid, note: note != "x" and (paid is None or paid <= 5),
    "note is not null or paid is null": lambda paid, note: note is not None or paid is None,
    "not (note like 'x%' and not paid = 2)": lambda paid, note: not (note == "x" and paid not in (2, None)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("key", ["k{}", '{},\\t\'""é', "{}\n"], ids=["plain", "quoted", "of two lines"])
def test_a_row_is_refused_where_its_rule_is_false(
    tmp_path: Path, bare_warehouse: Warehouse, rule: str, key: str
) -> None:
    contract, file = tmp_path / "orders.yaml", tmp_path / "orders.csv"
    contract.write_text(CONTRACT.replace("RULE", rule))
    feed, dsn = read_feed(contract), bare_warehouse.loader_dsn
    rows = [
        (number, *pair) for number, pair in enumerate([(p, n) for p in (None, *range(9)) for n in (None, "x", "y")])
    ]
    rows += [(0, 4, "y"), (29, 4, "y"), (29, 4, "y")]  # keys again: of a refused row it is no duplicate
    rows += [(40, 1, "z\n,"), (40, 4, "z"), (40, 1, "z\n,"), (41, 4, "z\\,\t"), (41, 1, "z")]
    lines = [f'"{key.format(number)}",{"" if p is None else p},"{n or ""}"' for number, p, n in rows]
    file.write_text("\n".join(["order_id,paid,note", *lines, ""]))
    expected: list[tuple[int, str, str | None, str]] = []
    seen: set[int] = set()
    line_number = 2
    for (number, paid, note), line in zip(rows, lines, strict=True):
        if not RULES[rule](paid, note):
            expected.append((line_number, "rule", "one", line))
        elif paid == 7:
            expected.append((line_number, "rule", "two", line))
        elif number in seen:
            expected.append((line_number, "duplicate_key", None, line))
        else:
            seen.add(number)
        line_number += 1 + line.count("\n")
    create_tables(dsn, feed)
    result = load(feed, dsn, source_uri=str(file))
    assert (result.loaded, result.rejected) == (len(seen), len(expected))
    with psycopg.connect(dsn) as db:
        found = "select line_number, reason, column_name, raw_text from raw.rejected_rows order by 1"
        assert db.execute(found).fetchall() == expected


@pytest.mark.parametrize(
    ("rule", "function"),
    [("paid < random()", "random"), ("note is null or pg_advisory_lock(paid) is null", "pg_advisory_lock")],
)
def test_a_volatile_rule_is_refused(tmp_path: Path, bare_warehouse: Warehouse, rule: str, function: str) -> None:
    contract, file = tmp_path / "orders.yaml", tmp_path / "orders.csv"
    contract.write_text(CONTRACT.replace("RULE", rule))
    feed, dsn = read_feed(contract), bare_warehouse.loader_dsn
    file.write_text("order_id,paid,note\na,1,x\n")
    create_tables(dsn, feed)
    with pytest.raises(ContractInvalid) as refused:
        load(feed, dsn, source_uri=str(file))
    assert refused.value.what == f"The rule one of orders calls {function}, which is volatile."


def test_refused_rows_in_any_order_of_their_times_are_named(tmp_path: Path, bare_warehouse: Warehouse) -> None:
    contract, file = tmp_path / "orders.yaml", tmp_path / "orders.csv"
    with_time = CONTRACT.replace("RULE", "paid < 3").replace(
        "{name: note, logicalType: string}", "{name: at, logicalType: timestamp, required: true}"
    )
    contract.write_text(with_time.replace("maxRejected, value: 1", "timeColumn, value: at"))
    feed, dsn = read_feed(contract), bare_warehouse.loader_dsn
    days = [f"2020-01-{number * 7 % 30 + 1:02}" for number in range(120)]
    rows = [f"k{number % 110},{number % 4},{day} 00:00:00" for number, day in enumerate(days)]
    file.write_text("\n".join(["order_id,paid,at", *rows, ""]))
    create_tables(dsn, feed)
    result = load(feed, dsn, source_uri=str(file), max_rejected=1)
    refused = [(number + 2, "rule", row) for number, row in enumerate(rows) if number % 4 == 3]
    valid = [(number, row) for number, row in enumerate(rows) if number % 4 < 3]
    keys = [row.partition(",")[0] for _, row in valid]
    refused += [(n + 2, "duplicate_key", row) for place, (n, row) in enumerate(valid) if keys[place] in keys[:place]]
    assert len(refused) > 30
    assert result.loaded == len(set(keys))
    with psycopg.connect(dsn) as db:
        found = db.execute("select line_number, reason, raw_text from raw.rejected_rows order by 1").fetchall()
    assert found == sorted(refused)
