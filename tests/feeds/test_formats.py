"""Files of each format: drift, bad files, files of several kinds and places, and one load of each into a warehouse."""

import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from csv import DictReader
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feeds import source
from feeds.contract import Column, Csv, Drift, Feed, Format, Properties, Rule
from feeds.errors import (
    FeedError,
    SettingUnusable,
    SourceChanged,
    SourceEmpty,
    SourceMissing,
    SourceUnreadable,
    TooManyRejected,
    WrongHeader,
)
from feeds.files import find_files
from feeds.formats import read, read_rejected
from feeds.interval import Interval
from feeds.lines import Lines, Row
from feeds.load import load
from feeds.replayed_rejects import replay
from feeds.source import open_source
from feeds.tables import create_tables
from harness.oracle import raw_rows
from harness.warehouse.roles import Warehouse

COLUMNS = (
    Column("order_id", "order_id", "integer", "bigint", is_required=True),
    Column("at", "at", "timestamp", "timestamp with time zone", is_required=True),
    Column("price", "price", "number", "numeric(20,2)", digits=(18, 2)),
    Column("note", "note", "string", "text"),
)
ROW = {"order_id": 1, "at": "2020-01-01 12:00:00", "price": 1.5, "note": "a"}
FORMATS: tuple[Format, ...] = ("csv", "jsonl", "parquet")


def orders(format_: Format, *, csv: Csv | None = None, rules: Sequence[Rule] = (), **drift: Any) -> Feed:
    properties = Properties(timeColumn="at", maxRejected=0.9, csv=csv or Csv(), drift=Drift(**drift))
    return Feed("orders", "1.0.0", COLUMNS, ("order_id",), "orders", format_, tuple(rules), properties)


def written(format_: Format, rows: Sequence[dict[str, Any]], types: dict[str, pa.DataType] | None = None) -> bytes:
    """Return a file of ROWS, which all have the keys of the first."""
    names = list(rows[0])
    if format_ == "csv":
        lines = [",".join(names)]
        lines += [",".join("" if row[name] is None else str(row[name]) for name in names) for row in rows]
        return "".join(f"{line}\n" for line in lines).encode()
    if format_ == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    times = [
        {**row, "at": datetime.fromisoformat(row["at"])} if isinstance(row.get("at"), str) else row for row in rows
    ]
    table = {name: pa.array([row[name] for row in times], (types or {}).get(name)) for name in names}
    file = io.BytesIO()
    pq.write_table(pa.table(table), file)
    return file.getvalue()


@pytest.fixture
def parsed(tmp_path: Path) -> Callable[..., list[Any]]:
    """Give a function that returns what a file's lines are, each a row by its columns or the reason against it."""

    def parse(feed: Feed, content: bytes) -> list[Any]:
        path = tmp_path / "orders"
        path.write_bytes(content)
        with open_source(str(path)) as source:
            found = read(source, feed)
            lines = Lines(feed, found.columns, found.dialect)
            results: list[Any] = []
            for block in found.blocks:
                position = number = 0
                while position < len(block.lines):
                    end = lines.end_of_record(block.lines, position)
                    record = block.record(position, end)
                    row = block.flaws.get(number) or lines.parse(record)
                    raw = record if block.raw is None else block.raw[number]
                    if isinstance(row, Row):
                        results.append({c.name: value for c, value in zip(found.columns, row.values, strict=True)})
                    elif raw.strip():
                        results.append((*row, raw.decode()))
                    number += block.lines.count(b"\n", position, end + 1)
                    position = end + 1
            assert len(source.sha256) == 64
            assert source.size_bytes == len(content)
            return results

    return parse


PARQUET = written("parquet", [ROW] * 2000)
VALID = {"order_id": "1", "at": "2020-01-01T12:00:00+00:00", "price": "1.5", "note": "a"}


