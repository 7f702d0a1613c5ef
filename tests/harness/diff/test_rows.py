"""Tables whose rows are compared: their keys, columns, shapes and sizes."""

import re
from typing import Any

import psycopg
import pytest
from psycopg import sql

from harness.diff.results import ColumnChange, DuplicateKeys, Example, Rows
from harness.diff.rows import compare_rows
from tests.harness.diff.conftest import Databases

NUMBERS = "(id, value) as select i, i * 10 from generate_series(1, 9) as i"


def counts(rows: Rows) -> tuple[int, int, int]:
    """Return how many ROWS were added, removed and changed."""
    return rows.added, rows.removed, rows.changed


def test_a_difference_is_said_whole(databases: Databases) -> None:
    branch = """(id, value) as
        select i, case i when 2 then 21 when 3 then null when 4 then 37 else i * 10 end
        from generate_series(2, 10) as i"""
    rows = databases.made(NUMBERS, branch, ["id"])
    digests = rows.digests
    assert rows == Rows(
        base_rows=9,
        branch_rows=9,
        added=1,
        removed=1,
        changed=3,
        columns=[ColumnChange("value", "integer", 3, 1, 0, "-3", "-3", "1")],
        examples=[
            Example("changed", {"id": "2"}, {"value": "20"}, {"value": "21"}),
            Example("changed", {"id": "3"}, {"value": "30"}, {"value": None}),
            Example("changed", {"id": "4"}, {"value": "40"}, {"value": "37"}),
            Example("removed", {"id": "1"}, {"value": "10"}, None),
            Example("added", {"id": "10"}, None, {"value": "100"}),
        ],
        digests=digests,
    )
    assert digests["base"] != digests["branch"]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests.values())


def test_the_same_rows_in_another_order_have_the_same_digest(databases: Databases) -> None:
    rows = databases.made(NUMBERS, f"{NUMBERS} order by i desc", ["id"])
    assert rows == Rows(9, 9, digests=rows.digests)
    assert rows.digests["base"] == rows.digests["branch"]


