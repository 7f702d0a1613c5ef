"""Bring a raw table along with its contract where that loses nothing, and refuse what could, with the statement to run.

Columns are added, numbers get more digits, and what the contract no longer requires may be null. A column that the
contract has no more stays, and stays empty.
"""

import re

import psycopg
from psycopg import sql
from psycopg.errors import FeatureNotSupported, ProgrammingError

from feeds.contract import HISTORY, SQL_TYPES, Column
from feeds.errors import ContractInvalid, TablesUnfit
from feeds.partitions import current_generation
from feeds.table import RawTable

_COLUMNS = """
    select attname, format_type(atttypid, atttypmod) from pg_attribute
    where attrelid = to_regclass({table}) and attnum > 0 and not attisdropped
"""
_NOT_NULL = """
    select attname, attnotnull, col_description(attrelid, attnum) from pg_attribute
    where attrelid = {table}::regclass and attnum > 0 and not attisdropped
"""
# The comment of a column that is not null for the contract. A user's column has none of ours: its NOT NULL stays.
_REQUIRED = "required by the contract"
_PARTITION_KEY = """
    select attname from pg_partitioned_table join pg_attribute on attrelid = partrelid and attnum = partattrs[0]
    where partrelid = {table}::regclass
"""
# Each partition has the key, and the table itself has none: PostgreSQL would ask for the time in it.
_KEY = """
    with recursive tree as (
        select {table}::regclass as table_id
        union all
        select inhrelid from pg_inherits join tree on inhparent = table_id
    )
    select array_agg(attname::text order by attname) from tree
    join pg_index on indrelid = table_id and indisprimary
    join pg_attribute on attrelid = indrelid and attnum = any(indkey)
    group by table_id limit 1
"""
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_BIGINT_DIGITS = 19


def is_widened(before: str, after: str) -> bool:
    """Return whether a column of the SQL type AFTER holds each value of the type BEFORE, which differs, as it is."""
    if after == "numeric":
        return before == "bigint" or before.startswith("numeric")
    if not (found := _NUMERIC.fullmatch(after)):
        return False
    precision, scale = int(found[1]), int(found[2])
    whole, fraction = _BIGINT_DIGITS, 0
    if before != "bigint":
        if not (found := _NUMERIC.fullmatch(before)):
            return False
        whole, fraction = int(found[1]) - int(found[2]), int(found[2])
    return precision - scale >= whole and scale >= fraction


def migrate(connection: psycopg.Connection, raw: RawTable) -> None:
    """Alter the table of RAW, which is there, and its history, if it is, in the present transaction.

    Raises:
        TablesUnfit: the change could lose something, or the table is not the feed's.
        ContractInvalid: a rule is not an SQL condition over the columns.
    """
    current_generation(connection, raw)  # refuses a table of another program
    [(partition_key,)] = connection.execute(raw.in_sql(_PARTITION_KEY))
    if partition_key != (expected := raw.feed.time_column or "load_id"):
        kept_by = "time column" if raw.feed.time_column else "kind"
        raise TablesUnfit(
            f"{raw} is partitioned by {partition_key}, and the contract's {kept_by} asks for {expected}.",
            "The contract was changed after the table was made; the load did not change the table.",
            raw.rebuild,
        )
    key = connection.execute(raw.in_sql(_KEY)).fetchone()
    required = {column.name for column in raw.feed.columns if column.is_required}
    is_kept = raw.feed.time_column or raw.feed.properties.history  # no load replaces all rows, and the key with them
    if key and key[0] != sorted(raw.feed.key) and (is_kept or not required.issuperset(key[0])):
        raise TablesUnfit(
            f"The primary key of {raw} is {', '.join(key[0])}, and the contract's is {', '.join(raw.feed.key)}.",
            "The contract was changed after the table was made; the rows that are there may not be unique by it.",
            raw.rebuild,
        )
    tables = [str(raw)] + [f"{raw}{HISTORY}"] * raw.feed.properties.history
    for table in tables:
        present: dict[str, str] = dict(connection.execute(sql.SQL(_COLUMNS).format(table=table)).fetchall())
        for column in raw.feed.table_columns:
            if not present or present.get(column.name) == column.sql_type:
                continue
            if column.name == raw.feed.time_column:  # PostgreSQL does not alter what a table is partitioned by
                raise TablesUnfit(
                    f"The column {column.name} of {raw} is not {column.sql_type}, as in the contract.",
                    "The contract was changed after the table was made; the load did not change the table.",
                    raw.rebuild,
                )
            _alter(connection, raw, table, column, present.get(column.name), is_history=table != str(raw))
    _follow_required(connection, raw)
    _mark_required(connection, raw)