# --- drift ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_with_the_contracts_columns(parsed: Callable[..., list[Any]], format_: Format) -> None:
    assert parsed(orders(format_), written(format_, [ROW])) == [VALID]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_new_column(parsed: Callable[..., list[Any]], format_: Format) -> None:
    rows = [{"new": 7, **ROW, "other": "x"}, {"new": None, **ROW, "other": 'y"\n'}]
    if format_ == "csv":
        rows = [{**rows[0], "new": "7"}, {**rows[1], "other": '"y""\n"'}]
    content = written(format_, rows)
    assert parsed(orders(format_, new_column="ignore"), content) == [VALID] * 2
    kept = parsed(orders(format_, new_column="keep"), content)
    others = [json.loads(row.pop("other_columns")) for row in kept]
    assert others == [{"new": "7" if format_ == "csv" else 7, "other": "x"}, {"new": None, "other": 'y"\n'}]
    assert kept == [VALID] * 2
    if format_ == "jsonl":  # of which each row says what it has
        assert [row[:2] for row in parsed(orders(format_), content)] == [("unknown_column", "new")] * 2
        return
    with pytest.raises(WrongHeader, match=r"has 2 new columns, 'new', 'other'\.\n.*\n.* drift: new_column: ignore, or"):
        parsed(orders(format_), content)
    with pytest.raises(WrongHeader, match=r"has a new column 'new'\."):
        parsed(orders(format_), written(format_, [{**ROW, "new": 7}]))
    with pytest.raises(WrongHeader, match=r"has 7 new columns, 'n0', 'n1', 'n2', 'n3', 'n4' and 2 more\."):
        parsed(orders(format_), written(format_, [ROW | {f"n{number}": 7 for number in range(7)}]))


@pytest.mark.parametrize("format_", FORMATS)
def test_a_missing_column(parsed: Callable[..., list[Any]], format_: Format) -> None:
    without_note = {name: value for name, value in ROW.items() if name != "note"}
    found = parsed(orders(format_, missing_column="null"), written(format_, [without_note]))
    assert [{"note": None, **row} for row in found] == [{**VALID, "note": None}]
    with pytest.raises(WrongHeader, match=r'has no column \'note\'\.\n.*\n.* missing_column: "null"'):
        parsed(orders(format_), written(format_, [without_note]))
    without_key = {name: value for name, value in ROW.items() if name != "order_id"}
    with pytest.raises(WrongHeader, match=r"has no column 'order_id'"):
        parsed(orders(format_, missing_column="null"), written(format_, [without_key]))


@pytest.mark.parametrize("format_", FORMATS)
def test_another_order_of_columns(parsed: Callable[..., list[Any]], format_: Format) -> None:
    content = written(format_, [dict(reversed(ROW.items()))])
    assert parsed(orders(format_, column_order="accept"), content) == [VALID]
    if format_ == "csv":  # others name each value
        with pytest.raises(WrongHeader, match=r"has its columns in another order\.\n.*\n.* column_order: accept"):
            parsed(orders(format_), content)
    else:
        assert parsed(orders(format_), content) == [VALID]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_changed_type(parsed: Callable[..., list[Any]], format_: Format) -> None:
    content = written(format_, [{**ROW, "price": "cheap"}, {**ROW, "price": None}])
    found = parsed(orders(format_, changed_type="reject"), content)
    assert found[0][:2] == ("type", "price")
    assert found[1] == {**VALID, "price": None}
    if format_ == "parquet":
        what = r"has string in the column 'price', and the contract says number\.\n.*\n.* drift: changed_type: reject"
        with pytest.raises(WrongHeader, match=what):
            parsed(orders(format_), content)
    else:  # which have no types to compare
        assert parsed(orders(format_), content) == found


# --- formats --------------------------------------------------------------------------------------------------------


