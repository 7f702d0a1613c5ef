"""A feed's raw table, `raw.<feed>`, as its contract says it is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg import sql

from feeds.contract import Feed
from feeds.interval import Interval


@dataclass(frozen=True)
class RawTable:
    """The raw table of `feed`: partitioned by the time column, or by the load for a snapshot."""

    feed: Feed

    def __str__(self) -> str:
        return f"raw.{self.feed.name}"  # after a point a name needs no quotes

    @property
    def identifier(self) -> sql.Identifier:
        """Its name in SQL."""
        return sql.Identifier("raw", self.feed.name)

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns that loads fill, with their types as PostgreSQL writes them."""
        return {column.name: column.sql_type for column in self.feed.table_columns} | {"load_id": "bigint"}

    @property
    def rebuild(self) -> str:
        """What to do with a table that a load can neither keep nor alter."""
        return f"Keep it under another name, then load all of it: alter table {self} rename to {self.feed.name}_kept"

    @property
    def partition_key(self) -> sql.Identifier:
        """The column by which it is partitioned."""
        return sql.Identifier(self.feed.time_column or "load_id")

    @property
    def day(self) -> sql.Composed:
        """The day of a row of a feed with a time column: of a timestamp when the day begins in UTC.

        The cast of a timestamp to a date would take several times as long.
        """
        time = sql.Identifier(self.feed.time_column or "")
        if self.columns[self.feed.time_column or ""] == "date":
            return sql.SQL("{}").format(time)
        return sql.SQL("date_bin('1 day', {}, '2000-01-01 00:00:00+00')").format(time)

    @property
    def day_type(self) -> sql.SQL:
        """The type of `day`."""
        return sql.SQL(self.columns[self.feed.time_column or ""])

    @property
    def names(self) -> sql.Composed:
        """The names of the contract's columns."""
        return sql.SQL(", ").join(sql.Identifier(column.name) for column in self.feed.table_columns)

    @property
    def key(self) -> sql.Composed:
        """The primary key's columns."""
        return sql.SQL(", ").join(map(sql.Identifier, self.feed.key))

    @property
    def has_integer_key(self) -> bool:
        """Whether the primary key is one integer."""
        return len(self.feed.key) == 1 and self.feed.column(self.feed.key[0]).type == "integer"

    def typed(self, names: Iterable[str]) -> sql.Composed:
        """Return the columns NAMES with their types, to make another table with them."""
        columns = (sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(self.columns[name])) for name in names)
        return sql.SQL(", ").join(columns)

    @property
    def rules_case(self) -> sql.Composed | None:
        """The name of the first rule that refuses a row, as an expression; None if there are no rules."""
        if not self.feed.rules:
            return None
        cases = (sql.SQL("when not ({}) then {}").format(sql.SQL(rule.sql), rule.name) for rule in self.feed.rules)
        return sql.SQL("case {} end").format(sql.SQL(" ").join(cases))

    def within(self, interval: Interval) -> sql.Composed:
        """Return the condition for the rows of INTERVAL; of a snapshot, for all."""
        if self.feed.time_column is None:
            return sql.SQL("true").format()
        start, end = map(str, interval.bounds)
        return sql.SQL("{time} >= {start} and {time} < {end}").format(time=self.partition_key, start=start, end=end)

    def in_sql(self, statement: str) -> str:
        """Return STATEMENT with the table's name, as a text in SQL, for `{table}`."""
        return statement.replace("{table}", f"'{self}'")

    def create(self) -> sql.Composed:
        """Return the statement that makes the table.

        It does not check what the contract says of values: loads do, and the contract may change.
        """
        parts = [
            sql.SQL("{} {}{}").format(
                sql.Identifier(column.name),
                sql.SQL(column.sql_type),
                sql.SQL(" not null" if column.is_required else ""),
            )
            for column in self.feed.table_columns
        ]
        parts.append(sql.SQL("load_id bigint not null").format())
        if self.feed.time_column:  # whose days models count
            parts.append(sql.SQL("check (isfinite({}))").format(self.partition_key))
        return sql.SQL("create table {} ({}) partition by range ({})").format(
            self.identifier, sql.SQL(", ").join(parts), self.partition_key
        )
