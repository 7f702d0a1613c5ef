"""Days that a user should look at: of rows with unlikely times, and of rows that no load has loaded."""

import os
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

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


def has_late(absent: Mapping[str, int], interval: Interval) -> bool:
    """Return whether one of the days ABSENT, `YYYY-MM-DD`, begins before INTERVAL ends: maybe no run is due for it."""
    return interval.end is None or _midnight(min(absent)) < interval.end


def absent_text(feed: Feed, absent: Mapping[str, int], loaded: Mapping[str, int], needed: Interval | None) -> str:
    """Return how many rows a load has read but the table of FEED does not have, and which run loads them.

    Args:
        feed: the feed.
        absent: the number of these rows by day, `YYYY-MM-DD`.
        loaded: the number of rows that the load has loaded by day.
        needed: an interval that the run must contain to read the files with these rows, if it does not read all.
    """
    far = far_days({day.encode(): rows for day, rows in (Counter(loaded) + Counter(absent)).items()})
    near = [day for day in absent if day not in far] or list(absent)
    start: datetime | None = _midnight(min(near))
    end = _midnight(max(near)) + timedelta(days=1) if max(near) < date.max.isoformat() else None
    if needed:
        start = min(start, needed.start) if start and needed.start else None
        end = max(end, needed.end) if end and needed.end else None
    bounds = [f"{word} {_instant(bound)}" for word, bound in (("start", start), ("end", end)) if bound]
    rows, days = sum(absent.values()), len(absent)
    is_one = rows == 1
    text = (
        f"{rows:,} row{'s' * (not is_one)} of {days:,} day{'s' * (days > 1)} {'is' if is_one else 'are'} outside the"
        f" interval and not in raw.{feed.name}: {_named(absent)}; to load {'it' if is_one else 'them'}, run a pipeline"
        f" of {feed.name}{' with ' * bool(bounds)}{' and '.join(bounds)}"
    )
    far_absent = {day: absent[day] for day in far if day in absent and day not in near}
    return f"{text}; {far_days_text(feed, far_absent)}" if far_absent else text


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
    not_before, before = _bounds(feed)
    return (
        f"days more than a year from all others: {_named(days)}; a model with a row per day gets one for each day in"
        f" between. If these times are wrong, set {not_before} or {before}, so that such rows are rejected."
    )


def _named(days: Mapping[str, int]) -> str:
    """Return the first of DAYS, each with its rows."""
    named = ", ".join(f"{day} ({rows:,} row{'s' * (rows > 1)})" for day, rows in list(days.items())[:_SHOWN])
    return f"{named} and {len(days) - _SHOWN} more" if len(days) > _SHOWN else named


def _midnight(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def _instant(moment: datetime) -> str:
    """Return MOMENT, in UTC, as a run takes it: without a time if it is midnight."""
    return moment.date().isoformat() if moment.time() == time() else moment.isoformat().replace("+00:00", "Z")
