"""Random events, and random histories of loads, that the models are compared on."""

from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from hypothesis import strategies as st

from harness.pipeline.events_file import Event

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
# Few professionals, services and times of day: ties, status changes within a day and renamed services are frequent.
FIRST_DAYS = [date(2019, 12, 28), date(2020, 2, 27), date(2020, 12, 30), date(2024, 6, 29)]
TIMES = [time(0), time(12), time(12, 0, 0, 1), time(23, 59, 59, 999999)]
TYPES = ["created_account", "became_able_to_propose", "became_unable_to_propose", "proposed"]
FEES = ["0", "7.63", "-0.10", "+12.000001", "999999999999.999999"]
EXAMPLES = [
    [],
    [Event(1, "proposed", 1, NOON, "7_tuin_garden_1.5")],
    [Event(1, "became_unable_to_propose", 1, NOON), Event(2, "became_able_to_propose", 1, NOON)],
]


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Draw the events of a few professionals within some days, sometimes with a gap of a month."""
    first_day = draw(st.sampled_from(FIRST_DAYS))
    days = st.sampled_from([0, 1, 2, 3, 4, 35]).map(lambda number: first_day + timedelta(number))
    moments = st.builds(lambda day, at: datetime.combine(day, at, UTC), days, st.sampled_from(TIMES))
    names = st.sampled_from(["tuin", "dak-en goot", "a b"])
    services = st.builds("{}_{}_{}_{}".format, st.integers(-1, 2), names, names, st.sampled_from(FEES))
    ids = draw(st.lists(st.integers(-3, 40), unique=True, max_size=25))
    events = []
    for event_id in ids:
        event_type = draw(st.sampled_from(TYPES))
        meta_data = draw(services) if event_type == "proposed" else None
        events.append(Event(event_id, event_type, draw(st.integers(1, 3)), draw(moments), meta_data))
    return events


class Load(NamedTuple):
    """A load of the log's events at that time, of an interval of them or of all."""

    log: list[Event]
    start: datetime | None = None
    end: datetime | None = None


@st.composite
def histories(draw: st.DrawFn) -> list[Load]:
    """Draw some loads of a log that grows and whose past is corrected: events vanish, appear, move, change."""
    log, loads = draw(streams()), []
    for _ in range(draw(st.integers(2, 4))):
        days = [event.created_at for event in log] or [NOON]
        starts = st.sampled_from(days).map(lambda at: at.replace(hour=0, minute=0, second=0, microsecond=0))
        start = draw(st.none() | starts | st.sampled_from(days))
        span = draw(st.none() | st.integers(1, 3).map(timedelta))
        loads.append(Load(log, start, (start or min(days)) + span if span else None))
        others = draw(streams())
        shift = (min(days) - min(event.created_at for event in others)).days if others else 0
        others = [event._replace(created_at=event.created_at + timedelta(shift)) for event in others]
        kept = {event.event_id: event for event in log if draw(st.integers(0, 4))}
        log = list((kept | {event.event_id: event for event in others}).values())
    return loads
