"""Random events, and random histories of loads, that the models are compared on."""

from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import NamedTuple

from hypothesis import strategies as st

from harness.oracle.expected_numbers import Event

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
# Few professionals, services and times of day: ties, status changes within a day and renamed services are frequent.
FIRST_DAYS = [date(2019, 12, 28), date(2020, 2, 27), date(2020, 12, 30), date(2024, 6, 29)]
TIMES = [time(0), time(12), time(12, 0, 0, 1), time(23, 59, 59, 999999)]
TYPES = ["created_account", "became_able_to_propose", "became_unable_to_propose", "proposed"]
NAMES = ["tuin", "dak-en goot", "a b"]
FEES = ["0", "7.63", "-0.10", "+12.000001", "999999999999.999999"]
EXAMPLES = [
    [],
    [Event(1, "proposed", 1, NOON, "7_tuin_garden_1.5")],
    [Event(1, "became_unable_to_propose", 1, NOON), Event(2, "became_able_to_propose", 1, NOON)],
]


def stream(random: Random, first_day: date | None = None, min_size: int = 0) -> list[Event]:
    """Return the events of a few professionals within some days, sometimes with a gap of a month."""
    first_day = first_day or random.choice(FIRST_DAYS)
    events = []
    for event_id in random.sample(range(-3, 41), random.randint(min_size, 25)):
        day = first_day + timedelta(random.choice([0, 1, 2, 3, 4, 35]))
        event_type = random.choice(TYPES)
        service = f"{random.randint(-1, 2)}_{random.choice(NAMES)}_{random.choice(NAMES)}_{random.choice(FEES)}"
        meta_data = service if event_type == "proposed" else None
        at = datetime.combine(day, random.choice(TIMES), UTC)
        events.append(Event(event_id, event_type, random.randint(1, 3), at, meta_data))
    return events


class Load(NamedTuple):
    """A load of the log's events at that time, of an interval of them or of all."""

    log: list[Event]
    start: datetime | None = None
    end: datetime | None = None


def history(random: Random) -> list[Load]:
    """Return three loads of a log whose past is corrected: events vanish, appear, move, change."""
    first_day = random.choice(FIRST_DAYS)
    log = {event.event_id: event for event in stream(random, first_day, min_size=12)}
    loads = [Load(list(log.values()))]
    for _ in range(2):
        log = {event_id: event for event_id, event in log.items() if random.random() < 0.8}
        moves = random.random() < 0.3  # a load into which events move changes all days from the first of them on
        others = {event.event_id: event for event in stream(random, first_day)}
        log |= {event_id: event for event_id, event in others.items() if moves or event_id not in log}
        start = datetime.combine(first_day + timedelta(random.randint(0, 4)), random.choice(TIMES), UTC)
        end = random.choice([None, start + timedelta(1), start + timedelta(3)])
        loads.append(Load(list(log.values()), random.choice([None, start, start, start]), end))
    return loads


streams = st.builds(stream, st.randoms(use_true_random=False))
histories = st.builds(history, st.randoms(use_true_random=True))  # many examples would else be small or alike