def test_csv_in_other_ways(parsed: Callable[..., list[Any]]) -> None:
    csv = Csv(delimiter="|", quote="'", null_text="NULL", encoding="windows-1252", decimal=",")
    feed = replace(
        orders("csv", csv=csv, new_column="ignore"),
        columns=(*COLUMNS[:3], Column("note", "Note €", "string", "text", is_required=True)),
        properties=orders("csv", csv=csv).properties.model_copy(update={"time_zone": "Europe/Amsterdam"}),
    )
    lines = (
        "order_id|at|price|Note €",
        "1|2020-07-01 12:00:00|1,50|€",
        "'1'|2020-01-01 12:00:00.5|NULL|'a|''b''\n'",
        "1|2020-10-25 02:30:00|-1,5|",
        "1|2020-03-29 02:30:00|1|a",
        "1|2020-01-01 12:00:00Z|1.5|a",
        "1|2020-01-01 12:00:00|1|NULL",
    )
    assert parsed(feed, "\r\n".join(lines).encode("cp1252")) == [
        {"order_id": "1", "at": "2020-07-01T10:00:00+00:00", "price": "1.5", "note": "€"},
        {"order_id": "1", "at": "2020-01-01T11:00:00.500000+00:00", "price": None, "note": "a|'b'\n"},
        {"order_id": "1", "at": "2020-10-25T00:30:00+00:00", "price": "-1.5", "note": ""},  # the earlier of two
        ("type", "at", lines[4]),  # which the clock skips
        ("type", "price", lines[5]),
        ("required", "note", lines[6]),
    ]


MIXED_ENDS = (  # of lines, and in fields; the third row and the last are rejected
    "order_id,at,price,note,new\r\n"
    '1,2020-01-01 12:00:00,1.5,"a\r\nb","\r\n"\r\n'
    '2,2020-01-01 12:00:00,1.5,"a\nb","\n"\r\n'
    'x,2020-01-01 12:00:00,1.5,"c\r\nd\n",\r\n'
    '3,2020-01-01 12:00:00,1.5,"\r\n\r\r\né€\n\r\n",a\n'
    "4,2020-01-01 12:00:00,1.5,plain,a\r\n"
    '"5",2020-01-01 12:00:00,1.5,"a\r\r\n","b"\n'
    '6,2020-01-01 12:00:00,1.5,"unclosed,a\r\n'
)


@pytest.mark.parametrize("block_bytes", [7, 100, 1 << 18])
@pytest.mark.parametrize("encoding", ["utf-8", "windows-1252"])
@pytest.mark.parametrize("new_column", ["ignore", "keep", "refuse"])
def test_carriage_returns_in_quotes_are_kept(
    parsed: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    new_column: str,
    encoding: Any,
    block_bytes: int,
) -> None:
    feed = orders("csv", csv=Csv(encoding=encoding), new_column=new_column)
    if new_column == "refuse":
        feed = replace(feed, columns=(*COLUMNS, Column("new", "new", "string", "text")))
    expected = list(DictReader(io.StringIO(MIXED_ENDS, newline="")))
    monkeypatch.setattr(source, "_BLOCK_BYTES", block_bytes)
    found = parsed(feed, MIXED_ENDS.encode("cp1252" if encoding == "windows-1252" else encoding))

    rows = [row for row in found if isinstance(row, dict)]
    assert [(row["order_id"], row["note"]) for row in rows] == [
        (row["order_id"], row["note"]) for row in expected if row["order_id"] not in ("x", "6")
    ]
    if new_column == "keep":
        assert json.loads(rows[0]["other_columns"]) == {"new": "\r\n"}
    assert [row for row in found if row not in rows] == [
        ("type", "order_id", 'x,2020-01-01 12:00:00,1.5,"c\r\nd\n",'),
        ("quoting", None, '6,2020-01-01 12:00:00,1.5,"unclosed,a'),
    ]


def test_a_line_end_in_a_column_that_is_left_out_makes_no_row(parsed: Callable[..., list[Any]]) -> None:
    properties = Properties(csv=Csv(null_text="NA"), drift=Drift(new_column="ignore"))
    feed = Feed("notes", "1.0.0", COLUMNS[3:], ("note",), "notes", "csv", (), properties)
    assert parsed(feed, b'note,new\na,"\n\n"\nb,\n') == [{"note": "a"}, {"note": "b"}]


