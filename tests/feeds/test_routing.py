"""Rows of a day go to the staging table of its range, whatever the order in which they come."""

from hypothesis import given
from hypothesis import strategies as st

from feeds.routing import Routes

days = st.lists(st.tuples(st.integers(10, 28), st.integers(1, 5)), max_size=30)


@given(days, st.integers(1, 12), st.integers(1, 4))
def test_tables_are_ranges_of_days(taken: list[tuple[int, int]], enough_rows: int, most_tables: int) -> None:
    routes = Routes(enough_rows, most_tables)
    starts: list[int] = []
    rows: list[int] = []
    table_of: dict[int, int] = {}
    for day, count in taken:
        number, is_new = routes.table(f"2020-01-{day}".encode(), rows[-1] if rows else 0)
        if is_new:
            assert number == len(starts)
            assert not starts or (rows[-1] >= enough_rows and day > max(table_of))
            starts.append(day)
            rows.append(0)
        rows[number] += count
        assert table_of.setdefault(day, number) == number  # a day is never in two tables
        assert number == 0 or day >= starts[number]
        assert number == len(starts) - 1 or day < starts[number + 1]
    assert starts == sorted(set(starts))


def test_tables_become_larger_once_there_are_many() -> None:
    routes, rows, tables = Routes(1, 3), 0, 0
    for day in range(1000):
        _, is_new = routes.table(f"{2000 + day}".encode(), rows)
        tables, rows = tables + is_new, 1 if is_new else rows + 1
    assert 3 < tables <= 12