def _mark_required(connection: psycopg.Connection, raw: RawTable) -> None:
    """Comment on each column of RAW that is not null for the contract, unless a user has."""
    required = {column.name for column in raw.feed.columns if column.is_required}
    for name, is_not_null, comment in connection.execute(raw.in_sql(_NOT_NULL)).fetchall():
        if name in required and is_not_null and comment is None:
            connection.execute(f"comment on column {raw}.\"{name}\" is '{_REQUIRED}'".encode())


def _follow_required(connection: psycopg.Connection, raw: RawTable) -> None:
    """Let a column be null that the contract does not require any more, and the other way round if no row is null.

    A history's columns may be null.
    """
    required = {column.name for column in raw.feed.columns if column.is_required}
    for name, is_not_null, comment in connection.execute(raw.in_sql(_NOT_NULL)).fetchall():
        if name not in required and comment == _REQUIRED:
            if is_not_null:
                _execute(connection, str(raw), f'alter column "{name}" drop not null')
            connection.execute(f'comment on column {raw}."{name}" is null'.encode())
        elif name in required and not is_not_null and comment != _REQUIRED:  # else a user lets it be null
            [(has_null,)] = connection.execute(
                f'select exists (select from {raw} where "{name}" is null)'.encode()  # noqa: S608
            )
            if not has_null:
                _execute(connection, str(raw), f'alter column "{name}" set not null')
            elif raw.feed.time_column:  # the next load of a snapshot replaces all rows
                raise TablesUnfit(
                    f"{raw} has rows without {name}, which the contract requires.",
                    "The contract was changed after they were loaded.",
                    f'Give them one: update {raw} set "{name}" = … where "{name}" is null',  # noqa: S608
                )


def _alter(
    connection: psycopg.Connection, raw: RawTable, table: str, column: Column, present: str | None, *, is_history: bool
) -> None:
    name = column.name
    if present is None and (is_history or not column.is_required):
        _execute(connection, table, f'add column "{name}" {column.sql_type}')
        return
    if present is None:
        if connection.execute(f"select exists (select from {table})".encode()).fetchone() == (False,):  # noqa: S608
            _execute(connection, table, f'add column "{name}" {column.sql_type} not null')
            return
        raise TablesUnfit(
            f"{table} has no column {name}, which the contract requires.",
            "The contract was changed after the table was made, and the rows that are there have no value for it.",
            f'Give them one: alter table {table} add column "{name}" {column.sql_type} not null default …',
        )
    statement = f'alter column "{name}" type {column.sql_type}'
    if not is_widened(present, column.sql_type):
        raise TablesUnfit(
            f"The column {name} of {table} is {present}, and {column.sql_type} in the contract.",
            "One of them was changed after the table was made, and its values could be lost or not fit.",
            f"If they fit: alter table {table} {statement} using {_cast(raw, column, present)};"
            f" if not, keep the table, and load all of it: alter table {table} rename to {table.split('.')[1]}_kept",
        )
    try:
        with connection.transaction():
            _execute(connection, table, statement)
    except FeatureNotSupported as error:
        raise TablesUnfit(
            f"The column {name} of {table} is {present}, and {column.sql_type} in the contract.",
            f"PostgreSQL does not alter a column that a view shows: {error.diag.message_detail}.",
            "Drop the view, load, and make it again; `dbt build` makes its own: drop view …",
        ) from error


def _cast(raw: RawTable, column: Column, present: str) -> str:
    """Return SQL for the values of COLUMN, now PRESENT, in its new type; a day is one of the feed's time zone."""
    name, zone = f'"{column.name}"', f"at time zone '{raw.feed.properties.time_zone}'"
    if (present, column.type) == ("date", "timestamp"):
        return f"{name}::timestamp {zone}"
    if (present, column.type) == (SQL_TYPES["timestamp"], "date"):
        return f"({name} {zone})::date"
    return f"{name}::{column.sql_type}"


def _execute(connection: psycopg.Connection, table: str, change: str) -> None:
    connection.execute(f"alter table {table} {change}".encode())


def check_rules(connection: psycopg.Connection, raw: RawTable) -> None:
    """Check that each rule is a condition that COPY can use.

    Raises:
        ContractInvalid: one is not.
    """
    for rule in raw.feed.rules:
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(
                    sql.SQL("create temporary table ruled as select {} from {} limit 0").format(
                        raw.names, raw.identifier
                    )
                )
                # One statement, whatever the rule says: the protocol of binary results takes no more.
                connection.execute(
                    sql.SQL("alter table pg_temp.ruled add check (({}) is not false)").format(sql.SQL(rule.sql)),
                    binary=True,
                )
        except (FeatureNotSupported, ProgrammingError) as error:
            raise ContractInvalid(
                f"airflow/feeds/{raw.feed.name}.yaml: the rule {rule.name} is no condition in SQL:"
                f" {error.diag.message_primary or error}.",
                f"It says: {rule.sql}",
                "Correct it: a condition over the columns of one row, without a subquery.",
            ) from error
