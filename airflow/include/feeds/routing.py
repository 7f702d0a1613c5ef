"""Which of a load's staging tables takes the rows of a day. Pure.

The tables are ranges of days, in the order of their times. While rows come in the order of their times, as in a log, a
new table begins with the first day after the last one is full. A row of an earlier day goes to the table of its range.
"""

from bisect import bisect_right


class Routes:
    """The ranges of days, written `YYYY-MM-DD` as bytes, that the staging tables have."""

    def __init__(self, enough_rows: int, most_tables: int) -> None:
        """Begin a table after ENOUGH_ROWS; make about MOST_TABLES at most."""
        self._enough_rows = enough_rows
        self._most_tables = most_tables
        self._starts: list[bytes] = []
        self._last_day = b""

    def table(self, day: bytes, rows_of_last: int) -> tuple[int, bool]:
        """Return the number of the table for rows of DAY, and whether it is a new one, which begins with DAY.

        ROWS_OF_LAST is how many rows the last table has.
        """
        number = max(bisect_right(self._starts, day) - 1, 0)
        is_in_last = number >= len(self._starts) - 1
        is_full = is_in_last and rows_of_last >= self._enough_rows and day > self._last_day
        self._last_day = max(self._last_day, day)
        if self._starts and not is_full:
            return number, False
        if len(self._starts) >= self._most_tables:
            self._enough_rows *= 2
        self._starts.append(day)
        return len(self._starts) - 1, True