def test_json_lines_of_any_kind(parsed: Callable[..., list[Any]]) -> None:
    feed = replace(orders("jsonl"), columns=(*COLUMNS[:3], Column("note", "note", "json", "jsonb")))
    row = '{"order_id": 1, "at": "2020-01-01 12:00:00", "price": %s, "note": %s}'
    lines = (
        row % ("12345678901234567.89", '{"a": [1.10, 123456789012345678901234567890]}'),
        row % ("1.5e1", '"text"'),
        row % ("NaN", "1"),
        row % ('"1.5"', "1"),
        row % ("null", '{"a": 1, "a": 1}'),
        "[1, 2]",
        "{",
        "",
        '{"order_id": 1, "order_id": 1}',
        row % ("null", '"\\u0000"'),
    )
    at = {"order_id": "1", "at": "2020-01-01T12:00:00+00:00"}
    found = parsed(feed, "\n".join(lines).encode())
    assert found[:2] == [
        {**at, "price": "12345678901234567.89", "note": '{"a": [1.10, 123456789012345678901234567890]}'},
        {**at, "price": "15", "note": '"text"'},
    ]
    assert [row[:2] for row in found[2:]] == [
        ("json", None),
        ("type", "price"),
        ("key_twice", None),
        ("json", None),
        ("json", None),
        ("key_twice", None),
        ("type", "note"),
    ]
    assert [row[2] for row in found[2:]] == [*lines[2:7], *lines[8:]]


def test_a_control_code_is_no_null(parsed: Callable[..., list[Any]]) -> None:
    row = '{"order_id": 1, "at": "2020-01-01 12:00:00", "price": 1.5, "note": %s}\n'
    found = parsed(orders("jsonl"), (row % '"a"' + row % "\x02" + row % "null").encode())
    assert found == [VALID, ("json", None, (row % "\x02").rstrip("\n")), {**VALID, "note": None}]


def test_the_names_of_unknown_keys_are_printable_and_bounded(parsed: Callable[..., list[Any]]) -> None:
    lines = [json.dumps({**ROW, f"new\t\\{number}": 1}) for number in range(150)]
    names = [row[1] for row in parsed(orders("jsonl"), "\n".join(lines).encode())]
    assert names == [f"new??{number}" for number in range(100)] + [None] * 50


def test_parquet_rows_in_quarantine_can_be_read_again(parsed: Callable[..., list[Any]]) -> None:
    feed = orders("parquet")
    rows = [{**ROW, "at": None, "price": Decimal("1.50"), "note": 'ü\t"\n'}, {**ROW, "price": Decimal("1E-8")}]
    found = parsed(feed, written("parquet", rows, {"at": pa.timestamp("ns"), "price": pa.decimal128(12, 8)}))
    assert [row[:2] for row in found] == [("required", "at"), ("type", "price")]
    assert found[0][2] == '{"order_id": 1, "at": null, "price": 1.50000000, "note": "ü\\t\\"\\n"}'
    assert json.loads(found[1][2]) == {"order_id": 1, "at": "2020-01-01 12:00:00.000000", "price": 1e-8, "note": "a"}
    wider = replace(feed, columns=(*COLUMNS[:2], Column("price", "price", "number", "numeric"), COLUMNS[3]))
    [block] = read_rejected(f"{found[1][2]}\n".encode(), wider).blocks
    again = Lines(wider, wider.columns, read_rejected(b"{}\n", wider).dialect).parse(block.lines[:-1])
    assert again == Row(("1", VALID["at"], "0.00000001", "a"), datetime(2020, 1, 1, 12, tzinfo=UTC))


