"""The rules by which values are compared, type by type."""

import pytest

from tests.harness.diff.conftest import Databases

TYPES = """
    create type compared.mood as enum ('sad', 'ok');
    create type compared.place as (x numeric, name text);
    create domain compared.cents as bigint check (value > -100);
    create domain compared.price as compared.cents;
    create domain compared.label as text;
    create domain compared.labels as text[];
"""
# Type, value of the base, value of the branch. Each alone in a row, with a key and without.
EQUAL = [
    ("integer", "null", "null"),
    ("numeric", "1.5", "1.500"),
    ("numeric", "'NaN'", "'NaN'"),
    ("numeric", "'-Infinity'", "'-Infinity'"),
    ("numeric", "0", "-0.00"),
    ("double precision", "'-0'", "'0'"),
    ("real", "'-0'", "'0'"),
    ("double precision", "'NaN'", "'NaN'"),
    ("double precision", "'Infinity'", "'Infinity'"),
    ("char(5)", "'ab'", "'ab   '"),
    ("char(5)[]", "'{ab}'", "'{\"ab  \"}'"),
    ("json", """'{"a": 1, "b": [1, {"c": 2, "d": 3}]}'""", """'{"b":[1,{"d":3.0,"c":2}],"a":1}'"""),
    ("json", """'{"a": 1, "a": 2}'""", """'{"a": 2}'"""),
    ("jsonb", """'{"a": 1.0}'""", """'{"a": 1.00}'"""),
    ("json[]", """array['{"a": 1, "b": 2}'::json]""", """array['{"b": 2, "a": 1}'::json]"""),
    ("timestamptz", "'2020-01-01 12:00+00'", "'2020-01-01 13:00+01'"),
    ("timestamptz", "'infinity'", "'infinity'"),
    ("interval", "'1 day'", "'24 hours'"),
    ("numeric[]", "'{1.0,null}'", "'{1.00,null}'"),
    ("numrange", "'[1.0,2)'", "'[1.00,2.0)'"),
    ("int4range", "'[1,2]'", "'[1,3)'"),
    ("inet", "'10.0.0.1'", "'10.0.0.1/32'"),
    ("point", "'(1,2)'", "'(1,2)'"),
    ("compared.price", "5", "5"),
]
DIFFERENT = [
    ("integer", "null", "0"),
    ("text", "null", "''"),
    ("boolean", "null", "false"),
    ("boolean", "true", "false"),
    ("smallint", "-32768", "32767"),
    ("integer", "-2147483648", "2147483647"),
    ("bigint", "-9223372036854775808", "9223372036854775807"),
    ("bigint", "-1", "4294967295"),  # these have one hash in PostgreSQL, as all numbers with the same 32 bits
    ("bigint", "1", "4294967296"),
    ("bigint", "0", "null"),
    ("numeric", "5", "-5"),  # and these
    ("numeric", "'NaN'", "null"),
    ("numeric", "'NaN'", "'Infinity'"),
    ("numeric", "'-Infinity'", "'Infinity'"),
    ("numeric", "'Infinity'", "null"),
    ("numeric", "0", "null"),
    ("numeric", "1", "10000"),
    ("numeric", "1e-300", "1e-301"),
    ("numeric(20,10)", "0.0000000001", "0.0000000002"),
    ("double precision", "'1e308'", "'-1e308'"),
    ("double precision", "0.3", "0.30000000000000004"),
    ("double precision", "'NaN'", "null"),
    ("double precision", "0", "null"),
    ("double precision", "'5e-324'", "0"),
    ("real", "16777216", "16777218"),
    ("money", "'1.00'", "'-1.00'"),
    ("text", "'a'", "'a '"),
    ("text", "'a'", "'A'"),
    ("text", r"E'\u00e9'", r"E'e\u0301'"),  # é, and e with an accent
    ("text", r"E'a\u200bb'", "'ab'"),
    ("text", "repeat('x', 1000000) || 'a'", "repeat('x', 1000000) || 'b'"),
    ("varchar(5)", "'ab'", "'ab '"),
    ("char(5)", "' ab'", "'ab'"),
    ("name", "'a'", "'b'"),
    ('"char"', "'a'", "'b'"),
    ("text[]", "'{a,null}'", "'{a,\"null\"}'"),
    ("text[]", "'{a}'", "'{\"a \"}'"),
    ("integer[]", "'{1,2}'", "'{2,1}'"),
    ("integer[]", "'{1,2,3,4}'", "'{{1,2},{3,4}}'"),  # PostgreSQL's hash leaves out the dimensions
    ("integer[]", "'{1,2}'", "'[0:1]={1,2}'"),
    ("integer[]", "'{}'", "null"),
    ("integer[]", "'{}'", "'{null}'"),
    ("numeric[]", "'{1}'", "'{-1}'"),
    ("jsonb", "'[[1], 2]'", "'[[1, 2]]'"),  # and what is in which list
    ("jsonb", "'[]'", "'[[[]]]'"),
    ("jsonb", "'[1]'", "'[-1]'"),
    ("jsonb", "'null'", "null"),
    ("jsonb", "'1'", "'\"1\"'"),
    ("json", """'{"a": null}'""", """'{}'"""),
    ("json", "'[1, 2]'", "'[2, 1]'"),
    ("jsonb[]", "array['[[1],2]'::jsonb]", "array['[[1,2]]'::jsonb]"),
    ("date", "'infinity'", "'-infinity'"),
    ("date", "'2020-01-01'", "'2020-01-02'"),
    ("date", "'4713-01-01 BC'", "'5874897-12-31'"),
    ("timestamp", "'infinity'", "'-infinity'"),
    ("timestamp", "'4713-01-01 BC'", "'294276-12-31 23:59:59.999999'"),
    ("timestamp", "'2020-01-01'", "'2020-01-01 00:00:00.000001'"),
    ("timestamptz", "'2020-01-01 12:00+00'", "'2020-01-01 12:00+01'"),
    ("time", "'00:00'", "'24:00'"),
    ("timetz", "'12:00+00'", "'13:00+01'"),
    ("interval", "'1 day'", "'1 day 00:00:00.000001'"),
    ("interval", "'178000000 years'", "'-178000000 years'"),
    ("bytea", r"'\x00'", r"'\x0000'"),
    ("bytea", r"'\x'", "null"),
    ("uuid", "'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"),
    ("numrange", "'[1,2)'", "'[-1,2)'"),
    ("numrange", "'[1,2)'", "'[1,2]'"),
    ("int4range", "'empty'", "null"),
    ("int4multirange", "'{[1,2),[3,4)}'", "'{[1,4)}'"),
    ("inet", "'10.0.0.1/8'", "'10.0.0.1'"),
    ("bit(3)", "'101'", "'100'"),
    ("point", "'(1,2)'", "'(2,1)'"),
    ("box", "'(1,2),(0,0)'", "'(2,1),(0,0)'"),  # = compares areas
    ("tsvector", "'a b'", "'a c'"),
    ("compared.mood", "'sad'", "'ok'"),
    ("compared.mood[]", "'{sad}'", "'{ok}'"),
    ("compared.place", "row(1, 'a')", "row(-1, 'a')"),
    ("compared.place", "row(1, null)", "null"),
    ("compared.price", "5", "6"),
    ("compared.label", "'a'", "'a '"),
    ("compared.labels", "'{a}'", "'{b}'"),
    ("compared.label[]", "'{a}'", "'{b}'"),
    ("compared.price[]", "'{-1}'", "'{4294967295}'"),
]
# Type and value of the base, and of the branch.
RETYPED = [
    ("integer", "5", "bigint", "5", True),
    ("integer", "-1", "bigint", "4294967295", False),
    ("integer", "5", "numeric(10,2)", "5.00", True),
    ("integer", "5", "numeric(10,2)", "5.01", False),
    ("bigint", "9007199254740993", "double precision", "9007199254740992", False),
    ("bigint", "9007199254740992", "double precision", "9007199254740992", True),
    ("numeric(10,2)", "0.10", "double precision", "0.1", True),
    ("numeric", "0.3", "double precision", "0.30000000000000004", False),
    ("numeric(10,2)", "1.50", "numeric(18,6)", "1.500000", True),
    ("real", "0.1", "double precision", "0.1", True),
    ("real", "16777216", "numeric", "16777216", True),
    ("double precision", "'Infinity'", "numeric", "'Infinity'", True),
    ("double precision", "'NaN'", "numeric", "'NaN'", True),
    ("double precision", "'1e300'", "numeric", "1e300", True),
    ("date", "'2020-01-01'", "timestamp", "'2020-01-01'", True),
    ("date", "'2020-01-01'", "timestamp", "'2020-01-01 01:00'", False),
    ("date", "'infinity'", "timestamp", "'infinity'", True),
    ("date", "'5874897-12-31'", "timestamp", "'2020-01-01'", False),
    ("timestamp", "'2020-01-01 12:00'", "timestamptz", "'2020-01-01 13:00+01'", True),
    ("timestamp", "'2020-01-01 12:00'", "timestamptz", "'2020-01-01 12:00+01'", False),
    ("date", "'2020-01-01'", "timestamptz", "'2020-01-01 00:00+00'", True),
    ("timestamp(0)", "'2020-01-01 12:00'", "timestamp(6)", "'2020-01-01 12:00'", True),
    ("varchar(10)", "'a '", "text", "'a '", True),
    ("char(5)", "'a'", "text", "'a'", True),
    ("char(5)", "'a'", "text", "'a    '", False),
    ("integer", "5", "text", "'5'", True),
    ("integer", "5", "text", "'05'", False),
    ("numeric", "1.50", "text", "'1.5'", False),
    ("boolean", "true", "text", "'true'", True),
    ("uuid", "'00000000-0000-0000-0000-00000000000a'", "text", "'00000000-0000-0000-0000-00000000000a'", True),
    ("timestamptz", "'2020-01-01 12:00+00'", "text", "'2020-01-01 12:00:00+00'", True),
    ("compared.mood", "'ok'", "text", "'ok'", True),
    ("varchar[]", "'{a}'", "text[]", "'{a}'", True),
    ("integer[]", "'{1,2}'", "bigint[]", "'{1,2}'", True),
    ("json", """'{"a": 1, "b": 2}'""", "jsonb", """'{"b": 2, "a": 1}'""", True),
    ("jsonb", """'{"b": 2}'""", "text", """'{"b": 2}'""", True),
    ("compared.price", "5", "integer", "5", True),
    ("compared.price", "5", "bigint", "6", False),
    ("integer", "null", "text", "null", True),
    ("boolean", "true", "integer", "1", False),
]


