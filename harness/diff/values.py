"""How values are compared: for each pair of types one type as which they are, and what of them is hashed.

Two values are equal if `is not distinct from` says so of them in that type. docs/diff.md has the rules.

PostgreSQL's own hashes are made for joins, not to tell tables apart: that of a numeric leaves out its sign, that of a
bigint has 32 bits of it, those of arrays and of jsonb leave out how elements are nested, and that of a record is a sum.
So what is hashed here is more than the value where it must be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

INTEGERS = ("smallint", "integer", "bigint")
FLOATS = ("real", "double precision")
NUMBERS = (*INTEGERS, "numeric", *FLOATS)
TIMES = ("date", "timestamp without time zone", "timestamp with time zone")
TEXT = "text"
Family = Literal["number", "time", "other"]

# The columns of a table: name, type as declared, its type without modifier and domain, and the type as which its
# values are compared with others of that type. Types from OID 16384 on are not PostgreSQL's own: the same name may
# mean another type in the other database, and an enum's value has another hash there.
COLUMNS = """
    with recursive domains as (
        select oid, oid as base from pg_type
        union all
        select domains.oid, typbasetype from domains join pg_type on pg_type.oid = base and typtype = 'd'
    ),
    resolved as (
        select domains.oid, own.oid as own, coalesce(element.base, own.oid) as core, element.oid is not null as is_array
        from domains
        join pg_type as own on own.oid = base and typtype <> 'd'
        left join (domains as element join pg_type on pg_type.oid = element.base and typtype <> 'd')
            on element.oid = own.typelem and own.typcategory = 'A' and own.typarray = 0
    ),
    hashed as (
        select opcintype from pg_opclass join pg_am on pg_am.oid = opcmethod
        where opcdefault and amname in ('btree', 'hash') group by opcintype having count(*) = 2
    )
    select
        attname,
        format_type(atttypid, atttypmod),
        format_type(own, null),
        coalesce(
            case
                when typcategory = 'S' then 'text'
                when core in ('json'::regtype, 'jsonb'::regtype) then 'jsonb'
                when core < 16384 and (typtype in ('r', 'm') or core in (select opcintype from hashed))
                    then format_type(core, null)
            end || case when is_array then '[]' else '' end,
            'text'
        )
    from pg_attribute
    join resolved on resolved.oid = atttypid
    join pg_type on pg_type.oid = core
    where attrelid = %s::regclass and attnum > 0 and not attisdropped
    order by attnum
"""
# Types whose hash depends on all of a value, and functions that give all of it quickly; others are hashed as text.
TOLD_BY_HASH = {"smallint", "integer", "real", "double precision", "boolean", "text", "bytea", "uuid", "date", "oid"}
SENT = {TIMES[1]: "timestamp_send", TIMES[2]: "timestamptz_send"}
# Hashes whose seed has what they leave out: of a numeric its sign, and which of infinity and NaN it is.
SEEDED = {
    "bigint": "coalesce(hashint8extended({0}, {0} # {1}), -{1})",
    "numeric": (
        "coalesce(hash_numeric_extended({0}, {1} + numeric_cmp({0}, 0) + 4 * numeric_cmp({0}, 'Infinity')), -{1})"
    ),
}
SEED = 0x1E3779B97F4A7C15  # with 0 the float 0 would have the hash of NULL


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        shown: its type as declared, `numeric(18,6)` for example.
        type: that type without its modifier; of a domain the type that it is made of.
        compared: the type as which its values are compared with others of its type.
    """

    name: str
    shown: str
    type: str
    compared: str


def columns_of(connection: psycopg.Connection[Any], schema: str, table: str) -> dict[str, Column]:
    """Return the columns of SCHEMA.TABLE, by name in their order; raise psycopg.Error if there is no such table."""
    relation = sql.Identifier(schema, table).as_string(connection)
    return {row[0]: Column(*row) for row in connection.execute(COLUMNS, [relation]).fetchall()}


