"""Rows whose keys a load may already have had, set aside in a temporary table until all files are read."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import psycopg
from psycopg import sql

from feeds.copying import Piece, Target, copy_line
from feeds.table import RawTable

_FETCHED_AT_ONCE = 10_000  # rows
# No column of a feed has a name with `$`.
_TABLE = """
    create temporary table suspects ({key}, file$ int, line$ bigint, text$ bytea, raw$ bytea) on commit drop
"""
_FETCHED = """
    select file$, line$, text$, raw$, false from pg_temp.suspects where (file$, line$) > (%s, %s)
    order by file$, line$ limit %s
"""
# A suspect is a duplicate if a staging table has its key, or an earlier suspect has it. The rows are numbered, so that
# they can be fetched in parts: while a cursor is open, COPY freezes no rows.
_RESOLVED = """
    create temporary table resolved on commit drop as
    select
        row_number() over (order by file$, line$) as number$, file$, line$, text$, raw$,
        ({key}) in (select {key} from pg_temp.known)
            or row_number() over (partition by {key} order by file$, line$) > 1 as is_duplicate$
    from pg_temp.suspects;
    create index on pg_temp.resolved (number$)
"""
_FETCHED_RESOLVED = """
    select file$, line$, text$, raw$, is_duplicate$ from pg_temp.resolved
    where number$ > %s and number$ <= %s order by number$
"""


class Suspect(NamedTuple):
    """A valid row: LINE as the load reads it, and RAW as it is in the file."""

    file_number: int
    line_number: int
    line: bytes
    raw: bytes
    is_duplicate: bool


class Suspects:
    """The rows of the feed of RAW that were set aside, in one transaction of CONNECTION.

    Attributes:
        target: the table that they are copied into.
    """

    def __init__(self, connection: psycopg.Connection, raw: RawTable) -> None:
        self._connection = connection
        self._raw = raw
        connection.execute(sql.SQL(_TABLE).format(key=raw.typed(raw.feed.key)))
        copy = sql.SQL("copy pg_temp.suspects ({}, file$, line$, text$, raw$) from stdin").format(raw.key)
        self.target = Target(sql.Identifier("pg_temp", "suspects"), copy)

    def piece(self, key: Sequence[str], file_number: int, line_number: int, line: bytes, raw: bytes) -> Piece:
        """Return the row with KEY, to be copied into the table."""
        return Piece(copy_line(*key, file_number, line_number, f"\\x{line.hex()}", f"\\x{raw.hex()}"))

    def by_file(self) -> Iterator[list[Suspect]]:
        """Yield the rows in parts, each of one file."""
        last = (0, 0)
        while found := self._connection.execute(_FETCHED, (*last, _FETCHED_AT_ONCE)).fetchall():
            last = found[-1][:2]
            yield from _of_files(found)

    def remove(self, file_number: int, line_numbers: Sequence[int]) -> None:
        """Remove the rows LINE_NUMBERS of a file."""
        self.target.rows -= len(line_numbers)
        self._connection.execute(
            "delete from pg_temp.suspects where file$ = %s and line$ = any(%s)", (file_number, list(line_numbers))
        )

    def resolve(self, tables: Sequence[sql.Composable]) -> Iterator[list[Suspect]]:
        """Yield all rows in parts, each of one file; a duplicate has the key of a row of TABLES or of one before it."""
        connection, key = self._connection, self._raw.key
        connection.execute(
            sql.SQL(
                "create temporary table known on commit drop as select {} from pg_temp.suspects limit 0;"
                " analyze pg_temp.suspects"
            ).format(key)
        )
        for table in tables:
            connection.execute(
                sql.SQL(
                    "insert into pg_temp.known select {key} from pg_temp.suspects"
                    " where ({key}) in (select {key} from {table})"
                ).format(key=key, table=table)
            )
        connection.execute(sql.SQL(_RESOLVED).format(key=key))
        fetched = range(0, self.target.rows, _FETCHED_AT_ONCE)
        self.target.rows = 0
        for number in fetched:
            yield from _of_files(connection.execute(_FETCHED_RESOLVED, (number, number + _FETCHED_AT_ONCE)).fetchall())


def _of_files(found: Sequence[tuple[int, int, bytes, bytes, bool]]) -> Iterator[list[Suspect]]:
    for _, rows in groupby(found, itemgetter(0)):
        yield [Suspect(*row) for row in rows]
