"""The marts once more, by brute force: plain Python that shares no code with dbt, and random events to compare on."""

import calendar
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from hypothesis import strategies as st

MARTS = {
    "dim.dim_date": "calendar_id",
    "dim.dim_professionals": "professional_id",
    "dim.dim_services": "service_id",
    "fact.fct_events": "event_id",
    "analysis.availability_snapshot": "date",
    "analysis.service_revenue_daily": "service_id, date",
    "analysis.professional_funnel": "professional_id",
    "analysis.professional_productivity_daily": "date",
}
Rows = list[dict[str, Any]]


class Event(NamedTuple):
    """One row of raw.events."""

    event_id: int
    event_type: str
    professional_id: int
    created_at: datetime
    meta_data: str | None = None


# --- the marts ------------------------------------------------------------------------------------------------------


def expected(events: list[Event]) -> dict[str, Rows]:
    """Compute each mart from EVENTS by looking through all of them for every row."""
    days = days_between([event.created_at.date() for event in events])
    professionals = sorted({event.professional_id for event in events})
    proposals = sorted(event for event in events if event.event_type == "proposed")
    services = sorted({service_id(event) for event in proposals})
    return {
        "dim.dim_date": [expected_day(day) for day in days],
        "dim.dim_professionals": [expected_professional(professional, events) for professional in professionals],
        "dim.dim_services": [expected_service(service, proposals) for service in services],
        "fact.fct_events": [expected_proposal(event) for event in proposals],
        "analysis.availability_snapshot": [
            {"date": day, "active_professionals": sum(is_active(who, day, events) for who in professionals)}
            for day in days
        ],
        "analysis.service_revenue_daily": [
            expected_revenue(service, day, made)
            for service in services
            for day in days
            if (
                made := [event for event in proposals if (service_id(event), event.created_at.date()) == (service, day)]
            )
        ],
        "analysis.professional_funnel": [expected_funnel(professional, events) for professional in professionals],
        "analysis.professional_productivity_daily": [
            expected_productivity(day, sum(is_active(who, day, events) for who in professionals), proposals)
            for day in days
        ],
    }


def days_between(days: list[date]) -> list[date]:
    return [min(days) + timedelta(number) for number in range((max(days) - min(days)).days + 1)] if days else []


def expected_day(day: date) -> dict[str, Any]:
    quarter = (day.month - 1) // 3
    week = day.isocalendar()
    return {
        "calendar_id": day.year * 10000 + day.month * 100 + day.day,
        "calendar_date": day,
        "day_of_week": ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"].index(day.strftime("%a")) + 1,
        "first_day_of_month": date(day.year, day.month, 1),
        "last_day_of_month": date(day.year, day.month, calendar.monthrange(day.year, day.month)[1]),
        "first_day_of_quarter": date(day.year, [1, 4, 7, 10][quarter], 1),
        "last_day_of_quarter": date(day.year, [3, 6, 9, 12][quarter], [31, 30, 30, 31][quarter]),
        "first_day_of_year": date(day.year, 1, 1),
        "last_day_of_year": date(day.year, 12, 31),
        "is_weekday": day.strftime("%a") not in ("Sat", "Sun"),
        "fiscal_period_id": day.year * 100 + day.month,
        "fiscal_week_id": week.year * 100 + week.week,
    }


def expected_professional(professional: int, events: list[Event]) -> dict[str, Any]:
    own = [event for event in events if event.professional_id == professional]
    accounts = [event.created_at for event in own if event.event_type == "created_account"]
    return {
        "professional_id": professional,
        "account_created_at": naive(min(accounts)) if accounts else None,
        "first_event_at": naive(min(event.created_at for event in own)),
        "last_event_at": naive(max(event.created_at for event in own)),
    }


def expected_service(service: int, proposals: list[Event]) -> dict[str, Any]:
    namings = [event for event in proposals if service_id(event) == service]
    latest = max(namings, key=lambda event: (event.created_at, event.event_id))
    _, name_nl, name_en, _ = str(latest.meta_data).split("_")
    return {"service_id": service, "service_name_nl": name_nl, "service_name_en": name_en}


def expected_proposal(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "professional_id": event.professional_id,
        "service_id": service_id(event),
        "created_at": naive(event.created_at),
        "service_lead_fee": fee(event),
    }


def is_proposal_of(event: Event, service: int, day: date) -> bool:
    return service_id(event) == service and event.created_at.date() == day


def expected_revenue(service: int, day: date, made: list[Event]) -> dict[str, Any]:
    return {
        "service_id": service,
        "date": day,
        "proposals": len(made),
        "lead_fee_revenue": sum(map(fee, made), Decimal()),
    }


def expected_funnel(professional: int, events: list[Event]) -> dict[str, Any]:
    account, able, proposed = (
        min((e.created_at for e in events if (e.professional_id, e.event_type) == (professional, stage)), default=None)
        for stage in ("created_account", "became_able_to_propose", "proposed")
    )
    week = account.isocalendar() if account else None
    return {
        "professional_id": professional,
        "cohort_week_id": int(f"{week.year}{week.week:02}") if week else None,
        "account_created_at": naive(account) if account else None,
        "first_able_at": naive(able) if able else None,
        "first_proposed_at": naive(proposed) if proposed else None,
        "days_account_to_able": days_from(account, able),
        "days_able_to_proposal": days_from(able, proposed),
        "days_account_to_proposal": days_from(account, proposed),
    }


def days_from(earlier: datetime | None, later: datetime | None) -> int | None:
    return later.date().toordinal() - earlier.date().toordinal() if earlier and later else None


def expected_productivity(day: date, active: int, proposals: list[Event]) -> dict[str, Any]:
    fees = [fee(event) for event in proposals if event.created_at.date() == day]
    revenue = sum(fees, Decimal())
    return {
        "date": day,
        "active_professionals": active,
        "proposals": len(fees),
        "lead_fee_revenue": revenue,
        "proposals_per_active_professional": share(Decimal(len(fees)), active),
        "lead_fee_revenue_per_active_professional": share(revenue, active),
    }


def share(of: Decimal, active: int) -> Decimal | None:
    return (of / active).quantize(Decimal("0.000001"), ROUND_HALF_UP) if active else None


def is_active(professional: int, day: date, events: list[Event]) -> bool:
    statuses = [
        (event.created_at, event.event_id, event.event_type)
        for event in events
        if event.professional_id == professional and "able_to_propose" in event.event_type
        if event.created_at.date() <= day
    ]
    return bool(statuses) and max(statuses)[2] == "became_able_to_propose"


def service_id(event: Event) -> int:
    return int(str(event.meta_data).split("_")[0])


def fee(event: Event) -> Decimal:
    return Decimal(str(event.meta_data).split("_")[3])


def naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


# --- streams of events ---------------------------------------------------------------------------------------------

# Few professionals, services and times of day: ties, flips within a day and renamed services come by themselves.
FIRST_DAYS = [date(2019, 12, 28), date(2020, 2, 27), date(2020, 12, 30), date(2024, 6, 29)]
TIMES = [time(0), time(12), time(12, 0, 0, 1), time(23, 59, 59, 999999)]
TYPES = ["created_account", "became_able_to_propose", "became_unable_to_propose", "proposed"]
FEES = ["0", "7.63", "-0.10", "+12.000001", "999999999999.999999"]


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Draw the events of a few professionals within some days, at times with a gap of a month."""
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
