"""Regular expressions of RE2 that match only text without certain characters. Pure.

A pattern of a contract matches one value. To match whole lines at once, it must not match what separates values, and
many patterns would: `.*`, `[^_]+`. RE2 cannot intersect two expressions, so each set of characters is written anew.
"""

import re
import warnings
from collections.abc import Iterable

# re._parser has no public name, and is called sre_parse up to Python 3.10.
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

Ranges = list[tuple[int, int]]
_LAST = 0x10FFFF
MOST_REPEATS = 1000  # RE2's limit
# ASCII only, as in RE2.
_CATEGORIES: dict[Any, Ranges] = {
    op.CATEGORY_DIGIT: [(0x30, 0x39)],
    op.CATEGORY_SPACE: [(0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)],
    op.CATEGORY_WORD: [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
}
_NEGATED = {
    op.CATEGORY_NOT_DIGIT: op.CATEGORY_DIGIT,
    op.CATEGORY_NOT_SPACE: op.CATEGORY_SPACE,
    op.CATEGORY_NOT_WORD: op.CATEGORY_WORD,
}
# What Python's parser and RE2's understand differently.
_AMBIGUOUS = re.compile(r"\[:|\{,|\(\?[^:P]")


class _Unsupported(Exception):  # noqa: N818 - it is no error of the program
    """The expression has a part that cannot be written anew."""


def without(pattern: str, characters: str) -> str | None:
    """Return an expression of RE2 that matches what the whole PATTERN matches, except texts with CHARACTERS.

    Returns:
        The expression, without groups that capture; None if PATTERN has a part that this module does not know.
    """
    if _AMBIGUOUS.search(pattern):
        return None
    excluded = [(ord(character), ord(character)) for character in characters]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = list(_parser.parse(pattern))
        if tree and tree[0] == (op.AT, op.AT_BEGINNING):
            del tree[0]
        if tree and tree[-1] == (op.AT, op.AT_END):
            del tree[-1]
        return _sequence(tree, excluded)
    except (_Unsupported, re.error, Warning, RecursionError, OverflowError):
        return None


def one_of(ranges: Ranges, excluded: Ranges) -> str:
    """Return the expression for one character of RANGES that is not in EXCLUDED."""
    left = _complement([*_complement(ranges), *excluded])
    if not left:
        raise _Unsupported
    return "[" + "".join(rf"\x{{{low:x}}}-\x{{{high:x}}}" for low, high in left) + "]"


def _sequence(tree: Iterable[Any], excluded: Ranges) -> str:
    return "".join(_item(kind, value, excluded) for kind, value in tree)


def _item(kind: Any, value: Any, excluded: Ranges) -> str:  # noqa: PLR0911 - a return per kind
    if kind is op.LITERAL:
        return one_of([(value, value)], excluded)
    if kind is op.NOT_LITERAL:
        return one_of(_complement([(value, value)]), excluded)
    if kind is op.ANY:
        return one_of(_complement([(0x0A, 0x0A)]), excluded)
    if kind is op.IN:
        return one_of(_set(value), excluded)
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        fewest, most, repeated = value
        if (most is not op.MAXREPEAT and most > MOST_REPEATS) or fewest > MOST_REPEATS:
            raise _Unsupported
        bounds = f"{{{fewest},}}" if most is op.MAXREPEAT else f"{{{fewest},{most}}}"
        return f"(?:{_sequence(repeated, excluded)}){bounds}"
    if kind is op.SUBPATTERN and value[1] == value[2] == 0:  # without flags
        return f"(?:{_sequence(value[3], excluded)})"
    if kind is op.BRANCH:
        return "(?:" + "|".join(_sequence(branch, excluded) for branch in value[1]) + ")"
    raise _Unsupported


def _set(items: Iterable[Any]) -> Ranges:
    ranges: Ranges = []
    negate = False
    for kind, value in items:
        if kind is op.NEGATE:
            negate = True
        elif kind is op.LITERAL:
            ranges.append((value, value))
        elif kind is op.RANGE:
            ranges.append(value)
        elif kind is op.CATEGORY and value in _CATEGORIES:
            ranges += _CATEGORIES[value]
        elif kind is op.CATEGORY and value in _NEGATED:
            ranges += _complement(_CATEGORIES[_NEGATED[value]])
        else:
            raise _Unsupported
    return _complement(ranges) if negate else ranges


def _complement(ranges: Ranges) -> Ranges:
    """Return the characters that are in none of RANGES."""
    complement, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            complement.append((start, low - 1))
        start = max(start, high + 1)
    if start <= _LAST:
        complement.append((start, _LAST))
    return complement
