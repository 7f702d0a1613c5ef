"""A load of any files of any feed, in any format, is what a computation that shares no code with it says."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeds import source, staging
from feeds.contract import Column, Drift, Feed, Properties, Rule
from feeds.interval import ALWAYS, Interval
from feeds.load import load
from feeds.tables import create_tables
from harness.oracle import raw_rows
from tests.feeds.common import DAY

Row = dict[str, str | None]
# Each with texts that are values of it, and some that are not.
VALUES = {
    Column("i", "i", "integer", "bigint"): ["0", "7", "-7", "007", "9" * 18, "x", "1.5"],
    Column("n", "N", "number", "numeric(5,2)", digits=(3, 2)): ["1", "1.50", "01.5", "-0.25", "1000", "1.234"],
    Column("m", "m", "number", "numeric"): ["1", "1.0", "-0", "12345678901234567890.123", "NaN"],
    Column("s", "a name", "string", "text"): ["a", "A", "é", "a,b", 'a"b', "a\nb", "\\N", "a\\b", "a\tb", "\r", " "],
    Column("code", "code", "string", "text", pattern="[A-Z][0-9]|.*b"): ["A1", "B2", "ab", "a\\b", "x"],
    Column("word", "word", "string", "text", values=("W", "a b")): ["W", "a b", "w"],
    Column("b", "b", "boolean", "boolean"): ["true", "false", "T", "no", "maybe"],
    Column("d", "d", "date", "date"): ["2020-01-01", "2020-01-02", "2020-01-03", "2020-02-30"],
    Column("t", "t", "timestamp", "timestamp with time zone"): [
        *("2020-01-01 00:00:00", "2020-01-01T01:00:00+01:00", "2020-01-01 12:00:00.5", "2020-01-02 00:00:00Z"),
        *("2020-01-02 12:00:00", "2020-01-03 00:00:00", "2020-01-01 24:00:00"),
    ],
    Column("u", "u", "uuid", "uuid"): [f"0000000{n}-0000-4000-8000-00000000000a" for n in "12aA"] + ["0"],
    Column("j", "j", "json", "jsonb"): ['{"a": [1.50, null]}', "{}", "[true]"],
}
OF = {column.name: (column, texts) for column, texts in VALUES.items()}
RULES = {"i": "i is null or i < 100", "n": "n > 0", "s": "s <> 'A'", "b": "b", "d": "d <> '2020-01-02'"}
FORMATS = {"csv": "csv", "jsonl": "jsonl", "parquet": "parquet"}


@st.composite
def feeds(draw: st.DrawFn) -> Feed:
    names = draw(st.lists(st.sampled_from(sorted(OF)), min_size=2, max_size=5, unique=True))
    keyable = [name for name in names if OF[name][0].type != "json"]
    key = draw(st.lists(st.sampled_from(keyable), min_size=1, max_size=2, unique=True))
    times = [name for name in names if OF[name][0].type in ("date", "timestamp")]
    time = draw(st.sampled_from([None, *times, *times]))
    columns = tuple(
        Column(**vars(OF[name][0]) | {"is_required": name in key or name == time or draw(st.booleans())})
        for name in names
    )
    ruled = [name for name in names if name in RULES]
    rules = tuple(
        Rule(name=f"rule_{name}", sql=RULES[name])
        for name in draw(st.lists(st.sampled_from(ruled), max_size=1) if ruled else st.just([]))
    )
    properties = Properties(timeColumn=time, drift=Drift(column_order="accept"))
    return Feed(
        "any_feed", "1.0.0", columns, tuple(key), "*", draw(st.sampled_from(sorted(FORMATS))), rules, properties
    )


@st.composite
def files(draw: st.DrawFn, feed: Feed) -> list[tuple[list[Column], list[Row]]]:
    """Draw one to three files: the order of their columns, and their rows."""
    rows = st.fixed_dictionaries(
        {
            column.name: st.sampled_from([*OF[column.name][1][:-1] * 2, OF[column.name][1][-1]])
            if column.is_required
            else st.sampled_from([*OF[column.name][1], None])
            for column in feed.columns
        }
    )
    return [
        (list(draw(st.permutations(feed.columns))), draw(st.lists(rows, min_size=1, max_size=12)))
        for _ in range(draw(st.integers(1, 3)))
    ]


def write_csv(path: Path, columns: Sequence[Column], rows: Sequence[Row], quote_all: bool) -> None:
    def written(text: str | None) -> str:
        plain = not quote_all and not set(text or "") & set(',"\n\r')
        return (text or "") if plain or text is None else '"' + text.replace('"', '""') + '"'

    lines = [",".join(written(column.header) for column in columns)]
    lines += [",".join(written(row[column.name]) for column in columns) for row in rows]
    path.write_bytes("\n".join(lines).encode())


def write_jsonl(path: Path, columns: Sequence[Column], rows: Sequence[Row], compact: bool) -> None:
    def written(column: Column, text: str | None) -> str:
        if text is None:
            return "null"
        is_json = column.type == "json" or text in ("true", "false")
        is_number = column.type in ("integer", "number") and (text.lstrip("-")[:1] != "0" or text in ("0", "-0"))
        return text if is_json or (is_number and text not in ("x", "NaN")) else json.dumps(text)

    colon, comma = (":", ",") if compact else (": ", ", ")
    lines = [
        comma.join(f"{json.dumps(column.header)}{colon}{written(column, row[column.name])}" for column in columns)
        for row in rows
    ]
    path.write_text("".join(f"{{{line}}}\n" for line in lines))


def write_parquet(path: Path, columns: Sequence[Column], rows: Sequence[Row], small: bool) -> None:
    kinds = {
        "integer": (pa.int64(), int),
        "number": (pa.decimal128(38, 3), Decimal),
        "boolean": (pa.bool_(), lambda text: text in ("true", "T")),
        "date": (pa.date32(), date.fromisoformat),
        "timestamp": (pa.timestamp("us", "UTC"), datetime.fromisoformat),
    }
    arrays: dict[str, pa.Array] = {}
    for column in columns:
        kind, convert = kinds.get(column.type, (pa.string(), str))
        arrays[column.header] = pa.array([value(row[column.name], convert, column) for row in rows], kind)
    pq.write_table(pa.table(arrays), path, row_group_size=2 if small else None)


def value(text: str | None, convert: Any, column: Column) -> Any:
    """Return TEXT as a value of Parquet, where a column's type has no values that are not of it."""
    if text is None:
        return None
    try:
        found = convert(text)
        if isinstance(found, Decimal):
            return found if found.is_finite() and abs(found) < 10**20 else Decimal(7)
        if isinstance(found, datetime) and found.tzinfo is None:
            return found.replace(tzinfo=UTC)
        return found
    except (ValueError, ArithmeticError):
        return convert(OF[column.name][1][0])


