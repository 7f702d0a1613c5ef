"""What a format makes of a file: lines that PostgreSQL's COPY reads, or nearly."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from feeds.contract import Column
from feeds.lines import Dialect, Reject


@dataclass(frozen=True)
class Block:
    """Rows of a file as lines.

    Attributes:
        lines: each with its line end.
        line_number: of the first, from 1.
        raw: the rows as they are in the file, a line for each; None if `lines` are these.
        flaws: the rows that cannot be lines, by their position, and why; their line is one NUL.
    """

    lines: bytes
    line_number: int
    raw: Sequence[bytes] | None = None
    flaws: Mapping[int, Reject] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        columns: in their order there.
        dialect: how lines are written.
        blocks: the lines, to be read once.
        header: the file's line with the names of columns, if it has one.
    """

    columns: Sequence[Column]
    dialect: Dialect
    blocks: Iterator[Block]
    header: bytes | None = None


# Of a format whose rows are no lines. Null is a control code, which no clean value has.
PREPARED = Dialect("\t", None, "\x02")
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x02": "\\\x02"})


def prepared(fields: Sequence[str | None]) -> bytes:
    """Return FIELDS, None for null, as a line of the dialect PREPARED, without its end."""
    return "\t".join("\x02" if text is None else text.translate(_ESCAPES) for text in fields).encode()
