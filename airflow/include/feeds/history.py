"""The days of snapshots, and their history, `raw.<feed>_history`: rows with the days from and to which they were so.

`raw.snapshot_days` has the days of which a snapshot was loaded. A snapshot holds from its day to the next one that was
loaded. So the history depends only on the snapshots and their days, not on the order of the loads, and each row is the
longest run of days in which it did not change.
"""

from datetime import date

import psycopg
from psycopg import sql
from psycopg.errors import NotNullViolation

from feeds.contract import HISTORY
from feeds.errors import TablesUnfit
from feeds.table import RawTable

_TABLE = """
    create table {history} (
        {columns},
        valid_from date not null,
        valid_to date, -- the first day on which the row was not so any more; null: it still is
        primary key ({key}, valid_from)
    );
    comment on table {history} is {ours}
"""
_OURS = "history of a feed"
# The days from a snapshot's own to the next one, which is in the parameter `next` or null, are made to have its rows.
_CHANGED = """
    create temporary table changed on commit drop as
    select history.* from {history} as history
    where valid_from < coalesce({next}, 'infinity') and coalesce(valid_to, 'infinity') > {day}
        and not (
            valid_from <= {day} and coalesce(valid_to, 'infinity') >= coalesce({next}, 'infinity')
            and exists (select from {snapshot} as snapshot where {same_key} and {same})
        );
    create temporary table fresh on commit drop as
    select {names} from {snapshot} as snapshot
    where not exists (
        select from {history} as history
        where {same_key} and {same} and valid_from <= {day}
            and coalesce(valid_to, 'infinity') >= coalesce({next}, 'infinity')
    );
    delete from {history} as history using pg_temp.changed as snapshot
    where {same_key} and history.valid_from = snapshot.valid_from;
    insert into {history} ({all_names}, valid_from, valid_to)
    select {all_names}, valid_from, {day} from pg_temp.changed where valid_from < {day};
    insert into {history} ({all_names}, valid_from, valid_to)
    select {all_names}, {next}, valid_to from pg_temp.changed where coalesce(valid_to, 'infinity') > {next};
    insert into {history} ({names}, valid_from, valid_to)
    select {names}, {day}, {next} from pg_temp.fresh;
"""
# Where a row ends on the day on which an equal one begins, they become one.
_MERGED = """
    with later as (
        delete from {history} as history using {history} as snapshot
        where history.valid_from = {at} and snapshot.valid_to = {at} and {same_key} and {same}
        returning history.*
    )
    update {history} as history set valid_to = snapshot.valid_to from later as snapshot
    where history.valid_to = {at} and {same_key}
"""
_KEY = """
    select attname::text from pg_index join pg_attribute on attrelid = indrelid and attnum = any(indkey)
    where indrelid = {table}::regclass and indisprimary order by 1
"""
# Also those that the contract has no more, and a user's.
_ALL_NAMES = """
    select attname from pg_attribute
    where attrelid = {table}::regclass and attnum > 0 and not attisdropped and attgenerated = ''
        and attname not in ('valid_from', 'valid_to')
"""


def table(raw: RawTable) -> sql.Identifier:
    """Return the name of the table of RAW's history."""
    return sql.Identifier("raw", f"{raw.feed.name}{HISTORY}")


