"""Guess a feed's contract from its files: names, types, what is required, key and time column.

The first rows give a guess. Then all rows are read as a load reads them, and each that the guess would reject is taken
into the guess, until none is left but those that no contract reads. So a load of the same files rejects nothing.
"""

import csv
import io
import itertools
import json
import math
import re
import time
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from feeds import formats
from feeds.contract import OWN_COLUMNS, Column, Csv, Drift, Feed, Properties
from feeds.lines import Lines, Reject, Row
from feeds.source import Source, find_files, open_source, text_source
from feeds.uri import shown
from harness.errors import UsageError
from harness.pipeline.column_guess import JSON_TYPES, TYPES, ColumnGuess

LONGEST_S = 60.0  # until a guess is made from what was read
FIRST_ROWS = 20_000
FIRST_VALUES = 1_000_000  # of these rows, at most
SAMPLE_ROWS, SAMPLE_BYTES = 1_000, 1 << 18
KEPT_REJECTS = 1_000  # per pass, of which the guess is made wider
MOST_PASSES = 20
MOST_COLUMNS = 1_500  # PostgreSQL's limit is 1,600
MOST_REJECTED = 0.01
DELIMITERS = ",;\t|"
NULLS = ("NULL", "null", "NA", "N/A", "\\N", "None", "NaN", "nan", "-", "?")
FORMATS = {"csv": "CSV", "jsonl": "JSON Lines", "parquet": "Parquet"}
TIME_NAMES = ("event_time", "occurred", "timestamp", "created", "order", "pickup", "start", "time", "date", "day")
# Times of a row's subject, which say nothing of when the row came.
NO_TIME_NAMES = re.compile(
    "birth|dob|expir|until|due|valid|updated|modified|last|signup|sign_up|subscri|regist|end|drop"
)
KEY_NAME = re.compile("(^|_)(id|key|uuid|guid|code|number|no|nr)$")
LONGEST_KEY = 100  # characters of a column
# PostgreSQL's keywords that cannot name a column or a table without quotes.
_KEYWORDS = """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate
    collation column concurrently constraint create cross current_catalog current_date current_role
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end
    except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into
    is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on
    only or order outer overlaps placing primary references returning right select session_user similar some
    symmetric system_user table tablesample then to trailing true union unique user using variadic verbose when
    where window with
"""
RESERVED = frozenset(_KEYWORDS.split())


@dataclass
class Guess:
    """A contract as guessed.

    Attributes:
        feed: the contract; its name and location are not guessed.
        notes: by a column's name or `key`, `time`, `rejected`, `format`: what was guessed, and why.
        rows: that were looked at.
        is_all: whether these are all rows of the files.
        sample: raw records of CSV and JSON Lines, or the numbers of rows of Parquet, that show all kinds of values.
        header: of CSV, as it is in the file.
    """

    feed: Feed
    notes: dict[str, str]
    rows: int
    is_all: bool
    sample: list[bytes] | list[int]
    header: bytes