def compared(databases: Databases, base: tuple[str, str], branch: tuple[str, str]) -> None:
    """Make `t` of one row, whose values have a type and an expression, and a row that is the same on both sides."""
    for connection, (type_, value) in ((databases.base, base), (databases.branch, branch)):
        connection.execute(f"create table compared.t (id integer, value {type_})".encode())
        connection.execute(f"insert into compared.t values (1, {value}), (2, null)".encode())  # noqa: S608


@pytest.fixture
def typed(databases: Databases) -> Databases:
    """Give databases with types of their own, whose OIDs are not the same: those of the base are made twice."""
    databases.base.execute(TYPES.encode())
    databases.base.execute("drop schema compared cascade; create schema compared")
    databases.both(TYPES)
    return databases


def test_values_that_are_equal_are_the_same(typed: Databases) -> None:
    for type_, base, branch in EQUAL:
        case = f"{type_}: {base} and {branch}"
        compared(typed, (type_, base), (type_, branch))
        for key in (["id"], [], ["value"]):
            rows = typed.compare("t", key)
            assert (rows.base_rows, rows.branch_rows, rows.are_same) == (2, 2, True), f"{case} by {key}"
            assert (rows.columns, rows.examples, rows.slices) == ([], [], []), case
        typed.both("drop table compared.t")


