"""Copy rows into several tables over one connection, as PostgreSQL's COPY takes them."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

_GATHERED_BYTES = 1 << 16  # single lines are sent together
_WAITING_BYTES = 1 << 22  # what a table's rows may come to while another's are copied
_ALL_WAITING_BYTES = 1 << 24


@dataclass
class Target:
    """A table that rows are copied into.

    Attributes:
        table: its name.
        copy: the COPY statement.
        start: the first moment that belongs to it; None if it takes whatever is before the next one's.
        rows: the rows that are in it, or wait to be.
        unsent_rows: those that wait to be copied, or are being copied.
    """

    table: sql.Composable
    copy: sql.SQL | sql.Composed
    start: datetime | None = None
    last_day: bytes = b""
    rows: int = 0
    unsent_rows: int = 0
    waiting: list[bytes] = field(default_factory=list)
    waiting_bytes: int = 0


class Copier:
    """Copies rows into tables, one after the other: into one while the rows of the others wait.

    Each COPY must take as many rows as were counted: PostgreSQL and the load then agree on where a row ends.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._targets: list[Target] = []
        self._current: Target | None = None
        self._open = ExitStack()
        self._waiting_bytes = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0

    def __enter__(self) -> "Copier":
        return self

    def __exit__(self, *error: Any) -> None:
        """Copy all that waits; after an error, break off the COPY that is going on."""
        if error[0] is None:
            while self._targets:
                self._turn_to(self._targets[0])
            self.pause()
        self._current, self._gathered = None, []
        self._open.__exit__(*error)

    def write(self, target: Target, lines: bytes, rows: int = 1) -> None:
        """Copy LINES, which are so many ROWS in COPY's text format, into TARGET now or later."""
        target.rows += rows
        target.unsent_rows += rows
        if target is self._current:
            self._gathered.append(lines)
            self._gathered_bytes += len(lines)
            if self._gathered_bytes > _GATHERED_BYTES:
                self._send()
            return
        target.waiting.append(lines)
        target.waiting_bytes += len(lines)
        self._waiting_bytes += len(lines)
        if target not in self._targets:
            self._targets.append(target)
        if target.waiting_bytes > _WAITING_BYTES or self._current is None:
            self._turn_to(target)
        elif self._waiting_bytes > _ALL_WAITING_BYTES:
            self._turn_to(max(self._targets, key=lambda waiting: waiting.waiting_bytes))

    def pause(self) -> None:
        """End the COPY that is going on, so that the connection takes other statements.

        Raises:
            RuntimeError: PostgreSQL took another number of rows than were counted, which is a fault of the load's.
        """
        self._send()
        target, self._current = self._current, None
        self._open.close()
        if target is None:
            return
        taken, counted = self._cursor.rowcount, target.unsent_rows
        target.unsent_rows = 0
        if taken != counted:
            raise RuntimeError(
                f"PostgreSQL took {taken} rows where the load counted {counted}; nothing is published."
                " Please report it, with the file and the output of: python -VV"
            )

    def _turn_to(self, target: Target) -> None:
        self.pause()
        self._cursor = self._connection.cursor()
        self._copy = self._open.enter_context(self._cursor.copy(target.copy))
        self._current = target
        self._targets.remove(target)
        self._waiting_bytes -= target.waiting_bytes
        self._gathered, target.waiting, target.waiting_bytes = target.waiting, [], 0
        self._send()

    def _send(self) -> None:
        if self._gathered:
            self._copy.write(b"".join(self._gathered))
        self._gathered, self._gathered_bytes = [], 0
