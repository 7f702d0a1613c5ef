"""An event id that is in the file twice is found wherever the two are, whatever the ids are and in whatever order."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from events import seen_ids, staging
from events.load import load
from events.partitions import partitions

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
DAY = datetime(2020, 1, 1, tzinfo=UTC)
ROWS_PER_DAY = 3
LOWEST, HIGHEST = -(2**63), 2**63 - 1

pytestmark = pytest.mark.usefixtures("small_partitions")

Row = tuple[int, int, str]  # event id, day, how the id is written


def check(  # the same for all tests: what is loaded is what brute force says, for the interval of days too
    dsn: str, db: psycopg.Connection, path: Path, rows: Sequence[Row], days: tuple[int, int] | None = None
) -> None:
    lines = [
        f"{written};created_account;{number};{DAY + timedelta(days=day):%Y-%m-%d} 09:00:00;"
        for number, (_, day, written) in enumerate(rows)
    ]
    path.write_text("\n".join([HEADER, *lines, ""]))
    first: dict[int, tuple[int, int]] = {}
    duplicates = []
    for number, (event_id, day, _) in enumerate(rows):
        if event_id in first:
            duplicates.append((number + 2, lines[number], "duplicate_event_id"))
        else:
            first[event_id] = (number, day)
    inside = {key: row for key, row in first.items() if days is None or days[0] <= row[1] < days[1]}
    bounds = [None, None] if days is None else [DAY + timedelta(days=day) for day in days]
    db.execute("truncate raw.loads, raw.events, raw.rejected_events")
    result = load(str(path), dsn, start=bounds[0], end=bounds[1], max_rejected=1)
    expected = (len(rows), len(inside), len(duplicates), len(first) - len(inside))
    assert (result.read, result.loaded, result.rejected, result.outside) == expected
    found = db.execute(
        "select event_id, professional_id_anonymized, (created_at::date - '2020-01-01') from raw.events order by 1"
    )
    assert found.fetchall() == [(key, *inside[key]) for key in sorted(inside)]
    rejected = db.execute("select line_number, raw_text, reason from raw.rejected_events order by 1").fetchall()
    assert rejected == duplicates


def plainly(event_id: int, day: int) -> Row:
    return event_id, day, str(event_id)


near_limits = st.sampled_from([LOWEST, LOWEST + 1, LOWEST + 2, HIGHEST - 1, HIGHEST, -1, 0, 1])
ids = st.one_of(st.integers(0, 12), near_limits, st.integers(LOWEST, HIGHEST))


@st.composite
def files(draw: st.DrawFn) -> list[Row]:
    """Draw a file: a day after the other or in no order, ids in no order, some written in another way."""
    days = draw(st.lists(st.integers(0, 4), min_size=2, max_size=24))
    if draw(st.booleans()):
        days.sort()
    rows = []
    for day in days:
        event_id = draw(ids)
        digits, sign = str(abs(event_id)), "-" * (event_id < 0)
        rows.append((event_id, day, draw(st.sampled_from([sign + digits, f'"{sign}{digits}"', f"{sign}00{digits}"]))))
    return rows


@given(st.lists(st.lists(st.one_of(st.integers(0, 40), ids), min_size=1, max_size=9), max_size=9), st.booleans())
def test_no_id_that_was_there_is_said_to_be_new(runs: list[list[int]], rise: bool) -> None:
    """With 7 slots and 3 rounds nearly all share one; ids that rise are told apart as long as the rounds last."""
    if rise:
        runs = [[10 * number + place for place in range(len(run))] for number, run in enumerate(runs) if number < 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen_ids, "_SLOTS", (7,))
        patch.setattr(seen_ids, "_ROUNDS", 3)
        seen, before = seen_ids.SeenIds(None), set[int]()
        for run in runs:
            maybe = seen.add(run)
            for position, event_id in enumerate(run):
                assert position in maybe or event_id not in before
                before.add(event_id)
            assert not (rise and maybe)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(files(), st.none() | st.sampled_from([(0, 1), (1, 3), (2, 5), (4, 9)]))
@example([plainly(LOWEST, day) for day in (0, 0, 1, 1, 2, 2)], None)
@example([plainly(id_, day) for day in range(3) for id_ in (LOWEST, LOWEST + 1, HIGHEST)], (1, 2))
@example([plainly(HIGHEST - day, day) for day in range(5) for _ in range(4)], (1, 3))
def test_any_ids_in_any_order(
    dsn: str, db: psycopg.Connection, tmp_path: Path, rows: list[Row], days: tuple[int, int] | None
) -> None:
    check(dsn, db, tmp_path / "events.csv", rows, days)


ROWS, DAYS = 6_000, 4


def rising(number: int, _: random.Random) -> int:
    return number


def falling(number: int, _: random.Random) -> int:
    return -number


def shuffled(_: int, chance: random.Random) -> int:
    return chance.randrange(20 * ROWS)


def far_apart(_: int, chance: random.Random) -> int:
    return chance.choice([chance.randrange(LOWEST, HIGHEST), HIGHEST - chance.randrange(99), LOWEST])


def rising_with_outliers(number: int, chance: random.Random) -> int:
    return chance.choice([LOWEST, HIGHEST, 0, ROWS - 1, ROWS // 2]) if chance.random() < 0.01 else number


def rising_each_day_anew(number: int, _: random.Random) -> int:
    return number % (ROWS // DAYS)


def beside_each_other(number: int, _: random.Random) -> int:
    return number % (ROWS // DAYS) * DAYS + number * DAYS // ROWS


@pytest.mark.parametrize("slots", [97, 7_919, 1_048_573])  # most ids share one, some do, hardly any does
@pytest.mark.parametrize(
    "make_id",
    [rising, falling, shuffled, far_apart, rising_with_outliers, rising_each_day_anew, beside_each_other],
)
def test_ids_that_share_slots(
    *,
    dsn: str,
    db: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_id: Callable[[int, random.Random], int],
    slots: int,
) -> None:
    monkeypatch.setattr(seen_ids, "_SLOTS", (slots,))
    monkeypatch.setattr(staging, "_FETCHED_AT_ONCE", 1_000)
    chance = random.Random(slots)  # noqa: S311 - it guards nothing
    rows = [plainly(make_id(number, chance), number * DAYS // ROWS) for number in range(ROWS)]
    rows += [(id_, chance.randrange(DAYS), written) for id_, _, written in chance.sample(rows, 5)]
    for days in (None, (1, 3)):
        check(dsn, db, tmp_path / "events.csv", rows, days)
    assert len(partitions(db)) > 1


def test_days_whose_first_rows_are_all_there_twice(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    twice = [plainly(10_000 * day + number, day) for day in range(2) for _ in range(2) for number in range(300)]
    both = [plainly(50_000 + number, day) for day in range(2) for number in range(50)]
    rows = sorted(twice + both, key=lambda row: row[1])
    for days in (None, (1, 2)):
        check(dsn, db, tmp_path / "events.csv", rows, days)