@dataclass(frozen=True)
class Pair:
    """A column of both sides, and the type as which its values are compared."""

    base: Column
    branch: Column
    type: str

    @property
    def name(self) -> str:
        """The column's name in the branch."""
        return self.branch.name

    @property
    def family(self) -> Family:
        """What can be said about differences of its values."""
        return "number" if self.type in NUMBERS else "time" if self.type in TIMES else "other"

    def column(self, of_base: bool) -> Column:
        """Return the column of one side."""
        return self.base if of_base else self.branch

    def may_fail(self, of_base: bool) -> bool:
        """Return whether a value of that side may not be one of the compared type."""
        type_ = self.column(of_base).type
        return self.type != TEXT and type_ in ("json", "json[]", "date") and type_ != self.type

    def expression(self, of_base: bool) -> sql.Composable:
        """Return the expression of its values in the base's table, or in the branch's."""
        column = self.column(of_base)
        name = sql.Identifier(column.name)
        if self.type in (TEXT, f"{TEXT}[]"):
            return sql.SQL('{}::{} collate "C"').format(name, sql.SQL(self.type))
        if self.type == TIMES[1] and column.type == TIMES[2]:
            return sql.SQL("({} at time zone 'UTC')").format(name)
        if self.type == "numeric" and column.type in FLOATS:  # a cast would keep 15 digits
            return sql.SQL("{}::text::numeric").format(name)
        if column.shown == self.type:
            return name
        return sql.SQL("{}::{}").format(name, sql.SQL(self.type))


def pair(base: Column, branch: Column) -> Pair:
    """Return the columns BASE and BRANCH as a pair, with the type as which they are compared."""
    return Pair(base, branch, compared_as(base, branch))


def compared_as(base: Column, branch: Column) -> str:
    """Return the type as which values of BASE and BRANCH are compared."""
    types = {base.type, branch.type}
    if base.compared == branch.compared:
        return base.compared
    if types <= set(INTEGERS):
        return "bigint"
    if types <= set(NUMBERS):
        return "numeric"
    if types <= set(TIMES):
        return TIMES[1]
    return TEXT


def difference(type_: str, base: str, branch: str) -> str:
    """Return the expression of how far BRANCH is from BASE, both of the number or time TYPE_; NULL if it is not finite.

    Of dates it has days; else times have an interval, from year 1 to 9999, as Python's have.
    """
    if type_ in TIMES:
        sane = " and ".join(f"{side} >= '0001-01-01' and {side} < '10000-01-01'" for side in (base, branch))
        return f"case when {sane} then {branch} - {base} end"
    cast = "::text::numeric" if type_ in FLOATS else "::numeric"
    by = f"{branch}{cast} - {base}{cast}"
    if type_ in INTEGERS:
        return by
    return f"case when {by} > '-Infinity' and {by} < 'Infinity' then trim_scale({by}) end"


def hashed(pairs: Sequence[Pair], of_base: bool) -> sql.Composable:
    """Return the expression of a hash, 64 bits, of the values of PAIRS on one side: the same for values that are equal.

    Values that are not may have the same hash, too.
    """
    return combined([(each.type, each.expression(of_base)) for each in pairs])


def fingerprint(pairs: Sequence[Pair], of_base: bool) -> sql.Composable:
    """Return the expression of a hash, 64 bits, of the values of PAIRS on one side: another for other values.

    Values that are equal may have another hash, too. To be summed up it must be mixed: see `rows.bucket_sums`.
    """
    parts: list[tuple[str, sql.Composable]] = []
    for each in pairs:
        value = each.expression(of_base)
        if each.type in SENT:
            value = sql.SQL("{}({})").format(sql.SQL(SENT[each.type]), value)
        elif each.type not in SEEDED and each.type not in TOLD_BY_HASH:
            value = sql.SQL('({})::text collate "C"').format(value)
        parts.append((each.type, value))
    return combined(parts)


def combined(parts: Sequence[tuple[str, sql.Composable]]) -> sql.Composable:
    """Return the expression of a hash of PARTS, types and values."""
    hashes, others = [], []
    for i, (type_, value) in enumerate(parts, 1):
        if type_ in SEEDED:
            seed = sql.SQL(str(SEED * i % (1 << 62)))
            hashes.append(sql.SQL(SEEDED[type_]).format(value, seed))
        else:
            others.append(value)
    if others:
        hashes.append(sql.SQL("hash_record_extended(row({}), {})").format(sql.SQL(", ").join(others), SEED))
    while len(hashes) > 1:  # a tree: PostgreSQL's stack is not deep enough for a thousand in a row
        rest = hashes[len(hashes) // 2 * 2 :]
        hashes = [sql.SQL("({} # {})").format(*two) for two in zip(hashes[::2], hashes[1::2], strict=False)] + rest
    return hashes[0]
