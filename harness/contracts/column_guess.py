"""Guess what a column is from its values: the narrowest type that has them all. Pure."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from feeds.contract import Column, Type
from feeds.values import Flaw, reader

MOST_DIGITS = 38  # of a guessed numeric(p,s)
# Amounts have the same number of digits after the point in every row; other numbers' digits vary from file to file.
SCALES_OF_AMOUNTS = (2, 3, 4)
SPARE_DIGITS = 3
_NO_VALUE = "\x01"
NULLS = ("NULL", "null", "NA", "N/A", "n/a", "\\N", "None", "NaN", "nan", "-", "?")  # of CSV, that programs write
KEPT_VALUES = 20  # different ones, for comments
INTEGER = re.compile("-?[1-9][0-9]{0,18}|0")
# Of the first type that has all values. Text is the last, of JSON json: any value is one.
TYPES: tuple[Type, ...] = ("integer", "number", "boolean", "date", "timestamp", "uuid", "json", "string")
JSON_TYPES: tuple[Type, ...] = ("integer", "number", "boolean", "date", "timestamp", "uuid", "string", "json")
_READERS = {type_: reader(Column("value", "value", type_, "")) for type_ in ("date", "timestamp", "uuid", "json")}
_BOOLEANS = frozenset(("true", "false", "t", "f", "yes", "no"))  # not 1 and 0, which are integers
_JSON_NUMBER = re.compile(r"-?[0-9]+(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?")
_NUMBER_LIKE = re.compile(r"[+-]?[0-9][0-9.,' ]*(?:[eE][+-]?[0-9]+)?")
# Texts that a person reads as something else; see `docs/contracts.md`.
_LOOKS_LIKE = (
    (r"[0-9]{1,2}[/.-][0-9]{1,2}[/.-][0-9]{4}.*", "dates such as {0} are text: a date is YYYY-MM-DD"),
    (
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}.*",
        "times such as {0} are text: a time is YYYY-MM-DD HH:MM:SS, with a fraction of at most six digits, and a zone",
    ),
    (r"[0-9]{4}/[0-9]{2}/[0-9]{2}.*", "dates such as {0} are text: a date is YYYY-MM-DD"),
    (r"-?0[0-9]+", "numbers with leading zeros, such as {0}, are text"),
    (r"\+[0-9]+", "numbers with a plus sign, such as {0}, are text"),
    (r"-?[0-9]{1,3}(?:[.,' ][0-9]{3})+(?:[.,][0-9]+)?", "numbers with separators of thousands, such as {0}, are text"),
    (r"-?(?:[0-9]*\.)?[0-9]+[eE][+-]?[0-9]+", "numbers with an exponent, such as {0}, are text"),
)


@dataclass
class ColumnGuess:
    """What is known of a column so far.

    Attributes:
        name: in the raw table.
        header: in the file.
        types: that have all values so far, the narrowest first.
        is_json: whether values are written as JSON writes them.
        is_parquet: whether it is text of Parquet, where other types have columns of their own.
        decimal: the character before a number's fraction.
        fixed: the column as the file itself says it is; its values only show whether it is required.
        is_in_key: whether a row without a value is to be rejected.
    """

    name: str
    header: str
    types: list[Type]
    is_json: bool = False
    decimal: str = "."
    is_parquet: bool = False
    fixed: Column | None = None
    is_in_key: bool = False
    values: int = 0
    nulls: int = 0
    digits: tuple[int, int] = (1, 0)
    fewest_decimals: int = MOST_DIGITS
    misfit: tuple[Type, str] | None = None
    longest: int = 0
    has_zone: bool = True
    examples: dict[str, None] = field(default_factory=dict)

    def add(self, text: str | None) -> bool:
        """Take the value TEXT, None for null; return whether something is known now that was not before."""
        if text is None or (self.is_json and text == "null"):
            self.nulls += 1
            return self.nulls == 1 and not self.is_in_key
        before = (self.types, self.values > 0, self.digits, self.has_zone)
        self.values += 1
        self.longest = max(self.longest, len(text))
        if len(self.examples) < KEPT_VALUES:
            self.examples[text] = None
        if not self.fixed and len(self.types) > 1:
            fits = self._fits_json if self.is_json else self._fits
            narrowest, self.types = self.types[0], [type_ for type_ in self.types if fits(type_, text)]
            if len(self.types) == 1 and self.values > 1 and narrowest != self.types[0]:
                self.misfit = (narrowest, text)
        if self.types[0] == "number" or (self.types[0] == "integer" and "number" in self.types):
            self._measure(text)
        if self.types[0] == "timestamp" and not self.fixed:
            self.has_zone = self.has_zone and bool(re.search(r'(?:Z|[+-][0-9:]{5})"?$', text))
        return before != (self.types, True, self.digits, self.has_zone)

    def column(self, *, provisional: bool = False) -> Column:
        """Return the column; a PROVISIONAL one without any value so far has no valid value."""
        is_required = self.is_in_key or (self.values > 0 and not self.nulls)
        if self.fixed:
            return Column(self.name, self.header, self.type, self.sql_type, is_required, digits=self.fixed.digits)
        values = (_NO_VALUE,) if provisional and not self.values else ()
        digits = self._precision if self.type == "number" else None
        return Column(self.name, self.header, self.type, self.sql_type, is_required, values=values, digits=digits)

    @property
    def type(self) -> Type:
        """The narrowest type."""
        if not self.values and not self.fixed:
            return "string"
        if self.types[0] == "boolean" and len({text.lower() for text in self.examples}) == 1 and self.longest == 1:
            return "string"  # always t, or always f
        return self.types[0]

    @property
    def sql_type(self) -> str:
        """The type in PostgreSQL."""
        if self.fixed and self.type == self.fixed.type:
            return self.fixed.sql_type
        if self.type == "number" and (precision := self._precision):
            return f"numeric({sum(precision)},{precision[1]})"
        return {"integer": "bigint", "number": "numeric", "string": "text", "json": "jsonb"}.get(
            self.type, "timestamp with time zone" if self.type == "timestamp" else self.type
        )

    @property
    def note(self) -> str | None:
        """What a person should look at."""
        note = None
        if self.type == "timestamp" and not self.has_zone:
            note = "times without a zone are taken for UTC: see timeZone"
        elif self.fixed:
            pass
        elif not self.values:
            note = "no row has a value: its type is a guess"
        elif self.type == "string":
            note = self._text_note()
        elif self.type == "number":
            note = "any number of digits"
            if self._precision:
                note = f"guessed: {SPARE_DIGITS} more digits before the point than were seen"
        elif self.type == "json" and self.misfit:
            note = f"values of several types, such as {self.misfit[1][:40]}"
        return note

    def _text_note(self) -> str | None:
        """Return why values that look like another type are text, or all values, if they are few and repeat."""
        texts = [json.loads(text) if self.is_json else text for text in self.examples]
        if self.is_parquet and all(re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", text) for text in texts):
            return f"times such as {texts[0]} are text in the file, so they are here: export them as timestamps"
        if note := self._null_note(texts) or self._number_note(texts):
            return note
        if self.misfit and not self.is_json:
            type_, text = self.misfit
            return f"not all values are of the type {type_}: {json.dumps(text[:40], ensure_ascii=False)}"
        if len(texts) > 8 or self.values < 10 * len(texts) or self.longest > 40:
            return None
        return f"values seen: {', '.join(json.dumps(text, ensure_ascii=False) for text in sorted(texts))}"

    @property
    def _is_csv(self) -> bool:
        return not (self.is_json or self.is_parquet)

    def _null_note(self, texts: Sequence[str]) -> str | None:
        """Return that values of another type have texts beside them that programs write for null."""
        nulls = [text for text in NULLS if text in texts or (self.misfit and text == self.misfit[1])]
        if not (nulls and self._is_csv):
            return None
        others = ColumnGuess("", "", list(TYPES), decimal=self.decimal)
        for text in texts:
            if text not in NULLS:
                others.add(text)
        found = ", ".join(map(repr, nulls))
        note = f"has {found} beside values of the type {others.type}: a contract has one text for null, csv.null_text"
        return None if others.type == "string" else note

    def _number_note(self, texts: Sequence[str]) -> str | None:
        """Return how most values look, or some if all others look like numbers."""
        values = [text for text in texts if not (self._is_csv and text in NULLS)]
        other = "," if self.decimal == "." else "."
        of_decimal = "numbers such as {0} are text: a contract has one decimal character, here " + repr(self.decimal)
        looks = [*_LOOKS_LIKE, *([(rf"-?[0-9]+\{other}[0-9]+", of_decimal)] if self._is_csv else [])]
        are_numbers = all(map(_NUMBER_LIKE.fullmatch, values))
        for pattern, note in looks:
            alike = [text for text in values if re.fullmatch(pattern, text)]
            if alike and (are_numbers or 2 * len(alike) > len(values)):
                return note.format(alike[0])
        return None

    def _fits(self, type_: Type, text: str) -> bool:
        if type_ == "string":
            return True
        if type_ == "integer":
            return bool(INTEGER.fullmatch(text)) and -(2**63) <= int(text) < 2**63
        if type_ == "number":
            return bool(re.fullmatch(rf"-?(?:[1-9][0-9]*|0)(?:{re.escape(self.decimal)}[0-9]+)?", text))
        if type_ == "boolean":
            return text.lower() in _BOOLEANS
        if type_ == "json" and text[:1] not in "[{":
            return False
        return _is_read(_READERS[type_], text)

    def _fits_json(self, type_: Type, text: str) -> bool:
        if type_ == "json":
            return True
        if type_ == "boolean":
            return text in ("true", "false")
        if text[:1] == '"':
            return type_ == "string" or (type_ in _READERS and _is_read(_READERS[type_], json.loads(text)))
        if type_ == "integer":
            return bool(INTEGER.fullmatch(text)) and -(2**63) <= int(text) < 2**63
        return type_ == "number" and bool(_JSON_NUMBER.fullmatch(text))

    def _measure(self, text: str) -> None:
        """Count the digits of the number TEXT before and after its point."""
        if self.is_json:
            found = _JSON_NUMBER.fullmatch(text)
            exponent = int(found[2] or 0) if found else 0
            fraction = max(len((found and found[1]) or "") - exponent, 0)
            whole = max(len(text.lstrip("-").partition(".")[0].partition("e")[0].partition("E")[0]) + exponent, 1)
        else:
            parts = text.lstrip("-").partition(self.decimal)
            whole, fraction = len(parts[0]), len(parts[2])
        self.digits = (max(self.digits[0], whole), max(self.digits[1], fraction))
        self.fewest_decimals = min(self.fewest_decimals, fraction)

    @property
    def _precision(self) -> tuple[int, int] | None:
        """The digits before and after the point to allow; None for any number."""
        whole, fraction = self.digits
        is_amount = fraction in SCALES_OF_AMOUNTS and fraction == self.fewest_decimals
        if not (is_amount or fraction == 0) or whole + fraction > MOST_DIGITS:
            return None
        return min(whole + SPARE_DIGITS, MOST_DIGITS - fraction), fraction


def _is_read(read: Callable[[str], Any], text: str) -> bool:
    try:
        read(text)
    except Flaw:
        return False
    return True