def guess(name: str, uri: str, key: Sequence[str] = ()) -> Guess:
    """Return the contract of the feed NAME that fits the files at URI; KEY names its key's columns, if they are known.

    Raises:
        UsageError: they have no rows, or are of no known format, or no columns can be the key.
        EventsError: they cannot be read.
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
    hashes: "list[array[int]]" = field(default_factory=list)  # of the keys of each candidate


class _Inference:
    def __init__(self, name: str, uri: str, files: Sequence[str], key: Sequence[str]) -> None:
        self._name, self._uri, self._files, self._given_key = name, uri, files, key
        self._deadline = time.monotonic() + LONGEST_S
        self._csv = Csv()
        self._header = b""
        self._columns: list[ColumnGuess] = []
        self._left_out: list[str] = []
        self._first: list[tuple[str | None, ...]] = []  # rows
        self._sample: dict[int | bytes, None] = {}
        self._sample_bytes = 0
        self._bad: set[Reject] = set()  # that no other guess avoids
        self._format: Literal["csv", "jsonl", "parquet"] = self._layout()

    def guess(self) -> Guess:
        """Read the files until the guess fits them."""
        self._read_first()
        repeated: dict[tuple[str, ...], int] = {}  # rows whose key an earlier row has, by candidate
        for number in range(MOST_PASSES):
            candidates = self._keys(repeated)
            checked = self._check(self._feed((), provisional=True), candidates)
            is_last = number == MOST_PASSES - 1 or not checked.is_all
            if self._widen(checked) and not is_last:
                continue
            self._bad |= set(checked.rejected)
            if checked.has_stopped and not is_last:
                continue
            repeated |= _repeated(candidates, checked)
            if 0 in repeated.values() or is_last or candidates[-1:] == [self._every()]:
                break
        return self._guess(min(repeated, key=repeated.__getitem__, default=()), repeated, checked)

    # What the file is

    def _layout(self) -> Literal["csv", "jsonl", "parquet"]:
        """Find the format, the columns' headers, and how a CSV file is written."""
        with open_source(self._files[0]) as source:
            first = next(source.blocks, b"")
            if first.startswith(b"PAR1"):
                self._parquet_columns()
                return "parquet"
            text = b"".join([first, *islice(source.blocks, 39)])
        self._refuse_unknown(text)
        if text.lstrip().removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" and self._json_columns(text):
            return "jsonl"
        self._csv_columns(text)
        return "csv"

    def _refuse_unknown(self, text: bytes) -> None:
        what = None
        if not text.strip():
            what, next_step = "is empty", "Name a file with rows."
        elif text.startswith(b"PK\x03\x04"):
            what, next_step = "is a zip archive or a spreadsheet", "Unpack it, or save the sheet as CSV."
        elif text.startswith((b"\xff\xfe", b"\xfe\xff")):
            what, next_step = "is UTF-16", "Write it in UTF-8: iconv -f utf-16 -t utf-8 FILE > NEW_FILE"
        elif b"\0" in text[:4096]:
            what, next_step = (
                "is no text",
                "Export it as CSV, JSON Lines or Parquet, perhaps compressed by gzip or zstd.",
            )
        elif text.lstrip()[:1] == b"[" and text.lstrip()[1:].lstrip()[:1] in (b"{", b"["):
            what, next_step = "is one JSON array", "Write an object on each line: jq -c '.[]' FILE > NEW_FILE"
        elif text.lstrip()[:1] == b"{" and not _object(text.lstrip().partition(b"\n")[0]):
            what, next_step = (
                "has a JSON object over several lines",
                "Write an object on each line: jq -c . FILE > NEW_FILE",
            )
        elif text.lstrip()[:1] == b"<":
            what, next_step = "is XML or HTML", "Export it as CSV, JSON Lines or Parquet."
        if what:
            why = "A feed's files are CSV with a header line, JSON Lines or Parquet."
            raise UsageError(f"{shown(self._uri)} {what}.", why, next_step)

    def _parquet_columns(self) -> None:
        import pyarrow.parquet as pq

        with open_source(self._files[0]) as source:
            try:
                schema = pq.ParquetFile(source.whole()).schema_arrow
            except (pa.ArrowException, OSError) as error:
                raise UsageError(
                    f"{shown(self._uri)} cannot be read: {str(error).splitlines()[0]}",
                    "It is a damaged Parquet file, or is still being written.",
                    "Export it again.",
                ) from None
        self._refuse_headers(schema.names)
        fields = [(header, _of_parquet(schema.field(header).type)) for header in schema.names]
        self._left_out = [f"{header} ({schema.field(header).type})" for header, column in fields if not column]
        kept = [(header, column) for header, column in fields if column]
        names = column_names([header for header, _ in kept])
        for name, (header, column) in zip(names, kept, strict=True):
            types: list[Any] = ["uuid", "json", "string"] if column.type == "string" else [column.type]
            fixed = None if column.type == "string" else column
            self._columns.append(ColumnGuess(name, header, types, fixed=fixed))

    def _json_columns(self, text: bytes) -> bool:
        """Find the keys of the first objects; return whether there are any."""
        rows = [row for line in text.splitlines()[:FIRST_ROWS] if (row := _object(line)) is not None]
        self._add_json_columns(list(dict.fromkeys(key for row in rows for key in row)))
        return bool(rows)

    def _add_json_columns(self, headers: Sequence[str]) -> None:
        known = [column.header for column in self._columns]
        self._refuse_headers([*known, *headers])
        names = column_names([*known, *headers])[len(known) :]
        for name, header in zip(names, headers, strict=True):
            self._columns.append(ColumnGuess(name, header, list(JSON_TYPES), is_json=True))

    def _csv_columns(self, text: bytes) -> None:
        text = text.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
        self._csv = Csv(encoding=_encoding(text))
        decoded = text.decode({"windows-1252": "cp1252"}.get(self._csv.encoding, self._csv.encoding), errors="replace")
        delimiter = max(DELIMITERS, key=lambda one: _regularity(decoded, one))
        self._csv = self._csv.model_copy(update={"delimiter": delimiter})
        self._header = text.partition(b"\n")[0].removesuffix(b"\r")
        [headers] = csv.reader([decoded.partition("\n")[0].removesuffix("\r")], delimiter=delimiter)
        self._refuse_headers(headers)
        values = [header for header in headers if re.fullmatch(r"-?[0-9]+([.,:/ -][0-9]+)*|\s*|(?i:null|na)", header)]
        if 2 * len(values) > len(headers):
            raise UsageError(
                f"{shown(self._uri)} has no header line: it begins with {', '.join(headers)[:60]}",
                "The first line of a CSV file names its columns, and these look like values.",
                "Export it with a header, or put one before it: sed -i '1i id,name' FILE",
            )
        for name, header in zip(column_names(headers), headers, strict=True):
            self._columns.append(ColumnGuess(name, header, list(TYPES)))

    def _refuse_headers(self, headers: Sequence[str]) -> None:
        twice = [header for header, count in Counter(headers).items() if count > 1]
        if twice:
            raise UsageError(
                f"{shown(self._uri)} has two columns with the name {twice[0]!r}.",
                "A contract names each column of a file once.",
                "Rename one of them in the export.",
            )
        if not 0 < len(headers) <= MOST_COLUMNS:
            raise UsageError(
                f"{shown(self._uri)} has {len(headers):,} columns.",
                f"A table of PostgreSQL has at least one, and a feed at most {MOST_COLUMNS:,}.",
                "Export fewer; objects whose keys are data, such as ids, belong below one key.",
            )

    # The first rows

    def _read_first(self) -> None:
        """Read the first rows as texts, choose the null token and the decimal character, and begin the guess."""
        count = max(min(FIRST_ROWS, FIRST_VALUES // len(self._columns)), SAMPLE_ROWS)
        first: list[tuple[int, bytes, tuple[str | None, ...]]] = []
        feed = self._loose()
        for file in self._files:
            with open_source(file) as source:
                for line_number, raw, row in _rows(source, feed):
                    if isinstance(row, Row):
                        first.append((line_number, raw, row.values))
                    if len(first) >= count:
                        break
            if len(first) >= count:
                break
        if not first:
            raise UsageError(
                f"{shown(self._uri)} has no rows.",
                "It has a header only, or none of its first rows can be read.",
                "Name a file with rows.",
            )
        self._first = [values for _, _, values in first]
        self._check_given_key()
        if self._format == "csv":
            self._choose_null()
            self._choose_decimal()
        for number, ((line_number, raw, _), values) in enumerate(zip(first, self._first, strict=True)):
            if self._add(values) or (number < SAMPLE_ROWS and self._sample_bytes < SAMPLE_BYTES):
                self._keep(line_number, raw)

    def _add(self, values: Sequence[str | None]) -> bool:
        """Take a row into the guess; return whether it changes it."""
        changes = [column.add(text) for column, text in zip(self._columns, values, strict=True)]
        return any(changes)

    def _keep(self, line_number: int, raw: bytes) -> None:
        """Take a row into the sample."""
        self._sample[line_number if self._format == "parquet" else raw] = None
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
                    guessed = ColumnGuess("", "", list(TYPES))
                    for text in others:
                        guessed.add(text)
                    found[token] += guessed.type != "string"
        if found and (most := found.most_common(1)[0])[1]:
            token = most[0]
            self._csv = self._csv.model_copy(update={"null_text": token})
            self._first = [tuple(None if text == token else text for text in row) for row in self._first]

    def _choose_decimal(self) -> None:
        """Choose the decimal comma if more columns have it than a point."""
        counts: Counter[str] = Counter()
        for values in zip(*self._first, strict=True):
            present = [text for text in values if text is not None]
            for decimal in ".,":
                numbers = sum(bool(re.fullmatch(rf"-?[0-9]+(?:\{decimal}[0-9]+)?", text)) for text in present)
                parts = {len(text.partition(decimal)[2]) for text in present if decimal in text}
                counts[decimal] += bool(parts) and numbers == len(present) and (decimal == "." or parts != {3})
        if counts[","] > counts["."]:
            self._csv = self._csv.model_copy(update={"decimal": ","})
            for column in self._columns:
                column.decimal = ","

    # All rows

    def _feed(self, key: Sequence[str], *, provisional: bool = False) -> Feed:
        """Return the contract as guessed so far."""
        columns = tuple(column.column(provisional=provisional) for column in self._columns)
        drift = Drift(
            new_column="ignore" if self._left_out else "refuse",
            missing_column="null" if self._format == "jsonl" and not all(c.is_required for c in columns) else "refuse",
        )
        return Feed(
            name=self._name,
            version="1.0.0",
            columns=columns,
            key=tuple(key),
            location="",
            format=self._format,
            rules=(),
            properties=Properties(csv=self._csv, drift=drift),
        )

    def _loose(self) -> Feed:
        """Return a contract that takes any value: as text, or as JSON where that is the format."""
        feed = self._feed(())
        kind: tuple[Any, str] = ("json", "jsonb") if self._format == "jsonl" else ("string", "text")
        columns = [
            replace(column, is_required=False) if guessed.fixed else Column(column.name, column.header, *kind)
            for column, guessed in zip(feed.columns, self._columns, strict=True)
        ]
        drift = Drift(new_column="ignore", missing_column="null")
        return replace(feed, columns=tuple(columns), properties=feed.properties.model_copy(update={"drift": drift}))

    def _check(self, feed: Feed, candidates: Sequence[tuple[str, ...]]) -> _Checked:
        """Read all rows as a load of FEED does; keep rejected ones, and hash the CANDIDATES for the key."""
        names = list(dict.fromkeys(itertools.chain(*candidates)))
        feed = replace(feed, key=tuple(names))
        positions = [tuple(names.index(name) for name in candidate) for candidate in candidates]
        checked = _Checked(hashes=[array("q") for _ in candidates])
        is_canonical = all(feed.column(name).type in ("integer", "string", "date") for name in names)
        for file in self._files:
            with open_source(file) as source:
                for line_number, found, lines in _checked_rows(source, feed):
                    if isinstance(found, Row):
                        checked.rows += 1
                        keys = [lines.key(found)]
                    elif isinstance(found, bytes):
                        checked.rows += found.count(b"\n")
                        keys = lines.keys(found) if names else []
                        keys = keys if is_canonical else [lines.key_of(key) for key in keys]
                    else:
                        self._take_reject(checked, line_number, *found)
                        if checked.has_stopped:
                            return checked
                        continue
                    for places, hashes in zip(positions, checked.hashes, strict=True):
                        hashes.extend([hash(tuple(key[place] for place in places)) for key in keys])
                    if time.monotonic() > self._deadline:
                        checked.is_all = False
                        return checked
        return checked

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
        if any(reject.reason == "encoding" for reject in checked.rejected) and self._format == "csv":
            encodings = ("utf-8", "windows-1252", "latin-1")
            if self._csv.encoding != "latin-1" and self._header.isascii() and not self._has_text():
                after = encodings[encodings.index(self._csv.encoding) + 1]
                self._csv = self._csv.model_copy(update={"encoding": after})
                has_changed = True
        if any(reject.reason == "unknown_column" for reject in checked.rejected):
            objects = [row for _, raw in checked.kept if (row := _object(raw)) is not None]
            known = {column.header for column in self._columns}
            keys = [key for row in objects for key in row if key not in known]
            self._add_json_columns(list(dict.fromkeys(keys)))
            for column in self._columns[len(known) :]:
                column.nulls = 1  # the first rows lack it
            has_changed = len(self._columns) > len(known)
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
        if self._format == "parquet":
            for line_number, raw in checked.kept:
                row = json.loads(raw)
                texts = [row.get(column.header) for column in self._columns]
                yield line_number, raw, tuple(None if text is None else str(text) for text in texts)
            return
        rows = self._read_records([raw for _, raw in checked.kept], self._loose())
        for (line_number, raw), row in zip(checked.kept, rows, strict=True):
            if isinstance(row, Row):
                yield line_number, raw, row.values

    def _read_records(self, records: Sequence[bytes], feed: Feed) -> list[Row | Reject]:
        """Return what FEED makes of RECORDS, each of which has as many fields as the header."""
        lines = [self._encoded(record) for record in records]
        if self._format == "csv":
            lines.insert(0, self._header + b"\n")
        if not records:
            return []
        return [row for _, _, row in _rows(text_source(self._uri, b"".join(lines)), feed)]

    def _encoded(self, record: bytes) -> bytes:
        """Return RECORD as it is in the file."""
        if self._csv.encoding == "utf-8":
            return record + b"\n"
        codec = {"windows-1252": "cp1252"}.get(self._csv.encoding, self._csv.encoding)
        return record.decode(errors="surrogateescape").encode(codec, errors="surrogateescape") + b"\n"

    # The key

    def _keys(self, failed: Collection[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Return the candidates for the key, the best first: sets of columns that are unique in the first rows."""
        columns = {column.name: (place, column) for place, column in enumerate(self._columns)}
        if self._given_key:
            return [tuple(self._given_key)]
        able = [name for name, (_, column) in columns.items() if self._can_be_key(column)]
        cost = {name: _cost(columns[name][1]) for name in able}
        by_cost = sorted(able, key=lambda name: cost[name])
        sets = [
            names
            for size, most in ((1, len(able)), (2, 14), (3, 10), (4, 8))
            for names in itertools.combinations(by_cost[:most], size)
            if tuple(sorted(names, key=lambda name: columns[name][0])) not in failed
        ]
        sets.sort(key=lambda names: sum(cost[name] for name in names))
        found: list[tuple[str, ...]] = []
        rows = set(self._first)  # a row that is there twice says nothing about the key
        for names in sets:
            if any(set(other) < set(names) for other in found):
                continue
            places = [columns[name][0] for name in names]
            if len({tuple(row[place] for place in places) for row in rows}) == len(rows):
                found.append(tuple(sorted(names, key=lambda name: columns[name][0])))
                if len(found) == 4:
                    break
        every = self._every()
        return [*found, every] if every and (failed or not found) else found

    def _check_given_key(self) -> None:
        """Make the columns of a given key required; raise UsageError if there is no such column."""
        columns = {column.name: column for column in self._columns}
        for name in self._given_key:
            if name not in columns:
                raise UsageError(
                    f"{shown(self._uri)} has no column {name!r} for the key.",
                    f"Its columns are {', '.join(columns)[:300]}.",
                    "Name the key's columns as the contract names them: --key a,b",
                )
            columns[name].is_in_key = True

    def _can_be_key(self, column: ColumnGuess) -> bool:
        return column.column().is_required and column.type != "json" and column.longest <= LONGEST_KEY

    def _every(self) -> tuple[str, ...]:
        """Return all columns that can be in a key."""
        if self._given_key:
            return tuple(self._given_key)
        return tuple(column.name for column in self._columns if self._can_be_key(column))[:32]  # PostgreSQL's limit

    # The result

    def _guess(self, key: tuple[str, ...], repeated_by: Mapping[tuple[str, ...], int], checked: _Checked) -> Guess:
        repeated = repeated_by.get(key, 0)
        if not key:
            raise UsageError(
                f"{shown(self._uri)} has no column that can be a key.",
                "A key's columns have a value in every row, and each column lacks one in some row.",
                "Export a number for each row, or name columns, whose rows without a value are rejected: --key a,b",
            )
        notes = {column.name: note for column in self._columns if (note := column.note)}
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
            notes["rejected"] = f"{bad:,} rows would be rejected: {', '.join(reasons)}{first}"
        some = "all" if checked.is_all else "the first"
        if repeated:
            notes["key"] = f"not unique: {repeated:,} of {checked.rows:,} rows have the key of an earlier one"
        else:
            notes["key"] = f"unique in {some} {checked.rows:,} rows"
            if key == self._every() and len(key) > 4:
                notes["key"] += ", but only all of these together: name fewer if you know them"
        if self._left_out:
            notes["drift"] = f"columns of types that a feed cannot have are left out: {', '.join(self._left_out)}"
        feed = self._feed(key)
        if feed.properties.drift.missing_column == "null":
            notes["drift"] = "objects have different keys: one that a file lacks is null"
        time_column, notes["time"] = self._time(feed)
        allowed = MOST_REJECTED if share <= MOST_REJECTED else math.ceil(share * 120) / 100
        properties = feed.properties.model_copy(update={"time_column": time_column, "max_rejected": allowed})
        feed = replace(feed, properties=properties)
        return Guess(feed, notes, checked.rows, checked.is_all, self._valid_sample(feed, checked), self._header)

    def _time(self, feed: Feed) -> tuple[str | None, str]:
        """Return the time column, None for a snapshot, and why."""
        times = [column for column in feed.columns if column.is_required and column.type in ("timestamp", "date")]
        likely = [column for column in times if not NO_TIME_NAMES.search(column.name)]
        if not likely:
            if not times:
                return None, "no column is a time in every row, so each load replaces the whole table (a snapshot)"
            names = ", ".join(column.name for column in times)
            return None, (
                f"each load replaces the whole table (a snapshot); if the files are a log, name its time: {names}"
            )

        def rank(column: Column) -> tuple[int, bool]:
            known = next((n for n, name in enumerate(TIME_NAMES) if name in column.name), len(TIME_NAMES))
            return known, column.type == "date"

        chosen = min(likely, key=rank).name
        others = [column.name for column in times if column.name != chosen]
        also = f" (others: {', '.join(others)})" if others else ""
        return chosen, (
            f"a load replaces the rows whose {chosen} is in its interval{also};"
            " without timeColumn each load replaces the whole table (a snapshot)"
        )

    def _valid_sample(self, feed: Feed, checked: _Checked) -> list[bytes] | list[int]:
        """Return the rows of the sample that FEED does not reject, as they are in the file."""
        if self._format == "parquet":
            rejected = {number for number, _ in checked.kept}
            return sorted(number for number in self._sample if isinstance(number, int) and number not in rejected)
        records = [raw for raw in self._sample if isinstance(raw, bytes)]
        rows = self._read_records(records, feed)
        return [self._encoded(record) for record, row in zip(records, rows, strict=True) if isinstance(row, Row)]


def _rows(source: Source, feed: Feed) -> Iterator[tuple[int, bytes, Row | Reject]]:
    """Yield the line number, the raw record and the row of each record of SOURCE."""
    rows = formats.read(source, feed)
    lines = Lines(feed, rows.columns, rows.dialect)
    for block in rows.blocks:
        position, number = 0, block.line_number
        while position < len(block.lines):
            end = lines.end_of_record(block.lines, position)
            record = block.lines[position:end]
            if record.strip() or block.raw is not None:
                place = number - block.line_number
                # Rows of Parquet take long to write as JSON.
                raw = record if block.raw is None or feed.format == "parquet" else block.raw[place]
                if raw.strip():
                    yield number, raw, block.flaws.get(place) or lines.parse(record)
            number += block.lines.count(b"\n", position, end + 1)
            position = end + 1


def _checked_rows(source: Source, feed: Feed) -> Iterator[tuple[int, bytes | Row | tuple[bytes, Reject], Lines]]:
    """Yield, with its line number, each run of clean lines, other valid row, and raw record with why it is rejected."""
    rows = formats.read(source, feed)
    lines = Lines(feed, rows.columns, rows.dialect)
    decimal = feed.properties.csv.decimal
    rewritten = re.compile(rf"[+]|(?<![0-9{decimal}])0[0-9]")
    for block in rows.blocks:
        text, position, number = block.lines, 0, block.line_number
        pattern = lines.clean_of_day(None) if lines.has_clean and _is_utf8(text) else None
        while position < len(text):
            if pattern and (run := pattern.match(text, position)):
                clean = text[position : run.end()]
                yield number, clean, lines
                number += clean.count(b"\n")
                position = run.end()
                continue
            end = lines.end_of_record(text, position)
            record, place = text[position:end], number - block.line_number
            row = block.flaws.get(place) or lines.parse(record)
            if isinstance(row, Row) and block.raw is None and rewritten.search(record.decode()):
                row = _rewritten(record, lines) or row
            if isinstance(row, Row):
                yield number, row, lines
            elif record.strip():
                yield number, (record if block.raw is None else block.raw[place], row), lines
            number += text.count(b"\n", position, end + 1)
            position = end + 1


def _rewritten(record: bytes, lines: Lines) -> Reject | None:
    """Return a reason against RECORD if a number in it has zeros or a plus sign before it: it is most likely a code."""
    dialect = lines.dialect
    [fields] = csv.reader([record.decode()], delimiter=dialect.delimiter, quotechar=dialect.quote)
    for column, text in zip(lines.columns, fields, strict=False):
        if column.type in ("integer", "number") and re.match(r"\+|-?0[0-9]", text):
            return Reject("type", column.name)
    return None


def _repeated(candidates: Sequence[tuple[str, ...]], checked: _Checked) -> dict[tuple[str, ...], int]:
    """Return for each of CANDIDATES how many rows have the key of an earlier one."""
    repeated = {}
    for names, hashes in zip(candidates, checked.hashes, strict=True):
        values = pa.Array.from_buffers(pa.int64(), len(hashes), [None, pa.py_buffer(hashes)])
        repeated[names] = len(hashes) - pc.count_distinct(values).as_py()
    return repeated


def _is_utf8(text: bytes) -> bool:
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in LINE; None if it has none."""
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _of_parquet(kind: pa.DataType) -> Column | None:
    """Return the column for values of KIND; None if a feed has no type for them."""
    if pa.types.is_dictionary(kind):
        return _of_parquet(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _of_parquet(kind.storage_type)
    types = pa.types
    if types.is_uint64(kind):
        return Column("", "", "number", "numeric(20,0)", digits=(20, 0))
    if types.is_integer(kind):
        return Column("", "", "integer", "bigint")
    if types.is_decimal(kind):
        return Column(
            "",
            "",
            "number",
            f"numeric({kind.precision},{kind.scale})",
            digits=(kind.precision - kind.scale, kind.scale),
        )
    simple: tuple[tuple[Any, Any, str], ...] = (
        (types.is_floating, "number", "numeric"),
        (types.is_boolean, "boolean", "boolean"),
        (types.is_date, "date", "date"),
        (types.is_timestamp, "timestamp", "timestamp with time zone"),
        (lambda of: types.is_string(of) or types.is_large_string(of) or types.is_string_view(of), "string", "text"),
        (lambda of: types.is_fixed_size_binary(of) and of.byte_width == 16, "uuid", "uuid"),
        (types.is_nested, "json", "jsonb"),
        (types.is_null, "string", "text"),
    )
    return next((Column("", "", type_, sql_type) for is_it, type_, sql_type in simple if is_it(kind)), None)


def _encoding(text: bytes) -> Literal["utf-8", "latin-1", "windows-1252"]:
    """Return the encoding of TEXT: UTF-8 if more of its lines that are not ASCII are that than are not."""
    balance = 0
    for line in text.split(b"\n"):
        if not line.isascii():
            balance += 1 if _is_utf8(line) else -1
    if balance >= 0:
        return "utf-8"
    return "latin-1" if re.search(rb"[\x81\x8d\x8f\x90\x9d]", text) else "windows-1252"


def _regularity(text: str, delimiter: str) -> tuple[int, int]:
    """Return how many of the first lines have as many fields as the first, if that is above one, and the number."""
    rows = csv.reader(io.StringIO(text[:SAMPLE_BYTES], newline=""), delimiter=delimiter)
    counts = [len(row) for row in islice(rows, 100) if row]
    fields = counts[0] if counts else 0
    return (counts.count(fields), fields) if fields > 1 else (0, 0)


def _cost(column: ColumnGuess) -> int:
    """Return how bad COLUMN is as a part of the key."""
    if column.type in ("number", "boolean"):
        return 20
    if KEY_NAME.search(column.name) or column.type == "uuid":
        return 1
    return 3 if column.type in ("integer", "timestamp", "date") or column.longest > 40 else 2


def column_names(headers: Sequence[str]) -> list[str]:
    """Return a column's name for each of HEADERS, in snake case, once each, and no keyword of SQL."""
    names: list[str] = []
    for number, header in enumerate(headers, 1):
        text = unicodedata.normalize("NFKD", header.strip().replace("ß", "ss")).encode("ascii", "ignore").decode()
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
        name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:50].strip("_") or f"column_{number}"
        if name[0].isdigit() or name in OWN_COLUMNS:
            name = f"column_{name}"
        if name in RESERVED:
            name = f"{name}_"
        while name in names:
            name = f"{name}_{number}"
        names.append(name)
    return names
