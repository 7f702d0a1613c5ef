"""The sample is the generator's output, and contains what the generator's documentation describes."""

import sys
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from harness.oracle.file_rows import rows
from harness.oracle.row_values import RejectedError
from harness.project.paths import SAMPLE
from tests.events_feed import EVENTS
from tests.feeds.test_event_lines import REJECTED

sys.path.insert(0, str(SAMPLE.parent))  # as for a script
import bad_rows
import generate as generator
import marketplace

ABLE, UNABLE, PROPOSED = "became_able_to_propose", "became_unable_to_propose", "proposed"


class Row(NamedTuple):
    """One row of the sample, fields in an order that sorts by time, then by id."""

    at: datetime
    id: int
    type: str
    professional: int
    metadata: str


def make(events: int, seed: int = 1, bad: Fraction = Fraction(0)) -> bytes:
    return b"".join(generator.generate(events, seed, bad))


def reasons_of(path: Path) -> tuple[int, Counter[str]]:
    """Return the number of rows in the file PATH, and how many are rejected by reason."""
    read, seen, reasons = 0, set(), Counter[str]()
    for row in rows(EVENTS, str(path)):
        read += 1
        if isinstance(row, RejectedError):
            reasons[": ".join(filter(None, reversed(row.args)))] += 1
        elif (row["event_type"] == PROPOSED) != (row["meta_data"] is not None):
            reasons["only_proposals_have_metadata: rule"] += 1
        elif row["event_id"] in seen:
            reasons["duplicate_key"] += 1
        else:
            seen.add(row["event_id"])
    return read, reasons