def test_values_that_differ_are_found(typed: Databases) -> None:
    for type_, base, branch in DIFFERENT:
        case = f"{type_}: {base} and {branch}"
        compared(typed, (type_, base), (type_, branch))
        assert_different(typed, case)


def test_columns_of_another_type_are_compared_as_the_wider_of_both(typed: Databases) -> None:
    for base_type, base, branch_type, branch, is_same in RETYPED:
        for sides in (((base_type, base), (branch_type, branch)), ((branch_type, branch), (base_type, base))):
            case = " and ".join(" ".join(side) for side in sides)
            compared(typed, *sides)
            if is_same:
                for key in (["id"], [], ["value"]):
                    assert typed.compare("t", key).are_same, f"{case} by {key}"
                typed.both("drop table compared.t")
            else:
                assert_different(typed, case)


def assert_different(databases: Databases, case: str) -> None:
    """Check that `t` has one value that differs, by every key, and drop it."""
    rows = databases.compare("t", ["id"])
    assert (rows.added, rows.removed, rows.changed) == (0, 0, 1), case
    [column] = rows.columns
    assert (column.name, column.rows) == ("value", 1), case
    [example] = rows.examples
    assert example.base is not None, case
    assert example.branch is not None, case
    assert example.base.keys() == example.branch.keys() == {"value"}, case
    assert example.base != example.branch, case
    for key in ([], ["value"]):
        rows = databases.compare("t", key)
        is_null = None in (example.base["value"], example.branch["value"])
        if key == ["value"] and is_null:  # then a side has two rows of this key, and the other one
            continue
        assert (rows.added, rows.removed, rows.changed) == (1, 1, 0), f"{case} by {key}"
    databases.both("drop table compared.t")