@pytest.mark.parametrize("key", [["id"], []])
def test_rows_that_swap_a_value_are_found(
    databases: Databases, key: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sum of PostgreSQL's hashes of records stays the same: each is a sum of its columns' hashes.
    monkeypatch.setattr("harness.diff.rows.BUCKETS", 1)
    values = "(id, a, b) as values (1, 'x'::text, 'u'::text), (2, 'y', 'v'), (3, 'z', 'w')"
    swapped = "(id, a, b) as values (1, 'y'::text, 'u'::text), (2, 'x', 'v'), (3, 'z', 'w')"
    rows = databases.made(values, swapped, key)
    assert counts(rows) == ((0, 0, 2) if key else (2, 2, 0))
    assert databases.made(values, values, key).are_same


def test_rows_of_a_doubled_key_that_swap_a_value_are_found(databases: Databases) -> None:
    rows = databases.made(
        "(id, a, b) as values (1, 'x'::text, 'u'::text), (1, 'y', 'v')",
        "(id, a, b) as values (1, 'y'::text, 'u'::text), (1, 'x', 'v')",
        ["id"],
    )
    assert counts(rows) == (0, 0, 2)
    assert [(column.name, column.rows) for column in rows.columns] == [("b", 2)]


def test_a_key_of_one_side_is_doubled(databases: Databases) -> None:
    rows = databases.made(NUMBERS, f"{NUMBERS} union all select i, 50 from generate_series(5, 6) as i", ["id"])  # noqa: S608
    assert counts(rows) == (2, 0, 0)
    assert rows.duplicates == {"branch": DuplicateKeys(2, 2, {"id": "5"})}
    assert [(example.kind, example.key, example.branch) for example in rows.examples] == [
        ("added", {"id": "5"}, {"value": "50"}),
        ("added", {"id": "6"}, {"value": "50"}),
    ]


def test_rows_of_a_doubled_key_are_matched_if_equal_and_else_in_order(databases: Databases) -> None:
    rows = databases.made(
        "(id, value) as values (1, 10), (1, 10), (1, 20), (1, 30), (2, 5), (2, 5), (null, 1), (null, 1)",
        "(id, value) as values (1, 30), (1, 10), (1, 21), (2, 5), (2, 5), (2, 6), (null, 2), (null, 1)",
        ["id"],
    )
    # Of key 1 are left 10 and 20 in the base and 21 in the branch, of key 2 a 6, of NULL a 1 and a 2.
    assert counts(rows) == (1, 1, 2)
    [column] = rows.columns
    assert column == ColumnChange("value", "integer", 2, 0, 0, "1", "1", "11")
    assert rows.duplicates == {
        "base": DuplicateKeys(3, 4, {"id": "1"}),
        "branch": DuplicateKeys(3, 3, {"id": "1"}),
    }


def test_a_wrong_key_with_many_rows_takes_no_time_of_their_square(databases: Databases) -> None:
    many = "(id, value) as select 1, i from generate_series(1, 20000) as i"
    databases.both("set statement_timeout = '10s'")
    rows = databases.made(many, f"{many} union all select 1, 0", ["id"])
    assert counts(rows) == (1, 0, 0)
    assert rows.duplicates["branch"] == DuplicateKeys(1, 20001, {"id": "1"})


def test_null_is_a_key_like_another(databases: Databases) -> None:
    rows = databases.made(
        "(a, b, value) as values (1, null, 10), (null, 1, 20), (null, null, 30)",
        "(a, b, value) as values (1, null, 11), (null, 2, 20), (null, null, 30)",
        ["a", "b"],
    )
    assert counts(rows) == (1, 1, 1)
    assert rows.examples == [
        Example("changed", {"a": "1", "b": None}, {"value": "10"}, {"value": "11"}),
        Example("removed", {"a": None, "b": "1"}, {"value": "20"}, None),
        Example("added", {"a": None, "b": "2"}, None, {"value": "20"}),
    ]


def test_without_a_key_rows_are_compared_as_a_multiset(databases: Databases) -> None:
    rows = databases.made(
        "(a, b) as values (1, 'x'), (1, 'x'), (1, 'x'), (2, null), (3, 'y')",
        "(a, b) as values (1, 'x'), (2, null), (2, null), (3, 'z')",
    )
    assert counts(rows) == (2, 3, 0)
    assert rows.duplicates == {}
    assert rows.columns == []
    assert rows.examples == [
        *(Example("removed", {}, {"a": "1", "b": "x"}, None) for _ in range(2)),
        Example("removed", {}, {"a": "3", "b": "y"}, None),
        Example("added", {}, None, {"a": "2", "b": None}),
        Example("added", {}, None, {"a": "3", "b": "z"}),
    ]


def test_a_key_that_one_side_has_not_leaves_a_multiset(databases: Databases) -> None:
    rows = databases.made("(id, value) as values (1, 10), (2, 10)", "(value) as values (10), (20)", ["id"], [])
    assert counts(rows) == (1, 1, 0)
    assert rows.duplicates == {}
    assert rows.examples == [
        Example("removed", {}, {"value": "10"}, None),
        Example("added", {}, None, {"value": "20"}),
    ]


def test_the_key_of_the_branch_counts(databases: Databases) -> None:
    base = "(a, b, value) as values (1, 1, 10), (2, 1, 20)"
    branch = "(a, b, value) as values (1, 1, 10), (1, 2, 10), (2, 1, 21)"
    assert counts(databases.made(base, branch, ["a"], ["a", "b"])) == (1, 0, 1)
    comparison = databases.prepared("t", ["a", "b"], ["a"], is_unique=True)
    # The base enforces (a, b), which does not make `a` unique; the branch's table is taken at its word.
    databases.base.execute("insert into compared.t values (1, 3, 0)")
    assert compare_rows(comparison).duplicates == {"base": DuplicateKeys(1, 2, {"a": "1"})}


@pytest.mark.parametrize("key", [["id"], []])
def test_empty_tables(databases: Databases, key: list[str]) -> None:
    empty = "(id integer, value integer)"
    assert databases.made(empty, empty, key) == Rows(0, 0, digests=databases.made(empty, empty, key).digests)
    added, removed = databases.made(empty, NUMBERS, key), databases.made(NUMBERS, empty, key)
    assert (added.base_rows, added.branch_rows, counts(added)) == (0, 9, (9, 0, 0))
    assert (removed.base_rows, removed.branch_rows, counts(removed)) == (9, 0, (0, 9, 0))
    assert [len(rows.examples) for rows in (added, removed)] == [5, 5]
    assert added.slices == removed.slices == []


def test_without_a_common_column_only_rows_are_counted(databases: Databases) -> None:
    rows = databases.made("(a) as values (1), (2), (3)", "(b) as values ('x')", ["a"], ["b"])
    assert rows == Rows(3, 1, added=0, removed=2, digests=rows.digests)
    rows = databases.made("()", "(b) as values ('x')")
    assert rows == Rows(0, 1, added=1, removed=0, digests=rows.digests)


NAMES = [
    "%",
    "%s",
    "{}",
    "{0}",
    'quo"te',
    "sp ace",
    "select",
    "a",
    "b",
    "base",
    "branch",
    "key_hash",
    "hash",
    "c0",
    "é",
    "c1.x",
]
# Of temporary tables and of columns in queries of the comparison.
TABLES = ["base_rows", "branch_rows", "changed_rows", "added_rows", "removed_rows", "base_rest", "hashed", "%t", "{}"]


def test_columns_of_any_name(databases: Databases) -> None:
    columns = ", ".join(sql.Identifier(name).as_string() for name in NAMES)
    values = ", ".join(map(str, range(len(NAMES))))
    other = ", ".join(f"{i + (i > 1)}" for i in range(len(NAMES)))
    rows = databases.made(f"({columns}) as values ({values})", f"({columns}) as values ({other})", NAMES[:2])
    assert counts(rows) == (0, 0, 1)
    assert [(column.name, column.smallest) for column in rows.columns] == [(name, "1") for name in NAMES[2:]]
    [example] = rows.examples
    assert (example.key, list(example.base or {})) == ({"%": "0", "%s": "1"}, NAMES[2:])
    # The same names as what slices are found by: each of 20 rows of 100 has its value for a condition.
    values = ", (i <= 20)::text" * len(NAMES[2:])
    table = f"({columns}) as select i, i{values} from generate_series(1, 100) as i"  # noqa: S608
    rows = databases.made(table, f"{table} where i > 20", NAMES[:1])
    assert [(each.of, each.inside, each.rows) for each in rows.slices] == [("removed", 20, 20)]


@pytest.mark.parametrize("path", ["compared, pg_temp", "compared, public, pg_catalog", ""])
def test_tables_of_the_names_that_the_comparison_has(databases: Databases, path: str) -> None:
    databases.both(f"set search_path = {path or repr('')}")
    for table in TABLES:
        name = sql.Identifier("compared", table).as_string()
        databases.both(f"create table {name} as select i as id, i as value from generate_series(1, 9) as i")  # noqa: S608
        databases.branch.execute(f"update {name} set value = 0 where id = 5; insert into {name} values (5, 5)".encode())  # noqa: S608
    for table in TABLES:
        rows = databases.compare(table, ["id"])
        assert (counts(rows), rows.branch_rows) == ((1, 0, 0), 10), table
        assert [example.branch for example in rows.examples] == [{"value": "0"}], table
    databases.both("reset search_path")


def test_views_partitioned_tables_and_generated_columns(databases: Databases) -> None:
    databases.both("""
        create table compared.p
            (day date, id integer, value integer, twice integer generated always as (value * 2) stored)
            partition by range (day);
        create table compared.p1 partition of compared.p for values from ('2020-01-01') to ('2020-02-01');
        create table compared.p2 partition of compared.p default;
        insert into compared.p select date '2020-01-01' + i, i, i from generate_series(1, 60) as i;
        create view compared.v as select *, value || '%' as text from compared.p where id > 10 order by id desc;
        create materialized view compared.m as table compared.p;
    """)
    databases.branch.execute("update compared.p set value = 0 where id in (5, 50)")
    rows = databases.compare("p", ["day", "id"])
    assert (counts(rows), [(column.name, column.rows) for column in rows.columns]) == (
        (0, 0, 2),
        [("value", 2), ("twice", 2)],
    )
    rows = databases.compare("v", ["id"])
    assert (counts(rows), rows.base_rows) == ((0, 0, 1), 50)
    assert [column.name for column in rows.columns] == ["value", "twice", "text"]
    assert databases.compare("m", ["id"]).are_same
    databases.branch.execute("refresh materialized view compared.m")
    assert counts(databases.compare("m")) == (2, 2, 0)
    databases.branch.execute("drop view compared.v; create table compared.v as select * from compared.p where false")
    assert counts(databases.compare("v", ["id"])) == (0, 50, 0)


@pytest.mark.parametrize("key", [["c1", "c2"], []])
def test_a_thousand_columns(databases: Databases, key: list[str]) -> None:
    columns = ", ".join(f"c{i} bigint" for i in range(1000))
    databases.both(f"create table compared.wide ({columns})")
    databases.both("insert into compared.wide (c1, c2) select i, i from generate_series(1, 7) as i")
    assert databases.compare("wide", key).are_same
    databases.branch.execute("update compared.wide set c999 = 1 where c1 = 7")
    rows = databases.compare("wide", key)
    assert counts(rows) == ((0, 0, 1) if key else (1, 1, 0))
    databases.both("update compared.wide set c1 = -c1")  # all columns with values: rows of 8 KB
    every = ", ".join(f"c{i} = coalesce(c{i}, {i})" for i in range(1000))
    databases.both(f"update compared.wide set {every}")  # noqa: S608
    databases.branch.execute(
        f"update compared.wide set {', '.join(f'c{i} = c{i} + 1' for i in range(3, 1000, 12))}".encode()  # noqa: S608
    )
    if key:
        rows = databases.compare("wide", key)
        assert counts(rows) == (0, 0, 7)
        assert len(rows.columns) == 84  # each has a query of its own
        assert len(rows.examples[0].base or {}) == 84


def test_rows_of_a_megabyte(databases: Databases) -> None:
    large = "(id, a, b) as select i, repeat(i::text, 500000), {} from generate_series(1, 4) as i"
    rows = databases.made(large.format("repeat('x', 500000)"), large.format("repeat('x', 499999) || i"), ["id"])
    assert counts(rows) == (0, 0, 4)
    assert [column.name for column in rows.columns] == ["b"]
    assert [len((example.base or {})["b"] or "") for example in rows.examples] == [500000] * 4


def test_json_that_jsonb_cannot_hold_is_compared_as_text(databases: Databases) -> None:
    table = """(id, value) as values
        (1, '{{"a": "\\u0000", "b": 1}}'::json), (2, '{{"a":{}}}'), (3, '{{"a": "\\ud83d"}}')"""
    rows = databases.made(table.format("1"), table.format(" 1"), ["id"])
    assert (counts(rows), [column.type for column in rows.columns]) == ((0, 0, 1), ["text"])
    assert counts(databases.made(table.format("1"), table.format(" 1"))) == (1, 1, 0)
    assert counts(databases.made(table.format("1"), table.format(" 1"), ["value"])) == (1, 1, 0)


def is_built_with(databases: Databases, feature: str) -> bool:
    """Return whether the server can do what FEATURE needs; an image that is not PostgreSQL's own may lack it."""
    try:
        databases.base.execute(feature)
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


@pytest.mark.needs("postgres-image")  # that of the wheel has no ICU
def test_text_is_compared_byte_for_byte_whatever_its_collation(databases: Databases) -> None:
    if not is_built_with(databases, "create collation compared.any_icu (provider = icu, locale = 'und')"):
        return
    databases.both(
        "create collation compared.blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false)"
    )
    databases.both(
        "create table compared.c (id integer, value text collate compared.blind, list text[] collate compared.blind)"
    )
    databases.both("insert into compared.c values (1, 'a', '{a}'), (2, 'b', '{b}')")
    databases.branch.execute("update compared.c set value = upper(value) where id = 1")
    databases.branch.execute("update compared.c set list = '{B}' where id = 2")
    rows = databases.compare("c", ["id"])
    assert (counts(rows), [(column.name, column.rows) for column in rows.columns]) == (
        (0, 0, 2),
        [("value", 1), ("list", 1)],
    )
    assert counts(databases.compare("c", ["value"])) == (1, 1, 1)
    assert counts(databases.compare("c")) == (2, 2, 0)


@pytest.mark.needs("postgres-image")  # nor extensions
def test_citext_is_text_of_which_the_case_counts(databases: Databases) -> None:
    databases.both("create extension citext schema compared")
    databases.both("create table compared.c (id integer, value compared.citext, list compared.citext[])")
    databases.both("insert into compared.c values (1, 'a', '{a}'), (2, 'b', '{b}')")
    databases.branch.execute(
        "update compared.c set value = 'A' where id = 1; update compared.c set list = '{B}' where id = 2"
    )
    rows = databases.compare("c", ["id"])
    assert (counts(rows), [(column.name, column.rows) for column in rows.columns]) == (
        (0, 0, 2),
        [("value", 1), ("list", 1)],
    )
    rows = databases.compare("c", ["value"])
    assert (counts(rows), rows.duplicates) == ((1, 1, 1), {})


@pytest.mark.needs("postgres-image")  # nor XML
def test_xml_is_compared_as_text(databases: Databases) -> None:
    if not is_built_with(databases, "select '<a/>'::xml"):
        return
    base, branch = (
        "(id, value) as values (1, '<a/>'::xml), (2, '<b/>')".replace("<b/>", b) for b in ("<b/>", "<b></b>")
    )
    assert counts(databases.made(base, branch, ["id"])) == (0, 0, 1)
    assert counts(databases.made(base, branch)) == (1, 1, 0)
    assert databases.made(base, base, ["value"]).are_same


# Type, values of the base, values of the branch, smallest, median and largest difference.
DIFFERENCES: list[tuple[str, list[str], list[str], tuple[Any, ...]]] = [
    (
        "bigint",
        ["-9223372036854775808", "9223372036854775807"],
        ["9223372036854775807", "0"],
        ("-9223372036854775807", "-9223372036854775807", "18446744073709551615"),
    ),
    ("numeric(18,6)", ["1.5", "2", "3"], ["1.25", "2.5", "13"], ("-0.25", "0.5", "10")),
    ("double precision", ["1", "0.3"], ["'NaN'", "0.30000000000000004"], ("0.00000000000000004",) * 3),
    ("double precision", ["'-1e308'"], ["'1e308'"], (f"2{'0' * 308}",) * 3),
    ("numeric", ["'Infinity'", "null", "1"], ["'-Infinity'", "2", "null"], (None, None, None)),
    ("real", ["0.1"], ["0.2"], ("0.1",) * 3),
    ("date", ["'2020-01-31'", "'infinity'"], ["'2020-03-01'", "'2020-01-01'"], ("30",) * 3),
    ("date", ["'4713-01-01 BC'"], ["'5874897-12-31'"], (None, None, None)),
    (
        "timestamp",
        ["'2020-01-01 12:00'", "'2020-01-01'"],
        ["'2020-01-01 10:30'", "'2020-01-03 00:00:01'"],
        ("-1 day, 22:30:00", "-1 day, 22:30:00", "2 days, 0:00:01"),
    ),
    ("timestamp", ["'4713-01-01 BC'"], ["'294276-12-31'"], (None, None, None)),
    (
        "timestamptz",
        ["'2020-01-01 12:00+00'", "'-infinity'"],
        ["'2020-01-01 12:00+02'", "'infinity'"],
        ("-1 day, 22:00:00",) * 3,
    ),
    ("text", ["'1'"], ["'2'"], (None, None, None)),
    ("interval", ["'1 day'"], ["'2 days'"], (None, None, None)),
]


@pytest.mark.parametrize(("type_", "base", "branch", "figures"), DIFFERENCES)
def test_how_far_values_differ(
    databases: Databases, type_: str, base: list[str], branch: list[str], figures: tuple[str | None, ...]
) -> None:
    for connection, values in ((databases.base, base), (databases.branch, branch)):
        rows = ", ".join(f"({i}, {value})" for i, value in enumerate(values))
        connection.execute(
            f"create table compared.t (id integer, value {type_}); insert into compared.t values {rows}".encode()  # noqa: S608
        )
    [column] = databases.compare("t", ["id"]).columns
    assert column.rows == len(base)
    assert (column.smallest, column.median, column.largest) == figures
    assert (column.became_null, column.was_null) == (branch.count("null"), base.count("null"))


def test_a_value_that_is_equal_is_not_shown_as_changed(databases: Databases) -> None:
    rows = databases.made("(id, a, b) as values (1, 1.0, 'x')", "(id, a, b) as values (1, 1.00, 'y')", ["id"])
    assert rows.examples == [Example("changed", {"id": "1"}, {"b": "x"}, {"b": "y"})]
