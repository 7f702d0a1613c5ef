"""What a format makes of a file: lines that PostgreSQL's COPY reads, or nearly."""

import json
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import accumulate, count
from operator import add
from typing import Any, Protocol

from feeds.contract import Column
from feeds.lines import Dialect, Reject


class RawSequence(Protocol):
    """The rows of a block as they are in the file."""

    def __getitem__(self, position: int) -> bytes:
        """Return the row whose line is at POSITION."""


@dataclass(frozen=True)
class Block:
    """Rows of a file as lines.

    Attributes:
        lines: each with its line end.
        line_number: of the first, from 1.
        raw: the rows as they are in the file, by the position of their line; None if `lines` are these.
        flaws: the rows that cannot be lines, by their position, and why; their line has a NUL.
        original: the lines with the carriage returns that their ends had; None if no field can have one.
    """

    lines: bytes
    line_number: int
    raw: RawSequence | None = None
    flaws: Mapping[int, Reject] = field(default_factory=dict)
    original: bytes | None = None

    def record(self, position: int, end: int) -> bytes:
        """Return the record from POSITION to its line END, with the carriage returns that are in its fields."""
        record = self.lines[position:end]
        if self.original is None or b"\n" not in record:
            return record
        # One at END is no part of the record.
        return self.original[position + bisect_left(self._returns, position) : end + bisect_left(self._returns, end)]

    @cached_property
    def _returns(self) -> list[int]:
        """The line ends that had a carriage return, and the end of `lines`."""
        assert self.original is not None
        return list(map(add, accumulate(map(len, self.original.split(b"\r\n"))), count()))


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        columns: in their order there.
        dialect: how lines are written.
        blocks: the lines, to be read once.
        header: the file's line with the names of columns, if it has one; of Parquet the columns whose types are not
            those of the contract, and their types.
        most_rows: how many the file has at most, if that is known before reading.
    """

    columns: Sequence[Column]
    dialect: Dialect
    blocks: Iterator[Block]
    header: bytes | None = None
    most_rows: int | None = None


class RawRecords:
    """The records of a block, each found when it is asked for; one of COUNT fields in DIALECT may have line ends.

    At the positions EMPTY the load finds lines that are none in the file.
    """

    def __init__(
        self, block: Block, dialect: Dialect | None = None, count: int = 0, empty: Collection[int] = ()
    ) -> None:
        self._block = block
        self._dialect = dialect
        self._count = count
        self._empty = empty

    def __getitem__(self, position: int) -> bytes:
        if position in self._empty:
            return b""
        start = self._starts[position]
        lines = self._block.lines
        if self._dialect is None:
            return lines[start : lines.index(b"\n", start)]
        return self._block.record(start, self._dialect.end_of_record(lines, start, self._count))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(found.end() for found in re.finditer(b"\n", self._block.lines))]


# Of a format whose rows are no lines. Null is a control code, which no clean value has.
PREPARED = Dialect("\t", None, "\x02")
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x02": "\\\x02"})


def prepared(fields: Sequence[str | None]) -> bytes:
    """Return FIELDS, None for null, as a line of the dialect PREPARED, without its end."""
    return "\t".join("\x02" if text is None else text.translate(_ESCAPES) for text in fields).encode()


class Number(str):
    """A number, or other JSON, as it is written: a double cannot hold every number."""

    __slots__ = ()


def to_json(value: Any) -> str:
    """Return VALUE as JSON, with exact numbers; what JSON does not have, as a string."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_json(str(key))}: {to_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return json.dumps(value.hex() if isinstance(value, bytes) else value, ensure_ascii=False, default=str)
