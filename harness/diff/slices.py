"""Find where a difference is concentrated: the column and the value, or the range, that explains most of it.

A condition explains a difference as far as the rows that differ fulfil it more often than the others do (Youden's J: 1
if all of them do and none of the others, 0 if both do alike). It is reported if it explains it well, is true of most
of the rows that differ, and so few of them as there are would hardly fulfil it by chance.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from psycopg import sql

from harness.diff.pairing import Comparison
from harness.diff.results import Rows, Slice
from harness.diff.values import TEXT, TIMES, Pair

FEWEST = 3  # rows that differ; the examples show fewer of them whole
SHARE = 0.8  # of the rows that differ: what a slice has at least, and of the table: what it has at most
EXPLAINED = 0.3  # the least J
CHANCE = 1e-3  # of any slice for a kind of difference that is spread evenly
WHOLE = 0.05  # what it is worth in J that all rows that differ are in a slice
# What it costs in J that a condition is less easy to understand than another.
OWN, ONE_ENDED, TWO_ENDED, NUMBERS = 0.03, 0.01, 0.02, 0.1
MOST_COLUMNS = 50  # that are looked at
MOST_KINDS = 10  # changed columns; of more most have changed together
MOST_DAYS = 10_000
LONGEST = 60  # characters of a value that people can read
SAMPLED = 20_000  # rows that differ; of more the frequent values are found by about as many
PARTS = (0.01, 0.02, 0.05, 0.1, 0.15)  # of the rows that differ, left out at an end of a range of numbers
Days = dict[date, int]


@dataclass(frozen=True)
class Condition:
    """A condition on the column NUMBER.

    Attributes:
        text: for people.
        tests: what must be true of the column, in SQL: ` >= '27'`, ` is null`.
        cost: in J.
        choices: how many such conditions there were to choose from.
    """

    text: str
    number: int
    tests: tuple[str, ...]
    cost: float = 0
    choices: float = 1

    @property
    def is_range(self) -> bool:
        """Whether the column must be in a range; if it has all values there are, it says no more than `is not null`."""
        return self.tests[0].lstrip().startswith(("<", ">"))

    def on(self, expression: str) -> str:
        """Return the condition on EXPRESSION, in SQL."""
        return " and ".join(f"{expression}{test}" for test in self.tests)


@dataclass
class Kind:
    """Rows that differ in one way, and the table that they are of.

    Attributes:
        of: what differs, as in Slice; several columns if they have changed in the same rows.
        table: the temporary table that has them.
        where: which of its rows.
        prefix: of its columns.
        days: of the table's time columns, by number: its rows by day.
    """

    comparison: Comparison
    of: tuple[str, ...]
    table: str
    where: str
    prefix: str
    in_base: bool
    different: int
    table_rows: int
    days: dict[int, Days] = field(default_factory=dict)

    def column(self, number: int) -> str:
        """Return the expression of column NUMBER of the rows that differ."""
        return f"{self.prefix}c{number}"

    def expression(self, number: int) -> str:
        """Return the expression of column NUMBER of the whole table."""
        connection, _ = self.comparison.side(self.in_base)
        return f"({self.comparison.pairs[number].expression(self.in_base).as_string(connection)})"

    @property
    def sample(self) -> str:
        """A condition on the rows that differ: if they are many, most are left out."""
        step = self.different // SAMPLED + 1
        return f"and {self.prefix}key_hash % {step} = 0" if step > 1 else ""

    def ask(self, select: str, rest: str = "") -> list[tuple[Any, ...]]:
        """Return what SELECT gives for the rows that differ."""
        query = f"select {select} from {self.table} where {self.where} {rest}"  # noqa: S608
        return self.comparison.branch_connection.execute(query.encode()).fetchall()

    def ask_table(self, select: str, rest: str = "") -> list[tuple[Any, ...]]:
        """Return what SELECT gives for the whole table."""
        connection, table = self.comparison.side(self.in_base)
        query = f"select {select} from {table.identifier.as_string(connection)} {rest}"  # noqa: S608
        return connection.execute(query.encode()).fetchall()

    def literal(self, value: str, number: int) -> str:
        """Return VALUE, text, as a literal of the type of column NUMBER."""
        text = sql.Literal(value).as_string(self.comparison.branch_connection)
        return f"{text}::{self.comparison.pairs[number].type}"


def find_slices(comparison: Comparison, rows: Rows) -> list[Slice]:
    """Return for each kind of difference of ROWS, a changed column each, the slice that explains most, if one does."""
    return [found for kind in kinds(comparison, rows) for found in best(kind)]


def kinds(comparison: Comparison, rows: Rows) -> Iterator[Kind]:
    """Yield the kinds of difference of ROWS of which enough rows differ, and enough do not."""
    numbers = {pair.name: i for i, pair in enumerate(comparison.pairs)}
    base_days: dict[int, Days] = {}
    found = [
        Kind(comparison, ("added",), "pg_temp.added_rows", "true", "", False, rows.added, rows.branch_rows),
        Kind(
            comparison, ("removed",), "pg_temp.removed_rows", "true", "", True, rows.removed, rows.base_rows, base_days
        ),
    ]
    in_all = tuple(column.name for column in rows.columns if column.rows == rows.changed)
    others = sorted((column for column in rows.columns if column.rows < rows.changed), key=lambda column: -column.rows)
    changed = [(in_all, "true", rows.changed)] if in_all else []
    for column in others[:MOST_KINDS]:
        i = numbers[column.name]
        changed.append(((column.name,), f"(base).c{i} is distinct from (branch).c{i}", column.rows))
    found += [
        Kind(comparison, of, "pg_temp.changed_rows", where, "(base).", True, count, rows.base_rows, base_days)
        for of, where, count in changed
    ]
    yield from (kind for kind in found if FEWEST <= kind.different <= SHARE * kind.table_rows)


def best(kind: Kind) -> list[Slice]:
    """Return the slice that explains most of KIND, for each of its columns; none if none does well or surely."""
    columns = list(enumerate(kind.comparison.pairs[:MOST_COLUMNS]))
    conditions = [condition for number, pair in columns for condition in conditions_on(kind, number, pair)]
    scored = []
    for start in range(0, len(conditions), 1000):
        some = conditions[start : start + 1000]
        counted = sorted({each.number for each in some})
        different, table = (
            ask(
                ", ".join(
                    [f"count(*) filter (where {each.on(column(each.number))})" for each in some]
                    + [f"count({column(number)})" for number in counted]
                )
            )[0]
            for ask, column in ((kind.ask, kind.column), (kind.ask_table, kind.expression))
        )
        not_null = dict(zip(counted, table[len(some) :], strict=True))
        for condition, inside, of_table in zip(some, different, table, strict=False):
            name, text = kind.comparison.pairs[condition.number].name, condition.text
            if condition.is_range and of_table == not_null[condition.number]:
                if name in kind.of:  # which is so of most values that change
                    continue
                text = f"{name} is not null"
            explained = inside / kind.different - (of_table - inside) / (kind.table_rows - kind.different)
            is_wide = inside < SHARE * kind.different or not inside <= of_table <= SHARE * kind.table_rows
            if is_wide or explained < EXPLAINED or is_by_chance(kind, condition, inside, of_table, len(columns)):
                continue
            score = explained - condition.cost + WHOLE * (inside == kind.different)
            scored.append((round(score, 6), text, inside, of_table))
    if not scored:
        return []
    _, text, inside, of_table = max(scored, key=lambda each: each[0])
    return [Slice(of, text, inside, kind.different, of_table, kind.table_rows) for of in kind.of]


def is_by_chance(kind: Kind, condition: Condition, inside: int, of_table: int, columns: int) -> bool:
    """Return whether rows that differ anywhere in the table might as well fulfil such a condition on one of COLUMNS.

    The bound of Chernoff and Hoeffding for the share of rows that fulfil it, times the conditions there were.
    """
    share, of_all = inside / kind.different, of_table / kind.table_rows
    divergence = share * math.log(share / of_all)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - of_all))
    return kind.different * divergence < math.log(columns * condition.choices / CHANCE)


def conditions_on(kind: Kind, number: int, pair: Pair) -> Iterator[Condition]:
    """Yield the conditions on column NUMBER that may explain KIND: its most frequent value there, and its range."""
    is_own = pair.name in kind.of
    # Of a moment the day says more.
    yield from equal(kind, number, pair, OWN if is_own else ONE_ENDED if pair.type in TIMES[1:] else 0)
    if pair.family == "time":
        yield from times(kind, number, pair)
    elif pair.family == "number" and not is_own:
        yield from numbers(kind, number, pair)


def equal(kind: Kind, number: int, pair: Pair, cost: float) -> Iterator[Condition]:
    """Yield the condition that the column has the value that most of the rows that differ have, if most have one."""
    column = kind.column(number)
    found = kind.ask(
        f"count(*), (sum(count(*)) over ())::bigint, left({column}::text, {LONGEST + 1})",
        f"{kind.sample} group by {column} order by 1 desc limit 1",
    )
    if not found or found[0][0] < SHARE * found[0][1]:
        return
    [(_, _, value)] = found
    if value is None:
        yield Condition(f"{pair.name} is null", number, (" is null",), cost)
    elif len(value) <= LONGEST:
        shown = f"'{value}'" if pair.type == TEXT else plain(value, pair)
        [(distinct,)] = kind.ask_table(
            f"count(*) filter (where {kind.expression(number)} = {kind.literal(value, number)})"
        )
        choices = kind.table_rows / max(distinct, 1)  # as many values as this one might have been
        yield Condition(f"{pair.name} = {shown}", number, (f" = {kind.literal(value, number)}",), cost, choices)


def plain(value: str, pair: Pair) -> str:
    """Return VALUE of PAIR's type, text, without the zeros that numeric keeps."""
    return value.rstrip("0").rstrip(".") if pair.type == "numeric" and "." in value else value


