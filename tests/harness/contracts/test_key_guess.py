"""Which columns may be the primary key."""

import pytest

from harness.contracts.column_guess import TYPES, ColumnGuess
from harness.contracts.key_guess import MOST_CHARACTERS, able_columns, cost_of, unique_sets

ROWS = [("1", "a", "x", "5"), ("2", "a", "x", "6"), ("2", "b", "y", "7")]


def column(name: str, *values: str | None) -> ColumnGuess:
    guess = ColumnGuess(name, name, list(TYPES))
    for value in values:
        guess.add(value)
    return guess


@pytest.mark.parametrize(
    ("costs", "found"),
    [
        ({"a": 1, "b": 1, "c": 1, "d": 9}, [("a", "b"), ("a", "c"), ("d",)]),
        ({"a": 1, "b": 2, "c": 1, "d": 1}, [("d",), ("a", "c"), ("a", "b")]),
        ({"a": 20, "b": 20, "c": 20, "d": 50}, [("a", "b"), ("a", "c"), ("d",)]),
    ],
)
def test_the_cheapest_unique_sets_come_first(costs: dict[str, int], found: list[tuple[str, ...]]) -> None:
    assert unique_sets(costs, ROWS, 9) == found
    assert unique_sets(costs, ROWS, 1) == found[:1]
    assert found[0] not in unique_sets(costs, ROWS, 9, but=found[:1])


def test_no_set_is_unique() -> None:
    assert unique_sets({"a": 1, "b": 1}, [("1", "2"), ("1", "2")], 9) == []


def test_ids_are_better_than_times_and_these_better_than_measurements() -> None:
    names = ("order_id", "name", "at", "amount")
    values = ("1", "x", "2024-01-01", "1.5")
    costs = [cost_of(column(name, value)) for name, value in zip(names, values, strict=True)]
    assert costs == sorted(set(costs))


def test_columns_that_cannot_be_in_a_key() -> None:
    columns = [
        column("null", "1", None),
        column("json", "{}"),
        column("long", "x" * 101),
        column("nothing"),
        *(column(f"a{number}", "x" * 90) for number in range(9)),
    ]
    assert [each.name for each in able_columns(columns)] == [f"a{number}" for number in range(MOST_CHARACTERS // 90)]
