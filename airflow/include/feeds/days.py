"""Which rows have an unlikely time: outside the bounds that a user has set, or far from all others."""

import os
from collections.abc import Mapping
from datetime import date

from feeds.contract import Feed
from feeds.errors import FeedError, SettingUnusable
from feeds.interval import Interval
from feeds.lines import Reject
from feeds.settings import variable

OUT_OF_RANGE = Reject("out_of_range")
GAP_DAYS = 366
_SHOWN = 5


def valid_times(feed: Feed) -> Interval:
    """Return the interval in which FEED's times are valid, by the environment; empty variables count as not set.

    Raises:
        SettingUnusable: a variable is no time, or they are in the wrong order.
    """
    names = _bounds(feed)
    texts = [os.environ.get(name, "") for name in names]
    try:
        return Interval.parse(*(text.strip() or None for text in texts))
    except FeedError as error:
        raise SettingUnusable(
            f"{' and '.join(names)} cannot be used: {error.what}",
            "They bound the times of rows, and somebody has set one of them to something else.",
            error.next_step,
        ) from None


def _bounds(feed: Feed) -> tuple[str, str]:
    """Return the names of the variables that bound FEED's times."""
    return variable(feed, "NOT_BEFORE"), variable(feed, "BEFORE")


def far_days(rows_by_day: Mapping[bytes, int]) -> dict[str, int]:
    """Return the days, `YYYY-MM-DD`, that are more than GAP_DAYS from the bulk of the rows, and their rows.

    A period is days with gaps of at most GAP_DAYS in between; the bulk is the period with most rows.
    """
    periods: list[dict[str, int]] = []
    before: date | None = None
    for text in sorted(rows_by_day):
        day = date.fromisoformat(text.decode())
        if before is None or (day - before).days > GAP_DAYS:
            periods.append({})
        periods[-1][text.decode()] = rows_by_day[text]
        before = day
    most = max((sum(days.values()) for days in periods), default=0)
    return {day: rows for days in periods if sum(days.values()) < most for day, rows in days.items()}


def far_days_text(feed: Feed, days: Mapping[str, int]) -> str:
    """Return what is unlikely about DAYS, as `far_days` returns them, and how to reject their rows."""
    named = ", ".join(f"{day} ({rows} row{'s' * (rows > 1)})" for day, rows in list(days.items())[:_SHOWN])
    not_before, before = _bounds(feed)
    more = f" and {len(days) - _SHOWN} more" if len(days) > _SHOWN else ""
    return (
        f"days more than a year from all others: {named}{more}; a model with a row per day gets one for each day in"
        f" between. If these times are wrong, set {not_before} or {before}, so that such rows are rejected."
    )
