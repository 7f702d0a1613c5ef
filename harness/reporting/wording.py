"""Words of sentences for people: numbers with their nouns, lists of names, and values as they are in the database."""

import re
from collections.abc import Sequence

VALUE_CHARS = 120  # of a value; the longest names of PostgreSQL have 63
NAMED = 3  # names in a sentence, before it counts the rest
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def count(number: int, noun: str, plural: str = "") -> str:
    """Return NUMBER with its NOUN: `1 row`, `1,200 rows`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Return NAMES as `a, b and c`, or `a, b, c and 9 more`."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most:,} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def value(text: str | None, most: int = VALUE_CHARS) -> str:
    """Return a value to be read on one line: `null`, `''` if empty, cut if it has more than MOST characters."""
    if text is None:
        return "null"
    shown = visible(text[:most])
    return f"{shown}… ({len(text):,} characters)" if len(text) > most else shown or "''"


def visible(text: str) -> str:
    """Return TEXT on one line, with escapes for characters that nobody sees."""
    return HIDDEN.sub(lambda found: ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), text)
