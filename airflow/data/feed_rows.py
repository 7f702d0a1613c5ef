"""Make rows of any feed: valid ones by its contract, with all kinds of values, and on request with quirks.

The same seed gives the same rows. A rule over several columns is SQL, which only PostgreSQL can check: it is asked,
and the rows that break a rule are left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from uuid import UUID

import psycopg
import re2
from dice import Dice
from pattern_texts import PatternTexts, PatternUnknownError
from psycopg import sql

from feeds.contract import Column, Feed
from feeds.errors import SettingUnusable
from feeds.table import RawTable

FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 100
MOST_TRIES = 1_000  # to find a value, or a key that no row before has
MOST_WHOLE, MOST_FRACTION = 9, 6  # digits of a number
LATE_ROWS = 400
BATCH_ROWS = 10_000
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_UNUSUAL = ("é", '"', "'", ",", ";", "\n", "\\", "\t", " ")

Row = list[str | None]  # as a file of CSV with a decimal point has it; None for null


@dataclass(frozen=True)
class Quirks:
    """Shares of the rows, 0 to 1.

    Attributes:
        late: come up to LATE_ROWS rows later than their time says.
        ties: have the time of the row before.
        duplicates: have the key of the row before.
    """

    late: Fraction = Fraction(0)
    ties: Fraction = Fraction(0)
    duplicates: Fraction = Fraction(0)


def is_turn(share: Fraction, number: int) -> bool:
    """Return whether the row NUMBER, from 0, is one of the SHARE of rows, which are spread evenly."""
    return int(share * (number + 1)) > int(share * number)


def rows(feed: Feed, count: int, seed: int, quirks: Quirks | None = None, dsn: str | None = None) -> Iterator[Row]:
    """Yield COUNT rows of FEED; DSN names any PostgreSQL, which a feed with rules needs.

    Raises:
        SettingUnusable: the feed has rules and DSN is missing, or no row is found that obeys the contract.
    """
    if feed.rules and not dsn:
        raise SettingUnusable(
            f"{feed.name} has rules, which are SQL.",
            "Only PostgreSQL can check whether a row obeys them.",
            "Name any PostgreSQL in EVENTS_DSN: nothing is written to it.",
        )
    made = _Maker(feed, count, seed, quirks or Quirks()).rows()
    if feed.rules and dsn:
        made = _obeying(feed, made, count, dsn)
    yield from _late(made, (quirks or Quirks()).late, Dice(seed + 1), count)


class _Maker:
    def __init__(self, feed: Feed, count: int, seed: int, quirks: Quirks) -> None:
        self._feed = feed
        self._dice = Dice(seed)
        self._count = max(count, 1)
        self._quirks = quirks
        self._names = [column.name for column in feed.columns]
        self._key = [self._names.index(name) for name in feed.key]
        self._counter = next((name for name in feed.key if _can_count(feed, feed.column(name))), None)
        self._seen: set[tuple[str | None, ...]] = set()
        self._makers = [self._maker(column) for column in feed.columns]
        self._time = ""

    def rows(self) -> Iterator[Row]:
        """Yield rows without an end; after the expected count their times go on."""
        before: Row = []
        number = 0
        while True:
            if not (before and is_turn(self._quirks.ties, number)):
                self._time = self._moment(number)
            row = self._row(number)
            if before and is_turn(self._quirks.duplicates, number):
                for place in self._key:
                    row[place] = before[place]
            yield row
            before, number = row, number + 1

    def _row(self, number: int) -> Row:
        for _ in range(MOST_TRIES):
            row = [make(number) for make in self._makers]
            if self._counter:
                return row
            key = tuple(row[place] for place in self._key)
            if key not in self._seen:
                self._seen.add(key)
                return row
        raise SettingUnusable(
            f"After {number:,} rows no other key of {self._feed.name} is found.",
            f"Its key is {', '.join(self._feed.key)}, and these columns have few valid values.",
            "Ask for fewer rows.",
        )

    def _moment(self, number: int) -> str:
        """Return the time of the row NUMBER; times rise."""
        column = self._feed.column(self._feed.time_column) if self._feed.time_column else None
        moment = FIRST_DAY + timedelta(days=DAYS) * number / self._count
        if column and column.type == "date":
            return moment.date().isoformat()
        return self._timestamp(moment)

    def _timestamp(self, moment: datetime) -> str:
        zone = "" if self._feed.properties.time_zone == "UTC" else "Z"
        return moment.replace(tzinfo=None).isoformat(" ") + zone

    def _maker(self, column: Column) -> Callable[[int], str | None]:
        """Return the function that makes the column's value of the row with a number."""
        if column.name == self._feed.time_column:
            return lambda _number: self._time
        if column.name == self._counter:
            return self._counting(column)
        make = self._any(column)
        if column.is_required:
            return lambda _number: make()
        return lambda _number: None if self._dice.chance(10) else make()

    def _counting(self, column: Column) -> Callable[[int], str]:
        """Return the function that makes a value that no other row has."""
        if column.type == "uuid":
            return lambda number: str(UUID(int=(self._bits(96) << 32) | number))
        shortest = column.lengths[0] if column.type == "string" else 1
        return lambda number: f"{1 + 7 * number + self._dice.below(7):0{shortest}}"

    def _bits(self, count: int) -> int:
        return sum(self._dice.below(1 << 16) << shift for shift in range(0, count, 16))

    def _any(self, column: Column) -> Callable[[], str]:
        dice = self._dice
        if column.values:
            return lambda: dice.pick(column.values)
        if column.type == "string":
            return self._text(column)
        if column.type == "number":
            whole, fraction = column.digits or (MOST_WHOLE, 4)
            whole, fraction = min(whole, MOST_WHOLE), min(fraction, MOST_FRACTION)
            return lambda: _number(dice, whole, fraction)
        day = timedelta(days=1)
        simple: dict[str, Callable[[], str]] = {
            "integer": lambda: str(dice.below(2_000_001) - 1_000_000),
            "boolean": lambda: dice.pick(("true", "false")),
            "date": lambda: (FIRST_DAY + day * dice.below(DAYS)).date().isoformat(),
            "timestamp": lambda: self._timestamp(FIRST_DAY + timedelta(seconds=dice.below(DAYS * 86_400))),
            "uuid": lambda: str(UUID(int=self._bits(128))),
            "json": lambda: dice.pick(('{"a": 1, "b": ["x", null]}', "[]", '{"a": {"é": "\\"x\\""}}', "[1.50, true]")),
        }
        return simple[column.type]

    def _text(self, column: Column) -> Callable[[], str]:
        fewest, most = column.lengths
        shortest = max(fewest, 1)
        longest = shortest + 12 if most is None else min(most, shortest + 12)
        null = self._feed.properties.csv.null_text
        pattern = re2.compile(column.pattern) if column.pattern is not None else None
        try:
            texts = PatternTexts(column.pattern) if column.pattern is not None else None
        except PatternUnknownError as error:
            raise self._unknown(column, str(error)) from None

        def make() -> str:
            for _ in range(MOST_TRIES):
                text = texts.text(self._dice) if texts else self._word(shortest, longest)
                has_length = fewest <= len(text) and (most is None or len(text) <= most)
                if has_length and text != null and (pattern is None or pattern.fullmatch(text)):
                    return text
            raise self._unknown(column, "no text was found that obeys it and the lengths")

        return make

    def _word(self, shortest: int, longest: int) -> str:
        word = [self._dice.pick(_LETTERS) for _ in range(shortest + self._dice.below(longest - shortest + 1))]
        if self._dice.chance(20):
            word[self._dice.below(len(word))] = self._dice.pick(_UNUSUAL)
        return "".join(word)

    def _unknown(self, column: Column, why: str) -> SettingUnusable:
        return SettingUnusable(
            f"No text is found for the column {column.name} of {self._feed.name}: {why}.",
            f"Its pattern is {column.pattern}, of which this generator knows only usual parts.",
            "Write the pattern in another way, or take rows of a real file.",
        )


