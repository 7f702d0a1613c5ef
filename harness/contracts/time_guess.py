"""Choose the time column. Pure."""

import re

from feeds.contract import Column, Feed

TIME_NAMES = ("event_time", "occurred", "timestamp", "created", "order", "pickup", "start", "time", "date", "day")
# Times of a row's subject, which say nothing of when the row came.
NO_TIME_NAMES = re.compile(
    "birth|dob|expir|until|due|valid|updated|modified|last|signup|sign_up|subscri|regist|end|drop"
)


def time_of(feed: Feed) -> tuple[str | None, str]:
    """Return the time column of FEED, None for a snapshot, and why."""
    times = [column for column in feed.columns if column.is_required and column.type in ("timestamp", "date")]
    likely = [column for column in times if not NO_TIME_NAMES.search(column.name)]
    if not likely:
        if not times:
            return None, "no column is a time in every row, so each load replaces the whole table (a snapshot)"
        names = ", ".join(column.name for column in times)
        return None, (
            f"each load replaces the whole table (a snapshot); if the files are a log, name its time: {names}"
        )

    def rank(column: Column) -> tuple[int, bool]:
        known = next((n for n, name in enumerate(TIME_NAMES) if name in column.name), len(TIME_NAMES))
        return known, column.type == "date"

    chosen = min(likely, key=rank).name
    others = [column.name for column in times if column.name != chosen]
    also = f" (others: {', '.join(others)})" if others else ""
    return chosen, (
        f"a load replaces the rows whose {chosen} is in its interval{also};"
        " without timeColumn each load replaces the whole table (a snapshot)"
    )
