"""Duplicate event ids in a file are found wherever they are, whatever the ids are and in whatever order."""

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from feeds import keys, staging
from tests.events_feed import load
from tests.feeds.common import DAY, empty, names, rejects, write

ROWS_PER_DAY = 3
LOWEST, HIGHEST = -(2**63), 2**63 - 1

pytestmark = pytest.mark.usefixtures("small_partitions")

Row = tuple[int, int, str]  # event id, day, its id as written


def check(
    dsn: str, db: psycopg.Connection, path: Path, rows: Sequence[Row], days: tuple[int, int] | None = None
) -> None:
    """Load ROWS, all or those of DAYS, and compare with a brute-force search for duplicates."""
    lines = [
        f"{written};created_account;{number};{DAY + timedelta(days=day):%Y-%m-%d} 09:00:00;"
        for number, (_, day, written) in enumerate(rows)
    ]
    uri = write(path, lines)
    first: dict[int, tuple[int, int]] = {}
    duplicates = []
    for number, (event_id, day, _) in enumerate(rows):
        if event_id in first:
            duplicates.append((number + 2, lines[number], "duplicate_key"))
        else:
            first[event_id] = (number, day)
    inside = {key: row for key, row in first.items() if days is None or days[0] <= row[1] < days[1]}
    bounds = [None, None] if days is None else [DAY + timedelta(days=day) for day in days]
    empty(db)
    result = load(uri, dsn, start=bounds[0], end=bounds[1], max_rejected=1)
    expected = (len(rows), len(inside), len(duplicates), len(first) - len(inside))
    assert (result.read, result.loaded, result.rejected, result.outside) == expected
    found = db.execute(
        "select event_id, professional_id_anonymized, (created_at::date - '2020-01-01') from raw.events order by 1"
    )
    assert found.fetchall() == [(key, *inside[key]) for key in sorted(inside)]
    assert rejects(db) == duplicates


def plain(event_id: int, day: int) -> Row:
    return event_id, day, str(event_id)


near_limits = st.sampled_from([LOWEST, LOWEST + 1, LOWEST + 2, HIGHEST - 1, HIGHEST, -1, 0, 1])
any_id = st.one_of(st.integers(0, 12), near_limits, st.integers(LOWEST, HIGHEST))


@st.composite
def files(draw: st.DrawFn) -> list[Row]:
    """Draw a file: its days in order or not, ids in no order, some written differently."""
    days = draw(st.lists(st.integers(0, 4), min_size=2, max_size=24))
    if draw(st.booleans()):
        days.sort()
    rows = []
    for day in days:
        event_id = draw(any_id)
        digits, sign = str(abs(event_id)), "-" * (event_id < 0)
        rows.append((event_id, day, draw(st.sampled_from([sign + digits, f'"{sign}{digits}"', f"{sign}00{digits}"]))))
    return rows


@given(st.lists(st.lists(st.one_of(st.integers(0, 40), any_id), min_size=1, max_size=9), max_size=9), st.booleans())
def test_a_seen_id_is_never_reported_as_new(runs: list[list[int]], rise: bool) -> None:
    """With 7 slots and 3 rounds nearly all share one; rising ids are distinguished until the rounds are used up."""
    if rise:
        runs = [[10 * number + place for place in range(len(run))] for number, run in enumerate(runs) if number < 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "_SLOTS", (7,))
        patch.setattr(keys, "_ROUNDS", 3)
        seen, before = keys.SeenIntegers(None), set[int]()
        for run in runs:
            maybe = seen.add_integers(run)
            for position, event_id in enumerate(run):
                assert position in maybe or event_id not in before
                before.add(event_id)
            assert not (rise and maybe)


@pytest.mark.slow
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(files(), st.none() | st.sampled_from([(0, 1), (1, 3), (2, 5), (4, 9)]))
@example([plain(LOWEST, day) for day in (0, 0, 1, 1, 2, 2)], None)
@example([plain(id_, day) for day in range(3) for id_ in (LOWEST, LOWEST + 1, HIGHEST)], (1, 2))
@example([plain(HIGHEST - day, day) for day in range(5) for _ in range(4)], (1, 3))
def test_any_ids_in_any_order(
    dsn: str, db: psycopg.Connection, tmp_path: Path, rows: list[Row], days: tuple[int, int] | None
) -> None:
    check(dsn, db, tmp_path / "events.csv", rows, days)


ROWS, DAYS = 3_000, 12
MAKE_IDS: dict[str, Callable[[int, random.Random], int]] = {
    "rising": lambda number, _: number,
    "falling": lambda number, _: -number,
    "shuffled": lambda _, chance: chance.randrange(20 * ROWS),
    "far apart": lambda _, chance: chance.choice(
        [chance.randrange(LOWEST, HIGHEST), HIGHEST - chance.randrange(99), LOWEST]
    ),
    "rising, with outliers": lambda number, chance: (
        chance.choice([LOWEST, HIGHEST, 0, ROWS // 2]) if chance.random() < 0.01 else number
    ),
    "rising anew each day": lambda number, _: number % (ROWS // DAYS),
    "interleaved": lambda number, _: number % (ROWS // DAYS) * DAYS + number * DAYS // ROWS,
}


@pytest.mark.parametrize("slots", [97, 3_989, 1_048_573], ids=["most share", "some share", "hardly any share"])
def test_ids_that_share_slots(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """Of 12 partitions, with more duplicates than are fetched at once, and some rows that are parsed one by one."""
    monkeypatch.setattr(keys, "_SLOTS", (slots,))
    monkeypatch.setattr(staging, "_FETCHED_AT_ONCE", 700)
    for name, make_id in MAKE_IDS.items():
        chance = random.Random(slots)  # noqa: S311 - not for security
        rows = [plain(make_id(number, chance), number * DAYS // ROWS) for number in range(ROWS)]
        rows += [(id_, chance.randrange(DAYS), f'"{id_}"') for id_, *_ in chance.sample(rows, 9)]
        for days in (None, (1, 9)):
            check(dsn, db, tmp_path / "events.csv", rows, days)
        if "anew" not in name:  # whose first day has all ids
            assert len(names(db)) > (6 if slots > ROWS else 1), name


def test_days_whose_first_rows_are_all_duplicated(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    twice = [plain(10_000 * day + number, day) for day in range(2) for _ in range(2) for number in range(300)]
    both = [plain(50_000 + number, day) for day in range(2) for number in range(50)]
    rows = sorted(twice + both, key=lambda row: row[1])
    for days in (None, (1, 2)):
        check(dsn, db, tmp_path / "events.csv", rows, days)
