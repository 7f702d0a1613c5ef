"""A half-open interval of time, as loads and partitions have it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from events.errors import IntervalUnreadable, IntervalUpsideDown
from events.uri import shown, without_secrets


@dataclass(frozen=True)
class Interval:
    """A half-open interval of time, `[start, end)`, in UTC; None is an open bound.

    Raises:
        IntervalUpsideDown: `end` is not after `start`.
    """

    start: datetime | None
    end: datetime | None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise IntervalUpsideDown(
                f"The interval {self} has nothing in it: its end is not after its start.",
                "Start and end are most likely swapped, or the same; the end itself is not part of an interval.",
                "Give an end that is after the start, or leave either out.",
            )

    def __contains__(self, moment: datetime) -> bool:
        return (self.start is None or self.start <= moment) and (self.end is None or moment < self.end)

    @classmethod
    def parse(cls, start: str | None, end: str | None) -> "Interval":
        """Return the interval between two instants as people write them: ISO 8601, in UTC where they do not say.

        Raises:
            IntervalUnreadable, IntervalUpsideDown: see there.
        """
        return cls(_instant(start), _instant(end))

    @property
    def bounds(self) -> tuple[datetime | str, datetime | str]:
        """The bounds as PostgreSQL takes them."""
        return self.start or "-infinity", self.end or "infinity"

    def __str__(self) -> str:
        return f"[{self.start or 'the beginning'}, {self.end or 'the end'})"


class Days:
    """Where whole days, written `YYYY-MM-DD` as bytes, are in an interval: inside, outside, or cut by a bound."""

    def __init__(self, interval: Interval) -> None:
        first, last = b"", b"~"  # before and after every day
        self._cut = set()
        for bound in (interval.start, interval.end):
            if bound and bound.time() != time():
                self._cut.add(bound.date().isoformat().encode())
        if interval.start:
            first = interval.start.date().isoformat().encode()
        if interval.end:
            last = interval.end.date().isoformat().encode()
        self._first, self._last = first, last

    def contain(self, day: bytes) -> bool | None:
        """Say whether the interval has all of DAY (True), nothing of it (False), or a part (None)."""
        if day in self._cut:
            return None
        return self._first <= day < self._last


def utc(moment: datetime | None) -> datetime | None:
    """Return MOMENT in UTC, which it is in already if it does not say."""
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def midnight(day: str) -> datetime:
    """Return the beginning of DAY, written `YYYY-MM-DD`, in UTC."""
    return datetime.combine(date.fromisoformat(day), time(), UTC)


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise IntervalUnreadable(
            f"{shown(text)!r} is not a time: {without_secrets(str(error), text)}.",
            "It is most likely misspelt, or empty, as a variable that is not set; no bound is not to give one at all.",
            "Write it like 2020-02-01 or 2020-02-01T09:00:00Z.",
        ) from None
