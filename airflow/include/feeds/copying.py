"""Copy rows into several tables over one connection with PostgreSQL's COPY."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from feeds.formats.rows import Block

_GATHERED_BYTES = 1 << 16  # lines are sent together
_WAITING_BYTES = 1 << 22  # of one table, while the rows of another are copied
_ALL_WAITING_BYTES = 1 << 24
_CHECKED_BYTES = 1 << 22  # of one COPY that may leave rows out, which are then looked for in it


_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def copy_line(*fields: object) -> bytes:
    """Return FIELDS, None for null, as a line of COPY's text format."""
    texts = ("\\N" if field is None else str(field).translate(_ESCAPES) for field in fields)
    return ("\t".join(texts) + "\n").encode()


class Piece(NamedTuple):
    """Lines in COPY's text format, of a file from a line on.

    Attributes:
        lines: the lines, ROWS rows.
        rows: their number.
        file_number: of the file, from 1.
        line_number: of the first, from 1.
        numbers: of all lines, if they are not consecutive.
        raw: the one line as it is in the file, if that differs.
        block: that of the lines, if its rows are no lines in the file.
    """

    lines: bytes
    rows: int = 1
    file_number: int = 1
    line_number: int = 0
    numbers: Sequence[int] = ()
    raw: bytes | None = None
    block: Block | None = None

    def number(self, offset: int) -> int:
        """Return the number of the line OFFSET, from 0."""
        return self.numbers[offset] if self.numbers else self.line_number + offset

    def raw_line(self, offset: int) -> bytes:
        """Return the line OFFSET, from 0, as it is in the file."""
        if self.raw is not None:
            return self.raw
        if self.block and self.block.raw is not None:
            return self.block.raw[self.number(offset) - self.block.line_number]
        return self.lines.split(b"\n", offset + 1)[offset]


@dataclass
class Target:
    """A table that rows are copied into.

    Attributes:
        copy: the statement; it may leave out rows.
        left_out: gets the pieces of a COPY of which rows were left out, and their number, and returns how many it has
            found; None if the statement copies every row.
    """

    table: sql.Composable
    copy: sql.SQL | sql.Composed
    left_out: Callable[["Target", list[Piece], int], int] | None = None
    start: datetime | None = None  # the first moment of its range; None for no bound
    rows: int = 0  # written: copied or waiting
    unsent_rows: int = 0  # that wait or are being copied
    waiting: list[Piece] = field(default_factory=list)
    waiting_bytes: int = 0


class Copier:
    """Copies rows into one table at a time, while the rows of the others wait.

    It checks the row count of each COPY, which shows that PostgreSQL and the load agree on where rows end.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._targets: list[Target] = []
        self._current: Target | None = None
        self._open = ExitStack()
        self._waiting_bytes = 0
        self._gathered: list[Piece] = []
        self._gathered_bytes = 0
        self._sent: list[Piece] = []  # by the present COPY, if rows of it may be left out
        self._sent_bytes = 0

    def __enter__(self) -> "Copier":
        return self

    def __exit__(self, *error: Any) -> None:
        """Copy all waiting rows; after an error, abort the present COPY, which would block the connection."""
        if error[0] is None:
            with self._open:
                self.flush()
        self._current, self._gathered = None, []
        self._open.__exit__(*error)

    def write(self, target: Target, piece: Piece) -> None:
        """Copy PIECE into TARGET now or later."""
        target.rows += piece.rows
        target.unsent_rows += piece.rows
        size = len(piece.lines)
        if target is self._current:
            self._gathered.append(piece)
            self._gathered_bytes += size
            if self._gathered_bytes > _GATHERED_BYTES:
                self._send()
                if self._sent_bytes > _CHECKED_BYTES:
                    self.pause()
            return
        target.waiting.append(piece)
        target.waiting_bytes += size
        self._waiting_bytes += size
        if target not in self._targets:
            self._targets.append(target)
        if target.waiting_bytes > _WAITING_BYTES or self._current is None:
            self._switch_to(target)
        elif self._waiting_bytes > _ALL_WAITING_BYTES:
            self._switch_to(max(self._targets, key=lambda waiting: waiting.waiting_bytes))

    def flush(self) -> None:
        """Copy all waiting rows."""
        while self._targets or self._current:  # rows that were left out are copied elsewhere
            if self._targets:
                self._switch_to(self._targets[0])
            self.pause()

    def pause(self) -> None:
        """End the present COPY, so that the connection can execute other statements.

        Raises:
            RuntimeError: PostgreSQL copied another number of rows than were counted, which is a bug of the load.
        """
        while self._current:
            self._end()

    def _end(self) -> None:
        self._send()
        target, self._current = self._current, None
        self._open.close()
        assert target is not None
        copied, counted = self._cursor.rowcount, target.unsent_rows
        target.unsent_rows = 0
        sent, self._sent, self._sent_bytes = self._sent, [], 0
        if copied < counted and target.left_out:
            left_out = target.left_out(target, sent, counted - copied)
            target.rows -= left_out
            counted -= left_out
        if copied != counted:
            raise RuntimeError(
                f"PostgreSQL copied {copied} rows, but the load counted {counted}; nothing was changed."
                " Please report this bug, with the file and the output of: python -VV"
            )

    def _switch_to(self, target: Target) -> None:
        self.pause()
        self._cursor = self._connection.cursor()
        self._copy = self._open.enter_context(self._cursor.copy(target.copy))
        self._current = target
        if target in self._targets:  # pausing may have copied it
            self._targets.remove(target)
        self._waiting_bytes -= target.waiting_bytes
        self._gathered, target.waiting, target.waiting_bytes = target.waiting, [], 0
        self._send()

    def _send(self) -> None:
        if self._gathered:
            self._copy.write(b"".join([piece.lines for piece in self._gathered]))
            assert self._current is not None
            if self._current.left_out:
                self._sent += self._gathered
                self._sent_bytes += sum(len(piece.lines) for piece in self._gathered)
        self._gathered, self._gathered_bytes = [], 0
