"""Guess a feed's contract from its files: names, types, what is required, key and time column.

The first rows give a guess. Then all rows are read as a load reads them, and each that the guess would reject is taken
into the guess, until none is left but those that no contract reads. So a load of the same files rejects nothing.
"""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from feeds.contract import Column, Drift, Feed, Properties
from feeds.files import find_files
from feeds.lines import Lines, Reject, Row
from feeds.source import open_source, text_source
from feeds.uri import shown
from harness.contracts.column_guess import NULLS, TYPES, ColumnGuess
from harness.contracts.file_layout import layout_of, object_in
from harness.contracts.key_guess import COMBINED, Key
from harness.contracts.key_search import KEY_ROWS, KeySearch
from harness.contracts.read_rows import Found, Valid, each_row, runs_of_rows
from harness.contracts.time_guess import time_of
from harness.errors import UsageError

LONGEST_S = 60.0  # until a guess is made from what was read
FIRST_ROWS = 20_000
FIRST_VALUES = 200_000  # of these rows, at most
SAMPLE_ROWS, SAMPLE_BYTES = 1_000, 1 << 18
KEPT_REJECTS = 1_000  # per pass, of which the guess is made wider
MOST_PASSES = 20
MOST_REJECTED = 0.01


@dataclass
class Guess:
    """A contract as guessed.

    Attributes:
        feed: the contract; its name and location are not guessed.
        notes: on its key, time, drift and rejected rows, by these words: what was guessed, and why.
        column_notes: what to look at, by the column's name.
        rows: that were looked at.
        is_all: whether these are all rows of the files.
        sample: raw records of CSV and JSON Lines, or the numbers of rows of Parquet, that show all kinds of values.
        header: of CSV, as it is in the file.
    """

    feed: Feed
    notes: dict[str, str]
    column_notes: dict[str, str]
    rows: int
    is_all: bool
    sample: list[bytes] | list[int]
    header: bytes


def guess(name: str, uri: str, key: Sequence[str] = ()) -> Guess:
    """Return the contract of the feed NAME that fits the files at URI; KEY names its key's columns, if they are known.

    Raises:
        UsageError: they have no rows, or are of no known format, or no columns can be the key.
        FeedError: they cannot be read.
    """
    files = find_files(uri)
    return _Inference(name, uri, files, key).guess()


@dataclass
class _Checked:
    """What reading all rows with a contract has shown."""

    rows: int = 0
    is_all: bool = True
    has_stopped: bool = False  # since another guess is worth a new start
    rejected: Counter[Reject] = field(default_factory=Counter)
    first_rejected: int | None = None  # its line
    kept: list[tuple[int, bytes]] = field(default_factory=list)  # line number and raw record of rows with a bad value