@pytest.fixture(scope="module")
def log() -> list[Row]:
    """Give the sample's rows in the file's order."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()[1:]
    fields = [line.split(";") for line in lines]
    return [
        Row(datetime.fromisoformat(at).replace(tzinfo=UTC), int(id_), type_, int(professional), metadata)
        for id_, type_, professional, at, metadata in fields
    ]


@pytest.fixture(scope="module")
def statuses(log: list[Row]) -> dict[int, list[Row]]:
    """Give each professional's status events in the file's order."""
    found: dict[int, list[Row]] = defaultdict(list)
    for row in log:
        if row.type in (ABLE, UNABLE):
            found[row.professional].append(row)
    return found


def test_the_sample_is_generated_and_valid() -> None:
    assert SAMPLE.read_bytes() == b"".join(generator.generate())
    assert reasons_of(SAMPLE) == (20_000, {})


def test_the_seed_decides() -> None:
    assert make(2_000, seed=5) == make(2_000, seed=5)
    assert make(2_000, seed=5) != make(2_000, seed=6)


@pytest.mark.parametrize("events", [0, 1, 2, 11, 12, 13, 500, 65_536, 65_600])
def test_any_number_of_events(tmp_path: Path, events: int) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(make(events, seed=2))
    assert reasons_of(path) == (events, {})


@pytest.mark.parametrize(
    ("events", "bad"),
    [(70_000, Fraction(1, 3)), *((n, share) for n in (0, 40, 3_000) for share in (Fraction(1, 100), Fraction(1)))],
)
def test_bad_rows(tmp_path: Path, events: int, bad: Fraction) -> None:
    """Exactly the given share is rejected, each row for the named reason, and the other rows are unchanged."""
    path = tmp_path / "events.csv"
    path.write_bytes(make(events, seed=3, bad=bad))
    reasons = [reason for reason, _ in bad_rows.BAD_ROWS]
    wanted = int(events * bad)
    turns = Counter(reasons[number % len(reasons)] for number in range(wanted) if number != len(reasons))
    turns["too_long"] = int(wanted > len(reasons))
    if bad == 1:  # without a valid row there is none to duplicate
        turns["encoding"] += turns.pop("duplicate_key", 0)
    assert reasons_of(path) == (events, +turns)

    clean, replaced = make(events, seed=3).split(b"\n"), path.read_bytes().split(b"\n")
    assert sum(left != right for left, right in zip(clean, replaced, strict=True)) == wanted


def test_every_reason_is_made() -> None:
    """--bad has all reasons for which the format rejects a row, except too_long, which it makes once."""
    reasons = {reason.rpartition(": ")[2] for reason, _ in bad_rows.BAD_ROWS}
    rejected = {reason.rpartition(": ")[2] for reason in REJECTED}
    assert reasons == rejected - {"too_long"} | {"rule", "duplicate_key"}


def test_mix(log: list[Row]) -> None:
    """Most events are proposals, nearly all by professionals able to propose, and a few professionals make many."""
    types = Counter(row.type for row in log)
    assert types[PROPOSED] > types["created_account"] > types[ABLE] > types[UNABLE] > 100
    assert types[PROPOSED] > 0.8 * len(log)
    able: set[int] = set()
    by_able = 0
    for row in sorted(log):
        if row.type == ABLE:
            able.add(row.professional)
        elif row.type == UNABLE:
            able.discard(row.professional)
        elif row.type == PROPOSED:
            by_able += row.professional in able
    assert 0.98 * types[PROPOSED] < by_able < types[PROPOSED]
    proposers = Counter(row.professional for row in log if row.type == PROPOSED)
    assert proposers.most_common(1)[0][1] > 20 * median(proposers.values())


def test_order(log: list[Row]) -> None:
    """Ids are unique; a few rows come late, and a few ids are not in the order of the file."""
    assert len({row.id for row in log}) == len(log)
    assert 50 < sum(later.at < earlier.at for earlier, later in pairwise(log)) < 400
    assert 50 < sum(later.id < earlier.id for earlier, later in pairwise(log)) < 1_000


def test_days(log: list[Row]) -> None:
    """Every day of the log has events except the closed ones; a leap day and a new year are among them."""
    days = {row.at.date() for row in log}
    span = {min(days) + timedelta(days=number) for number in range((max(days) - min(days)).days + 1)}
    assert len(span) == marketplace.DAYS
    assert span - days == set(marketplace.CLOSED)
    assert {date(2019, 12, 31), date(2020, 1, 2), date(2020, 2, 29)} <= days


def test_bursts(log: list[Row]) -> None:
    """Some hours have many times the events of an ordinary one."""
    hours = Counter(row.at.replace(minute=0, second=0) for row in log if 8 <= row.at.hour < 20)
    assert sum(count > 5 * median(hours.values()) for count in hours.values()) >= 3


def test_ties(log: list[Row], statuses: dict[int, list[Row]]) -> None:
    """Events share a second; so do opposite status events of one professional, their ids in either order."""
    assert sum(count - 1 for count in Counter(row.at for row in log).values()) > 100
    tied = [
        (first, second)
        for rows in statuses.values()
        for first, second in pairwise(rows)
        if first.at == second.at and first.type != second.type
    ]
    assert {first.type for first, _ in tied} == {ABLE, UNABLE}
    assert {first.id < second.id for first, second in tied} == {True, False}


def test_status_changes_within_a_day(statuses: dict[int, list[Row]]) -> None:
    """On one day some become unable and able again, others able and unable again."""
    changes = {
        (first.type, second.type)
        for rows in statuses.values()
        for first, second in pairwise(sorted(rows))
        if first.at < second.at and first.at.date() == second.at.date()
    }
    assert {(ABLE, UNABLE), (UNABLE, ABLE)} <= changes


def test_odd_lives(log: list[Row], statuses: dict[int, list[Row]]) -> None:
    """Able twice, unable twice, unable first, never able, able before the account, no account, only an account."""
    stories = {professional: [row.type for row in sorted(rows)] for professional, rows in statuses.items()}
    repeated = {pair for story in stories.values() for pair in pairwise(story) if pair[0] == pair[1]}
    assert repeated == {(ABLE, ABLE), (UNABLE, UNABLE)}
    assert any(story[0] == UNABLE and ABLE in story for story in stories.values())
    assert any(ABLE not in story for story in stories.values())
    accounts = {row.professional: row for row in log if row.type == "created_account"}
    assert any(rows[0].at < accounts[who].at for who, rows in statuses.items() if who in accounts)
    assert {row.professional for row in log} - accounts.keys()
    assert accounts.keys() - {row.professional for row in log if row.type != "created_account"}


def test_services(log: list[Row]) -> None:
    """Fees fill their range, ids are not 1, 2, 3; two services change their names, some names are not ASCII."""
    offers = [row.metadata.split("_") for row in log if row.type == PROPOSED]
    fees = [int(fee.replace(".", "")) for *_, fee in offers]
    assert (min(fees), max(fees)) == (1, 1_000)
    names = defaultdict(set)
    for service, *both, _ in offers:
        names[int(service)].add(tuple(both))
    assert len(names) == len(marketplace.SERVICES)
    assert sorted(number for number, found in names.items() if len(found) > 1) == sorted(marketplace.NEW_NAMES)
    assert any(not text.isascii() for found in names.values() for both in found for text in both)


def test_command(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The command writes the same to a file and to standard output."""
    path = tmp_path / "events.csv"
    generator.main(["--events", "30", "--seed", "4", "--bad", "0.1", "--out", str(path)])
    generator.main(["--events", "30", "--seed", "4", "--bad", "1/10"])
    assert path.read_bytes() == capfdbinary.readouterr().out == make(30, seed=4, bad=Fraction(1, 10))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--events", "-1"], "--rows and --seed cannot be negative"),
        (["--seed", "-1"], "--rows and --seed cannot be negative"),
        (["--bad", "1.5"], "argument --bad: 1.5 is not a share from 0 to 1, for example 0.01"),
        (["--bad", "1/0"], "argument --bad: 1/0 is not a share"),
        (
            ["--out", "no/such/directory/events.csv"],
            "cannot write no/such/directory/events.csv: No such file or directory",
        ),
    ],
)
def test_wrong_command(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        generator.main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
