"""What `nox -s feed -- new` guesses of very different files, and that a load with that contract rejects no row."""

import csv
import gzip
import json
import re
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds import formats
from feeds.contract import Feed, read_feed
from feeds.lines import Lines, Row
from feeds.source import open_source
from harness.contracts import new_feed
from harness.contracts.file_layout import RESERVED, column_names
from harness.contracts.inference import KEPT_REJECTS, Guess, guess
from harness.errors import UsageError

START = datetime(2024, 1, 1)  # noqa: DTZ001 - files have times without a zone


def rejected(feed: Feed, path: Path) -> list[Any]:
    """Return why a load rejects rows of the file PATH."""
    with open_source(str(path)) as source:
        rows = formats.read(source, feed)
        lines = Lines(feed, rows.columns, rows.dialect)
        found = []
        for block in rows.blocks:
            position = number = 0
            while position < len(block.lines):
                end = lines.end_of_record(block.lines, position)
                record = block.record(position, end)
                row = block.flaws.get(number) or lines.parse(record)
                found += [] if isinstance(row, Row) or not record.strip() else [row]
                number += block.lines.count(b"\n", position, end + 1)
                position = end + 1
        return found


def guessed(path: Path, key: str = "") -> Guess:
    """Return what is guessed of the file PATH; its contract, once written, is the guess and rejects no row."""
    found = guess("orders", str(path), key.split(",") if key else [])
    contract = path.with_name("orders.yaml")
    contract.write_text(new_feed.contract(found, "airflow/data/orders.csv"), encoding="utf-8")
    feed = read_feed(contract)
    assert feed.columns == found.feed.columns
    assert (feed.key, feed.format, feed.properties) == (found.feed.key, found.feed.format, found.feed.properties)
    assert rejected(feed, path) == []
    return found


def types(found: Guess) -> dict[str, str]:
    """Return the SQL types of the columns, with `!` after those that are required."""
    return {column.name: column.sql_type + "!" * column.is_required for column in found.feed.columns}


def csv_file(path: Path, header: str, rows: list[str], encoding: str = "utf-8") -> Path:
    path.write_bytes("".join(f"{line}\n" for line in [header, *rows]).encode(encoding))
    return path


def test_orders_with_semicolons_decimal_commas_and_lines_in_quotes(tmp_path: Path) -> None:
    rows = [
        f'{i};{i % 7:03};{i},50;{START + timedelta(hours=i)};{"yes" if i % 2 else "no"};"a;b\n""c"""'
        for i in range(1, 200)
    ]
    found = guessed(csv_file(tmp_path / "a.csv", "Order ID;zip;Amount;orderedAt;paid;Comment", rows))

    assert types(found) == {
        "order_id": "bigint!",
        "zip": "text!",
        "amount": "numeric(8,2)!",
        "ordered_at": "timestamp with time zone!",
        "paid": "boolean!",
        "comment": "text!",
    }
    assert [column.header for column in found.feed.columns][:2] == ["Order ID", "zip"]
    assert found.feed.key == ("order_id",)
    assert found.feed.time_column == "ordered_at"
    assert found.feed.properties.csv.model_dump(exclude_defaults=True) == {"delimiter": ";", "decimal": ","}
    assert found.column_notes["zip"] == "numbers with leading zeros, such as 001, are text"
    assert "UTC" in found.column_notes["ordered_at"]


def test_customers_of_windows_1252_are_a_snapshot(tmp_path: Path) -> None:
    rows = [f'{i:05},"Café € {i}\r\nRue {i}",19{i % 90 + 10}-05-01,' for i in range(100)]
    found = guessed(csv_file(tmp_path / "a.csv", "customer no,address,birth_date,nothing", rows, "cp1252"))

    assert found.feed.properties.csv.encoding == "windows-1252"
    assert types(found) == {"customer_no": "text!", "address": "text!", "birth_date": "date!", "nothing": "text"}
    assert found.feed.time_column is None
    assert found.column_notes["nothing"] == "no row has a value: its type is a guess"
    assert found.sample[0] == '00000,"Café € 0\r\nRue 0",1910-05-01,\n'.encode("cp1252")


