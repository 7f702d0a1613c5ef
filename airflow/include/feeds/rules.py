"""The rows that a rule of the contract refuses: COPY leaves them out, and they are found among the lines that it got.

A rule is SQL, so PostgreSQL decides. In the condition of COPY a function, which is called for refused rows only, sends
a notice with the rule and the row's key. A function that writes to a table would make each insert of COPY a single one.
Where the keys do not say which lines were left out, the lines are copied once more and looked at.
"""

import json
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC
from itertools import accumulate
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.errors import Diagnostic, InternalError

from feeds.contract import Rule
from feeds.copying import Piece
from feeds.errors import ContractInvalid
from feeds.lines import Lines
from feeds.table import RawTable
from feeds.values import moment_of

_MARK = "refused by a rule: "
_FUNCTION = """
    create or replace function pg_temp.refuses(rule_and_key json) returns boolean immutable language plpgsql as $$
    begin
        raise notice using message = %s || rule_and_key;
        return false;
    end $$
"""

_VOLATILE = r"""
    select proname from pg_proc
    where provolatile = 'v' and oid in (
        select (regexp_matches(ev_action::text, ':(?:op)?funcid (\d+)', 'g'))[1]::oid
        from pg_rewrite where ev_class = 'pg_temp.rule_of_row'::regclass
    )
"""


class Refused(NamedTuple):
    """A row that RULE refuses: the line OFFSET, from 0, of PIECE, and its day, if the feed has a time column."""

    piece: Piece
    offset: int
    rule: str
    day: str | None


class Rules:
    """The rules of the feed of RAW, which has some, in one transaction of CONNECTION."""

    def __init__(self, connection: psycopg.Connection, raw: RawTable) -> None:
        self._connection = connection
        self._raw = raw
        self._noted: list[tuple[str, list[str]]] = []
        note = weakref.WeakMethod(self._note)  # the connection keeps its handlers
        connection.add_notice_handler(lambda notice: (found := note()) and found(notice))
        function = sql.SQL(_FUNCTION.replace("%s", "{}")).format(_MARK)
        connection.execute(sql.SQL("set local client_min_messages = notice; {}").format(function))
        typed = raw.typed(column.name for column in raw.feed.table_columns)
        connection.execute(sql.SQL("create temporary table checked ({}) on commit drop").format(typed))
        self._refuse_volatile(raw.feed.rules)
        key = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in raw.feed.key)
        cases = (
            sql.SQL("when ({}) is false then pg_temp.refuses(json_build_array({}, {}))").format(
                self._expression(rule), rule.name, key
            )
            for rule in raw.feed.rules
        )
        self.condition = sql.SQL("case {} else true end").format(sql.SQL(" ").join(cases))

    def _refuse_volatile(self, rules: Sequence[Rule]) -> None:
        """Raise ContractInvalid if one of RULES calls a function that may do anything, and return anything."""
        for rule in rules:
            self._connection.execute(
                sql.SQL(
                    "create or replace temporary view rule_of_row as select ({}) as valid from pg_temp.checked"
                ).format(sql.SQL(rule.sql))
            )
            if found := self._connection.execute(_VOLATILE).fetchone():
                raise ContractInvalid(
                    f"The rule {rule.name} of {self._raw.feed.name} calls {found[0]}, which is volatile.",
                    "Whether a row is valid must not change from one moment to the next, nor change anything.",
                    "Use columns of the row, constants, and immutable functions.",
                )
            self._connection.execute("drop view pg_temp.rule_of_row")

    def _expression(self, rule: Rule) -> sql.Composable:
        """Return RULE for COPY, whose condition PostgreSQL cannot execute if it has simplified `not (a < b)`.

        Its negate_clause() leaves the operator's function open, and COPY, unlike a query, does not look it up. A
        function of its own, which is slower, hides the rule from it.
        """
        raw, expression = self._raw, sql.SQL(rule.sql)
        copy = sql.SQL("copy pg_temp.checked from stdin where ({}) is false").format(expression)
        try:
            with self._connection.transaction(), self._connection.cursor().copy(copy):
                return expression
        except InternalError:
            function = sql.Identifier("pg_temp", f"rule_{rule.name}")
            self._connection.execute(
                sql.SQL("create or replace function {} ({}) returns boolean immutable language plpgsql as {}").format(
                    function,
                    raw.typed(column.name for column in raw.feed.table_columns),
                    f"begin return {rule.sql}; end",
                )
            )
            return sql.SQL("{} ({})").format(function, raw.names)

    def left_out(self, pieces: Sequence[Piece], lines: Lines, count: int) -> list[Refused]:
        """Return the COUNT rows of PIECES, written as LINES, that COPY has left out since the last call."""
        noted, self._noted = self._noted, []
        of_key = _integers if self._raw.has_integer_key else _keys
        rules = {int(key[0]) if of_key is _integers else lines.key_of(key): rule for rule, key in noted}
        found = [
            Refused(piece, offset, rules[key], _day(piece, offset, lines))
            for piece in pieces
            for offset, key in enumerate(of_key(piece, lines))
            if key in rules
        ]
        return found if len(found) == len(rules) == count else self.check(pieces, lines)

    def check(self, pieces: Sequence[Piece], lines: Lines) -> list[Refused]:
        """Return the rows of PIECES, written as LINES, that a rule refuses."""
        connection, raw = self._connection, self._raw
        connection.execute("truncate pg_temp.checked")
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in lines.columns)
        options = (lines.dialect.delimiter, lines.dialect.null)
        copy = sql.SQL("copy pg_temp.checked ({}) from stdin with (delimiter {}, null {})").format(names, *options)
        with connection.cursor().copy(copy) as rows:
            rows.write(b"".join([piece.lines for piece in pieces]))
        refused = connection.execute(
            sql.SQL(
                "select number$ - 1, rule$"
                " from (select row_number() over (order by ctid) as number$, {} as rule$ from pg_temp.checked) as each"
                " where rule$ is not null order by number$"
            ).format(raw.rules_case)
        ).fetchall()
        firsts = list(accumulate((piece.rows for piece in pieces), initial=0))
        found = []
        for number, rule in refused:
            index = bisect_right(firsts, number) - 1
            piece, offset = pieces[index], number - firsts[index]
            found.append(Refused(piece, offset, rule, _day(piece, offset, lines)))
        return found

    def _note(self, notice: Diagnostic) -> None:
        message = notice.message_primary or ""
        if message.startswith(_MARK):
            rule, *key = json.loads(message.removeprefix(_MARK))
            self._noted.append((rule, key))


def _integers(piece: Piece, lines: Lines) -> Iterable[Any]:
    """Return the keys of the rows of PIECE, each one integer."""
    if piece.rows > 1:
        return map(int, lines.key_lines(piece.lines))
    return (int(key[0]) for key in _keys(piece, lines))


def _keys(piece: Piece, lines: Lines) -> Iterable[Any]:
    """Return the key of each row of PIECE; several rows are clean lines."""
    if piece.rows > 1:
        return map(lines.key_of, lines.keys(piece.lines))
    fields = lines.copied_fields(piece.lines)
    return [lines.key_of([fields[position] for position in lines.key_positions])]


def _day(piece: Piece, offset: int, lines: Lines) -> str | None:
    if lines.time is None:
        return None
    fields = lines.copied_fields(piece.lines.split(b"\n", offset + 1)[offset])
    return moment_of(fields[lines.time]).astimezone(UTC).date().isoformat()