def times(kind: Kind, number: int, pair: Pair) -> Iterator[Condition]:
    """Yield conditions on a column's days: ranges that have all rows that differ, and those that explain most."""
    if number not in kind.days:
        kind.days[number] = by_day(kind.ask_table, kind.expression(number), "where")
    of_table, different = kind.days[number], by_day(kind.ask, kind.column(number), "and")
    if not different or not of_table:
        return
    every = sorted(of_table)
    rest = kind.table_rows - kind.different
    gains = [different.get(day, 0) / kind.different - (of_table[day] - different.get(day, 0)) / rest for day in every]
    first, last = min(different), max(different)
    starts = first, every[largest_tail(gains)]
    ends = last, every[len(every) - 1 - largest_tail(gains[::-1])]
    low, high = largest_range(gains)
    choices = len(every)

    def test(day: date, operator: str, days: int = 0) -> str:
        return f" {operator} {kind.literal((day + timedelta(days)).isoformat(), number)}"

    def until(day: date) -> str:
        return test(day, "<=") if pair.type == "date" else test(day, "<", 1)

    for start in starts:
        yield Condition(f"{pair.name} from {start} on", number, (test(start, ">="),), ONE_ENDED, choices)
    for end in ends:
        text = f"{pair.name} until {'' if pair.type == 'date' else 'the end of '}{end}"
        yield Condition(text, number, (until(end),), ONE_ENDED, choices)
    for start, end in ((first, last), (every[low], every[high])):
        text, cost = f"{pair.name} from {start} to {end}", TWO_ENDED
        if start == end:
            text, cost = f"{pair.name} on {start}", 0
        yield Condition(text, number, (test(start, ">="), until(end)), cost, choices**2 / 2 if start < end else choices)