def test_texts_that_differ_by_a_carriage_return_are_different_keys(tmp_path: Path) -> None:
    rows = [f'"{i // 2}{end}x",a' for i, end in enumerate(["\r\n", "\n"] * 50)]
    found = guessed(csv_file(tmp_path / "a.csv", "name,kind", rows))
    assert (found.feed.key, found.notes["key"]) == (("name",), "unique in all 100 rows")


def test_trips_of_parquet_keep_the_files_types(tmp_path: Path) -> None:
    count = 300
    columns = {
        "VendorID": pa.array([i % 2 for i in range(count)], pa.int32()),
        "pickup": pa.array([START + timedelta(minutes=i) for i in range(count)], pa.timestamp("us")),
        "passengers": pa.array([None if i == 290 else i % 4 for i in range(count)], pa.int64()),
        "fare": pa.array([Decimal(i).scaleb(-2) for i in range(count)], pa.decimal128(9, 2)),
        "distance": pa.array([i / 7 for i in range(count)], pa.float64()),
        "big": pa.array([2**63 + i for i in range(count)], pa.uint64()),
        "flag": pa.array(["Y", None] * 150).dictionary_encode(),
        "nothing": pa.nulls(count),
        "stops": pa.array([[i, None] for i in range(count)], pa.list_(pa.int64())),
        "raw": pa.array([b"\0"] * count, pa.binary()),
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=50)
    found = guessed(path)

    assert types(found) == {
        "vendor_id": "bigint!",
        "pickup": "timestamp with time zone!",
        "passengers": "bigint",
        "fare": "numeric(9,2)!",
        "distance": "numeric!",
        "big": "numeric(20,0)!",
        "flag": "text",
        "nothing": "text",
        "stops": "jsonb!",
    }
    assert found.feed.time_column == "pickup"
    assert found.column_notes["pickup"] == "times without a zone are taken for UTC: see timeZone"
    assert found.feed.properties.drift.new_column == "ignore"
    assert "raw (binary)" in found.notes["drift"]
    assert 291 in found.sample  # the first row without passengers


def test_logs_of_json_lines_whose_keys_and_types_vary_late_in_the_file(tmp_path: Path) -> None:
    first = KEPT_REJECTS + 200
    rows: list[dict[str, Any]] = [
        {"at": f"{START + timedelta(seconds=i)}Z", "id": i, "status": 200, "req": {"path": "/", "n": 1.50}, "x": True}
        for i in range(first)
    ]
    rows[-1] |= {"status": "n/a", "Late Key": 2**63}
    rows[-2] |= {"x": None}
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    found = guessed(path)

    assert types(found) == {
        "at": "timestamp with time zone!",
        "id": "bigint!",
        "status": "jsonb!",
        "req": "jsonb!",
        "x": "boolean",
        "late_key": "numeric(22,0)",
    }
    assert found.feed.key == ("id",)
    assert found.feed.properties.drift.missing_column == "null"
    assert [json.loads(bytes(row)) for row in found.sample[-2:]] == rows[-2:]


