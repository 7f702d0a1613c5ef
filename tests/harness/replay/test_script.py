"""Delivery scripts: how they are made, written, read and shrunk, and what a file that is none leads to."""

from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random

import pytest

from feeds.contract import Feed, read_feeds
from harness.errors import UsageError
from harness.oracle.file_rows import rows
from harness.oracle.row_values import RejectedError
from harness.replay.delivered_file import DeliveredFile, as_csv_feed
from harness.replay.making import make_script
from harness.replay.script import Delivery, Run, Script, Texts, interval_of, read_script, write_script
from harness.replay.shrinking import shrink
from tests.events_feed import EVENTS

ROW = ("1", "created_account", "1", "2020-01-01 00:00:00", None)


@pytest.fixture(scope="module")
def year() -> Script:
    return make_script(EVENTS, seed=1, days=366)


def test_a_year_has_every_kind_of_delivery_and_run_on_every_special_day(year: Script) -> None:
    assert make_script(EVENTS, seed=1, days=366) == year
    assert make_script(EVENTS, seed=2, days=366) != year
    runs = [run for delivery in year.deliveries for run in delivery.runs]
    assert {run.cadence for run in runs} == {"daily", "weekly", "monthly"}
    assert {run.outcome for run in runs} == {"succeeds", "twice", "retried", "fails", "build_killed"}
    assert any(run.is_beside for run in runs)
    assert any(run.of for run in runs)
    assert {delivery.file for delivery in year.deliveries} == {"whole", "missing", "truncated"}
    assert {delivery.drift for delivery in year.deliveries} == {"none", "new_column", "column_order"}
    assert any(delivery.repeated for delivery in year.deliveries)
    assert any(delivery.withdrawn for delivery in year.deliveries)
    days = Counter(delivery.day for delivery in year.deliveries)
    assert len(days) == 366
    assert max(days.values()) == 2
    assert {date(2019, 12, 31), date(2020, 2, 29), date(2020, 3, 29)} <= days.keys()


def test_rows_come_late_and_are_corrected(year: Script) -> None:
    versions: dict[str | None, list[tuple[date, str]]] = {}
    for delivery in year.deliveries:
        for row in delivery.rows:
            versions.setdefault(row[0], []).append((delivery.day, str(row[3])[:10]))
    late = Counter((first[0][0] - date.fromisoformat(first[0][1])).days for first in versions.values())
    assert late[0] > 0.8 * late.total()
    assert min(late) >= -1  # of a local time after midnight
    assert max(late) > 30
    assert sum(len(version) > 1 for version in versions.values()) > 0.02 * len(versions)


@pytest.mark.parametrize(
    ("cadence", "day", "start", "end"),
    [
        ("daily", "2020-02-29", "2020-02-29", "2020-03-01"),
        ("weekly", "2020-01-04", "2019-12-29", "2020-01-05"),  # a Saturday
        ("weekly", "2020-01-05", "2020-01-05", "2020-01-12"),
        ("monthly", "2020-12-31", "2020-12-01", "2021-01-01"),
        ("monthly", "2024-02-01", "2024-02-01", "2024-03-01"),
    ],
)
def test_the_interval_of_a_run(cadence: str, day: str, start: str, end: str) -> None:
    run = Run.model_validate({"cadence": cadence})
    assert str(interval_of(run, date.fromisoformat(day))) == f"from {start} 00:00:00+00:00 until {end} 00:00:00+00:00"
    past = Run.model_validate({"cadence": cadence, "of": day})
    assert interval_of(past, date(2025, 1, 1)) == interval_of(run, date.fromisoformat(day))


