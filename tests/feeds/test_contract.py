"""Contracts: what each says, and that each flaw is refused with its line, its field and what to do."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from feeds.contract import CONTRACTS, OTHER_COLUMNS, Column, Csv, Drift, Feed, Properties, Rule, read_feed, read_feeds
from feeds.errors import ContractInvalid

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
name: orders
version: 1.2.3
status: active
servers:
  - server: files
    type: s3
    location: s3://bucket/orders/{start:%Y/%m/%d}/*.csv
    format: csv
    delimiter: ";"
customProperties:
  - {property: timeColumn, value: ordered_at}
  - {property: cadences, value: [daily, weekly]}
  - {property: maxRejected, value: 0.5}
  - {property: timeZone, value: Europe/Amsterdam}
  - property: csv
    value: {quote: "'", null_text: NULL!, encoding: windows-1252, decimal: ","}
  - property: drift
    value: {new_column: keep, missing_column: null, column_order: accept, changed_type: reject}
schema:
  - name: orders
    properties:
      - name: order_id
        logicalType: integer
        primaryKey: true
        primaryKeyPosition: 2
      - name: shop
        logicalType: string
        logicalTypeOptions: {format: uuid}
        primaryKey: true
        primaryKeyPosition: 1
      - name: ordered_at
        logicalType: timestamp
        required: true
        customProperties: [{property: header, value: Ordered At}]
      - name: state
        logicalType: string
        required: true
        quality:
          - {type: text, description: What the shop says.}
          - {metric: invalidValues, arguments: {validValues: [new, true, 7]}, mustBe: 0}
      - name: code
        logicalType: string
        logicalTypeOptions: {pattern: "[A-Z]+", minLength: 2, maxLength: 8}
      - {name: price, logicalType: number, physicalType: "numeric(10, 2)"}
      - {name: weight, logicalType: number}
      - {name: paid, logicalType: boolean}
      - {name: due, logicalType: date}
      - {name: more, logicalType: object}
      - {name: tags, logicalType: array}
    customProperties:
      - property: rules
        value:
          - {name: paid_has_price, sql: "not paid or price > 0"}
"""
MOMENT = "timestamp with time zone"