@pytest.fixture
def few_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess first from 50 rows, so that small files show what is late in large ones."""
    monkeypatch.setattr("harness.contracts.inference.FIRST_ROWS", 50)
    monkeypatch.setattr("harness.contracts.inference.SAMPLE_ROWS", 50)
    monkeypatch.setattr("harness.contracts.inference.KEPT_REJECTS", 10)


@pytest.mark.usefixtures("few_first_rows")
def test_values_of_other_kinds_late_in_the_file_widen_the_guess_and_get_into_the_sample(tmp_path: Path) -> None:
    rows = [f"{i},{i},{i}.5,2024-01-01,5,,1,{i % 3},x" for i in range(300)]
    rows[200] = "200,200,9999999.125,soon,007,9,,3,é"
    rows[201] = f"201,{2**63},1.5,2024-01-01,5,,1,4,x"
    found = guessed(csv_file(tmp_path / "a.csv", "id,big,amount,day,code,empty,opt,n,name", rows))

    assert types(found) == {
        "id": "bigint!",
        "big": "numeric(22,0)!",
        "amount": "numeric!",
        "day": "text!",
        "code": "text!",
        "empty": "bigint",
        "opt": "bigint",
        "n": "bigint!",
        "name": "text!",
    }
    assert [bytes(row).partition(b",")[0] for row in found.sample[50:]] == [b"200", b"201"]
    assert (found.rows, found.is_all) == (300, True)
    assert found.column_notes["day"] == 'not all values are of the type date: "soon"'


@pytest.mark.usefixtures("few_first_rows")
def test_another_encoding_late_in_the_file(tmp_path: Path) -> None:
    rows = [f"{i},x" for i in range(300)]
    rows[250] = "250,é"
    assert guessed(csv_file(tmp_path / "a.csv", "id,name", rows, "cp1252")).feed.properties.csv.encoding == (
        "windows-1252"
    )


def test_a_null_text_is_found_where_it_makes_numbers(tmp_path: Path) -> None:
    found = guessed(csv_file(tmp_path / "a.csv", "id,v,country", [f"{i},{'NA' if i % 3 else i},NL" for i in range(50)]))
    assert types(found) == {"id": "bigint!", "v": "bigint", "country": "text!"}
    assert found.feed.properties.csv.null_text == "NA"


def test_a_null_text_beside_decimal_commas(tmp_path: Path) -> None:
    rows = [f"{i};{'n/a' if i % 5 == 0 else f'-{i},91'};{'n/a' if i % 7 == 0 else i}" for i in range(50)]
    found = guessed(csv_file(tmp_path / "a.csv", "id;temp;hum", rows))
    assert types(found) == {"id": "bigint!", "temp": "numeric(7,2)", "hum": "bigint"}
    options = found.feed.properties.csv.model_dump(exclude_defaults=True)
    assert options == {"delimiter": ";", "null_text": "n/a", "decimal": ","}


@pytest.mark.parametrize("late", [0, 30])
def test_a_text_for_null_beside_empty_fields_is_noted(tmp_path: Path, late: int) -> None:
    rows = [f"{i};{'NA' if i >= late and i % 5 == 0 else f'{i},91'};{i if i % 2 else ''}" for i in range(50)]
    found = guessed(csv_file(tmp_path / "a.csv", "id;temp;hum", rows))
    assert types(found) == {"id": "bigint!", "temp": "text!", "hum": "bigint"}
    assert found.feed.properties.csv.decimal == ","
    assert found.column_notes["temp"] == (
        "has 'NA' beside values of the type number: a contract has one text for null, csv.null_text"
    )


@pytest.mark.parametrize(
    ("first", "other", "note"),
    [
        ("1.234,50", "7,50", "numbers with separators of thousands, such as 1.234,50, are text"),
        ("1,234.50", "7.50", "numbers with separators of thousands, such as 1,234.50, are text"),
        ("1.25", "7,5", "numbers such as 7,5 are text: a contract has one decimal character, here '.'"),
    ],
)
def test_numbers_that_are_text_are_noted(tmp_path: Path, first: str, other: str, note: str) -> None:
    rows = [f"{i};{first if i == 5 else other};" for i in range(50)]
    found = guessed(csv_file(tmp_path / "a.csv", "id;v;w", rows))
    assert types(found)["v"] == "text!"
    assert found.column_notes["v"] == note


def test_what_may_be_thousands_is_no_sign_of_a_decimal_point(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    found = guessed(csv_file(path, "id;v;w", [f"{i};0.{i + 100};{i},5" for i in range(50)]))
    assert types(found) == {"id": "bigint!", "v": "numeric(7,3)!", "w": "text!"}
    found = guessed(csv_file(path, "id;v;w", [f"{i};{i + 1}.250;{i},5" for i in range(50)]))
    assert types(found) == {"id": "bigint!", "v": "text!", "w": "numeric!"}
    assert found.column_notes["v"] == "numbers with separators of thousands, such as 1.250, are text"


def test_the_fewest_columns_that_are_unique_in_all_rows_are_the_key(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path / "a.csv",
        "sensor,read_at,value",
        [f"s{i % 10},{START + timedelta(minutes=i // 10)},{i % 7}.25" for i in range(400)],
    )
    assert guessed(path).feed.key == ("sensor", "read_at")
    assert guessed(path, "read_at,sensor").feed.key == ("read_at", "sensor")


@pytest.mark.usefixtures("few_first_rows")
def test_rows_that_share_a_key_late_in_the_file_lead_to_a_wider_key(tmp_path: Path) -> None:
    rows = [f"{i % 400 // 2},{START + timedelta(minutes=i % 400)},{i // 400},{i / 8}" for i in range(800)]
    assert guessed(csv_file(tmp_path / "a.csv", "order_id,at,store,value", rows)).feed.key == ("at", "store")


def test_values_that_a_terminal_must_not_get_are_escaped_in_notes(tmp_path: Path) -> None:
    found = guessed(csv_file(tmp_path / "a.csv", "id,x", [f"{i},\x1b[2J\x85" for i in range(20)]))
    assert found.column_notes["x"] == 'values seen: "\\u001b[2J\\x85"'


def test_columns_that_have_the_names_of_notes(tmp_path: Path) -> None:
    rows = [f"{i},{START + timedelta(hours=i)},0{i}" for i in range(50)]
    found = guessed(csv_file(tmp_path / "a.csv", "key,time,drift", rows))
    assert (found.feed.key, found.feed.time_column) == (("key",), "time")
    assert found.notes["key"] == "unique in all 50 rows"
    assert found.column_notes["time"] == "times without a zone are taken for UTC: see timeZone"


def test_equal_keys_that_are_written_differently_are_counted(tmp_path: Path) -> None:
    rows = [f"{i // 2},{'1.50' if i == 0 else i % 2 + 0.5}" for i in range(40)]
    rows[1] = "0,1.5"
    found = guessed(csv_file(tmp_path / "a.csv", "id,amount", rows))
    assert found.feed.key == ("id", "amount")
    assert found.notes["rejected"] == "1 row would be rejected: duplicate_key 1"


def test_rows_that_repeat_are_said_and_allowed(tmp_path: Path) -> None:
    rows = [f"s{i % 10},{START + timedelta(minutes=i // 10)},{i % 7}.25" for i in range(400)]
    found = guessed(csv_file(tmp_path / "a.csv", "sensor,read_at,value", [*rows, *rows[:20]]))
    assert found.feed.key == ("sensor", "read_at")
    assert found.notes["key"] == "not unique: 20 of 420 rows have the key of an earlier one"
    assert found.notes["rejected"] == "20 rows would be rejected: duplicate_key 20"
    assert found.feed.properties.max_rejected == pytest.approx(0.06)


def test_bad_rows_are_counted_and_not_in_the_sample(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "id,name", [f"{i},x{',y' * (i == 30)}" for i in range(300)])
    found = guess("orders", str(path))
    assert found.notes["rejected"] == "1 row would be rejected: field_count 1; the first is in line 32"
    assert len(found.sample) == 299


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)
VALUES = (
    st.integers(-(10**20), 10**20).map(str),
    st.integers(0, 9).map(str),
    st.decimals(-100, 100, places=2).map(str),
    st.floats(allow_nan=False).map(repr),
    st.sampled_from(("true", "f", "yes", "1", "007", "+3", "NA", "1,5", "{}", "[1]", "null", "")),
    st.dates().map(str),
    st.datetimes().map(str),
    st.uuids().map(str),
    ANY_TEXT,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.usefixtures("few_first_rows")
def test_the_contract_of_any_rows_rejects_none_and_its_sample_neither(data: st.DataObject, tmp_path: Path) -> None:
    count = data.draw(st.integers(1, 60))
    columns = [st.sampled_from(VALUES).flatmap(lambda usual: st.one_of(usual, usual, *VALUES[8:])) for _ in range(3)]
    headers = ["id", *data.draw(st.lists(ANY_TEXT.map(lambda text: "".join(text.split())), min_size=3, max_size=3))]
    rows = [[str(number), *(data.draw(values) for values in columns)] for number in range(count)]
    path = tmp_path / "a.txt"
    if data.draw(st.booleans()):
        dialect: dict[str, Any] = {"delimiter": data.draw(st.sampled_from(",;|\t")), "lineterminator": "\n"}
        dialect["quoting"] = data.draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
        with path.open("w", newline="", encoding=data.draw(st.sampled_from(("utf-8", "utf-8-sig")))) as file:
            csv.writer(file, **dialect).writerows([headers, *rows])
    else:
        lines = [dict(zip(headers, row, strict=True)) for row in rows]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    try:
        found = guess("orders", str(path))
    except UsageError as error:
        if not re.search("two columns with|has no header line|would be rejected|is XML", error.what):
            raise
        return
    contract = tmp_path / "orders.yaml"
    contract.write_text(new_feed.contract(found, "airflow/data/orders.csv"), encoding="utf-8")
    feed = read_feed(contract)
    assert (feed.columns, feed.key, feed.properties) == (found.feed.columns, found.feed.key, found.feed.properties)
    assert bool(rejected(feed, path)) <= ("rejected" in found.notes)
    path.write_bytes(b"".join([found.header + b"\n" if feed.format == "csv" else b"", *map(bytes, found.sample)]))
    assert rejected(feed, path) == []


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        (["Order ID", "order id", "orderID"], ["order_id", "order_id_2", "order_id_3"]),
        (
            ["select", "class", "Größe", "价格", "2024", ""],
            ["select_", "class", "grosse", "column_4", "column_2024", "column_6"],
        ),
        (["load_id", "xmin", "a" * 80], ["column_load_id", "column_xmin", "a" * 50]),
    ],
)
def test_names_of_columns(headers: list[str], names: list[str]) -> None:
    assert column_names(headers) == names
    assert not RESERVED & set(names)


def test_headers_of_any_text_are_kept(tmp_path: Path) -> None:
    headers = ['"a ""quoted"" one"', "no", "# x", "价格 😀", "\u2028'\x7f", "a: b"]
    path = csv_file(tmp_path / "a.csv", ",".join(headers), [",".join([str(i)] * 6) for i in range(9)])
    found = guessed(path)
    assert [column.header for column in found.feed.columns] == [
        'a "quoted" one',
        *headers[1:],
    ]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "{} is empty."),
        (b"\n\n", "{} is empty."),
        (b"id,name\n", "{} has no rows."),
        (b"id,id\n1,2\n", "{} has two columns with the name 'id'."),
        (b"1,2024-01-01\n2,2024-01-02\n", "{} has no header line: it begins with 1, 2024-01-01"),
        (b"PK\x03\x04\0\0", "{} is a zip archive or a spreadsheet."),
        (b"\x89PNG\0\0", "{} is no text."),
        ("id,name\n1,a\n".encode("utf-16"), "{} is UTF-16."),
        (b'[{"a": 1}]', "{} is one JSON array."),
        (b'{\n "a": 1\n}\n', "{} has a JSON object over several lines."),
        (b"<html>", "{} is XML or HTML."),
        (b"PAR1 and no more", "{} cannot be read: "),
        (b"a,b\n1,\n,2\n", "{} has no column that can be a key."),
        (b"a\n" + b"1\n" * 50, "49 of 50 rows of {} would be rejected: duplicate_key 49."),
    ],
)
def test_files_of_which_no_feed_can_be_made(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        guess("orders", str(path))
    assert error.value.what.startswith(what.format(path))


def test_a_key_without_such_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no column 'nr' for the key"):
        guess("orders", str(csv_file(tmp_path / "a.csv", "id,name", ["1,a"])), ["nr"])


def test_of_a_file_that_takes_too_long_the_first_rows_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.contracts.inference.LONGEST_S", -1.0)
    path = csv_file(tmp_path / "a.csv", "id,name", [f"{i},{'x' * 50}" for i in range(20_000)])
    found = guess("orders", str(path))
    assert not found.is_all
    assert found.rows < 20_000
    assert found.notes["key"] == "unique in the first 5,000 rows"
