"""Choose the columns that may be the primary key. Pure."""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from harness.contracts.column_guess import ColumnGuess

Key = tuple[str, ...]
MOST_COLUMNS, MOST_CHARACTERS = 32, 600  # of a key: PostgreSQL allows 32 columns, and 2,704 bytes
LONGEST = 100  # characters of a column in a key
# How many of the best columns are combined, by the size of the key.
COMBINED = {2: 14, 3: 10, 4: 8}
_NAME = re.compile("(^|_)(id|key|uuid|guid|code|number|no|nr)$")


def able_columns(columns: Iterable[ColumnGuess]) -> list[ColumnGuess]:
    """Return those of COLUMNS that can be in a key."""
    able = [
        column
        for column in columns
        if column.column().is_required and column.type != "json" and column.longest <= LONGEST
    ]
    lengths = itertools.accumulate(column.longest for column in able)
    fitting = [column for column, length in zip(able, lengths, strict=True) if length <= MOST_CHARACTERS]
    return fitting[:MOST_COLUMNS]


def cost_of(column: ColumnGuess) -> int:
    """Return how bad COLUMN is as a part of a key; the cheapest unique columns are the key."""
    if column.type in ("number", "boolean"):
        return 20
    if _NAME.search(column.name) or column.type == "uuid":
        return 1
    return 3 if column.type in ("integer", "timestamp", "date") or column.longest > 40 else 2


def unique_sets(
    costs: Mapping[str, int], rows: Collection[Sequence[str]], wanted: int, but: Collection[Key] = ()
) -> list[Key]:
    """Return at most WANTED sets of columns that no two of ROWS share, the cheapest first, without those in BUT.

    COSTS has the columns, and each row a value of each in this order. No set has another one in it.
    """
    values = dict(zip(costs, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(costs, ())
    by_cost = sorted(costs, key=costs.__getitem__)
    sets: list[Key] = [(name,) for name in by_cost]
    for size, most in COMBINED.items():
        sets += list(itertools.combinations(by_cost[:most], size))
    sets.sort(key=lambda names: sum(costs[name] for name in names))
    found: list[Key] = []
    order = list(costs)
    for names in sets:
        key = tuple(sorted(names, key=order.index))
        if key in but or any(set(other) < set(key) for other in found):
            continue
        if len(set(zip(*(values[name] for name in key), strict=True))) == len(rows):
            found.append(key)
            if len(found) == wanted:
                break
    return found
