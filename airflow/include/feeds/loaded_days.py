"""What a load does to each day of its raw table, for `raw.loaded_days`, and which rows of its files are absent from it.

Rows are compared by their primary key. Of many rows the days are compared first, by the number of their rows and the
sum of their hashes. Only rows of days that differ are then compared one by one: a file that has grown by a day, or of
which one day is loaded, costs little more than that day.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import psycopg
from psycopg import sql

from feeds.interval import Days, Interval
from feeds.replacement import Replacement
from feeds.staging import Staging
from feeds.table import RawTable

_FEW_ROWS = 200_000  # are compared without a look at their days
# No column of a feed has a name with `$`. The session's time zone is UTC.
_DIGESTS = "select day$::date::text, count(*), sum({hash}) from ({rows}) as rows group by day$"
_DIGEST = "select sum({hash}) from ({rows}) as rows where day$ <> all({days}::{type}[])"
_ABSENT = """
    select day$::date::text, count(*) from ({outside}) as outside
    where not exists (select from ({known}) as known where ({known_key}) = ({outside_key}))
    group by day$ order by day$
"""
_CHANGES = """
    with pairs as (
        select
            old_rows.day$ as old_day, new_rows.day$ as new_day, count(*) as rows$,
            count(*) filter (where ({old_values}) is distinct from ({new_values})) as different$
        from ({new}) as new_rows full join ({old}) as old_rows on ({old_key}) = ({new_key})
        group by old_rows.day$, new_rows.day$
    ),
    counts as (
        select
            new_day as day$, case when old_day is null then rows$ else 0 end as added$,
            case when old_day = new_day then different$ when old_day is not null then rows$ else 0 end as changed$,
            0 as removed$
        from pairs where new_day is not null
        union all
        select old_day, 0, 0, rows$ from pairs where old_day is not null and old_day is distinct from new_day
    )
    select day$::date::text, sum(added$)::bigint, sum(changed$)::bigint, sum(removed$)::bigint from counts group by day$
"""
# By default PostgreSQL would write the rows of a large day to files, to join them: a third of the time.
_MORE_MEMORY = "select set_config('work_mem', '64MB', true) where pg_size_bytes(current_setting('work_mem')) < 64 << 20"
# With the bounds PostgreSQL reads only the partitions of these days; the last days that it knows have none after.
_OF_DAYS = """
    {day} = any({days}::{type}[])
    and {time} >= (select min(day$) from unnest({days}::{type}[]) as day$)
    and {time} < (
        select case when max(day$) < '200000-01-01' then max(day$) + interval '1 day' else 'infinity' end
        from unnest({days}::{type}[]) as day$
    )