def test_a_script_is_read_as_it_was_written(year: Script, tmp_path: Path) -> None:
    write_script(tmp_path / "script.yaml", year)
    assert read_script(tmp_path / "script.yaml", {"events": EVENTS}) == year


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "it cannot be read: No such file or directory"),
        ("feed: [", "it is not YAML"),
        ("\x00", "it is not YAML"),
        ("", "Input should be a valid dictionary or instance of Script"),
        ("feed: events", "deliveries: Field required"),
        (
            "{feed: events, deliveries: [{day: 2020-01-02}, {day: 2020-01-01}]}",
            "deliveries: 2020-01-01 comes after 2020-01-02, and days do not run backwards",
        ),
        (
            "{feed: events, deliveries: [{day: 2020-01-02, runs: [{cadence: hourly}]}]}",
            "deliveries.0.runs.0.cadence: Input should be 'daily', 'weekly', 'monthly' or 'manual'",
        ),
        ("{feed: events, deliveries: [{day: someday}]}", "deliveries.0.day: Input should be a valid date or datetime"),
        (
            "{feed: events, deliveries: [{day: 2020-01-02, rows: [[a, b]], runs: [{cadence: daily}]}]}",
            "rows of 2020-01-02: ['a', 'b'] has 2 values",
        ),
        ("{feed: events, deliveries: [], days: 3}", "days: Extra inputs are not permitted"),
        ("{feed: events, deliveries: []}", "it has no run"),
        ("{feed: events, seed: true, deliveries: []}", "seed: Input should be a valid integer"),
        (
            "{feed: events, deliveries: [{day: 2020-01-02, runs: [{cadence: daily, of: 9999-12-31}]}]}",
            "deliveries.0.runs.0.of: Input should be less than 9000-01-01",
        ),
        (
            "{feed: events, deliveries: [{day: 2020-01-02, runs: [{cadence: daily, is_beside: true, outcome: fails},"
            " {cadence: weekly}]}]}",
            "deliveries.0: runs: a run beside another one succeeds, and so does the other",
        ),
        (
            "{feed: events, deliveries: [{day: 2020-01-02, rows: [[x, proposed, '1', '2020-01-01 00:00:00', null]],"
            " runs: [{cadence: daily}]}]}",
            "rows of 2020-01-02: 'x' is no value of event_id",
        ),
        (
            "{feed: events, deliveries: [{day: 2020-01-02, rows: [['1', null, '1', '2020-01-01 00:00:00', null]],"
            " runs: [{cadence: daily}]}]}",
            "rows of 2020-01-02: null is no value of event_type",
        ),
    ],
)
def test_a_file_that_is_no_script(tmp_path: Path, text: str | None, what: str) -> None:
    path = tmp_path / "script.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_script(path, {"events": EVENTS})
    assert error.value.what.startswith(f"{path} is no delivery script: {what}")


def test_a_script_of_an_unknown_feed(tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text("{feed: orders, deliveries: []}")
    with pytest.raises(UsageError, match="is a script of the feed 'orders', which there is not"):
        read_script(tmp_path / "script.yaml", read_feeds())


def lines_read(feed: Feed, path: Path) -> list[object]:
    """Return the rows of a file by the oracle's reader; None for each that is rejected."""
    return [None if isinstance(row, RejectedError) else row for row in rows(feed, str(path))]


@pytest.mark.parametrize("seed", range(5))
def test_a_file_has_the_lines_that_are_expected_of_it(tmp_path: Path, seed: int) -> None:
    feed = as_csv_feed(replace(EVENTS, rules=()))
    file, path, kinds = DeliveredFile(feed), tmp_path / "events.csv", set()
    for delivery in make_script(EVENTS, seed, days=60).deliveries:
        lines = file.change(delivery)
        kinds |= {delivery.file, delivery.drift}
        assert (lines is None) == (delivery.file == "missing")
        if lines is not None:
            path.write_bytes(file.content(delivery, lines))
            assert lines_read(feed, path) == [line.row for line in lines]
    assert len(kinds) > 2


@pytest.mark.parametrize("seed", range(20))
def test_shrinking_leaves_exactly_what_is_needed(year: Script, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - no secret
    needed = random.sample([row for delivery in year.deliveries for row in delivery.rows], 2)
    cadence = random.choice(["weekly", "monthly"])
    tried = []

    def rows_and_runs(script: Script) -> tuple[list[Texts], list[str]]:
        rows = [row for delivery in script.deliveries for row in delivery.rows]
        return rows, [run.cadence for delivery in script.deliveries for run in delivery.runs]

    def fails(script: Script) -> bool:
        tried.append(script)
        rows, cadences = rows_and_runs(script)
        return set(needed) <= set(rows) and cadence in cadences

    smallest, is_smallest = shrink(year, fails, timeout_s=60)

    assert is_smallest
    rows, cadences = rows_and_runs(smallest)
    assert (sorted(rows, key=str), cadences) == (sorted(needed, key=str), [cadence])
    assert {(delivery.file, delivery.drift) for delivery in smallest.deliveries} == {("whole", "none")}
    assert len(tried) < 500


def test_shrinking_ends_in_time(year: Script) -> None:
    smallest, is_smallest = shrink(year, lambda _: True, timeout_s=0)
    assert (smallest.runs, is_smallest) == (year.runs, False)


def test_what_is_special_about_a_run_goes_if_it_is_not_needed() -> None:
    run = Run(cadence="daily", kill_at=7, is_beside=True)
    script = Script(feed="events", deliveries=(Delivery(day=date(2020, 1, 1), rows=(ROW,), runs=(run,)),))
    smallest, _ = shrink(script, lambda some: any(r.is_beside for d in some.deliveries for r in d.runs), 60)
    assert smallest.deliveries[0].runs == (Run(cadence="daily", is_beside=True),)
