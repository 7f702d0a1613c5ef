"""The numbers by day or month of both sides of a mart, to be drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from harness.diff.pairing import Comparison
from harness.diff.results import Rows, Series
from harness.diff.rows import both_sides

MOST_SERIES = 3
MOST_DAYS = 400  # of a picture; more are drawn by month


def series_of(comparison: Comparison, rows: Rows) -> list[Series]:
    """Return the numbers by day or month that show the differences of ROWS; none if the mart has no day."""
    changed = {column.name for column in rows.columns}
    times = [pair for pair in comparison.pairs if pair.family == "time"]
    by_key = [pair for pair in times if pair in comparison.key]
    days = by_key or [pair for pair in times if pair.name not in changed] or times
    numbers = [
        pair
        for pair in comparison.pairs
        if pair.family == "number" and pair.name in changed and pair not in comparison.key
    ][: MOST_SERIES - 1]
    counts = bool(rows.added or rows.removed or (days and days[0].name in changed))
    if not days or not (counts or numbers):
        return []
    day = days[0]

    def sums(of_base: bool, unit: str) -> dict[str, Sequence[Any]]:
        connection, table = comparison.side(of_base)
        expressions: list[sql.Composable] = [sql.SQL("count(*)::float8")] if counts else []
        expressions += [sql.SQL("sum({})::float8").format(pair.expression(of_base)) for pair in numbers]
        at = day.expression(of_base)
        query = sql.SQL(
            "select date_trunc({}, {})::date::text, {} from {} where isfinite({}) group by 1 order by 1"
        ).format(sql.Literal(unit), at, sql.SQL(", ").join(expressions), table.identifier, at)
        return {row[0]: row[1:] for row in connection.execute(query).fetchall()}

    unit = "day"
    base, branch = both_sides(lambda of_base: sums(of_base, unit))
    if len(base.keys() | branch.keys()) > MOST_DAYS:
        unit = "month"
        base, branch = both_sides(lambda of_base: sums(of_base, unit))
    every = sorted(base.keys() | branch.keys())

    def number(side: Mapping[str, Sequence[Any]], at: str, i: int) -> float | None:
        return side[at][i] if at in side else None

    titles = [*(["rows"] if counts else []), *(f"sum of {pair.name}" for pair in numbers)]
    return [
        Series(f"{title} by {unit} of {day.name}", [(at, number(base, at, i), number(branch, at, i)) for at in every])
        for i, title in enumerate(titles)
    ]
