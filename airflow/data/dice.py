"""Random numbers that are the same on every machine and with every version of Python."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Of `random`, only the stream of `random()` is guaranteed to stay the same for a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - these are no secrets

    def below(self, bound: int) -> int:
        """Return a number from 0 to BOUND - 1."""
        return int(self._random() * bound)

    def chance(self, one_in: int) -> bool:
        """Return whether a chance of one in ONE_IN has come true."""
        return self.below(one_in) == 0

    def pick(self, items: Sequence[T]) -> T:
        """Return one of ITEMS."""
        return items[self.below(len(items))]
