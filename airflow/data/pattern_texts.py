"""Make texts that a regular expression matches."""

import re
from collections.abc import Iterable

# re._parser has no public name, and is called sre_parse up to Python 3.10.
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from dice import Dice

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-.,:/@é"
_MORE = 3  # repetitions, at most, than the fewest
_CATEGORIES = {op.CATEGORY_DIGIT: r"[0-9]", op.CATEGORY_SPACE: r"\s", op.CATEGORY_WORD: r"[0-9A-Za-z_]"}
_CATEGORIES |= {op.CATEGORY_NOT_DIGIT: r"[^0-9]", op.CATEGORY_NOT_SPACE: r"\S", op.CATEGORY_NOT_WORD: r"[^0-9A-Za-z_]"}


class PatternUnknownError(Exception):
    """The expression has a part for which this module knows no text."""


class PatternTexts:
    """Makes texts for PATTERN, an expression of RE2.

    Raises:
        PatternUnknownError: Python's parser does not know a part of it.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._tree = list(_parser.parse(pattern))
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternUnknownError(str(error)) from None

    def text(self, dice: Dice) -> str:
        """Return a text that most likely matches: the caller checks it."""
        return _sequence(self._tree, dice)


def _sequence(tree: Iterable[Any], dice: Dice) -> str:
    return "".join(_item(kind, value, dice) for kind, value in tree)


def _item(kind: Any, value: Any, dice: Dice) -> str:  # noqa: PLR0911 - a return per kind
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.AT:
        return ""
    if kind is op.SUBPATTERN:
        return _sequence(value[3], dice)
    if kind is op.BRANCH:
        return _sequence(dice.pick(value[1]), dice)
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        fewest, most, repeated = value
        count = fewest + dice.below(min(int(most) - fewest, _MORE) + 1)
        return "".join(_sequence(repeated, dice) for _ in range(count))
    if kind is op.ANY:
        return dice.pick(_ALPHABET)
    if kind is op.NOT_LITERAL:
        return dice.pick([character for character in _ALPHABET if ord(character) != value])
    if kind is op.IN:
        return _one_of(value, dice)
    raise PatternUnknownError(f"{kind} in a pattern")


def _one_of(items: Iterable[Any], dice: Dice) -> str:
    """Return one character of a set."""
    items = list(items)
    is_negated = items[0][0] is op.NEGATE
    of_set = [c for c in _ALPHABET if any(_has(kind, value, c) for kind, value in items) != is_negated]
    if not of_set:
        of_set = [
            chr(value[0] if kind is op.RANGE else value) for kind, value in items if kind in (op.RANGE, op.LITERAL)
        ]
    if not of_set or (is_negated and len(of_set) == len(items)):
        raise PatternUnknownError("a set of unusual characters")
    return dice.pick(of_set)


def _has(kind: Any, value: Any, character: str) -> bool:
    if kind is op.LITERAL:
        return ord(character) == int(value)
    if kind is op.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    if kind is op.CATEGORY:
        return re.fullmatch(_CATEGORIES[value], character) is not None
    return False
