"""Duplicate event ids in a file are found wherever they are, whatever the ids are and in whatever order."""

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from events import partitions, seen_ids, staging
from events.load import load
from tests.events.common import DAY, NINE, account, empty, ids, ids_of, names, rejects, write, write_days

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
            duplicates.append((number + 2, lines[number], "duplicate_event_id"))
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
@example([plain(LOWEST, day) for day in (0, 0, 1, 1, 2, 2)], None)
@example([plain(id_, day) for day in range(3) for id_ in (LOWEST, LOWEST + 1, HIGHEST)], (1, 2))
@example([plain(HIGHEST - day, day) for day in range(5) for _ in range(4)], (1, 3))
def test_any_ids_in_any_order(
    dsn: str, db: psycopg.Connection, tmp_path: Path, rows: list[Row], days: tuple[int, int] | None
) -> None:
    check(dsn, db, tmp_path / "events.csv", rows, days)


ROWS, DAYS = 3_000, 4


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


def rising_anew_each_day(number: int, _: random.Random) -> int:
    return number % (ROWS // DAYS)


def interleaved(number: int, _: random.Random) -> int:
    return number % (ROWS // DAYS) * DAYS + number * DAYS // ROWS


@pytest.mark.parametrize("slots", [97, 3_989, 1_048_573], ids=["most share", "some share", "hardly any share"])
def test_ids_that_share_slots(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    monkeypatch.setattr(seen_ids, "_SLOTS", (slots,))
    monkeypatch.setattr(staging, "_FETCHED_AT_ONCE", 700)
    make_ids: list[Callable[[int, random.Random], int]]
    make_ids = [rising, falling, shuffled, far_apart, rising_with_outliers, rising_anew_each_day, interleaved]
    for make_id in make_ids:
        chance = random.Random(slots)  # noqa: S311 - not for security
        rows = [plain(make_id(number, chance), number * DAYS // ROWS) for number in range(ROWS)]
        rows += [(id_, chance.randrange(DAYS), written) for id_, _, written in chance.sample(rows, 5)]
        for days in (None, (1, 3)):
            check(dsn, db, tmp_path / "events.csv", rows, days)
        assert len(names(db)) > 1


def test_days_whose_first_rows_are_all_duplicated(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    twice = [plain(10_000 * day + number, day) for day in range(2) for _ in range(2) for number in range(300)]
    both = [plain(50_000 + number, day) for day in range(2) for number in range(50)]
    rows = sorted(twice + both, key=lambda row: row[1])
    for days in (None, (1, 2)):
        check(dsn, db, tmp_path / "events.csv", rows, days)


def test_duplicates_in_other_partitions_outside_the_interval_and_written_differently(
    dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    lines = [
        account(0, DAY + timedelta(days=2), 1),
        account(1000, DAY + timedelta(days=1, hours=12), 2),
        '"02000";created_account;3;2020-01-01 12:00:00;',
        account(77, DAY + timedelta(days=8), 4),
        "-0;created_account;5;2020-01-09 00:00:00;",
        account(77, DAY, 6),
    ]
    uri = write_days(tmp_path / "events.csv", 0, 1, 2, more=lines)
    result = load(uri, dsn, end=DAY + timedelta(days=5), max_rejected=0.5)
    assert (result.read, result.loaded, result.rejected, result.outside) == (36, 30, 5, 1)
    assert rejects(db) == [(32 + n, lines[n], "duplicate_event_id") for n in (0, 1, 2, 4, 5)]
    assert ids(db) == ids_of(0, 1, 2)


@pytest.mark.parametrize("seed", range(4))
def test_many_partitions_whose_ids_overlap(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(partitions, "MIN_ROWS", 1_000)
    monkeypatch.setattr(seen_ids, "_SLOTS", (65_521,))  # some ids share one
    chance = random.Random(seed)  # noqa: S311 - not for security
    event_ids = [chance.randrange(LOWEST, HIGHEST + 1) for _ in range(9_000)] + [LOWEST, HIGHEST, 0, -1]
    if seed % 2:  # as in a log, whose ids rise with time, except for some
        event_ids.sort()
    for _ in range(60):
        event_ids[chance.randrange(len(event_ids))] = chance.choice(event_ids)
    rows = []
    for number, event_id in enumerate(event_ids):
        written = str(event_id) if chance.random() >= 0.01 else f'"{event_id}"'  # parsed one by one
        rows.append((event_id, 12 * number // len(event_ids), written))
    check(dsn, db, tmp_path / "events.csv", rows, (1, 12))
    assert len(names(db)) > 6


def test_more_duplicates_than_are_fetched_at_once(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_FETCHED_AT_ONCE", 7)
    lines = [account(id_, DAY + NINE + timedelta(days=id_ // 1000)) for id_ in ids_of(0, 1, 2)]
    result = load(write(tmp_path / "events.csv", lines * 2), dsn, max_rejected=0.5)
    assert (result.read, result.loaded, result.rejected) == (60, 30, 30)
    assert [line for line, *_ in rejects(db)] == [*range(32, 62)]
