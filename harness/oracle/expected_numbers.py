"""Compute from the feeds' files alone what the warehouse must hold; end-to-end runs and the tests compare with it.

This shares no code with the models: it is written from their definitions, in plain Python, so that a mistake has to be
made twice, in different ways, to go unseen. `harness.oracle.raw_rows` does the same for the raw tables of any feed.
"""

import calendar
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from typing import Any, NamedTuple

import psycopg

from feeds.contract import Feed
from feeds.interval import Interval
from harness.oracle import raw_rows
from harness.oracle.raw_rows import RawRows
from harness.oracle.row_values import Row

# The columns of each mart of the marketplace.
COLUMNS = {
    mart: tuple(columns.split())
    for mart, columns in {
        "dim.dim_date": "calendar_id calendar_date day_of_week first_day_of_month last_day_of_month"
        " first_day_of_quarter last_day_of_quarter first_day_of_year last_day_of_year is_weekday"
        " fiscal_period_id fiscal_week_id",
        "dim.dim_professionals": "professional_id account_created_at first_event_at last_event_at",
        "dim.dim_services": "service_id service_name_nl service_name_en",
        "fact.fct_events": "event_id professional_id service_id created_at service_lead_fee",
        "analysis.availability_snapshot": "date active_professionals",
        "analysis.service_revenue_daily": "service_id date proposals lead_fee_revenue",
        "analysis.professional_funnel": "professional_id cohort_week_id"
        " account_created_at first_able_at first_proposed_at"
        " days_account_to_able days_able_to_proposal days_account_to_proposal",
        "analysis.professional_productivity_daily": "date active_professionals proposals lead_fee_revenue"
        " proposals_per_active_professional lead_fee_revenue_per_active_professional",
    }.items()
}
EVENT = ("event_id", "event_type", "professional_id_anonymized", "created_at", "meta_data")  # the fields of Event
MARKETPLACE = "events"  # the feed that the marts are built from
STAGES = ("created_account", "became_able_to_propose", "proposed")
Rows = set[tuple[Any, ...]]


class Event(NamedTuple):
    """One valid row of the feed `events`; `created_at` is in UTC, `meta_data` None unless the event is a proposal."""

    event_id: int
    event_type: str
    professional_id: int
    created_at: datetime
    meta_data: str | None = None


@dataclass(frozen=True)
class ExpectedMarts:
    """What the marketplace's models must hold after a load of a whole file and a build.

    Attributes:
        rows: how many rows each has.
        lead_fees: the sum of all proposals' fees, in euro.
        content: the rows of each mart but `fact.fct_events`, which has one for each proposal.
    """

    rows: dict[str, int]
    lead_fees: Decimal
    content: dict[str, Rows]