def create(raw: RawTable) -> sql.Composed:
    """Return the statement that makes the table of RAW's history."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.sql_type))
        for column in raw.feed.table_columns
    )
    return sql.SQL(_TABLE).format(history=table(raw), columns=columns, key=raw.key, ours=_OURS)


def begin(connection: psycopg.Connection, raw: RawTable, *, is_new: bool) -> None:
    """Make the history agree with the table of RAW, which IS_NEW or has the rows of the latest day.

    A new table gets the rows that the history has of the latest day. A new history begins on the latest day with the
    table's rows. Days whose rows neither of them has are forgotten.

    Raises:
        TablesUnfit: the history's rows lack a column that the contract requires now.
    """
    feed = raw.feed
    if feed.time_column:
        return
    has_history = feed.properties.history and _exists(connection, raw)
    if is_new and not has_history:
        connection.execute("delete from raw.snapshot_days where feed = %s", (feed.name,))
    latest = connection.execute(
        "select day, load_id from raw.snapshot_days where feed = %s order by day desc limit 1", (feed.name,)
    ).fetchone()
    parts = {"table": raw.identifier, "history": table(raw), "names": raw.names}
    if is_new and has_history and latest:
        fill = "insert into {table} ({names}, load_id) select {names}, {} from {history} where valid_to is null"
        try:
            connection.execute(sql.SQL(fill).format(latest[1], **parts))
        except NotNullViolation as error:
            name, history = error.diag.column_name or "", f"{raw}{HISTORY}"
            added = f'alter table {history} add column if not exists "{name}" {raw.columns[name]}'
            condition = f'valid_to is null and "{name}" is null'
            raise TablesUnfit(
                f"{history} has rows without {name}, which the contract requires.",
                f"The contract was changed after they were loaded, and {raw}, which is missing, gets the latest.",
                f'Give them one: {added}; update {history} set "{name}" = … where {condition}',  # noqa: S608
            ) from error
    if feed.properties.history and not has_history:
        connection.execute(create(raw))
    if feed.properties.history and not has_history and latest:
        fill = "insert into {history} ({names}, valid_from) select {names}, {} from {table}"
        connection.execute(sql.SQL(fill).format(_date(latest[0]), **parts))
        connection.execute("delete from raw.snapshot_days where feed = %s and day < %s", (feed.name, latest[0]))


def _exists(connection: psycopg.Connection, raw: RawTable) -> bool:
    return connection.execute("select to_regclass(%s)", (f"{raw}{HISTORY}",)).fetchone() != (None,)


def refuse_unfit(connection: psycopg.Connection, raw: RawTable) -> None:
    """Refuse a table of RAW's history that cannot go on.

    Raises:
        TablesUnfit: no load has written its rows, its key is another one, or the contract asks for none any more.
    """
    feed, name = raw.feed, f"{raw}{HISTORY}"
    if feed.time_column or not _exists(connection, raw):
        return
    keep = f"Keep it under another name, then load again: alter table {name} rename to {feed.name}{HISTORY}_kept"
    key: list[str] = [column for (column,) in connection.execute(sql.SQL(_KEY).format(table=name))]
    [(has_days,)] = connection.execute("select exists (select from raw.snapshot_days where feed = %s)", (feed.name,))
    if not feed.properties.history:
        [(comment,)] = connection.execute("select obj_description(to_regclass(%s), 'pg_class')", (name,))
        if comment == _OURS:
            raise TablesUnfit(
                f"{name} has a history, and the contract asks for none.",
                "It would lack the days that are loaded without it, if the contract asked for it again.",
                keep,
            )
        return
    if not has_days and connection.execute(sql.SQL("select 1 from {} limit 1").format(table(raw))).fetchone():
        raise TablesUnfit(
            f"{name} has rows that no load has written.",
            "Another program made the table; the load did not change it.",
            keep,
        )
    if key != sorted([*feed.key, "valid_from"]):
        raise TablesUnfit(
            f"The primary key of {name} is {', '.join(key) or 'missing'}, and the contract's is {', '.join(feed.key)}.",
            "The contract was changed after the table was made; the rows that are there may not be unique by it.",
            keep,
        )


def is_latest(connection: psycopg.Connection, raw: RawTable, day: date) -> bool:
    """Return whether no snapshot of a day after DAY was loaded."""
    [(later,)] = connection.execute(
        "select exists (select from raw.snapshot_days where feed = %s and day > %s)", (raw.feed.name, day)
    )
    return not later


def record(connection: psycopg.Connection, raw: RawTable, day: date, load_id: int) -> None:
    """Record that the rows of the load LOAD_ID are the snapshot of DAY."""
    connection.execute(
        "insert into raw.snapshot_days (feed, day, load_id) values (%s, %s, %s)"
        " on conflict (feed, day) do update set load_id = excluded.load_id",
        (raw.feed.name, day, load_id),
    )


def count_rows(connection: psycopg.Connection, raw: RawTable, day: date) -> int:
    """Return the number of rows that the history has on DAY."""
    [(rows,)] = connection.execute(sql.SQL("select count(*) from {} where {}").format(table(raw), _holds(_date(day))))
    return int(rows)


def with_rows(raw: RawTable, day: date, rows: sql.Composable) -> sql.Composed:
    """Return a query for the rows that the history has on DAY, and those of the query ROWS."""
    return sql.SQL("select {} from {} where {} union all {}").format(raw.names, table(raw), _holds(_date(day)), rows)


def is_of_load(load_id: str) -> sql.Composed:
    """Return the condition that rows of a history were so on the day of the load LOAD_ID, an SQL expression."""
    return sql.SQL("exists (select from raw.snapshot_days as days where days.load_id = {} and {})").format(
        sql.SQL(load_id), _holds(sql.SQL("days.day"))
    )


def write(
    connection: psycopg.Connection, raw: RawTable, snapshot: sql.Composable | None, day: date, load_id: int
) -> None:
    """Make the history have the rows of the table SNAPSHOT, or none, on DAY, in the present transaction."""
    [(following,)] = connection.execute(
        "select min(day) from raw.snapshot_days where feed = %s and day > %s", (raw.feed.name, day)
    )

    def equal(names: tuple[str, ...], operator: str) -> sql.Composed:
        pairs = [
            sql.SQL("history.{name} {operator} snapshot.{name}").format(
                name=sql.Identifier(name), operator=sql.SQL(operator)
            )
            for name in names
        ]
        return sql.SQL(" and ").join([sql.SQL("true"), *pairs])

    all_names = connection.execute(sql.SQL(_ALL_NAMES).format(table=f"{raw}{HISTORY}")).fetchall()
    others = tuple(column.name for column in raw.feed.table_columns if column.name not in raw.feed.key)
    parts = {
        "history": table(raw),
        "snapshot": snapshot or sql.SQL("(select * from {} where false)").format(raw.identifier),
        "names": raw.names,
        "all_names": sql.SQL(", ").join(sql.Identifier(name) for (name,) in all_names),
        "same_key": equal(raw.feed.key, "="),
        "same": equal(others, "is not distinct from"),
        "day": _date(day),
        "next": _date(following),
    }
    connection.execute(sql.SQL(_CHANGED).format(**parts))
    for at in filter(None, (day, following)):
        connection.execute(sql.SQL(_MERGED).format(**parts, at=_date(at)))
    connection.execute("drop table pg_temp.changed, pg_temp.fresh")
    record(connection, raw, day, load_id)


def _holds(day: sql.Composable) -> sql.Composed:
    return sql.SQL("valid_from <= {day} and coalesce(valid_to, 'infinity') > {day}").format(day=day)


def _date(day: date | None) -> sql.Composed:
    return sql.SQL("{}::date").format(day and day.isoformat())
