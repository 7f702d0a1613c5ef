"""Half-open intervals of time, as loads and partitions have them."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from feeds.errors import IntervalUnreadable, InvertedInterval
from feeds.uri import shown, without_secrets


@dataclass(frozen=True)
class Interval:
    """The interval `[start, end)` in UTC; None is an open bound.

    Raises:
        InvertedInterval: `start` is not before `end`.
    """

    start: datetime | None
    end: datetime | None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.start >= self.end:
            relation = "equals" if self.start == self.end else "is after"
            raise InvertedInterval(
                f"Invalid interval: start {self.start} {relation} end {self.end}.",
                "Start and end are most likely swapped, or the same; the end is not part of an interval.",
                "Give an end that is after the start, or leave either out.",
            )

    def __contains__(self, moment: datetime) -> bool:
        return (self.start is None or self.start <= moment) and (self.end is None or moment < self.end)

    @classmethod
    def parse(cls, start: str | None, end: str | None) -> "Interval":
        """Return the interval between two ISO 8601 instants, which are in UTC if they have no offset.

        Raises:
            IntervalUnreadable: START or END is not an instant.
            InvertedInterval: START is not before END.
        """
        return cls(_instant(start), _instant(end))

    @property
    def bounds(self) -> tuple[datetime | str, datetime | str]:
        """The bounds as parameters of PostgreSQL."""
        return self.start or "-infinity", self.end or "infinity"

    @property
    def only_day(self) -> date | None:
        """The day, in UTC, that contains the interval; None if it is longer."""
        if self.start is None or self.end is None:
            return None
        day = self.start.date()
        return day if (self.end - datetime.resolution).date() == day else None

    def __str__(self) -> str:
        bounds = [f"{word} {moment}" for word, moment in (("from", self.start), ("until", self.end)) if moment]
        return " ".join(bounds) or "whole file"


ALWAYS = Interval(None, None)


class Days:
    """Tells for whole days, written `YYYY-MM-DD` as bytes, whether they are inside an interval."""

    def __init__(self, interval: Interval) -> None:
        self._cut = {
            bound.date().isoformat().encode()
            for bound in (interval.start, interval.end)
            if bound and bound.time() != time()
        }
        self._first = interval.start.date().isoformat().encode() if interval.start else b""  # before every day
        self._last = interval.end.date().isoformat().encode() if interval.end else b"~"  # after every day

    def contain(self, day: bytes) -> bool | None:
        """Return whether the interval contains all of DAY (True), none of it (False), or a part (None)."""
        if day in self._cut:
            return None
        return self._first <= day < self._last


def utc(moment: datetime | None) -> datetime | None:
    """Return MOMENT in UTC; a naive one is in UTC already."""
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise IntervalUnreadable(
            f"{shown(text)!r} is not a time: {without_secrets(str(error), text)}.",
            "It is most likely misspelt, or an empty variable; for an interval without this bound, leave it out.",
            "Write it like 2020-02-01 or 2020-02-01T09:00:00Z.",
        ) from None