@dataclass(frozen=True)
class Expected:
    """What the warehouse must hold after a load of each feed and a build.

    Attributes:
        feeds: the rows of each feed's raw table, by the feed.
        marts: of the marketplace; None if `events` is no feed any more.
    """

    feeds: dict[Feed, RawRows]
    marts: ExpectedMarts | None

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each table has that is known."""
        return {f"raw.{feed.name}": len(found.rows) for feed, found in self.feeds.items()} | (
            self.marts.rows if self.marts else {}
        )


class Marts:
    """The marts of the events that are added, in any order; memory grows with days, professionals and status events."""

    def __init__(self) -> None:
        self.events = 0
        self.proposals = 0
        self.lead_fees = Decimal()
        self._days: set[date] = set()
        self._statuses: list[tuple[datetime, int, int, bool]] = []  # created_at, event_id, professional, is able
        self._firsts: dict[int, dict[str, datetime]] = defaultdict(dict)  # by professional, of each event type
        self._lasts: dict[int, datetime] = {}  # by professional, of any type
        self._names: dict[int, tuple[datetime, int, str, str]] = {}  # by service, of its latest proposal
        self._revenue: dict[tuple[int, date], tuple[int, Decimal]] = {}  # proposals and fees by service and day

    def add(self, event: Event) -> None:
        """Add EVENT."""
        at, day, professional = event.created_at, event.created_at.date(), event.professional_id
        self.events += 1
        self._days.add(day)
        firsts = self._firsts[professional]
        firsts[event.event_type] = min(at, firsts.get(event.event_type, at))
        self._lasts[professional] = max(at, self._lasts.get(professional, at))
        if event.event_type == "proposed":
            _, _, service, _, fee = proposal(event)
            _, name_nl, name_en, _ = str(event.meta_data).split("_")
            names = (at, event.event_id, name_nl, name_en)
            self._names[service] = max(names, self._names.get(service, names))
            proposals, fees = self._revenue.get((service, day), (0, Decimal()))
            self._revenue[service, day] = (proposals + 1, fees + fee)
            self.proposals += 1
            self.lead_fees += fee
        elif event.event_type != "created_account":
            is_able = event.event_type == "became_able_to_propose"
            self._statuses.append((at, event.event_id, professional, is_able))

    def expected(self) -> ExpectedMarts:
        """Return what the models must hold."""
        content = self.rows()
        known = {table: len(rows) for table, rows in content.items()} | {"fact.fct_events": self.proposals}
        rows = {"staging.stg_events": self.events} | {mart: known[mart] for mart in COLUMNS}
        return ExpectedMarts(rows, self.lead_fees, content)

    def rows(self) -> dict[str, Rows]:
        """Return the rows of each mart but `fact.fct_events`, in the order of COLUMNS."""
        active = self._active_by_day()
        totals = {day: (0, Decimal()) for day in active}
        for (_, day), (proposals, fees) in self._revenue.items():
            totals[day] = (totals[day][0] + proposals, totals[day][1] + fees)
        return {
            "dim.dim_date": {calendar_row(day) for day in active},
            "dim.dim_professionals": {
                (who, naive(firsts.get("created_account")), naive(min(firsts.values())), naive(self._lasts[who]))
                for who, firsts in self._firsts.items()
            },
            "dim.dim_services": {(service, *names[2:]) for service, names in self._names.items()},
            "analysis.availability_snapshot": set(active.items()),
            "analysis.service_revenue_daily": {(*key, *total) for key, total in self._revenue.items()},
            "analysis.professional_funnel": {funnel_row(who, firsts) for who, firsts in self._firsts.items()},
            "analysis.professional_productivity_daily": {
                (day, count, *totals[day], *(ratio(Decimal(total), count) for total in totals[day]))
                for day, count in active.items()
            },
        }

    def _active_by_day(self) -> dict[date, int]:
        """Return how many professionals are active at the end of each day from the first event's to the last one's."""
        if not self._days:
            return {}
        status_changes: dict[date, list[tuple[int, bool]]] = defaultdict(list)
        for created_at, _, professional, is_able in sorted(self._statuses):
            status_changes[created_at.date()].append((professional, is_able))
        active: dict[date, int] = {}
        able: set[int] = set()
        for number in range(min(self._days).toordinal(), max(self._days).toordinal() + 1):
            day = date.fromordinal(number)
            for professional, is_able in status_changes[day]:
                (able.add if is_able else able.discard)(professional)
            active[day] = len(able)
        return active


class AllMarts(Marts):
    """All marts, `fact.fct_events` too; memory grows with the proposals as well."""

    def __init__(self) -> None:
        super().__init__()
        self._facts: set[tuple[Any, ...]] = set()

    def add(self, event: Event) -> None:
        """Add EVENT."""
        super().add(event)
        if event.event_type == "proposed":
            self._facts.add(proposal(event))

    def rows(self) -> dict[str, Rows]:
        """Return the rows of each mart, in the order of COLUMNS."""
        contents = super().rows() | {"fact.fct_events": self._facts}
        return {mart: contents[mart] for mart in COLUMNS}


def compute(files: Iterable[tuple[Feed, str]], interval: Interval, dsn: str) -> Expected:
    """Return what an empty warehouse must hold after a load of FILES, feeds and the URIs of their files.

    INTERVAL is what is loaded of each; the server of DSN evaluates the contracts' rules. Raises as `raw_rows.expected`.
    """
    feeds: dict[Feed, RawRows] = {}
    marts = Marts()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for feed, uri in files:
            each = partial(add_event, marts) if feed.name == MARKETPLACE else None
            feeds[feed] = raw_rows.expected(feed, uri, interval, connection, each)
    return Expected(feeds, marts.expected() if MARKETPLACE in {feed.name for feed in feeds} else None)


def add_event(marts: Marts, row: Row) -> None:
    """Add the event in ROW of the raw table to MARTS."""
    marts.add(Event(*(row[name] for name in EVENT)))


def proposal(event: Event) -> tuple[int, int, int, datetime | None, Decimal]:
    """Return the row of `fact.fct_events` for EVENT, a proposal."""
    service, _, _, fee = str(event.meta_data).split("_")
    return (event.event_id, event.professional_id, int(service), naive(event.created_at), Decimal(fee))


def calendar_row(day: date) -> tuple[Any, ...]:
    """Return the row of `dim.dim_date` for DAY."""
    quarter = (day.month - 1) // 3
    week = day.isocalendar()
    return (
        day.year * 10000 + day.month * 100 + day.day,
        day,
        ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"].index(day.strftime("%a")) + 1,
        date(day.year, day.month, 1),
        date(day.year, day.month, calendar.monthrange(day.year, day.month)[1]),
        date(day.year, [1, 4, 7, 10][quarter], 1),
        date(day.year, [3, 6, 9, 12][quarter], [31, 30, 30, 31][quarter]),
        date(day.year, 1, 1),
        date(day.year, 12, 31),
        day.strftime("%a") not in ("Sat", "Sun"),
        day.year * 100 + day.month,
        week.year * 100 + week.week,
    )


def funnel_row(professional: int, firsts: dict[str, datetime]) -> tuple[Any, ...]:
    """Return the funnel's row of PROFESSIONAL, whose first event of each type is in FIRSTS."""
    account, able, proposed = (firsts.get(stage) for stage in STAGES)
    return (
        professional,
        account.isocalendar().year * 100 + account.isocalendar().week if account else None,
        *map(naive, (account, able, proposed)),
        days_between(account, able),
        days_between(able, proposed),
        days_between(account, proposed),
    )


def days_between(start: datetime | None, end: datetime | None) -> int | None:
    """Return the number of days from START's day to END's."""
    return (end.date() - start.date()).days if start and end else None


def ratio(total: Decimal, count: int) -> Decimal | None:
    """Return TOTAL per COUNT, rounded to six digits as PostgreSQL rounds; None per nobody."""
    return (total / count).quantize(Decimal("0.000001"), ROUND_HALF_UP) if count else None


def naive(moment: datetime | None) -> datetime | None:
    """Return MOMENT, in UTC, as a `timestamp` without time zone."""
    return moment and moment.replace(tzinfo=None)
