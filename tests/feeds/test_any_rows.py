"""Rows of any contract in a file of any format are what a reader that shares no code with the load says they are."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds.contract import Column, Csv, Drift, Feed, Format, Properties
from feeds.formats import read
from feeds.lines import Lines, Reject, Row
from feeds.source import open_source
from harness.oracle import file_rows, raw_rows
from harness.oracle.csv_rows import CODECS
from harness.oracle.row_values import RejectedError

COLUMNS = [
    Column("i", "I d", "integer", "bigint"),
    Column("n", "n", "number", "numeric(5,2)", digits=(3, 2)),
    Column("m", "m", "number", "numeric"),
    Column("s", "s", "string", "text"),
    Column("short", "short", "string", "text", lengths=(1, 5)),
    Column("code", "code", "string", "text", pattern="[A-Z][0-9]|.*b"),
    Column("word", "word", "string", "text", values=("W", "a b", 'a"b')),
    Column("b", "b", "boolean", "boolean"),
    Column("d", "d", "date", "date"),
    Column("t", "t", "timestamp", "timestamp with time zone"),
    Column("u", "u", "uuid", "uuid"),
    Column("j", "j", "json", "jsonb"),
    Column("level", "level", "integer", "bigint", values=("1", "2")),
]
UUID_TEXT = "00000000-0000-0000-0000-00000000000A"
NUMBERS = [
    "7",
    "-7",
    "007",
    "0",
    "-0",
    "9" * 18,
    "9" * 19,
    "9223372036854775808",
    "1.5",
    "1.50",
    "1.",
    ".5",
    "1e3",
    "+1",
    "NaN",
]
NUMBERS += ["1,5", "0.00000001", "123456789012345678901234567890.123456789", "12345"]
TIMES = [
    "2020-02-29",
    "2019-02-29",
    "2020-02-29 12:00:00",
    "2020-02-29T24:00:00",
    "0900-01-01",
    "0001-01-01 00:00:00+01:00",
]
TIMES += [
    "2020-02-29 12:00:00Z",
    "2020-02-29 12:00:00.123456+01:00",
    "2020-03-29 02:30:00",
    "2020-10-25 02:30:00",
    "2020-02-29 12:00",
]
TEXTS = [
    "",
    "N",
    "NA",
    "N A",
    "A1",
    "a b",
    'a"b',
    "a\\b",
    "\\N",
    "é",
    "a;b",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "x" * 6,
    "W",
    "ab",
    "\x02",
    " 1",
]
OTHERS = [
    r'"\\u0000"',
    r'"\u0000"',
    "true",
    "TRUE",
    "maybe",
    "1",
    "2",
    UUID_TEXT,
    UUID_TEXT.lower(),
    '{"a": 1.10, "b": [null, true]}',
    '{"a": 1, "a": 2}',
    "[1e400]",
]
PIECES = NUMBERS + TIMES + TEXTS + OTHERS
NAMES = ["I d", "n", "m", "s", "short", "code", "word", "b", "d", "t", "u", "j", "level", "new", "other"]


@st.composite
def feeds(draw: st.DrawFn, format_: Format) -> Feed:
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique_by=lambda column: column.name))
    columns = [replace(column, is_required=column is columns[0] or draw(st.booleans())) for column in columns]
    csv = Csv(
        delimiter=draw(st.sampled_from(",;\t")),
        quote=draw(st.sampled_from("\"'")),
        null_text=draw(st.sampled_from(["", "", "NA", "\\N", "-7"])),
        encoding=draw(st.sampled_from(["utf-8", "utf-8", "latin-1", "windows-1252"])),
        decimal=draw(st.sampled_from("..,")),
    )
    drift = Drift(
        new_column=draw(st.sampled_from(["ignore", "keep"] if format_ != "jsonl" else ["ignore", "keep", "refuse"])),
        missing_column="null",
        column_order="accept",
        changed_type="reject",
    )
    zone = draw(st.sampled_from(["UTC", "UTC", "Europe/Amsterdam"]))
    properties = Properties(timeZone=zone, drift=drift, csv=csv if format_ == "csv" else Csv())
    return Feed("f", "1.0.0", tuple(columns), (columns[0].name,), "f", format_, (), properties)


def names_of(draw: st.DrawFn, feed: Feed) -> list[str]:
    """Draw the columns of a file: those that it must have, some that it may have, and some new ones."""
    own = [c.header for c in feed.columns if c.is_required or draw(st.integers(0, 3))]
    new = draw(st.lists(st.sampled_from(["new", "other"]), max_size=2, unique=True)) if draw(st.booleans()) else []
    return list(draw(st.permutations(own + new)))


@st.composite
def csv_files(draw: st.DrawFn) -> tuple[Feed, bytes]:
    feed = draw(feeds("csv"))
    csv = feed.properties.csv
    names = names_of(draw, feed)
    field = st.sampled_from(PIECES) | st.text(st.sampled_from("a1;.-,'\"é\r\n"), max_size=4)

    def written(text: str) -> str:
        kind = draw(st.integers(0, 9))
        if kind == 0 or (kind < 9 and not set(text) & {csv.delimiter, csv.quote, "\r", "\n"}):
            return text
        return csv.quote + text.replace(csv.quote, csv.quote * 2) + csv.quote

    lines = [csv.delimiter.join(names)]
    for _ in range(draw(st.integers(0, 6))):
        count = len(names) + draw(st.sampled_from([0] * 9 + [1, -1]))
        lines.append(csv.delimiter.join(written(draw(field)) for _ in range(max(count, 1))))
    lines += draw(st.sampled_from([[], [], ["", " "], ["\0"]]))
    ends = draw(st.sampled_from([["\n"], ["\r\n"], ["\n", "\r\n"]]))
    codec = CODECS[csv.encoding]
    text = "".join(line + ends[number % len(ends)] for number, line in enumerate(lines))
    return feed, text.encode(codec, errors="replace") + draw(st.sampled_from([b"", b"", b"\x81\n"]))


JSON_VALUES = st.recursive(
    st.sampled_from([None, True, False, "a\0b", "\ud800"]) | st.sampled_from(PIECES).map(str),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "é"]), inner, max_size=2),
    max_leaves=3,
)


@st.composite
def json_files(draw: st.DrawFn) -> tuple[Feed, bytes]:
    feed = draw(feeds("jsonl"))
    names = names_of(draw, feed)
    colon, comma = draw(st.sampled_from([(":", ","), (": ", ", ")]))
    number = st.sampled_from(
        ["7", "-0", "9" * 19, "1.50", "1e3", "-1.5E-3", "1e1000", "1e1001", "12345678901234567890.123"]
    )
    simple = {"integer": number, "number": number, "boolean": st.sampled_from(["true", "false"])}
    by_header = {column.header: column.type for column in feed.columns}
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 6))):
        fields = []
        for name in names:
            kind = draw(st.integers(0, 9))
            if kind == 9 and draw(st.booleans()) and lines:  # a column that no row has would be missing
                continue
            if kind == 0:
                text = draw(JSON_VALUES.map(json.dumps) | number)
            elif kind == 1:
                text = "null"
            else:
                text = draw(simple.get(by_header.get(name, ""), st.sampled_from(PIECES).map(json.dumps)))
            fields.append(f"{json.dumps(name)}{colon}{text}")
        lines.append("{" + comma.join(fields) + "}")
    lines += draw(st.sampled_from([[], ["", "[1]", '{"I d": 1, "I d": 2}', "{", "NaN"], ['{"I d": NaN}']]))
    return feed, "\n".join(lines).encode()


LOCAL = [datetime.fromisoformat("2020-02-29 12:00:00"), datetime.fromisoformat("2020-03-29 02:30:00")]
ARROW = [
    (pa.int64(), [7, -7, 0, 2**63 - 1]),
    (pa.uint64(), [2**63, 1]),
    (pa.int8(), [1, 2, 3]),
    (pa.float64(), [1.5, 1e20, 1e-7, -0.0, float("nan"), float("inf"), 0.1]),
    (pa.float32(), [1.5, 0.1, 1e20]),
    (pa.decimal128(38, 10), [Decimal("1.50"), Decimal("0E-8"), Decimal("-123.45")]),
    (pa.bool_(), [True, False]),
    (pa.string(), [*PIECES, "a\0b"]),
    (pa.large_string(), PIECES),
    (pa.dictionary(pa.int32(), pa.string()), TEXTS),
    (pa.date32(), [date(2020, 2, 29), date(1, 1, 1)]),
    (pa.date64(), [date(2020, 2, 29)]),
    *((pa.timestamp(unit), LOCAL) for unit in ("s", "ms", "us")),
    (pa.timestamp("us", "America/New_York"), [datetime(2020, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)]),
    (
        pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]),
        [{"a": 1, "b": ["x", None]}, {"a": None, "b": None}],
    ),
    (pa.list_(pa.decimal128(5, 2)), [[Decimal("1.10")], []]),
    (pa.map_(pa.string(), pa.int64()), [[("k", 1)], [("k", 1), ("l", 2)]]),
    (pa.binary(16), [UUID(UUID_TEXT).bytes]),
    (pa.null(), [None]),
]


@st.composite
def parquet_files(draw: st.DrawFn) -> tuple[Feed, bytes]:
    feed = draw(feeds("parquet"))
    count = draw(st.integers(1, 6))
    arrays = {}
    for name in names_of(draw, feed):
        kind, values = draw(st.sampled_from(ARROW))
        arrays[name] = pa.array(
            draw(st.lists(st.none() | st.sampled_from(values), min_size=count, max_size=count)), kind
        )
    written = io.BytesIO()
    pq.write_table(pa.table(arrays), written, row_group_size=draw(st.integers(1, 6)))
    return feed, written.getvalue()


def loaded(feed: Feed, path: str) -> Iterator[tuple[Any, ...] | dict[str, Any]]:
    """Yield the rows of the file as the load has them, or their reasons."""
    with open_source(path) as source:
        found = read(source, feed)
        lines = Lines(feed, found.columns, found.dialect)
        for block in found.blocks:
            position = number = 0
            records: list[tuple[bytes, Reject | None]]
            while position < len(block.lines):
                run = lines.clean_of_day(None).match(block.lines, position) if lines.has_clean else None
                if run:
                    end = run.end()
                    records = [(line, None) for line in block.lines[position : end - 1].split(b"\n")]
                else:
                    end = lines.end_of_record(block.lines, position) + 1
                    records = [(block.record(position, end - 1), block.flaws.get(number))]
                for line, flaw in records:
                    raw = line if block.raw is None else block.raw[number]
                    row = flaw or lines.parse(line)
                    if isinstance(row, Row):
                        yield {c.name: valued(c, text) for c, text in zip(found.columns, row.values, strict=True)}
                    elif raw.strip() or row.reason == "too_long":
                        assert run is None, "a clean line is valid"
                        yield tuple(row)
                number += block.lines.count(b"\n", position, end)
                position = end


def valued(column: Column, text: str | None) -> Any:  # noqa: PLR0911 - a return per type
    """Return TEXT, as PostgreSQL reads it, as a value of Python."""
    if text is None:
        return None
    match column.type:
        case "integer" | "number":
            return Decimal(text)
        case "boolean":
            return {"true": True, "false": False}[text]
        case "date":
            return date.fromisoformat(text)
        case "timestamp":
            moment = datetime.fromisoformat(text)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        case "uuid":
            return UUID(text)
        case "json":
            return json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return text


def check(case: tuple[Feed, bytes], path: Path) -> None:
    feed, content = case
    path.write_bytes(content)
    names = [column.name for column in feed.table_columns]
    expected = [
        row.args if isinstance(row, RejectedError) else [raw_rows.canonical(row.get(name)) for name in names]
        for row in file_rows.rows(feed, str(path))
    ]
    found = [
        row if isinstance(row, tuple) else [raw_rows.canonical(row.get(name)) for name in names]
        for row in loaded(feed, str(path))
    ]
    assert [normal(row) for row in found] == [normal(row) for row in expected]


def normal(row: Any) -> Any:
    return (
        row
        if isinstance(row, tuple)
        else [str(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in row]
    )


FEW = settings(max_examples=50, deadline=timedelta(seconds=5), suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet"])
def test_rows_of_any_file(format_: str, tmp_path: Path) -> None:
    files = {"csv": csv_files, "jsonl": json_files, "parquet": parquet_files}[format_]

    @FEW
    @given(files())
    def every(case: tuple[Feed, bytes]) -> None:
        check(case, tmp_path / "file")

    every()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_in_quotes_are_those_of_the_file(end: str, tmp_path: Path) -> None:
    feed = Feed("f", "1.0.0", (COLUMNS[0], COLUMNS[3]), ("i",), "f", "csv", (), Properties())
    text = end.join(["I d,s", '1,"a\r\nb\n\r\n"', '2,"\r\r\n"', '3,"a\nb"', '4,"a', '5,"b\r', '6,"c"\r'])
    check((feed, text.encode()), tmp_path / "file")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_a_new_columns_times_have_the_digits_of_their_unit(unit: str, zone: str | None, tmp_path: Path) -> None:
    feed = Feed("f", "1.0.0", (COLUMNS[0],), ("i",), "f", "parquet", (), Properties(drift=Drift(new_column="keep")))
    moment = datetime(2020, 2, 29, 12, tzinfo=UTC if zone else None)
    table = pa.table({"I d": [1, 2], "new": pa.array([moment, None], pa.timestamp(unit, zone))})
    written = io.BytesIO()
    pq.write_table(table, written)
    check((feed, written.getvalue()), tmp_path / "file")
