"""A replay without Airflow: two weeks of deliveries are right after every run, and a fault is found."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from feeds import pipeline_run
from feeds.contract import read_feeds
from feeds.replacement import Replacement
from harness.pipeline import lineage
from harness.processes.dbt_process import Process
from harness.processes.environment import environment
from harness.replay.comparison import Difference
from harness.replay.making import make_script
from harness.replay.player import Player, open_player
from harness.replay.script import Delivery, Run, Script
from harness.replay.shrinking import shrink
from harness.warehouse.roles import Warehouse, copy_warehouse
from tests.events_feed import EVENTS

DAILY = (Run(cadence="daily"),)


@pytest.fixture(scope="module")
def player(template: Warehouse, processes: list[Process]) -> Iterator[Player]:
    """Give a player of the feed `events`."""
    warehouse = copy_warehouse(template, "replay_template")
    with open_player(warehouse, EVENTS, read_feeds().values(), processes) as player:
        yield player


def test_weeks_are_right_after_every_run(player: Player) -> None:
    script = make_script(EVENTS, seed=533, days=12)  # few other seeds have as much of what can happen
    runs = [run for delivery in script.deliveries for run in delivery.runs]
    assert {run.outcome for run in runs} == {"succeeds", "twice", "retried", "build_killed"}
    assert any(run.of for run in runs)
    assert any(run.is_beside for run in runs)
    assert {delivery.file for delivery in script.deliveries} == {"whole", "missing"}
    assert any(delivery.repeated for delivery in script.deliveries)
    assert any(delivery.withdrawn for delivery in script.deliveries)
    days: list[date] = []
    player.progress = lambda delivery: days.append(delivery.day)

    player.play(script)

    assert player.runs == script.runs == len(runs) == 14
    assert days == [delivery.day for delivery in script.deliveries]
    assert max(map(len, player.settled.values())) > 1  # some day has changed later


def test_the_runs_of_the_last_day_emit_events(player: Player, tmp_path: Path) -> None:
    script = make_script(EVENTS, seed=1, days=2)
    with environment(lineage.variables({}, tmp_path)):
        player.play(script)
        found, _ = lineage.read([tmp_path])
        player.emits = False
        player.play(script)
    player.emits = True
    assert len(lineage.read([tmp_path])[0]) == len(found)
    loads = [event for event in found if event["job"]["name"] == "load.events" and event["eventType"] != "START"]
    assert len(loads) == len(script.deliveries[-1].runs) == 1
    graph = lineage.graph(found)
    assert graph.files() == {("file", str(player.folder / "file.csv"))}
    assert len(graph.marts()) == 9
    assert all(graph.sources(mart) & graph.files() for mart in graph.marts())


def moved_row() -> Script:
    """Return a script in which a row moves from one day to another."""
    row = ("1", "proposed", "1", "2020-01-01 09:00:00", "7_tuin_garden_1.5")
    later = (*row[:3], "2020-01-02 09:00:00", row[4])
    return Script(
        feed="events",
        deliveries=(
            Delivery(day=date(2020, 1, 1), rows=(row,), runs=DAILY),
            Delivery(day=date(2020, 1, 2), rows=(later,), runs=DAILY),
        ),
    )


def test_a_fault_of_the_load_is_found(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    player.play(moved_row())

    def find_none(*_: Any) -> int:
        return 0

    monkeypatch.setattr(Replacement, "find_moved", find_none)
    with pytest.raises(Difference) as error:
        player.play(moved_row())
    assert (error.value.table, error.value.run, error.value.day) == ("raw.loads", "daily", date(2020, 1, 2))
    assert error.value.lines == [
        "1 rows expected, 1 found",
        "  missing     succeeded, 1, 1, 0, 0, 0",
        "  unexpected  failed, null, null, null, null, null",
    ]


def test_a_fault_of_the_interval_is_found_and_shrunk_to_one_row(
    player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    interval = pipeline_run.interval

    def a_second_short(context: Any) -> Any:
        start, end = interval(context)
        return start, end and end - timedelta(seconds=1)

    monkeypatch.setattr(pipeline_run, "interval", a_second_short)
    tables = set()

    def fails(script: Script) -> bool:
        try:
            player.play(script)
        except Difference as difference:
            tables.add(difference.table)
            return True
        return False

    smallest, is_smallest = shrink(make_script(EVENTS, seed=2, days=5), fails, timeout_s=120)

    assert is_smallest
    [delivery] = smallest.deliveries
    [row] = delivery.rows
    assert str(row[3]).startswith(f"{delivery.day} 23:59:59")
    assert delivery.runs == (Run(cadence="daily"),)
    assert tables == {"raw.loads"}


def test_a_model_that_fails_is_found(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.replay.player.BUILD", ("run", "--no-such-option"))
    with pytest.raises(Difference) as error:
        player.play(moved_row())
    assert error.value.table == "dbt build"
    assert error.value.lines[0] == "it ended with exit code 2"