@pytest.fixture
def contract(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes the contract with a text in place of another one, and returns its path."""

    def write(old: str = "", new: str = "", name: str = "orders.yaml") -> Path:
        assert CONTRACT.count(old) == 1 or not old
        path = tmp_path / name
        path.write_text(CONTRACT.replace(old, new) if old else CONTRACT)
        return path

    return write


def test_a_contract_is_read(contract: Callable[..., Path]) -> None:
    columns = (
        Column("order_id", "order_id", "integer", "bigint", is_required=True),
        Column("shop", "shop", "uuid", "uuid", is_required=True),
        Column("ordered_at", "Ordered At", "timestamp", MOMENT, is_required=True),
        Column("state", "state", "string", "text", is_required=True, values=("new", "true", "7")),
        Column("code", "code", "string", "text", pattern="[A-Z]+", lengths=(2, 8)),
        Column("price", "price", "number", "numeric(10,2)", digits=(8, 2)),
        Column("weight", "weight", "number", "numeric"),
        Column("paid", "paid", "boolean", "boolean"),
        Column("due", "due", "date", "date"),
        Column("more", "more", "json", "jsonb"),
        Column("tags", "tags", "json", "jsonb"),
    )
    found = read_feed(contract())
    assert found == Feed(
        name="orders",
        version="1.2.3",
        columns=columns,
        key=("shop", "order_id"),
        location="s3://bucket/orders/{start:%Y/%m/%d}/*.csv",
        format="csv",
        rules=(Rule(name="paid_has_price", sql="not paid or price > 0"),),
        properties=Properties(
            timeColumn="ordered_at",
            cadences=("daily", "weekly"),
            maxRejected=0.5,
            timeZone="Europe/Amsterdam",
            csv=Csv(delimiter=";", quote="'", null_text="NULL!", encoding="windows-1252", decimal=","),
            drift=Drift(new_column="keep", missing_column="null", column_order="accept", changed_type="reject"),
        ),
    )
    assert found.table_columns == (*columns, OTHER_COLUMNS)


def test_the_contracts_of_this_project_are_valid() -> None:
    assert "events" in read_feeds(CONTRACTS)


FLAWS = [  # the text to replace, by what, the line that the message names, what it says
    ("id: orders", "id: [orders", 4, "not YAML"),
    ("kind: DataContract", "kind: DataContract\nkind: DataContract", 2, "kind is there twice"),
    ("kind: DataContract", "kind: Something", 1, "apiVersion is not v3.1.0"),
    ("v3.1.0", "v2.2.2", 1, "apiVersion is not v3.1.0"),
    ("version: 1.2.3", "version: one", 5, "version is 'one'"),
    ("status: active", "statis: active", 6, "statis is not valid"),
    (
        "primaryKeyPosition: 2",
        "primarykeyposition: 2",
        28,
        "schema.orders.properties.order_id.primarykeyposition is no field of the standard",
    ),
    ("name: orders\nversion", "name: order\nversion", 4, "name is 'order'"),
    ("  - name: orders", "  - name: order", 23, "schema.order.name is 'order'"),
    ("    format: csv", "    format: xml", 11, "format is 'xml'"),
    ("    format: csv", "    format: parquet", 19, "customProperties.csv is for CSV, and the format is parquet"),
    ("    location: s3://bucket/orders/{start:%Y/%m/%d}/*.csv\n", "", 8, "neither path nor location"),
    ("{start:%Y/%m/%d}", "{start:%d}", 10, "no time"),
    ("{start:%Y/%m/%d}", "{end:%Y}", 10, "no time"),
    ("{start:%Y/%m/%d}", "{start:}", 10, "no time"),
    ('delimiter: ";"', 'delimiter: "a"', 12, "delimiter is 'a'"),
    ('delimiter: ";"', 'delimiter: ";;"', 12, "delimiter is not valid"),
    ('''quote: "'"''', 'quote: ";"', 19, "customProperties.csv.quote is ';'"),
    ("NULL!", "n;a", 19, "customProperties.csv.null_text is 'n;a'"),
    ("NULL!", "new", 19, "null_text is 'new', a valid value of state"),
    ("windows-1252", "utf-16", 19, "encoding is not valid"),
    ("new_column: keep", "new_column: maybe", 21, "drift.new_column is not valid"),
    ("new_column: keep", "new_colum: keep", 21, "drift.new_colum is not valid"),
    ("property: maxRejected, value: 0.5", "property: maxRejected, value: 5", 16, "maxRejected"),
    ("property: maxRejected, value: 0.5", "property: maxRejected, value: yes", 16, "maxRejected is not valid"),
    ("[daily, weekly]", "[daily, daily]", 15, "cadences is not valid"),
    ("[daily, weekly]", "[]", 15, "cadences is not valid"),
    ("primaryKeyPosition: 2", "primaryKeyPosition: 1", 22, "has two equal primaryKeyPosition"),
    ("property: timeZone", "property: timezone", 17, "timezone"),
    ("property: maxRejected, value: 0.5", "property: drift, value: {}", 16, "customProperties.drift is there twice"),
    ("Europe/Amsterdam", "Europe/Atlantis", 17, "timeZone is 'Europe/Atlantis'"),
    ("value: ordered_at", "value: created_at", 14, "timeColumn is 'created_at'"),
    ("value: ordered_at", "value: due", 14, "timeColumn is 'due'"),
    ("property: timeColumn, value: ordered_at", "property: history, value: true", 0, ""),
    ("maxRejected, value: 0.5", "history, value: true", 16, "history is of an interval feed"),
    ("- name: code", "- name: Code", 44, "name is 'Code'"),
    ("- name: code", "- name: ctid", 44, "name is 'ctid'"),
    ("- name: code", "- name: shop", 22, "two columns with the name 'shop'"),
    ("value: Ordered At", "value: state", 22, "two columns with the header 'state'"),
    ("property: header", "property: heading", 37, "heading is unknown"),
    ("logicalType: boolean", "logicalType: bool", 49, "logicalType is 'bool'"),
    ("numeric(10, 2)", "float", 47, "physicalType is 'float'"),
    ("numeric(10, 2)", "numeric(2, 10)", 47, "physicalType is 'numeric(2, 10)'"),
    ("format: uuid", "format: email", 31, "schema.orders.properties.shop.logicalTypeOptions.format is not uuid"),
    ("name: due, logicalType: date", "name: due, logicalType: date, unique: true", 50, "unique is not checked"),
    ("logicalType: boolean", "logicalType: boolean, logicalTypeOptions: {minimum: 0}", 49, "minimum is not known"),
    ('pattern: "[A-Z]+"', 'pattern: "[A-Z"', 46, "no regular expression of RE2"),
    ('pattern: "[A-Z]+"', 'pattern: "(?=a)"', 46, "no regular expression of RE2"),
    ('pattern: "[A-Z]+"', 'pattern: "(((a{100}){100}){100}){100}"', 46, "no regular expression of RE2"),
    ('pattern: "[A-Z]+"', "pattern: 7", 46, "a string itself"),
    ("minLength: 2", "minLength: -2", 46, "minLength is for strings"),
    ("maxLength: 8", "maxLength: 1", 46, "maxLength allows no string"),
    ("metric: invalidValues", "metric: nullValues", 43, "a check that a load does not know"),
    ("logicalType: string\n        required", "logicalType: integer\n        required", 43, "has 'new', which is none"),
    ("{name: more, logicalType: object}", "{name: more, logicalType: object, primaryKey: true}", 51, "column is json"),
    ("not paid or price > 0", "not paid); drop table raw.loads; --", 56, "semicolon or a comment"),
    ("not paid or price > 0", "paid) or (price > 0", 56, "parentheses"),
    ("not paid or price > 0", "note = 'a", 56, "a quote that is not closed"),
    ('"not paid or price > 0"', '" "', 56, "rules.paid_has_price.sql is not valid"),
    ("name: paid_has_price", "name: Paid", 56, "rules.Paid.name is not valid"),
    ("property: rules", "property: rule", 54, "rule is unknown"),
    *(
        ("status: active", f"status: active\nslaProperties: [{{property: latency, {level}}}]", 7, what)
        for level, what in (
            ("value: 2, unit: m", "slaProperties.latency.unit is 'm'"),
            ("value: 2", "slaProperties.latency.unit is ''"),
            ("value: 0, unit: h", "slaProperties.latency is 0"),
            ("value: yes, unit: h", "slaProperties.latency is True"),
            ("value: .nan, unit: h", "slaProperties.latency is nan"),
            ("value: 367, unit: d", "slaProperties.latency is 367"),
            ("value: 1, unit: h}, {property: latency, value: 2, unit: h", "slaProperties.latency is there twice"),
        )
    ),
]


@pytest.mark.parametrize(
    ("level", "latency"),
    [
        ("value: 90, unit: minutes", timedelta(minutes=90)),
        ("value: 0.5, unit: h", timedelta(minutes=30)),
        ("value: 366, unit: days", timedelta(days=366)),
    ],
)
def test_the_service_level_latency(contract: Callable[..., Path], level: str, latency: timedelta) -> None:
    assert read_feed(contract()).latency == timedelta(hours=2)
    others = f"[{{property: retention, value: 1, unit: y}}, {{property: latency, {level}}}]"
    assert read_feed(contract("status: active", f"status: active\nslaProperties: {others}")).latency == latency


@pytest.mark.parametrize(("old", "new", "line", "what"), FLAWS, ids=[f"{new[:40]}" for _, new, _, _ in FLAWS])
def test_a_flaw_is_refused_with_its_line_and_field(
    contract: Callable[..., Path], old: str, new: str, line: int, what: str
) -> None:
    path = contract(old, new)
    if not line:
        assert read_feed(path).properties.history
        return
    with pytest.raises(ContractInvalid) as refused:
        read_feed(path)
    assert refused.value.exit_code == 36
    assert str(refused.value).count("\n") == 2
    assert refused.value.what.startswith(f"{path}, line {line}: ")
    assert what in refused.value.what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- a list", "line 1: it is no mapping"),
        ("", "line 1: it is no mapping"),
        ("a: \xff", "not YAML"),
        (CONTRACT.partition("schema:")[0], "schema has 0 entries"),
        (CONTRACT.replace("primaryKey: true", "required: true"), "schema has no column with primaryKey: true"),
        (CONTRACT.partition("    properties:")[0], "schema has no properties"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "orders.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ContractInvalid, match=what):
        read_feed(tmp_path / "orders.yaml")


@pytest.mark.parametrize("name", ["loads", "partitions", "rejected_rows", "Orders", "1_orders", "a" * 31])
def test_a_feed_cannot_be_named_like_a_table_of_ours(contract: Callable[..., Path], name: str) -> None:
    with pytest.raises(ContractInvalid, match=f"cannot be named '{name}'"):
        read_feed(contract(name=f"{name}.yaml"))


def test_there_are_no_two_feeds_of_one_name(contract: Callable[..., Path], tmp_path: Path) -> None:
    contract()
    contract(name="orders.yml")
    with pytest.raises(ContractInvalid, match=r"orders\.yml, line 1: it is not named orders\.yaml"):
        read_feeds(tmp_path)
    (tmp_path / "orders.yml").unlink()
    assert list(read_feeds(tmp_path)) == ["orders"]


def test_no_feed_has_the_table_of_the_history_of_another(tmp_path: Path) -> None:
    for name in ("orders", "orders_history"):
        text = CONTRACT.replace("name: orders\n", f"name: {name}\n").replace(
            "maxRejected, value: 0.5", "history, value: true"
        )
        (tmp_path / f"{name}.yaml").write_text(text.replace("  - {property: timeColumn, value: ordered_at}\n", ""))
    with pytest.raises(ContractInvalid, match=r"raw\.orders_history is the table of orders's history"):
        read_feeds(tmp_path)


def test_a_contract_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ContractInvalid, match="cannot be read: No such file"):
        read_feed(tmp_path / "orders.yaml")