class _Inference:
    def __init__(self, name: str, uri: str, files: Sequence[str], key: Sequence[str]) -> None:
        self._name, self._uri, self._files, self._given_key = name, uri, files, key
        self._deadline = time.monotonic() + LONGEST_S
        self._first: list[tuple[str | None, ...]] = []  # rows
        self._sample: dict[int | bytes, None] = {}
        self._sample_bytes = 0
        self._bad: set[Reject] = set()  # that no other guess avoids
        self._layout = layout_of(files[0])

    def guess(self) -> Guess:
        """Read the files until the guess fits them, and look for the key."""
        self._read_first()
        checked = self._settle()
        return self._guess(checked)

    def _settle(self) -> _Checked:
        """Make the guess wider until no row is rejected that another guess would not reject."""
        for number in range(MOST_PASSES):
            checked = self._check(self._feed((), provisional=True))
            has_changed = self._widen(checked)
            self._bad |= set() if has_changed else set(checked.rejected)
            is_last = number == MOST_PASSES - 1 or not checked.is_all
            if is_last or not (has_changed or checked.has_stopped):
                break
        return checked

    # The first rows

    def _read_first(self) -> None:
        """Read the first rows as texts, choose the decimal character and the null token, and begin the guess."""
        count = max(min(FIRST_ROWS, FIRST_VALUES // len(self._layout.columns)), SAMPLE_ROWS)
        first: list[tuple[int, bytes, tuple[str | None, ...]]] = []
        feed = self._loose()
        before = 0
        for file in self._files:
            line_number = 0
            with open_source(file) as source:
                for line_number, raw, row in each_row(source, feed):
                    if isinstance(row, Row):
                        first.append((before + line_number, raw, row.values))
                    if len(first) >= count:
                        break
            if len(first) >= count:
                break
            before += self._rows_of(line_number)
        if not first:
            raise UsageError(
                f"{shown(self._uri)} has no rows.",
                "It has a header only, or none of its first rows can be read.",
                "Name a file with rows.",
            )
        self._first = [values for _, _, values in first]
        self._check_given_key()
        if self._layout.format == "csv":
            self._choose_decimal()
            self._choose_null()
        for number, ((line_number, raw, _), values) in enumerate(zip(first, self._first, strict=True)):
            if self._add(values) or (number < SAMPLE_ROWS and self._sample_bytes < SAMPLE_BYTES):
                self._keep(line_number, raw)

    def _add(self, values: Sequence[str | None]) -> bool:
        """Take a row into the guess; return whether it changes it."""
        changes = [column.add(text) for column, text in zip(self._layout.columns, values, strict=True)]
        return any(changes)

    def _keep(self, line_number: int, raw: bytes) -> None:
        """Take a row into the sample."""
        self._sample[line_number if self._layout.format == "parquet" else raw] = None
        self._sample_bytes += len(raw)

    def _choose_null(self) -> None:
        """Choose a token for null that makes columns of texts columns of another type, if no field is empty."""
        columns = list(zip(*self._first, strict=True))
        if any(text is None for values in columns for text in values):
            return
        found: Counter[str] = Counter()
        for values in columns:
            for token in NULLS:
                if token in values and (others := set(values) - {token}):
                    guessed = ColumnGuess("", "", list(TYPES), decimal=self._layout.csv.decimal)
                    for text in others:
                        guessed.add(text)
                    found[token] += guessed.type != "string"
        if found and (most := found.most_common(1)[0])[1]:
            token = most[0]
            self._layout.csv = self._layout.csv.model_copy(update={"null_text": token})
            self._first = [tuple(None if text == token else text for text in row) for row in self._first]

    def _choose_decimal(self) -> None:
        """Choose the decimal comma if more columns have it than a point, whatever token for null they have.

        One that may be a separator of thousands, as in 1.234, is no sign of either.
        """
        counts: Counter[str] = Counter()
        for values in zip(*self._first, strict=True):
            present = [text for text in values if text is not None and text not in NULLS]
            for decimal in ".,":
                numbers = sum(bool(re.fullmatch(rf"-?[0-9]+(?:\{decimal}[0-9]+)?", text)) for text in present)
                thousands = re.compile(rf"-?[1-9][0-9]{{0,2}}\{decimal}[0-9]{{3}}")
                is_sign = any(decimal in text and not thousands.fullmatch(text) for text in present)
                counts[decimal] += is_sign and numbers == len(present)
        if counts[","] > counts["."]:
            self._layout.csv = self._layout.csv.model_copy(update={"decimal": ","})
            for column in self._layout.columns:
                column.decimal = ","

    # All rows

    def _feed(self, key: Sequence[str], *, provisional: bool = False) -> Feed:
        """Return the contract as guessed so far."""
        columns = tuple(column.column(provisional=provisional) for column in self._layout.columns)
        varies = self._layout.format == "jsonl" and not all(column.is_required for column in columns)
        drift = Drift(
            new_column="ignore" if self._layout.left_out else "refuse", missing_column="null" if varies else "refuse"
        )
        return Feed(
            name=self._name,
            version="1.0.0",
            columns=columns,
            key=tuple(key),
            location="",
            format=self._layout.format,
            rules=(),
            properties=Properties(csv=self._layout.csv, drift=drift),
        )

    def _loose(self) -> Feed:
        """Return a contract that takes any value: as text, or as JSON where that is the format."""
        feed = self._feed(())
        kind: tuple[Any, str] = ("json", "jsonb") if self._layout.format == "jsonl" else ("string", "text")
        columns = [
            replace(column, is_required=False) if guessed.fixed else Column(column.name, column.header, *kind)
            for column, guessed in zip(feed.columns, self._layout.columns, strict=True)
        ]
        drift = Drift(new_column="ignore", missing_column="null")
        return replace(feed, columns=tuple(columns), properties=feed.properties.model_copy(update={"drift": drift}))

    def _check(self, feed: Feed) -> _Checked:
        """Read all rows as a load of FEED does, and keep rejected ones."""
        checked = _Checked()
        for line_number, found, _ in self._all_rows(feed):
            if isinstance(found, bytes):
                checked.rows += found.count(b"\n")
            elif isinstance(found, Valid):
                checked.rows += 1
            else:
                self._take_reject(checked, line_number, *found)
            checked.is_all = time.monotonic() < self._deadline
            if checked.has_stopped or not checked.is_all:
                break
        return checked

    def _all_rows(self, feed: Feed) -> Iterator[tuple[int, Found, Lines]]:
        before = 0
        for file in self._files:
            last = 0
            with open_source(file) as source:
                for line_number, found, lines in runs_of_rows(source, feed):
                    yield before + line_number, found, lines
                    last = line_number - 1 + (found.count(b"\n") if isinstance(found, bytes) else 1)
            before += self._rows_of(last)

    def _rows_of(self, last: int) -> int:
        """Return what is added to the numbers of the rows of the next file, if LAST is the last of this one.

        The sample names rows of Parquet by their numbers, which go on from file to file.
        """
        return last if self._layout.format == "parquet" else 0

    def _rows_by_key(self, key: Key) -> Iterator[tuple[int, Found, Lines]]:
        return self._all_rows(self._feed(key, provisional=True))

    def _take_reject(self, checked: _Checked, line_number: int, raw: bytes, reject: Reject) -> None:
        checked.rows += 1
        checked.rejected[reject] += 1
        checked.first_rejected = checked.first_rejected or line_number
        if (reject.column or reject.reason == "unknown_column") and reject not in self._bad:
            checked.kept.append((line_number, raw))
            checked.has_stopped = len(checked.kept) == KEPT_REJECTS

    def _widen(self, checked: _Checked) -> bool:
        """Take the rejected rows into the guess; return whether it has changed."""
        has_changed = False
        if any(reject.reason == "encoding" for reject in checked.rejected) and self._layout.format == "csv":
            encodings = ("utf-8", "windows-1252", "latin-1")
            if self._layout.csv.encoding != "latin-1" and self._layout.header.isascii() and not self._has_text():
                after = encodings[encodings.index(self._layout.csv.encoding) + 1]
                self._layout.csv = self._layout.csv.model_copy(update={"encoding": after})
                has_changed = True
        if any(reject.reason == "unknown_column" for reject in checked.rejected):
            objects = [row for _, raw in checked.kept if (row := object_in(raw)) is not None]
            known = {column.header for column in self._layout.columns}
            keys = [key for row in objects for key in row if key not in known]
            self._layout.add_json_columns(list(dict.fromkeys(keys)))
            for column in self._layout.columns[len(known) :]:
                column.nulls = 1  # the first rows lack it
            has_changed = len(self._layout.columns) > len(known)
        for line_number, raw, values in self._loose_rows(checked):
            if self._add(values):
                self._keep(line_number, raw)
                has_changed = True
        return has_changed

    def _has_text(self) -> bool:
        """Return whether the first rows have text that is not ASCII, in the encoding that was guessed."""
        return any(not text.isascii() for row in self._first for text in row if text)

    def _loose_rows(self, checked: _Checked) -> Iterator[tuple[int, bytes, tuple[str | None, ...]]]:
        """Yield the number, the raw record and the values of each row that was kept, read as the first rows were."""
        if self._layout.format == "parquet":
            for line_number, raw in checked.kept:
                row = json.loads(raw)
                texts = [row.get(column.header) for column in self._layout.columns]
                yield line_number, raw, tuple(None if text is None else str(text) for text in texts)
            return
        rows = self._read_records([raw for _, raw in checked.kept], self._loose())
        for (line_number, raw), row in zip(checked.kept, rows, strict=True):
            if isinstance(row, Row):
                yield line_number, raw, row.values

    def _read_records(self, records: Sequence[bytes], feed: Feed) -> list[Row | Reject]:
        """Return what FEED makes of RECORDS, each of which has as many fields as the header."""
        lines = [self._encoded(record) for record in records]
        if self._layout.format == "csv":
            lines.insert(0, self._layout.header + b"\n")
        if not records:
            return []
        return [row for _, _, row in each_row(text_source(self._uri, b"".join(lines)), feed)]

    def _encoded(self, record: bytes) -> bytes:
        """Return RECORD as it is in the file."""
        if self._layout.csv.encoding == "utf-8":
            return record + b"\n"
        return record.decode(errors="surrogateescape").encode(self._layout.codec, errors="surrogateescape") + b"\n"

    def _check_given_key(self) -> None:
        """Make the columns of a given key required; raise UsageError if there is no such column."""
        columns = {column.name: column for column in self._layout.columns}
        for name in self._given_key:
            if name not in columns:
                raise UsageError(
                    f"{shown(self._uri)} has no column {name!r} for the key.",
                    f"Its columns are {', '.join(columns)[:300]}.",
                    "Name the key's columns as the contract names them: --key a,b",
                )
            columns[name].is_in_key = True

    # The result

    def _guess(self, checked: _Checked) -> Guess:
        search = KeySearch(self._layout.columns, self._first, self._given_key, self._rows_by_key, self._deadline)
        key, repeated = search.find()
        if not key:
            raise UsageError(
                f"{shown(self._uri)} has no column that can be a key.",
                "A key's columns have a value in every row, and each column lacks one in some row.",
                "Export a number for each row, or name columns, whose rows without a value are rejected: --key a,b",
            )
        notes: dict[str, str] = {}
        column_notes = {column.name: _printable(note) for column in self._layout.columns if (note := column.note)}
        bad = checked.rejected.total() + repeated
        share = bad / max(checked.rows, 1)
        reasons = [f"{reject} {count:,}" for reject, count in checked.rejected.most_common(5)]
        reasons += [f"duplicate_key {repeated:,}"] if repeated else []
        if share > 0.5:
            raise UsageError(
                f"{bad:,} of {checked.rows:,} rows of {shown(self._uri)} would be rejected: {', '.join(reasons)}.",
                "No columns that have a value in every row tell its rows apart, or it is not what it looks like.",
                "Name the key's columns, --key a,b, or export the file with a number for each row.",
            )
        if bad:
            first = f"; the first is in line {checked.first_rejected}" if checked.first_rejected else ""
            notes["rejected"] = f"{bad:,} row{'s' * (bad > 1)} would be rejected: {', '.join(reasons)}{first}"
        if repeated:
            notes["key"] = f"not unique: {repeated:,} of {checked.rows:,} rows have the key of an earlier one"
        elif search.is_of_first:
            notes["key"] = f"unique in the first {min(len(self._first), KEY_ROWS):,} rows"
        else:
            notes["key"] = f"unique in all {checked.rows:,} rows"
        if len(key) > max(COMBINED):
            notes["key"] += "; all columns that have a value in every row: name fewer if you know them"
        if self._layout.left_out:
            left_out = _printable(", ".join(self._layout.left_out))
            notes["drift"] = f"columns of types that a feed cannot have are left out: {left_out}"
        feed = self._feed(key)
        if feed.properties.drift.missing_column == "null":
            notes["drift"] = "objects have different keys: one that a file lacks is null"
        time_column, notes["time"] = time_of(feed)
        allowed = MOST_REJECTED if share <= MOST_REJECTED else math.ceil(share * 120) / 100
        properties = feed.properties.model_copy(update={"time_column": time_column, "max_rejected": allowed})
        feed = replace(feed, properties=properties)
        sample = self._valid_sample(feed, checked)
        return Guess(feed, notes, column_notes, checked.rows, checked.is_all, sample, self._layout.header)

    def _valid_sample(self, feed: Feed, checked: _Checked) -> list[bytes] | list[int]:
        """Return the rows of the sample that FEED does not reject, as they are in the file."""
        if self._layout.format == "parquet":
            rejected = {number for number, _ in checked.kept}
            return sorted(number for number in self._sample if isinstance(number, int) and number not in rejected)
        records = [raw for raw in self._sample if isinstance(raw, bytes)]
        rows = self._read_records(records, feed)
        return [self._encoded(record) for record, row in zip(records, rows, strict=True) if isinstance(row, Row)]


def _printable(text: str) -> str:
    """Return TEXT without what a terminal or YAML does not take as text: a file may have anything in it."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