def _can_count(feed: Feed, column: Column) -> bool:
    """Return whether COLUMN has a different valid value for each row."""
    if column.values or column.pattern is not None or column.name == feed.time_column:
        return False
    if column.type == "string":
        return column.lengths[1] is None or column.lengths[1] >= max(column.lengths[0], 10)
    if column.type == "number":
        return column.digits is None or column.digits[0] >= 10
    return column.type in ("integer", "uuid")


def _number(dice: Dice, whole: int, fraction: int) -> str:
    digits = str(dice.below(10 ** dice.below(whole + 1))) if whole else "0"
    decimals = "".join(str(dice.below(10)) for _ in range(fraction)) if fraction and not dice.chance(10) else ""
    sign = "-" if dice.chance(20) else ""
    return f"{sign}{digits}.{decimals}" if decimals else sign + digits


def _obeying(feed: Feed, made: Iterator[Row], count: int, dsn: str) -> Iterator[Row]:
    """Yield those rows of MADE that obey the rules of FEED, COUNT at most."""
    raw, found, tried = RawTable(feed), 0, 0
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.sql_type)) for column in feed.columns
    )
    with psycopg.connect(dsn) as connection:
        connection.execute(sql.SQL("create temporary table made ({}, number$ int) on commit drop").format(columns))
        while found < count:
            batch = [next(made) for _ in range(min(BATCH_ROWS, max(count - found, 100)))]
            with connection.cursor().copy("copy pg_temp.made from stdin") as copy:
                for number, row in enumerate(batch):
                    copy.write_row([*row, number])
            valid = connection.execute(
                sql.SQL("select number$ from pg_temp.made where {} is null order by 1").format(raw.rules_case)
            ).fetchall()
            connection.execute("truncate pg_temp.made")
            found, tried = found + len(valid), tried + len(batch)
            if tried > MOST_TRIES and found * MOST_TRIES < tried:
                raise SettingUnusable(
                    f"Of {tried:,} rows made at random, {found:,} obey the rules of {feed.name}.",
                    f"They are: {'; '.join(rule.sql for rule in feed.rules)}.",
                    "Take rows of a real file.",
                )
            yield from (batch[number] for (number,) in valid)
        connection.rollback()


def _late(made: Iterator[Row], share: Fraction, dice: Dice, count: int) -> Iterator[Row]:
    """Yield COUNT rows of MADE, a SHARE of them up to LATE_ROWS rows later."""
    held: list[tuple[int, Row]] = []
    for number, row in zip(range(count), made, strict=False):
        if is_turn(share, number):
            held.append((number + 1 + dice.below(LATE_ROWS), row))
        else:
            yield row
        due, held = [late for at, late in held if at <= number], [late for late in held if late[0] > number]
        yield from due
    yield from (row for _, row in held)