def test_rows_of_another_encoding_can_be_read_again_from_the_quarantine() -> None:
    feed = orders("csv", csv=Csv(encoding="windows-1252"), column_order="accept")
    expected = {**VALID, "note": "é€"}
    for header, line in (
        (None, "1,2020-01-01 12:00:00,1.5,é€\n"),
        ("note,price,at,order_id", "é€,1.5,2020-01-01 12:00:00,1\n"),
    ):
        rows = read_rejected(line.encode(), feed, header)
        [block] = rows.blocks
        row = Lines(feed, rows.columns, rows.dialect).parse(block.lines[:-1])
        assert isinstance(row, Row)
        assert dict(zip([column.name for column in rows.columns], row.values, strict=True)) == expected


def test_a_file_may_be_compressed_in_several_parts_and_be_anywhere() -> None:
    rows = written("csv", [{**ROW, "order_id": number} for number in range(5_000)])
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    files: list[tuple[Format, bytes]] = [
        ("csv", b"".join(map(gzip.compress, halves))),
        ("csv", b"".join(pa.compress(half, "zstd", asbytes=True) for half in halves)),
        ("parquet", PARQUET),
        ("parquet", gzip.compress(PARQUET)),
    ]
    for format_, content in files:
        memory = fsspec.filesystem("memory")
        memory.pipe("/orders", content)
        with open_source("memory://orders") as source:
            found, before = 0, -1
            for block in read(source, orders(format_)).blocks:
                found += block.lines.count(b"\n")
                assert before < source.read_bytes <= len(content)
                before = source.read_bytes
            assert found == (5_000 if format_ == "csv" else 2_000)
            assert (source.size_bytes, source.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        memory.rm("/orders")


# --- bad files ------------------------------------------------------------------------------------------------------

NESTED = written("parquet", [{**ROW, "note": {"a": 1}}])
BAD: list[tuple[str, Format, bytes, type[FeedError], str]] = [
    ("JSON for CSV", "csv", written("jsonl", [ROW]), WrongHeader, "does not begin with the header of orders"),
    ("Parquet for CSV", "csv", PARQUET, WrongHeader, "does not begin with the header of orders"),
    (
        "CSV in UTF-16",
        "csv",
        "order_id,at,price,note\n".encode("utf-16"),
        WrongHeader,
        "does not begin with the header",
    ),
    ("a header twice", "csv", b"order_id,at,price,note,note\n", WrongHeader, "has the column 'note' twice"),
    ("another separator", "csv", b"order_id;at;price;note\n", WrongHeader, "does not begin with the header"),
    ("nothing for CSV", "csv", b"\n \n", SourceEmpty, "is empty"),
    ("CSV for JSON Lines", "jsonl", written("csv", [ROW]), WrongHeader, "has no JSON object on its first lines"),
    ("a JSON array", "jsonl", b"[\n  1,\n  2\n]\n", WrongHeader, "has no JSON object on its first lines"),
    ("Parquet for JSON Lines", "jsonl", PARQUET, WrongHeader, "has no JSON object on its first lines"),
    ("nothing for JSON Lines", "jsonl", b"", SourceEmpty, "is empty"),
    ("nothing for Parquet", "parquet", b"", SourceEmpty, "is empty"),
    ("CSV for Parquet", "parquet", written("csv", [ROW]), WrongHeader, "is no Parquet file"),
    ("a cut-off footer", "parquet", PARQUET[:-20], SourceUnreadable, "cannot be read: "),
    ("a cut-off row group", "parquet", PARQUET[:100] + PARQUET[900:], SourceUnreadable, "cannot be read: "),
    ("nested columns", "parquet", NESTED, WrongHeader, "has struct<a: int64> in the column 'note'"),
    ("cut-off gzip", "csv", gzip.compress(written("csv", [ROW] * 99))[:-9], SourceUnreadable, "cannot be read: "),
    (
        "cut-off zstd",
        "csv",
        pa.compress(written("csv", [ROW] * 99), "zstd", asbytes=True)[:-9],
        SourceUnreadable,
        "cannot",
    ),
]


@pytest.mark.parametrize(
    ("format_", "content", "kind", "what"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_bad_file_is_refused(
    parsed: Callable[..., list[Any]], format_: Format, content: bytes, kind: type[FeedError], what: str
) -> None:
    with pytest.raises(kind) as refused:
        parsed(orders(format_), content)
    assert what in refused.value.what
    assert str(refused.value).count("\n") == 2


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_that_changes_is_refused(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / "orders"
    path.write_bytes(written(format_, [ROW] * 2))
    with open_source(str(path)) as source:
        blocks = read(source, orders(format_)).blocks
        path.write_bytes(written(format_, [ROW] * 3))
        with pytest.raises(SourceChanged):
            list(blocks)


# --- where files are ------------------------------------------------------------------------------------------------


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """Give a folder with files of three days, one of which has two."""
    for name in ("2020/01/01/b.csv", "2020/01/01/a.csv", "2020/01/02/a.csv", "2020/02/01/a.csv", "2020/02/30/a.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def interval(first: str, last: str) -> Interval:
    return Interval.parse(first, last)


def names(files: Sequence[str], folder: Path) -> list[str]:
    return [str(Path(file.removeprefix("file://")).relative_to(folder)) for file in files]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_interval_needs_the_files_of_its_days(days: Path, scheme: str) -> None:
    uri = f"{scheme}{days}/{{start:%Y/%m/%d}}/*.csv"
    first = ["2020/01/01/a.csv", "2020/01/01/b.csv"]
    every = [*first, "2020/01/02/a.csv", "2020/02/01/a.csv"]
    assert names(find_files(uri, interval("2020-01-01", "2020-01-02")), days) == first
    assert names(find_files(uri, interval("2020-01-01T23:00", "2020-01-02T01:00")), days) == every[:3]
    assert names(find_files(uri), days) == every
    assert names(find_files(uri, Interval(datetime(2020, 1, 2, 9, tzinfo=UTC), None)), days) == every[2:]
    assert names(find_files(uri, interval("2020-01-01", "2020-01-03"), is_latest=True), days) == every[2:3]
    assert names(find_files(uri, is_latest=True), days) == every[3:]
    months = f"{scheme}{days}/{{start:%Y/%m}}/*/*.csv"
    assert names(find_files(months, interval("2020-01-15", "2020-01-16")), days) == every[:3]


def test_a_day_without_a_file_is_refused(days: Path) -> None:
    uri = f"{days}/{{start:%Y/%m/%d}}/*.csv"
    with pytest.raises(SourceMissing, match=r"No file matches .*/2020/01/03/\*\.csv, nor 1 others"):
        find_files(uri, interval("2020-01-02", "2020-01-05"))
    found = find_files(uri, interval("2020-01-02", "2020-01-05"), allow_missing=True)
    assert names(found, days) == ["2020/01/02/a.csv"]
    with pytest.raises(SourceMissing):
        find_files(uri, interval("2020-01-03", "2020-01-05"), allow_missing=True)
    with pytest.raises(SourceMissing):
        find_files(uri, interval("1990-01-01", "2020-01-03"))  # more days than are looked for one by one
    with pytest.raises(SettingUnusable, match="too long for 100,000 files"):
        find_files(f"{days}/{{start:%Y/%m/%d/%H}}.csv", interval("1020-01-01", "2020-01-03"))


def test_a_pattern_matches_files_in_the_order_of_their_names(days: Path) -> None:
    assert names(find_files(f"{days}/2020/01/*/*.csv"), days) == [
        "2020/01/01/a.csv",
        "2020/01/01/b.csv",
        "2020/01/02/a.csv",
    ]
    with pytest.raises(SourceMissing, match="No file matches"):
        find_files(f"{days}/*.csv")
    (days / "a[1].csv").touch()
    assert names(find_files(f"{days}/a[1].csv"), days) == ["a[1].csv"]


def test_a_pattern_may_be_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "orders.zip", "w") as archive:
        for name in ("2020/b.csv", "2020/a.csv", "2021/a.csv"):
            archive.writestr(name, name)
    rest = f"::file://{tmp_path}/orders.zip"
    files = find_files(f"zip://2020/*.csv{rest}")
    assert files == [f"zip://2020/a.csv{rest}", f"zip://2020/b.csv{rest}"]
    of_2021 = find_files(f"zip://{{start:%Y}}/*.csv{rest}", interval("2021-01-01", "2021-02-01"))
    assert of_2021 == [f"zip://2021/a.csv{rest}"]
    with open_source(files[0]) as source:
        assert list(source.blocks) == [b"2020/a.csv\n"]


@pytest.mark.parametrize(
    "name", [".a.csv", "a.csv.tmp", "a.csv.part", "a.csv.crdownload", "a.csv~", "_temporary/a.csv"]
)
def test_a_file_that_is_still_being_written_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (tmp_path / "b.csv").touch()
    with pytest.raises(SourceChanged, match="still being written"):
        find_files(f"{path.parent}/*")


# --- loads ----------------------------------------------------------------------------------------------------------


def test_files_of_each_format_are_loaded_alike(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    dsn = bare_warehouse.loader_dsn
    rows = [
        {**ROW, "order_id": number, "at": f"2020-01-0{number % 3 + 1} 12:00:00", "price": number / 4, "new": number}
        for number in range(1, 300)
    ]
    rows += [{**rows[0], "note": "again"}, {**rows[1], "order_id": 500, "price": -1.0}, {**rows[2], "order_id": None}]
    january = interval("2020-01-01", "2020-01-03")
    for format_ in FORMATS:
        rule = Rule(name="price_is_not_negative", sql="price >= 0")
        feed = replace(orders(format_, rules=[rule], new_column="keep"), name=f"orders_{format_}")
        folder = tmp_path / format_
        folder.mkdir()
        compress: list[Callable[[bytes], bytes]] = [
            bytes,
            gzip.compress,
            lambda text: pa.compress(text, "zstd", asbytes=True),
        ]
        for number, packed in enumerate(compress):
            (folder / f"{number}").write_bytes(packed(written(format_, rows[number::3])))
        create_tables(dsn, feed)
        result = load(feed, dsn, source_uri=f"{folder}/*", start=january.start, end=january.end)
        with psycopg.connect(dsn) as connection:
            expected = raw_rows.expected(feed, f"{folder}/*", january, connection)
            actual = raw_rows.actual(feed, connection)
            files = connection.execute(
                "select right(source_uri, 1), length(sha256), size_bytes > 0 from raw.loaded_files"
                " where load_id = %s order by file_number",
                (result.load_id,),
            ).fetchall()
            [(kept,)] = connection.execute(
                f"select count(*) from raw.{feed.name} where other_columns->>'new' = order_id::text"  # noqa: S608
            )
        assert (result.read, result.loaded, result.outside) == (expected.read, len(expected.rows), expected.outside)
        assert actual == replace(expected, read=0, outside=0)
        assert expected.rejected == {
            ("duplicate_key", None): 1,
            ("rule", "price_is_not_negative"): 1,
            ("required", "order_id"): 1,
        }
        assert files == [("0", 64, True), ("1", 64, True), ("2", 64, True)]
        assert kept == len(expected.rows)
        again = load(feed, dsn, source_uri=f"{folder}/*", start=january.start, end=january.end)
        assert (again.same_as_load_id, again.absent) == (None, expected.outside)
        load(feed, dsn, source_uri=f"{folder}/*")
        assert load(feed, dsn, source_uri=f"{folder}/*").same_as_load_id


def test_rows_that_are_rejected_for_new_keys_lead_to_the_word_that_allows_them(
    bare_warehouse: Warehouse, tmp_path: Path
) -> None:
    feed, path = replace(orders("jsonl"), name="orders_new"), tmp_path / "orders"
    path.write_bytes(b"".join(written("jsonl", [{**ROW, f"new_{number % 9}": 1}]) for number in range(18)))
    path.write_bytes(path.read_bytes() + b"[1]\n" * 3)
    create_tables(bare_warehouse.loader_dsn, feed)
    with pytest.raises(TooManyRejected, match=r"; new_column: ignore, or keep, in .* airflow/feeds/orders_new\.yaml"):
        load(feed, bare_warehouse.loader_dsn, source_uri=str(path))
    path.write_bytes(b"[1]\n" * 3 + written("jsonl", [{**ROW, "new": 1}] * 2))
    with pytest.raises(TooManyRejected, match="a larger max_rejected allows them"):
        load(feed, bare_warehouse.loader_dsn, source_uri=str(path))


def test_postgresql_reads_what_is_no_text_of_copy_alike(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    dsn = bare_warehouse.loader_dsn
    notes = ["a\\b", "\\N", "\\.", "'a\t''b''\n'", "é", "-7", "", "\x02", "'-7'", " ", "\\t", "a"]
    for feed_number, null in enumerate(("-7", "\\N", "", "a")):
        csv = Csv(delimiter="\t", quote="'", null_text=null, encoding="windows-1252", decimal=",")
        columns = (*COLUMNS[:3], replace(COLUMNS[3], is_required=null == "a"), Column("i", "i", "integer", "bigint"))
        properties = orders("csv", csv=csv).properties.model_copy(update={"time_zone": "Europe/Amsterdam"})
        feed = replace(orders("csv"), name=f"orders_{feed_number}", columns=columns, properties=properties)
        rows = [f"{number}\t2020-01-01 12:00\t1,5\t{note}\t-007" for number, note in enumerate(notes)]
        rows += [f"{number}\t2020-07-01T12:00:00Z\t{null}\tb\t7" for number in range(100, 200)]
        path = tmp_path / "orders.csv"
        path.write_bytes("\n".join(["order_id\tat\tprice\tnote\ti", *rows]).encode("cp1252"))
        create_tables(dsn, feed)
        load(feed, dsn, source_uri=str(path))
        with psycopg.connect(dsn) as connection:
            expected = raw_rows.expected(feed, str(path), Interval(None, None), connection)
            assert raw_rows.actual(feed, connection) == replace(expected, read=0)
        assert len(expected.rows) > 100


@pytest.mark.parametrize("new_column", ["ignore", "refuse"])
def test_carriage_returns_stay_in_tables_quarantine_and_replay(
    bare_warehouse: Warehouse, tmp_path: Path, new_column: str
) -> None:
    dsn, path = bare_warehouse.loader_dsn, tmp_path / "orders.csv"
    feed = orders("csv", new_column=new_column)
    names, new = ("order_id,at,price,note,new", ",n") if new_column == "ignore" else ("order_id,at,price,note", "")
    notes = {"1": "a\r\nb", "2": "a\nb", "3": "long\r\nlong\n\r\n"}
    records = {number: f'{number},2020-01-01 12:00:00,1,"{note}"{new}' for number, note in notes.items()}
    again = records["1"].replace("a", "z")
    path.write_bytes("\r\n".join([names, *records.values(), again]).encode())
    short = replace(feed, columns=(*COLUMNS[:3], replace(COLUMNS[3], lengths=(0, 5))))
    create_tables(dsn, short)
    load(short, dsn, source_uri=str(path))
    with psycopg.connect(dsn) as connection:
        texts = connection.execute("select reason, raw_text from raw.rejected_rows order by line_number").fetchall()
        assert texts == [("length", records["3"]), ("duplicate_key", again)]
    assert replay(feed, dsn).loaded == 1
    with psycopg.connect(dsn) as connection:
        assert dict(connection.execute("select order_id::text, note from raw.orders").fetchall()) == notes
