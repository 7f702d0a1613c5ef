"""Copy rows into several tables over one connection with PostgreSQL's COPY."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

_GATHERED_BYTES = 1 << 16  # lines are sent together
_WAITING_BYTES = 1 << 22  # of one table, while the rows of another are copied
_ALL_WAITING_BYTES = 1 << 24


@dataclass
class Target:
    """A table that rows are copied into."""

    table: sql.Composable
    copy: sql.SQL | sql.Composed  # the statement
    start: datetime | None = None  # the first moment of its range; None for no bound
    last_day: bytes = b""  # the latest day of its rows, YYYY-MM-DD
    rows: int = 0  # written: copied or waiting
    unsent_rows: int = 0  # that wait or are being copied
    waiting: list[bytes] = field(default_factory=list)  # lines
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
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0

    def __enter__(self) -> "Copier":
        return self

    def __exit__(self, *error: Any) -> None:
        """Copy all waiting rows; after an error, abort the present COPY, which would block the connection."""
        if error[0] is None:
            with self._open:
                while self._targets:
                    self._switch_to(self._targets[0])
                self.pause()
        self._current, self._gathered = None, []
        self._open.__exit__(*error)

    def write(self, target: Target, lines: bytes, rows: int = 1) -> None:
        """Copy LINES, ROWS rows in COPY's text format, into TARGET now or later."""
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
            self._switch_to(target)
        elif self._waiting_bytes > _ALL_WAITING_BYTES:
            self._switch_to(max(self._targets, key=lambda waiting: waiting.waiting_bytes))

    def pause(self) -> None:
        """End the present COPY, so that the connection can execute other statements.

        Raises:
            RuntimeError: PostgreSQL copied another number of rows than were counted, which is a bug of the load.
        """
        self._send()
        target, self._current = self._current, None
        self._open.close()
        if target is None:
            return
        copied, counted = self._cursor.rowcount, target.unsent_rows
        target.unsent_rows = 0
        if copied != counted:
            raise RuntimeError(
                f"PostgreSQL copied {copied} rows, but the load counted {counted}; raw.events is unchanged."
                " Please report this bug, with the file and the output of: python -VV"
            )

    def _switch_to(self, target: Target) -> None:
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
