"""Look for the primary key in all rows of a feed's files."""

import itertools
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feeds.lines import Lines
from harness.contracts.column_guess import ColumnGuess
from harness.contracts.key_guess import Key, able_columns, cost_of, unique_sets
from harness.contracts.read_rows import Found, Valid

KEY_ROWS = 5_000  # in which keys are looked for
KEYS_AT_ONCE = 4
COLLISIONS = 2_000
WRITTEN_IN_ONE_WAY = {"integer", "string", "date"}  # equal values are equal texts


class KeySearch:
    """A search among COLUMNS that begins with the FIRST rows; GIVEN are the key's columns, if they are known.

    READ returns all rows as a contract with these key columns reads them, which is done until DEADLINE.

    Attributes:
        is_of_first: whether only the first rows were looked at, since there are too many.
    """

    def __init__(
        self,
        columns: Sequence[ColumnGuess],
        first: Sequence[Sequence[str | None]],
        given: Sequence[str],
        read: Callable[[Key], Iterator[tuple[int, Found, Lines]]],
        deadline: float,
    ) -> None:
        self._columns, self._first, self._given = columns, first, given
        self._read, self._deadline = read, deadline
        self.is_of_first = False

    def find(self) -> tuple[Key, int]:
        """Return the best key, empty if no columns can be one, and how many rows share it with an earlier row."""
        repeated = self._candidates()
        key = min(repeated, key=repeated.__getitem__, default=())
        types = {column.type for column in self._columns if column.name in key}
        hashes = self._hashes([key], is_exact=True) if types - WRITTEN_IN_ONE_WAY else None
        return key, _repeated(hashes[key]) if hashes else repeated.get(key, 0)

    def _candidates(self) -> dict[Key, int]:
        """Return sets of columns that may be the key, the best first, and how many rows share each with an earlier row.

        Sets are chosen that are unique in some rows. Rows that show that a set is not unique in the others join these.
        """
        places = {column.name: place for place, column in enumerate(self._columns)}
        able = able_columns(self._columns)
        every = tuple(self._given) or tuple(column.name for column in able)
        costs = {} if self._given else {column.name: cost_of(column) for column in able}
        # A row that is there twice says nothing about the key.
        rows = {tuple(str(row[places[name]]) for name in costs) for row in self._first[:KEY_ROWS]}
        repeated: dict[Key, int] = {}
        while every:
            found = unique_sets(costs, rows, KEYS_AT_ONCE, but=_worse(repeated, every))
            if found and found[0] in repeated:
                break
            candidates = [key for key in found if key not in repeated]
            candidates += [every] if (repeated or not found) and every not in repeated else []
            if not candidates:
                break
            hashes = self._hashes(candidates)
            if hashes is None:  # it would take too long
                self.is_of_first = not repeated
                return repeated or dict.fromkeys(candidates[:1], 0)
            repeated |= {key: _repeated(of_key) for key, of_key in hashes.items()}
            if worse := hashes.keys() & _worse(repeated, every):
                rows |= self._collisions(tuple(costs), {key: hashes[key] for key in worse})
        return dict(sorted(repeated.items(), key=lambda item: sum(costs[name] for name in item[0] if costs)))

    def _hashes(self, keys: Sequence[Key], *, is_exact: bool = False) -> "dict[Key, array[int]] | None":
        """Return the hashes of each of KEYS in all rows; None if reading them takes too long.

        EXACT ones are equal for equal values, even if these are written differently: 1.50 and 1.5.
        """
        hashes: dict[Key, array[int]] = {key: array("q") for key in keys}
        names = tuple(dict.fromkeys(itertools.chain(*keys)))
        for values in self._values(names, is_exact=is_exact):
            for key, found in hashes.items():
                places = [names.index(name) for name in key]
                found.extend([hash(tuple(row[place] for place in places)) for row in values])
            if time.monotonic() > self._deadline:
                return None
        return hashes

    def _collisions(self, names: Key, hashes: "Mapping[Key, array[int]]") -> set[tuple[str, ...]]:
        """Return the values of the columns NAMES in some rows that share one of the keys of HASHES."""
        shared = {key: _shared(found) for key, found in hashes.items()}
        places = {key: [names.index(name) for name in key] for key in hashes}
        return {
            row
            for values in self._values(names)
            for row in values
            for key, found in shared.items()
            if hash(tuple(row[place] for place in places[key])) in found
        }

    def _values(self, names: Key, *, is_exact: bool = False) -> Iterator[list[tuple[str, ...]]]:
        """Yield the values of the columns NAMES in all valid rows, as they are written, or equal ones as equals."""
        for _, found, lines in self._read(names):
            if isinstance(found, bytes):
                values = lines.keys(found)
                yield [lines.key_of(row) for row in values] if is_exact else values
            elif isinstance(found, Valid) and is_exact:
                yield [lines.key(found.row)]
            elif isinstance(found, Valid):
                yield [tuple(str(found.fields[position]) for position in lines.key_positions)]


def _worse(repeated: Mapping[Key, int], every: Key) -> list[Key]:
    """Return the keys that more rows share than share EVERY column."""
    return [key for key, rows in repeated.items() if rows > repeated.get(every, 0)]


def _repeated(hashes: "array[int]") -> int:
    """Return how many of HASHES an earlier one is equal to."""
    return len(hashes) - int(pc.count_distinct(_arrow(hashes)).as_py())


def _shared(hashes: "array[int]") -> set[int]:
    """Return some of those that are several times in HASHES."""
    counts = pc.value_counts(_arrow(hashes))
    several = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    return set(several[:COLLISIONS].to_pylist())


def _arrow(hashes: "array[int]") -> Any:
    return pa.Array.from_buffers(pa.int64(), len(hashes), [None, pa.py_buffer(hashes)])
