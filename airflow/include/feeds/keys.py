"""Recognise primary keys that a load may already have had, in bounded memory.

A key that is one integer is recognised at once. Of other keys PostgreSQL finds the duplicates at the end of the load;
if there are some, the load reads its files again and knows them.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

# Primes below powers of two: ids with a constant step between them are then spread over all slots.
_SLOTS = (65_521, 1_048_573, 16_777_213)
_SLOTS_PER_ROW = 4  # for files of the shortest rows; for usual rows it is eight
_ROUNDS = 255  # the highest number in a slot, which is a byte


class SeenKeys(Protocol):
    """The keys that a load has had so far."""

    def add(self, keys: Sequence[tuple[str, ...]]) -> list[int]:
        """Add KEYS, at least one, and return the positions of those that may be duplicates."""


class KnownDuplicates:
    """The keys that several rows have; the first of them may be a duplicate, too.

    Attributes:
        files: those that have these rows.
    """

    def __init__(self, duplicates: Iterable[tuple[str, ...]] = ()) -> None:
        """Recognise DUPLICATES; without any, no key may be a duplicate."""
        self._hashes = frozenset(map(hash, duplicates))  # in place of the keys: they may be many, and long
        self.files: Sequence[object] = ()

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, keys: Sequence[tuple[str, ...]]) -> list[int]:
        """Return the positions of those of KEYS that may be duplicates."""
        if not self._hashes:
            return []
        return [position for position, key in enumerate(keys) if hash(key) in self._hashes]


class SeenIntegers:
    """The integers, keys of rows, that a load has had so far.

    Each id has a slot, which it shares with the ids that are a multiple of the number of slots away, and a round, which
    counts these multiples. A slot holds the highest round of its ids so far: an id of a higher round is new. So rising
    ids, as in a log, are all distinguished, however many they are. Another id may be reported although it is new, since
    it shares its slot.
    """

    def __init__(self, most_rows: int | None) -> None:
        """Make room for MOST_ROWS rows; None if their largest number is unknown."""
        wanted = _SLOTS[-1] if most_rows is None else most_rows * _SLOTS_PER_ROW
        self._count = next((count for count in _SLOTS if count >= wanted), _SLOTS[-1])
        self._slots = bytearray(self._count)
        self._first_round: int | None = None

    def add_integers(self, numbers: Sequence[int]) -> list[int]:
        """Add NUMBERS, at least one, and return the positions of those that may be duplicates."""
        slots, count = self._slots, self._count
        if self._first_round is None:
            self._first_round = numbers[0] // count
        lowest, highest = self._round(min(numbers)), self._round(max(numbers))
        maybe = []
        for position, key in enumerate(numbers):
            number = lowest if lowest == highest else self._round(key)
            slot = key % count
            if slots[slot] < number:
                slots[slot] = number
            else:
                maybe.append(position)
        return maybe

    def add(self, keys: Sequence[tuple[str, ...]]) -> list[int]:
        """Add KEYS, each of one integer, and return the positions of those that may be duplicates."""
        return self.add_integers([int(key[0]) for key in keys])

    def _round(self, key: int) -> int:
        """Return the round of KEY, 1 or more; ids lower than the very first share the lowest one."""
        assert self._first_round is not None
        return min(max(key // self._count - self._first_round + 1, 1), _ROUNDS)
