"""What is drawn of a mart: rows and sums by day or month of both sides."""

import pytest

from harness.diff.results import Series
from harness.diff.rows import compare_rows
from harness.diff.series import series_of
from tests.harness.diff.conftest import Databases

VISITS = "(id, at, sold_on, visitors, fee) as values {}"
BASE = (
    "(1, timestamp '2020-01-01 10:00', date '2020-03-01', 4, 1.5), (2, '2020-01-01 23:00', '2020-03-01', 5, 2.5),"
    " (3, '2020-01-02 10:00', '2020-03-02', 6, 0.5), (4, 'infinity', '2020-03-02', 7, 1.0)"
)


def drawn(databases: Databases, base: str, branch: str, key: tuple[str, ...] = ("id",)) -> list[Series]:
    databases.made(base, branch, key)
    comparison = databases.prepared("t", key)
    return series_of(comparison, compare_rows(comparison))


def test_a_changed_number_is_summed_by_a_day_that_has_not_changed(databases: Databases) -> None:
    branch = BASE.replace("'2020-01-02 10:00'", "'2020-01-02 11:00'").replace(", 6, 0.5", ", 6, 1.0")
    assert drawn(databases, VISITS.format(BASE), VISITS.format(branch)) == [
        Series("sum of fee by day of sold_on", [("2020-03-01", 4.0, 4.0), ("2020-03-02", 1.5, 2.0)])
    ]


def test_rows_are_counted_where_some_are_added_or_removed_and_a_day_may_be_on_one_side(databases: Databases) -> None:
    removed = BASE.replace(" (3, '2020-01-02 10:00', '2020-03-02', 6, 0.5),", "")
    assert drawn(databases, VISITS.format(BASE), VISITS.format(removed)) == [
        Series("rows by day of at", [("2020-01-01", 2.0, 2.0), ("2020-01-02", 1.0, None)])
    ]


@pytest.mark.parametrize(("days", "points"), [(400, 400), (401, 14)])
def test_many_days_are_drawn_by_month(databases: Databases, days: int, points: int) -> None:
    table = f"as select date '2020-01-01' + i as day, {{}} as n from generate_series(0, {days - 1}) as i"  # noqa: S608
    [series] = drawn(databases, table.format("1"), table.format("2"), ("day",))
    assert series.title == f"sum of n by {'day' if points == days else 'month'} of day"
    assert (len(series.points), series.points[0][0]) == (points, "2020-01-01")
    assert sum(base or 0 for _, base, _ in series.points) == days
    assert sum(branch or 0 for _, _, branch in series.points) == 2 * days


def test_without_a_day_or_a_number_that_has_changed_nothing_is_drawn(databases: Databases) -> None:
    without = "(id, fee) as values (1, {})"
    assert drawn(databases, without.format("1.5"), without.format("2.5")) == []
    text = "(id, day, name) as values (1, date '2020-01-01', '{}')"
    assert drawn(databases, text.format("a"), text.format("b")) == []