moments = st.integers(0, 5).map(lambda hours: DAY + timedelta(hours=12 * hours))


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data(), feed=feeds(), block_bytes=st.sampled_from([16, 1 << 18]), option=st.booleans())
def test_any_feed(
    *,
    dsn: str,
    db: psycopg.Connection,
    tmp_path: Path,
    data: st.DataObject,
    feed: Feed,
    block_bytes: int,
    option: bool,
) -> None:
    """Files are read in blocks of BLOCK_BYTES, and written with OPTION, which each format has one of."""
    write = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}[feed.format]
    for path in tmp_path.iterdir():
        path.unlink()
    for number, (columns, rows) in enumerate(data.draw(files(feed))):
        write(tmp_path / f"{number}.{feed.format}", columns, rows, option)
    interval = ALWAYS
    if feed.time_column and data.draw(st.booleans()):
        start = data.draw(moments)
        interval = Interval(start, start + timedelta(days=1))
        if feed.column(feed.time_column).type == "date":
            midnight = start.replace(hour=0) + timedelta(days=start.hour > 0)
            interval = Interval(midnight, midnight + timedelta(days=1))
    db.execute("drop table if exists raw.any_feed; delete from raw.rejected_rows")
    create_tables(dsn, feed)
    uri = f"{tmp_path}/*"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_BLOCK_BYTES", block_bytes)
        patch.setattr(staging, "_FEW_DAYS", data.draw(st.sampled_from([0, 1, 8])))
        result = load(feed, dsn, source_uri=uri, start=interval.start, end=interval.end, max_rejected=1)
    with psycopg.connect(dsn) as connection:
        expected = raw_rows.expected(feed, uri, interval, connection)
        actual = raw_rows.actual(feed, connection)
    assert actual.rejected == expected.rejected
    assert actual.rows == expected.rows
    assert (actual.sums, actual.smallest, actual.largest) == (expected.sums, expected.smallest, expected.largest)
    assert (result.read, result.loaded, result.outside) == (expected.read, len(expected.rows), expected.outside)
