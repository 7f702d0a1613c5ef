"""How loads partition `raw.events`, and which partitions they replace."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feeds import copying
from feeds.staging import Staging
from harness.oracle.file_rows import rows
from harness.project.paths import SAMPLE
from tests.events_feed import EVENTS, load
from tests.feeds.common import DAY, events, ids, ids_of, load_day, names, partitions, write_days

ROWS_PER_DAY = 10
pytestmark = pytest.mark.usefixtures("small_partitions")


def bounds(db: psycopg.Connection) -> list[tuple[int | None, int | None, int]]:
    """Return each partition's first day, the day on which it ends, and its rows."""
    found = []
    for partition in partitions(db):
        [(rows,)] = db.execute(psycopg.sql.SQL("select count(*) from {}").format(partition.table))
        days = [None if moment is None else (moment - DAY).days for moment in (partition.start, partition.end)]
        found.append((days[0], days[1], rows))
    return found


def test_a_day_with_many_events_has_its_own_partition(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write_days(file, 0, 1, 2), dsn)
    assert bounds(db) == [(None, 1, 10), (1, 2, 10), (2, None, 10)]


def test_days_with_few_events_share_a_partition(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write_days(file, *range(9), rows=4), dsn)
    assert bounds(db) == [(None, 3, 12), (3, 6, 12), (6, None, 12)]


def test_a_load_of_a_day_replaces_only_its_partition(dsn: str, db: psycopg.Connection, file: Path) -> None:
    load(write_days(file, 0, 1, 2), dsn)
    before = names(db)
    result = load_day(write_days(file, 1, professional=9, rows=12), dsn, 1)
    assert (result.loaded, result.replaced) == (12, 10)
    after = names(db)
    assert (before[0], before[2]) == (after[0], after[2])
    assert before[1] != after[1]
    assert bounds(db) == [(None, 1, 10), (1, 2, 12), (2, None, 10)]


def test_rows_outside_the_times_of_python_are_kept(dsn: str, db: psycopg.Connection, file: Path) -> None:
    """The first and the last moment of an interval are not open bounds."""
    uri = write_days(file, 0, 1, 2)
    db.execute(
        "insert into raw.events select number, 'created_account', 9, moment::timestamptz, null, 0"
        " from (values (-1, '0044-03-15 BC'), (-2, '20000-01-01')) as far (number, moment)"
    )
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert load(uri, dsn, start=first, end=last).replaced == 0
    assert load(uri, dsn, start=first, end=last, force=True).replaced == 30
    assert load(uri, dsn, start=last, allow_empty=True).replaced == 1
    assert load(uri, dsn, end=first, allow_empty=True).replaced == 1
    assert ids(db) == ids_of(0, 1, 2)


def test_days_are_added_one_by_one(dsn: str, db: psycopg.Connection, file: Path) -> None:
    for day in range(4):
        load_day(write_days(file, *range(day + 1)), dsn, day)
    assert bounds(db) == [(None, 0, 0), (0, 1, 10), (1, 2, 10), (2, 3, 10), (3, 4, 10), (4, None, 0)]
    assert ids(db) == ids_of(*range(4))


def test_small_days_added_in_any_order_share_partitions(dsn: str, db: psycopg.Connection, file: Path) -> None:
    for day in (5, 2, 7, 0, 6, 1, 3, 4):
        load_day(write_days(file, day, rows=3), dsn, day)
    assert ids(db) == ids_of(*range(8), rows=3)
    cut = bounds(db)
    assert (cut[0][0], cut[-1][1], sum(rows for *_, rows in cut)) == (None, None, 24)
    assert all(end == start for (_, end, _), (start, _, _) in pairwise(cut))
    assert len(cut) <= 2 * 24 / ROWS_PER_DAY + 1


def test_a_large_partition_is_split_when_one_of_its_days_is_replaced(
    dsn: str, db: psycopg.Connection, file: Path
) -> None:
    """A file in no order makes such a partition: here its later days come first."""
    uri = write_days(file, 4, 3, 2, 1, 0)
    load(uri, dsn)
    assert bounds(db) == [(None, None, 50)]
    load_day(uri, dsn, 2)
    assert bounds(db) == [(None, 1, 10), (1, 2, 10), (2, 3, 10), (3, 4, 10), (4, None, 10)]
    assert ids(db) == ids_of(*range(5))


@pytest.mark.parametrize("waiting_bytes", [0, 1000, 1 << 22])
def test_the_sample_arrives_row_by_row(
    dsn: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, waiting_bytes: int
) -> None:
    monkeypatch.setattr(copying, "_WAITING_BYTES", waiting_bytes)
    monkeypatch.setattr(copying, "_ALL_WAITING_BYTES", 2 * waiting_bytes)
    result = load(str(SAMPLE), dsn)
    expected = [tuple(row.values()) for row in rows(EVENTS, str(SAMPLE)) if isinstance(row, dict)]
    assert events(db) == sorted(expected)
    assert result.loaded == len(expected)
    assert len(bounds(db)) > 50


@pytest.mark.parametrize("more", [-1, 1])
def test_rows_that_postgresql_counts_differently_are_not_loaded(
    dsn: str, db: psycopg.Connection, file: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """As if a bug of a regular expression took two lines for one, or one for two."""
    load(write_days(file, 0), dsn)
    take_clean = Staging._take_clean

    def take_wrongly(staging: Staging, lines: bytes, rows: int, *rest: Any) -> None:
        take_clean(staging, lines, rows + more, *rest)

    monkeypatch.setattr(Staging, "_take_clean", take_wrongly)
    with pytest.raises(RuntimeError, match=rf"^PostgreSQL copied 10 rows, but the load counted {10 + more}; "):
        load(write_days(file, 0, professional=9), dsn)
    assert {row[2] for row in events(db)} == {8}
