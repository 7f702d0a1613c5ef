"""Make a delivery script from a seed: rows that come late, are corrected or withdrawn, and runs that go wrong."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

from feeds.contract import Feed
from harness.replay.delivered_file import key_of
from harness.replay.script import Delivery, Outcome, Run, Script, Texts

# Within 60 days of each are a month's end and a leap day, a change to summer time or from it, or a year's end.
FIRST_DAYS = (date(2019, 12, 9), date(2020, 2, 3), date(2020, 10, 5), date(2023, 12, 4), date(2024, 2, 12))
FIRST_DAY_OF_YEAR = date(2019, 10, 14)  # all of these are within a year
ROWS_PER_DAY = 12
TYPES = ("proposed",) * 6 + ("became_able_to_propose",) * 3 + ("became_unable_to_propose",) * 2 + ("created_account",)
NAMES = ("tuin-aanleggen", "dak en goot", "crème brûlée", "a.b", "wc")
EDGES = (time(0), time(0, 0, 0, 1), time(1), time(2, 30), time(12), time(22, 30), time(23, 59, 59, 999_999))
AMSTERDAM = ZoneInfo("Europe/Amsterdam")


@dataclass
class Plan:
    """What changes in the file, by the day on which it is delivered."""

    rows: dict[date, list[Texts]] = field(default_factory=lambda: defaultdict(list))
    withdrawn: dict[date, list[Texts]] = field(default_factory=lambda: defaultdict(list))


def make_script(
    feed: Feed, seed: int, days: int, rows: Sequence[tuple[date, Texts]] | None = None, last_day: date | None = None
) -> Script:
    """Return the script of SEED for DAYS days of FEED.

    ROWS, each with its day, are those that arrive in the days from the first one on; without them they are invented, as
    events of the marketplace. LAST_DAY is that of the script, by default one of a few years.
    """
    random = Random(seed)  # noqa: S311 - no secret
    if rows is None:
        first = FIRST_DAY_OF_YEAR if days > 200 else random.choice(FIRST_DAYS)
        first = last_day - timedelta(days - 1) if last_day else first
        rows = events(random, first, days)
    else:
        first = min(day for day, _ in rows)
    all_days = [first + timedelta(number) for number in range(days)]
    plan = arrivals(random, feed, rows, all_days)
    deliveries = [
        delivery
        for day in all_days
        for delivery in deliveries_of(random, day, plan, key_of(feed), is_first=day == first)
    ]
    return Script(feed=feed.name, seed=seed, deliveries=tuple(deliveries))


def events(random: Random, first: date, days: int) -> list[tuple[date, Texts]]:
    """Return events of the marketplace from the day FIRST on, on some days none."""
    found: list[tuple[date, Texts]] = []
    for number in range(days):
        day = first + timedelta(number)
        count = 0 if random.random() < 0.06 else random.randint(1, 2 * ROWS_PER_DAY)
        for _ in range(count):
            event_type = random.choice(TYPES)
            professional = random.randint(1, 5 + number // 2)
            event_id = 10 * len(found) + random.randint(0, 9) if random.random() < 0.9 else -len(found)
            at = datetime.combine(day, any_time(random), UTC)
            found.append(
                (
                    day,
                    (
                        str(event_id),
                        event_type,
                        str(professional),
                        local_or_utc(random, at),
                        offer(random, number) if event_type == "proposed" else None,
                    ),
                )
            )
    return found


def offer(random: Random, number: int) -> str:
    """Return the `meta_data` of a proposal on day NUMBER; services have other names after two months."""
    service = random.randint(1, 9)
    name = NAMES[(service + number // 60) % len(NAMES)]
    fee = random.choice(["0", "7.5", "-0.10", "12.000001", f"{random.randint(1, 999)}.{random.randint(0, 99):02}"])
    return f"{service}_{name}_{name} {service}_{fee}"


def any_time(random: Random) -> time:
    """Return a time of day, often one at an edge of a day."""
    return random.choice(EDGES) if random.random() < 0.3 else time(random.randint(0, 23), random.randint(0, 59))


def local_or_utc(random: Random, at: datetime) -> str:
    """Return AT as a file has it: in UTC, or in the local time of a country with summer time."""
    if random.random() < 0.2:
        return at.astimezone(AMSTERDAM).isoformat()
    return at.replace(tzinfo=None).isoformat(sep=" ")


def arrivals(random: Random, feed: Feed, rows: Sequence[tuple[date, Texts]], days: Sequence[date]) -> Plan:
    """Decide on which of DAYS each of ROWS arrives, is corrected and is withdrawn."""
    plan = Plan()
    key = key_of(feed)
    for day, row in rows:
        arrives = day + timedelta(delay(random))
        plan.rows[arrives].append(row)
        if random.random() < 0.04:
            corrected_on = arrives + timedelta(random.choice([0, 1, 2, 7, random.randint(1, 45)]))
            plan.rows[corrected_on].append(corrected(random, feed, row, random.choice(rows)[1]))
        if random.random() < 0.02:
            plan.withdrawn[arrives + timedelta(random.randint(1, 45))].append(key(row))
    if days and plan.rows:  # of a user's rows some are of other days
        for changes in (plan.rows, plan.withdrawn):
            for day in [day for day in changes if day < days[0]]:
                changes[days[0]] += changes.pop(day)
    return plan


def delay(random: Random) -> int:
    """Return after how many days a row arrives: mostly on its day, some hours to weeks later."""
    chance = random.random()
    if chance < 0.88:
        return 0
    return random.randint(1, 3) if chance < 0.96 else random.randint(4, 40)


def corrected(random: Random, feed: Feed, row: Texts, other: Texts) -> Texts:
    """Return ROW with the values of OTHER, a row of any time, or at the time of OTHER, or both."""
    takes_time, takes_values = random.choice([(True, False), (False, True), (False, True), (True, True)])

    def is_taken(name: str) -> bool:
        if name in feed.key:
            return False
        return takes_time if name == feed.time_column else takes_values

    names = [column.name for column in feed.columns]
    return tuple(new if is_taken(name) else old for name, old, new in zip(names, row, other, strict=True))


def deliveries_of(
    random: Random, day: date, plan: Plan, key: Callable[[Texts], Texts], *, is_first: bool
) -> Iterable[Delivery]:
    """Yield the deliveries of DAY: mostly one, with the runs whose period ends with it."""
    rows, withdrawn = tuple(plan.rows[day]), tuple(plan.withdrawn[day])
    runs = runs_of(random, day)
    whole = Delivery(day=day, rows=rows, withdrawn=withdrawn, runs=runs)
    chance = random.random()
    if is_first or chance < 0.86:
        yield whole
    elif chance < 0.89:  # nothing comes; the changes come with the next day's file
        yield Delivery(day=day, file="missing", runs=runs)
        plan.rows[day + timedelta(1)][:0] = rows
        plan.withdrawn[day + timedelta(1)][:0] = withdrawn
    elif chance < 0.905:  # the file comes late: the runs have failed, and run again
        yield Delivery(day=day, file="missing", runs=runs)
        yield whole
    elif chance < 0.915:  # the same file comes twice
        yield whole
        yield Delivery(day=day, runs=runs_of(random, day))
    elif chance < 0.93:  # it is truncated, and comes again whole
        yield whole.model_copy(update={"file": "truncated", "cut": round(random.random(), 2)})
        yield Delivery(day=day, runs=runs)
    elif chance < 0.965:
        yield whole.model_copy(update={"drift": random.choice(["new_column", "column_order"])})
    else:
        yield whole.model_copy(update={"repeated": tuple(map(key, random.sample(rows, min(len(rows), 2))))})


def runs_of(random: Random, day: date) -> tuple[Run, ...]:
    """Return the runs after DAY: each pipeline's whose period ends with it, in any order, and how they end."""
    cadences = ["daily"]
    cadences += ["weekly"] if day.isoweekday() == 6 else []
    cadences += ["monthly"] if (day + timedelta(1)).day == 1 else []
    random.shuffle(cadences)
    runs = [
        Run.model_validate({"cadence": cadence, "outcome": outcome(random), "kill_at": random.randint(1, 60)})
        for cadence in cadences
        if random.random() < 0.97  # else it is missed
    ]
    if len(runs) > 1 and random.random() < 0.5:
        runs = [Run(cadence=run.cadence) for run in runs]
        runs[0] = runs[0].model_copy(update={"is_beside": True})
    if random.random() < 0.015:  # a run of the past is cleared, and so runs again
        again = Run(cadence=random.choice(["daily", "weekly"]), of=day - timedelta(random.randint(1, 20)))
        runs.append(again)
    return tuple(runs)


def outcome(random: Random) -> Outcome:
    """Return how a run ends, mostly well."""
    endings: tuple[Outcome, ...] = ("twice", "retried", "fails", "build_killed")
    return random.choice(endings) if random.random() < 0.07 else "succeeds"
