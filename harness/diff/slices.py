"""Find where a difference is concentrated: the column and the value, or the range, that explains most of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from harness.diff.results import Rows, Slice
from harness.diff.values import Pair

if TYPE_CHECKING:
    from harness.diff.rows import Comparison

FEWEST = 3  # rows that differ; the examples show fewer of them whole
GAIN = 0.1  # by which a slice must explain a difference better than the whole table does
SHARE = 0.8  # of the rows that differ: what a slice has at least, and of the table: what it has at most


@dataclass(frozen=True)
class Condition:
    """A condition on column NUMBER: a text for people, and an operator with a literal."""

    text: str
    number: int
    test: str  # of the column's expression, `{} = '27'`
    rank: int = 0  # of two that explain as much, the lower is taken

    def on(self, expression: str) -> str:
        """Return the condition on EXPRESSION, in SQL."""
        return self.test.replace("{}", expression)


@dataclass(frozen=True)
class Kind:
    """Rows that differ in one way: the temporary table that has them, which of its rows, and their whole table."""

    of: str
    table: str
    where: str
    prefix: str
    in_base: bool


def find_slices(comparison: "Comparison", rows: Rows) -> list[Slice]:
    """Return for each kind of difference of ROWS, a changed column each, the slice that explains most, if one does."""
    found = [best(comparison, kind) for kind in kinds(comparison, rows)]
    return [slice for slice in found if slice]


def kinds(comparison: "Comparison", rows: Rows) -> Iterator[Kind]:
    """Yield the kinds of difference of ROWS that are frequent enough."""
    if rows.added >= FEWEST:
        yield Kind("added", "pg_temp.added_rows", "true", "", in_base=False)
    if rows.removed >= FEWEST:
        yield Kind("removed", "pg_temp.removed_rows", "true", "", in_base=True)
    numbers = {pair.name: i for i, pair in enumerate(comparison.pairs)}
    for column in rows.columns:
        if column.rows >= FEWEST:
            i = numbers[column.name]
            yield Kind(column.name, "pg_temp.changed_rows", f"(base).c{i} is distinct from (branch).c{i}", "(base).", in_base=True)


def best(comparison: "Comparison", kind: Kind) -> Slice | None:
    """Return the slice that explains most of KIND; None if none explains it better than the whole table."""
    connection = comparison.branch_connection
    conditions = [
        condition
        for i, pair in enumerate(comparison.pairs)
        if pair.name != kind.of or pair.family == "time"
        for condition in conditions_on(connection, kind, i, pair)
    ]
    if not conditions:
        return None
    counted = [f"count(*) filter (where {each.on(f'{kind.prefix}c{each.number}')})" for each in conditions]
    query = f"select count(*), {', '.join(counted)} from {kind.table} where {kind.where}"  # noqa: S608
    [(different, *inside)] = connection.execute(query.encode()).fetchall()
    whole_connection, table = comparison.side(kind.in_base)
    filters = [
        f"count(*) filter (where {each.on(expression(comparison, kind, each.number))})" for each in conditions
    ]
    query = f"select count(*), {', '.join(filters)} from {table.identifier.as_string(whole_connection)}"  # noqa: S608
    [(table_rows, *whole)] = whole_connection.execute(query.encode()).fetchall()
    scored = []
    for condition, count, of_table in zip(conditions, inside, whole, strict=True):
        is_narrow = of_table <= SHARE * table_rows and (of_table > 1 or different == 1)
        if is_narrow and count >= SHARE * different:
            score = round(2 * count / (different + of_table), 3)
            scored.append((score, -condition.rank, condition, count, of_table))
    scored.sort(key=lambda each: each[:2], reverse=True)
    if not scored or scored[0][0] < 2 * different / (different + table_rows) + GAIN:
        return None
    _, _, condition, count, of_table = scored[0]
    return Slice(kind.of, condition.text, count, different, of_table, table_rows)


def expression(comparison: "Comparison", kind: Kind, number: int) -> str:
    """Return the expression of column NUMBER in the whole table of KIND."""
    connection, _ = comparison.side(kind.in_base)
    return f"({comparison.pairs[number].expression(kind.in_base).as_string(connection)})"


def conditions_on(connection: psycopg.Connection[Any], kind: Kind, number: int, pair: Pair) -> Iterator[Condition]:
    """Yield the conditions on column NUMBER that may explain KIND: its most frequent value there, and its range."""
    column = f"{kind.prefix}c{number}"
    query = (
        f"select (mode() within group (order by {column}))::text, count(*) - count({column}), count(*),"  # noqa: S608
        f" min({column})::text, max({column})::text from {kind.table} where {kind.where}"
    )
    if pair.family == "other":  # min and max are of few types
        query = query.replace(f"min({column})::text, max({column})::text", "null, null")
    [(frequent, nulls, rows, first, last)] = connection.execute(query.encode()).fetchall()

    def literal(value: str) -> str:
        return f"{sql.Literal(value).as_string(connection)}::{pair.type}"

    if nulls >= SHARE * rows:
        yield Condition(f"{pair.name} is null", number, "{} is null", 0)
        return
    if frequent is not None:
        yield Condition(f"{pair.name} = {frequent}", number, f"{{}} = {literal(frequent)}", 0)
    if nulls or first is None:
        return
    if pair.family == "time":
        start, end = (value[:10] for value in (first, last))
        if pair.type == "date":
            yield Condition(f"{pair.name} from {start} on", number, f"{{}} >= {literal(start)}", 2)
            yield Condition(f"{pair.name} until {end}", number, f"{{}} <= {literal(end)}", 2)
            text, test = f"{pair.name} from {start} to {end}", f"{{}} between {literal(start)} and {literal(end)}"
        else:
            after = f"({literal(end)} + interval '1 day')"
            yield Condition(f"{pair.name} from {start} on", number, f"{{}} >= {literal(start)}", 2)
            yield Condition(f"{pair.name} until the end of {end}", number, f"{{}} < {after}", 2)
            text, test = f"{pair.name} from {start} to {end}", f"{{}} >= {literal(start)} and {{}} < {after}"
            if start == end:
                text = f"{pair.name} on {start}"
        yield Condition(text, number, test, 1 if start == end else 3)
    elif pair.family == "number":
        yield Condition(f"{pair.name} >= {first}", number, f"{{}} >= {literal(first)}", 4)
        yield Condition(f"{pair.name} <= {last}", number, f"{{}} <= {literal(last)}", 4)
