"""`feed_days` has what a model of the loads says, after any loads."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.oracle.expected_numbers import Event
from harness.processes.dbt_process import Dbt
from harness.warehouse.roles import Warehouse
from tests.dbt.common import day, empty, midnight, write_file
from tests.events_feed import load

Log = dict[int, tuple[int, int]]  # the day and the professional of each event
Load = tuple[Log, int, int]  # of a file, the days from the first up to, without, the second
logs = st.dictionaries(st.integers(1, 8), st.tuples(st.integers(1, 4), st.integers(1, 2)), min_size=1)
spans = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))
loads = st.lists(st.tuples(logs, spans).map(lambda pair: (pair[0], *pair[1])), min_size=1, max_size=6)
QUERY = """
    select date, first_loaded_at is not null, rows_first_loaded, rows_loaded, late_rows, corrected_rows, withdrawn_rows,
        absent_rows from test_analysis.feed_days where feed = 'events' order by date
"""


def expected(history: Sequence[Load]) -> list[tuple[Any, ...]]:
    """Return the rows of feed_days after HISTORY, of one file that was changed between the loads."""
    table: Log = {}
    first: dict[int, int] = {}  # the rows that the first load of each day has loaded
    counts: dict[int, list[int]] = {}  # late, corrected and withdrawn rows
    said: set[int] = set()
    absent: dict[int, int] = {}
    for log, start, end in history:
        new = {key: row for key, row in log.items() if start <= row[0] < end}
        gone = {key: row for key, row in table.items() if start <= row[0] < end or key in new}
        after = {key: row for key, row in table.items() if key not in gone} | new
        changes = [
            *((row[0], 0) for key, row in new.items() if key not in table),
            *((row[0], 1) for key, row in new.items() if key in table and table[key] != row),
            *((row[0], 2) for key, row in gone.items() if key not in after or after[key][0] != row[0]),
        ]
        for number, kind in changes:
            if number in first:
                counts.setdefault(number, [0, 0, 0])[kind] += 1
        for number in range(start, end):
            first.setdefault(number, sum(row[0] == number for row in new.values()))
        absent = {}
        for key, row in log.items():
            if key not in after:
                absent[row[0]] = absent.get(row[0], 0) + 1
        said |= {number for number, _ in changes} | absent.keys() | {row[0] for row in new.values()}
        table = after
    return [
        (
            date(2020, 1, number),
            number in first,
            first.get(number),
            sum(row[0] == number for row in table.values()),
            *counts.get(number, (0, 0, 0)),
            absent.get(number, 0),
        )
        for number in sorted(said)
    ]


@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(loads)
def test_after_any_loads_each_day_has_settled_as_the_model_says(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path, history: list[Load]
) -> None:
    empty(warehouse)
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        is_built = connection.execute("select to_regclass('test_analysis.feed_days')").fetchone() != (None,)
    if not is_built:
        dbt.run("run --quiet --select feed_days --no-write-json --log-level-file none")
    done = []
    for log, start, end in history:
        events = [Event(key, "created_account", who, day(number)) for key, (number, who) in log.items()]
        file = str(write_file(tmp_path / "events.csv", events))
        load(file, warehouse.loader_dsn, start=midnight(start), end=midnight(end), allow_empty=True)
        done.append((log, start, end))
        with psycopg.connect(warehouse.transformer_dsn) as connection:
            assert connection.execute(QUERY).fetchall() == expected(done)
