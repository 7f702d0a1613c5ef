"""Recognise event ids that a file may already have had, in bounded memory."""

from collections.abc import Sequence

# Primes below powers of two: ids with a constant step between them are then spread over all slots.
_SLOTS = (65_521, 1_048_573, 16_777_213)
_SLOTS_PER_ROW = 4  # for files of the shortest rows; for usual rows it is eight
_ROUNDS = 255  # the highest number in a slot, which is a byte


class SeenIds:
    """The event ids that a file has had so far.

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

    def add(self, event_ids: Sequence[int]) -> list[int]:
        """Add EVENT_IDS, at least one, and return the positions of those that may be duplicates."""
        slots, count = self._slots, self._count
        if self._first_round is None:
            self._first_round = event_ids[0] // count
        lowest, highest = self._round(min(event_ids)), self._round(max(event_ids))
        maybe = []
        for position, event_id in enumerate(event_ids):
            number = lowest if lowest == highest else self._round(event_id)
            slot = event_id % count
            if slots[slot] < number:
                slots[slot] = number
            else:
                maybe.append(position)
        return maybe

    def _round(self, event_id: int) -> int:
        """Return the round of EVENT_ID, 1 or more; ids lower than the very first share the lowest one."""
        assert self._first_round is not None
        return min(max(event_id // self._count - self._first_round + 1, 1), _ROUNDS)
