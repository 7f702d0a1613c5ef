"""How values are compared: for each pair of types an expression, of which PostgreSQL's own equality is the rule.

Two values are equal if `is not distinct from` says so, which holds for NULL and NaN, 0 and -0, and numbers of another
scale. Text is equal byte for byte, whatever its collation; json as jsonb, where neither the order of keys nor blanks
count. A column that has another type on the other side is compared as the wider of both: numbers as numeric, dates and
times as timestamps in UTC, all else as text. What has no equality or no hash, such as xml or point, counts as text.
docs/diff.md has the table.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

INTEGERS = ("smallint", "integer", "bigint")
NUMBERS = (*INTEGERS, "numeric", "real", "double precision")
TIMES = ("date", "timestamp without time zone", "timestamp with time zone")
TEXT = "text"
Family = Literal["number", "time", "other"]

# The columns of a table with their types; a domain's is the type that it is made of.
COLUMNS = """
    with recursive columns as (
        select attnum, attname, atttypid as type_oid, atttypmod as modifier, format_type(atttypid, atttypmod) as shown
        from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped
    ),
    bases as (
        select attnum, type_oid from columns
        union all
        select attnum, typbasetype from bases join pg_type on pg_type.oid = type_oid where typtype = 'd'
    )
    select attname, shown, format_type(pg_type.oid, null), typcategory, is_sorted
    from columns
    join bases using (attnum)
    join pg_type on pg_type.oid = bases.type_oid and typtype <> 'd'
    cross join lateral (
        select exists (
            select from pg_opclass join pg_am on pg_am.oid = opcmethod
            where amname = 'btree' and opcdefault and opcintype = pg_type.oid
        ) or typcategory in ('A', 'E', 'R') as is_sorted
    ) as sorting
    order by attnum
"""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        shown: its type as declared, `numeric(18,6)` for example.
        type: that type without its modifier; of a domain the type that it is made of.
        is_text: whether it is a kind of text.
        is_comparable: whether the type can be hashed and sorted.
    """

    name: str
    shown: str
    type: str
    is_text: bool
    is_comparable: bool


def columns_of(connection: psycopg.Connection[Any], schema: str, table: str) -> dict[str, Column]:
    """Return the columns of SCHEMA.TABLE, by name in their order; raise psycopg.Error if there is no such table."""
    relation = sql.Identifier(schema, table).as_string(connection)
    columns = {}
    for name, shown, type_, category, is_sorted in connection.execute(COLUMNS, [relation]).fetchall():
        is_comparable = is_sorted and can_be_hashed(connection, type_)
        columns[name] = Column(name, shown, type_, category == "S", is_comparable)
    return columns


def can_be_hashed(connection: psycopg.Connection[Any], type_: str) -> bool:
    """Return whether PostgreSQL has a hash for values of TYPE_; of an array or range its elements need one, too."""
    try:
        with connection.transaction():
            connection.execute(f"select hash_record_extended(row(null::{type_}), 0)".encode())
    except psycopg.errors.UndefinedFunction:
        return False
    return True


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

    def expression(self, of_base: bool) -> sql.Composable:
        """Return the expression of its values in the base's table, or in the branch's."""
        column = self.base if of_base else self.branch
        name = sql.Identifier(column.name)
        if self.type == TEXT:
            return sql.SQL('{}::text collate "C"').format(name)
        if self.type == TIMES[1] and column.type == TIMES[2]:
            return sql.SQL("({} at time zone 'UTC')").format(name)
        if column.shown == self.type:
            return name
        return sql.SQL("{}::" + self.type).format(name)


def pair(base: Column, branch: Column) -> Pair:
    """Return the columns BASE and BRANCH as a pair, with the type as which they are compared."""
    return Pair(base, branch, compared_as(base, branch))


def compared_as(base: Column, branch: Column) -> str:
    """Return the type as which values of BASE and BRANCH are compared."""
    types = {base.type, branch.type}
    if types <= {"json", "jsonb"}:
        return "jsonb"
    if len(types) == 1 and base.is_comparable and not base.is_text:
        return base.type
    if types <= set(NUMBERS):
        return "numeric"
    if types <= set(TIMES):
        return TIMES[1]
    return TEXT


def hashed(expressions: Iterable[sql.Composable]) -> sql.Composed:
    """Return the expression of a hash, 64 bits, of a row with EXPRESSIONS."""
    return sql.SQL("hash_record_extended(row({}), 0)").format(sql.SQL(", ").join(expressions))