def by_day(ask: Any, expression: str, where: str) -> Days:
    """Return what ASK counts of EXPRESSION by day, from year 1 to 9998; nothing if there are too many days."""
    days = ask(
        f"{expression}::date, count(*)",
        f"{where} {expression} >= '0001-01-01' and {expression} < '9999-01-01' group by 1 limit {MOST_DAYS + 1}",
    )
    return dict(days) if len(days) <= MOST_DAYS else {}


def largest_tail(gains: Sequence[float]) -> int:
    """Return from where on the sum of GAINS is the largest."""
    total, found, index = 0.0, -math.inf, 0
    for i in range(len(gains) - 1, -1, -1):
        total += gains[i]
        if total > found:
            found, index = total, i
    return index


def largest_range(gains: Sequence[float]) -> tuple[int, int]:
    """Return the first and the last index of the part of GAINS whose sum is the largest."""
    total, start, found, indices = 0.0, 0, -math.inf, (0, 0)
    for i, gain in enumerate(gains):
        if total <= 0:
            total, start = 0.0, i
        total += gain
        if total > found:
            found, indices = total, (start, i)
    return indices


def numbers(kind: Kind, number: int, pair: Pair) -> Iterator[Condition]:
    """Yield ranges of a column of numbers that have all of the rows that differ, or all but a few."""
    column = kind.column(number)
    parts = ", ".join(str(part) for part in (*PARTS, *(1 - part for part in PARTS)))
    [(nulls, smallest, largest)] = kind.ask(f"count(*) - count({column}), min({column})::text, max({column})::text")
    [(found,)] = kind.ask(f"percentile_disc(array[{parts}]) within group (order by {column})::text[]", kind.sample)
    if nulls > (1 - SHARE) * kind.different or not found:
        return
    ends = [smallest, *found[: len(PARTS)]], [largest, *found[len(PARTS) :]]
    lows, highs = ([plain(value, pair) for value in values if value[-1].isdigit()] for values in ends)
    choices = kind.different

    def test(value: str, operator: str) -> str:
        return f" {operator} {kind.literal(value, number)}"

    for low in dict.fromkeys(lows):
        yield Condition(f"{pair.name} >= {low}", number, (test(low, ">="),), NUMBERS, choices)
    for high in dict.fromkeys(highs):
        yield Condition(f"{pair.name} <= {high}", number, (test(high, "<="),), NUMBERS, choices)
    for low, high in dict.fromkeys(zip(lows, highs, strict=False)):
        text = f"{pair.name} from {low} to {high}"
        tests = (test(low, ">="), test(high, "<="))
        yield Condition(text, number, tests, NUMBERS + TWO_ENDED, choices**2 / 2)
