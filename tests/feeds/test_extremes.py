"""Values, files and contracts at the limits: each is read as its contract says, or refused; none is a traceback."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feeds.contract import Column, Csv, Drift, Feed, Format, Properties, Rule
from feeds.errors import ContractInvalid, SettingUnusable
from feeds.files import find_files
from feeds.interval import ALWAYS, Interval
from feeds.load import load
from feeds.replayed_rejects import replay
from feeds.tables import create_tables
from harness.oracle import raw_rows
from harness.warehouse.roles import Warehouse
from tests.feeds.common import contract, query

KEY = Column("k", "k", "integer", "bigint", is_required=True)
JSON = Column("j", "j", "json", "jsonb")
TEXT = Column("s", "s", "string", "text")
TIME = Column("t", "t", "timestamp", "timestamp with time zone")


def feed_of(format_: Format, *columns: Column, rules: Sequence[str] = (), **properties: Any) -> Feed:
    named = tuple(Rule(name=f"rule_{number}", sql=rule) for number, rule in enumerate(rules))
    return Feed("extremes", "1.0.0", (KEY, *columns), ("k",), "*", format_, named, Properties(**properties))


def check(warehouse: Warehouse, feed: Feed, path: Path, content: bytes) -> dict[str, int]:
    """Load CONTENT, compare what the load leaves with the oracle, and return the rejected rows by reason."""
    path.write_bytes(content)
    create_tables(warehouse.loader_dsn, feed)
    result = load(feed, warehouse.loader_dsn, source_uri=str(path), max_rejected=1)
    with psycopg.connect(warehouse.loader_dsn) as db:
        expected, actual = raw_rows.expected(feed, str(path), ALWAYS, db), raw_rows.actual(feed, db)
    assert (actual.digest, actual.rejected) == (expected.digest, expected.rejected)
    assert (result.read, result.loaded) == (expected.read, len(expected.rows))
    return dict(result.reasons)


def nested(levels: int, *, of: str) -> str:
    opened, closed = ('{"a":', "}") if of == "objects" else ("[", "]")
    return opened * (levels - 1) + "{}" + closed * (levels - 1)


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize("of", ["objects", "arrays"])
@pytest.mark.parametrize("new_column", ["refuse", "keep"])
def test_json_of_many_levels_is_rejected(bare_warehouse: Warehouse, tmp_path: Path, of: str, new_column: str) -> None:
    columns = [JSON] if new_column == "refuse" else []
    feed = feed_of("jsonl", *columns, drift=Drift(new_column=new_column))  # type: ignore[arg-type]
    lines = [f'{{"k":{levels},"j":{nested(levels, of=of)}}}\n' for levels in (1, 199, 200, 450, 900, 2_000)]
    found = check(bare_warehouse, feed, tmp_path / "file", "".join(lines).encode())
    assert found == {"json": 4}  # of 200 levels, too: the row is another one


def test_json_of_many_levels_in_csv_is_rejected(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    texts = [nested(levels, of="objects").replace("{}", r'"\u0041"') for levels in (1, 201, 202, 450, 946, 2_000)]
    lines = ['{},"{}"\n'.format(number, text.replace('"', '""')) for number, text in enumerate(texts)]
    found = check(bare_warehouse, feed_of("csv", JSON), tmp_path / "file", "".join(["k,j\n", *lines]).encode())
    assert found == {"j: type": 4}


def test_a_row_is_as_long_as_it_is_in_the_file(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    number = Column("n", "n", "integer", "bigint")
    simple = '{{"k":{},"s":"{}","n":1}}'
    too_much = "x" * ((1 << 20) - len(simple.format(7, "")) + 1)  # without the keys it would be short enough
    lines = [
        *(simple.format(n, "x") for n in range(3)),
        simple.format(3, too_much),
        simple.format(4, too_much[1:]),
        '{{"k":5,"j":[{}]}}'.format(",".join(["1"] * 450_000)),
        '{{"k":6,"j":"{}"}}'.format(r"\t" * 450_000),
    ]
    feed = feed_of("jsonl", TEXT, number, JSON)
    assert check(bare_warehouse, feed, tmp_path / "file", "\n".join(lines).encode()) == {"too_long": 1}


def test_times_that_overflow_are_rejected(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    last = 2**63 - 1  # which some programs write for no end; as microseconds it would be in 1969
    content = parquet(k=[1, 2, 3, 4], t=pa.array([0, last, -last - 1, None], pa.timestamp("ms")))
    assert check(bare_warehouse, feed_of("parquet", TIME), tmp_path / "file", content) == {"t: type": 2}


def test_digits_of_nanoseconds_are_cut_off(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    for zone in (None, "Asia/Kolkata"):
        content = parquet(k=[1, 2, 3], t=pa.array([-1, 1_999, 2**63 - 1], pa.timestamp("ns", zone)))
        assert check(bare_warehouse, feed_of("parquet", TIME), tmp_path / "file", content) == {}
        found = query(
            bare_warehouse.loader_dsn, "select extract(epoch from t)::text from raw.extremes order by k limit 2"
        )
        assert found == [("-0.000001",), ("0.000001",)]


def test_int96_of_any_year(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    file = io.BytesIO()
    texts = ["9999-12-31 00:00:00", "0001-01-01 00:00:00", "2020-01-01 01:02:03.456789"]
    table = pa.table({"k": [1, 2, 3], "t": pa.array(texts).cast(pa.timestamp("us"))})
    pq.write_table(table, file, use_deprecated_int96_timestamps=True)
    assert check(bare_warehouse, feed_of("parquet", TIME), tmp_path / "file", file.getvalue()) == {}


def test_json_in_a_text_of_parquet_comes_back_as_json(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    dsn, path = bare_warehouse.loader_dsn, tmp_path / "file"
    feed = feed_of("parquet", JSON, rules=["k > 5"])
    texts = ['{"a": 1.50}', '"x"', "[1]", '{"a": 1, "a": 2}', "{"]
    found = check(bare_warehouse, feed, path, parquet(k=[1, 2, 3, 8, 9], j=texts))
    assert found == {"rule_0: rule": 3, "j: type": 2}
    result = replay(replace(feed, rules=()), dsn)
    assert (result.loaded, dict(result.reasons)) == (3, {"j: type": 2})
    rows = query(dsn, "select k, j::text from raw.extremes order by k")
    assert rows == [(1, '{"a": 1.50}'), (2, '"x"'), (3, "[1]")]


def test_the_oracle_knows_any_rule(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    feed = feed_of("csv", TEXT, JSON, rules=["k % 2 = 0", "s like 'a%'", "j <> '{}'"])
    lines = ["k,s,j", "1,ab,1", "2,ab,1.50", "4,b,true", '6,a,"""x"""', "8,a,{}", "10,a,"]
    found = check(bare_warehouse, feed, tmp_path / "file", "\n".join(lines).encode())
    assert found == {"rule_0: rule": 1, "rule_1: rule": 1, "rule_2: rule": 1}


def test_a_header_may_be_the_null_text(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    feed = feed_of("csv", replace(TEXT, header="NA"), csv=Csv(null_text="NA"))
    assert check(bare_warehouse, feed, tmp_path / "file", b"k,NA\n1,x\n2,NA\n") == {}


def test_a_location_has_known_times(tmp_path: Path) -> None:
    for times in ("{start:}", "{start:%Q}", "{start:%d}", "{start:%Y%j}"):
        with pytest.raises(SettingUnusable, match="has a part in braces that is no time"):
            find_files(f"{tmp_path}/{times}.csv")


def test_the_last_year_has_a_file(tmp_path: Path) -> None:
    (tmp_path / "9999.csv").touch()
    last = Interval(datetime(9999, 12, 1, tzinfo=UTC), datetime(9999, 12, 31, 12, tzinfo=UTC))
    for interval in (last, Interval(last.start, None), ALWAYS):
        assert find_files(f"{tmp_path}/{{start:%Y}}.csv", interval) == [f"{tmp_path}/9999.csv"]


def test_the_last_day_of_dates(bare_warehouse: Warehouse, tmp_path: Path) -> None:
    feed = feed_of("csv", replace(TIME, type="date", sql_type="date", is_required=True), timeColumn="t")
    path = tmp_path / "file"
    path.write_text("k,t\n1,9999-12-31\n2,9999-12-30\n")
    create_tables(bare_warehouse.loader_dsn, feed)
    options: dict[str, Any] = {"source_uri": str(path), "start": datetime(9999, 12, 31, tzinfo=UTC)}
    assert load(feed, bare_warehouse.loader_dsn, end=datetime(9999, 12, 31, 12, tzinfo=UTC), **options).loaded == 1


KEYS = "{name: k, logicalType: integer, primaryKey: true}"


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (f"&a {KEYS}, {{name: s, logicalType: string, tags: &b [*b]}}", "its aliases repeat too much"),
        (f"{KEYS}, {{name: s, tags: {'[' * 1_000}{']' * 1_000}}}", "it has too many levels"),
        (f"{KEYS}, {{name: s, description: '\0'}}", "special characters are not allowed"),
        (f"{KEYS}, {{name: n, logicalType: number, physicalType: 'numeric({'9' * 5_000},0)'}}", "physicalType is"),
        (
            f"{KEYS}, {{name: s, logicalType: string, customProperties: [{{property: header, value: null}}]}}",
            "header is None",
        ),
        (
            f"{KEYS}, {{name: s, logicalType: string,"
            " quality: [{metric: invalidValues, mustBe: 0, arguments: {validValues: [a, null]}}]}",
            "validValues has None",
        ),
        (", ".join(KEYS.replace("k", f"k{n}", 1) for n in range(33)), "has 33 columns, 33 of them in the key"),
        (
            f"{KEYS}, {', '.join(f'{{name: c{n}, logicalType: integer}}' for n in range(1_600))}",
            "has 1601 columns, 1 of them in the key",
        ),
    ],
)
def test_a_contract_at_the_limits_is_refused(tmp_path: Path, columns: str, problem: str) -> None:
    with pytest.raises(ContractInvalid) as error:
        contract(tmp_path, "extremes", columns)
    assert problem in error.value.what


def test_aliases_that_grow_are_refused(tmp_path: Path) -> None:
    lists = ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]" for n in range(12))
    with pytest.raises(ContractInvalid) as error:
        contract(tmp_path, "extremes", f"{KEYS}, {{name: s, logicalType: string, tags: [{lists}]}}")
    assert "its aliases repeat too much" in error.value.what
    merged = contract(tmp_path, "extremes", f"{KEYS}, &s {{name: s, logicalType: string}}, {{<<: *s, name: t}}")
    assert json.dumps([column.name for column in merged.columns]) == '["k", "s", "t"]'


def test_rows_of_a_parquet_file_with_a_column_of_another_type_do_not_come_back(
    bare_warehouse: Warehouse, tmp_path: Path
) -> None:
    feed = feed_of("parquet", Column("d", "d", "date", "date"), drift=Drift(changed_type="reject"))
    content = parquet(k=[1, 2], d=["2020-01-01", None])
    assert check(bare_warehouse, feed, tmp_path / "a", content) == {"d: type": 1}
    assert replay(feed, bare_warehouse.loader_dsn).read == 0
    [header] = query(bare_warehouse.loader_dsn, "select header from raw.loaded_files")
    assert header == ("d string",)