"""
_RECORD = """
    insert into raw.loaded_days (
        load_id, day, rows_loaded, rows_added, rows_changed, rows_removed, rows_absent, rows_present
    )
    select %s, *
    from unnest(%s::date[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
"""


class _Changes(NamedTuple):
    """The rows of a day whose keys are new in the table, that were others before, and whose keys are gone."""

    added: int = 0
    changed: int = 0
    removed: int = 0


def find_absent(connection: psycopg.Connection, raw: RawTable, interval: Interval, staging: Staging) -> dict[str, int]:
    """Return the number of valid rows outside INTERVAL whose keys RAW will not have after the load, by day.

    A row that RAW has within the interval is absent, too: the load removes it there.
    """
    if not staging.outside:
        return {}
    outside = staging.outside_rows
    known = sql.SQL("select {}, {} as day$ from {} where not ({})").format(
        raw.key, raw.day, raw.identifier, raw.within(interval)
    )
    if staging.outside > _FEW_ROWS:
        known_digests = _digests(connection, raw, raw.feed.key, known)
        days = _different_days_outside(connection, raw, staging, known_digests)
        if not days:
            return {}
        known_days = [day for day in known_digests if day in days or day.encode() not in staging.outside_by_day]
        if not known_days:
            return {day: staging.outside_by_day[day.encode()] for day in sorted(days)}
        outside = _of_days(raw, outside, days)
        known = sql.SQL("{} and {}").format(known, _within_days(raw, known_days))
    else:
        connection.execute("analyze pg_temp.outside")
    found = connection.execute(
        sql.SQL(_ABSENT).format(
            outside=outside,
            known=known,
            known_key=_qualified("known", raw.feed.key),
            outside_key=_qualified("outside", raw.feed.key),
        )
    )
    return dict(found.fetchall())


def record(
    connection: psycopg.Connection,
    load_id: int,
    staging: Staging,
    replacement: Replacement,
    absent: Mapping[str, int],
) -> None:
    """Write what the load LOAD_ID does by day into `raw.loaded_days`, before the raw table is changed.

    Args:
        connection: in the load's transaction.
        load_id: the load.
        staging: the rows to load.
        replacement: of the interval's rows, which has found those that move.
        absent: the number of absent rows by day.
    """
    loaded = {day.decode(): rows for day, rows in staging.rows_by_day.items()}
    if replacement.rows or replacement.has_moved:
        changes = _find_changes(connection, staging, replacement)
    else:
        changes = {day: _Changes(added=rows) for day, rows in loaded.items()}
    changes = {day: change for day, change in changes.items() if any(change)}
    whole = Days(replacement.interval)
    cut = [day for day in loaded.keys() | changes.keys() if not whole.contain(day.encode())]
    kept = _count_kept(connection, replacement, cut)
    rows = []
    for day in sorted(loaded.keys() | changes.keys() | absent.keys()):
        is_written = day in loaded or day in changes
        present = loaded.get(day, 0) + kept.get(day, 0) if is_written else None
        rows.append((day, loaded.get(day, 0), *changes.get(day, _Changes()), absent.get(day, 0), present))
    _insert(connection, load_id, rows)


def record_replayed(connection: psycopg.Connection, load_id: int, raw: RawTable) -> None:
    """Write the days of the replay LOAD_ID, which has added rows to RAW and changed no other."""
    added = sql.SQL("select {day}::date::text, count(*) from pg_temp.replayed where reason$ is null group by {day}")
    rows: dict[str, int] = dict(connection.execute(added.format(day=raw.day)).fetchall())
    present = _count(connection, raw, rows, sql.SQL("true"))
    _insert(connection, load_id, [(day, count, count, 0, 0, 0, present.get(day, 0)) for day, count in rows.items()])


def _insert(connection: psycopg.Connection, load_id: int, rows: Iterable[tuple[object, ...]]) -> None:
    if columns := [list(column) for column in zip(*rows, strict=True)]:
        connection.execute(_RECORD, (load_id, *columns))


def _find_changes(connection: psycopg.Connection, staging: Staging, replacement: Replacement) -> dict[str, _Changes]:
    """Return what changes by day: within the interval, and where rows move away from."""
    raw = replacement.definition.table
    names = [column.name for column in raw.feed.table_columns]
    day = replacement.interval.only_day
    all_of_day = raw.day if day is None else sql.SQL("{}::{}").format(str(day), raw.day_type)  # a constant is cheaper
    columns = sql.SQL("{}, {} as day$").format(raw.names, all_of_day)
    none = sql.SQL("select {} from {} where false").format(columns, raw.identifier)
    new = _union([sql.SQL("select {} from {}").format(columns, part.table) for part in staging.parts] or [none])
    old = _union(
        [sql.SQL("select {} from {} where {}").format(columns, *one) for one in replacement.old_rows] or [none]
    )
    if staging.loaded + replacement.rows > _FEW_ROWS:
        digests = [_digests(connection, raw, names, rows) for rows in (new, old)]
        days = {day for these, others in (digests, digests[::-1]) for day in these if these[day] != others.get(day)}
        new, old = _of_days(raw, new, days), _of_days(raw, old, days)
    if replacement.has_moved:  # its time is another one anyway
        values = (
            sql.Identifier(name) if name in raw.feed.key else sql.SQL("null::{}").format(sql.SQL(raw.columns[name]))
            for name in names
        )
        moved = sql.SQL("select {}, day$ from pg_temp.moved").format(sql.SQL(", ").join(values))
        old = _union([old, moved])
    connection.execute(_MORE_MEMORY)
    found = connection.execute(
        sql.SQL(_CHANGES).format(
            new=new,
            old=old,
            new_key=_qualified("new_rows", raw.feed.key),
            old_key=_qualified("old_rows", raw.feed.key),
            new_values=_qualified("new_rows", names),
            old_values=_qualified("old_rows", names),
        )
    )
    return {day: _Changes(*counts) for day, *counts in found.fetchall()}


def _count_kept(connection: psycopg.Connection, replacement: Replacement, days: Collection[str]) -> dict[str, int]:
    """Return the number of rows of DAYS that the raw table keeps outside the interval, by day."""
    if not days:
        return {}
    raw = replacement.definition.table
    kept = sql.SQL("not ({})").format(raw.within(replacement.interval))
    if replacement.has_moved:
        kept = sql.SQL("{} and ({key}) not in (select {key} from pg_temp.moved)").format(kept, key=raw.key)
    return _count(connection, raw, days, kept)


def _count(
    connection: psycopg.Connection, raw: RawTable, days: Collection[str], condition: sql.Composable
) -> dict[str, int]:
    """Return the number of rows of DAYS in the raw table for which CONDITION holds, by day."""
    counted = sql.SQL("select {day}::date::text, count(*) from {table} where {of_days} and {condition} group by {day}")
    found = connection.execute(
        counted.format(day=raw.day, table=raw.identifier, of_days=_within_days(raw, days), condition=condition)
    )
    return dict(found.fetchall())


def _different_days_outside(
    connection: psycopg.Connection, raw: RawTable, staging: Staging, known: Mapping[str, tuple[int, int]]
) -> set[str]:
    """Return the days of the rows outside the interval that have other keys than the KNOWN digests say."""
    counts = {day.decode(): rows for day, rows in staging.outside_by_day.items()}
    same_counts = [day for day, rows in counts.items() if day in known and known[day][0] == rows]
    different = counts.keys() - same_counts
    if not same_counts:
        return different
    # One sum over all days is faster than one for each.
    [(digest,)] = connection.execute(
        sql.SQL(_DIGEST).format(
            rows=staging.outside_rows, hash=_hash(raw, raw.feed.key), days=list(different), type=raw.day_type
        )
    )
    if digest == sum(known[day][1] for day in same_counts):
        return different
    digests = _digests(connection, raw, raw.feed.key, staging.outside_rows)
    return {day for day in digests if digests[day] != known.get(day)}


def _digests(
    connection: psycopg.Connection, raw: RawTable, names: Collection[str], rows: sql.Composable
) -> dict[str, tuple[int, int]]:
    """Return the number of ROWS by day, and the sum of the hashes of their columns NAMES."""
    query = sql.SQL(_DIGESTS).format(rows=rows, hash=_hash(raw, names))
    return {day: (count, digest) for day, count, digest in connection.execute(query)}


def _hash(raw: RawTable, names: Collection[str]) -> sql.Composed:
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    is_integer = len(names) == 1 and raw.has_integer_key
    return sql.SQL("hashint8extended({}, 0)" if is_integer else "hash_record_extended(row({}), 0)").format(columns)


def _within_days(raw: RawTable, days: Collection[str]) -> sql.Composed:
    """Return the condition for the rows of DAYS in the raw table."""
    return sql.SQL(_OF_DAYS).format(day=raw.day, days=list(days), time=raw.partition_key, type=raw.day_type)


def _of_days(raw: RawTable, rows: sql.Composable, days: Collection[str]) -> sql.Composed:
    return sql.SQL("select * from ({}) as rows where day$ = any({}::{}[])").format(rows, list(days), raw.day_type)


def _qualified(table: str, names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(table, name) for name in names)


def _union(selects: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" union all ").join(selects)
