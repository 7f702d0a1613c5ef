"""What is checked of the runs' lineage events, on made ones."""

import json
import os
import runpy
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from feeds.lineage import TRANSPORT, without_secrets
from harness.errors import ChecksFailedError
from harness.pipeline import lineage, run_data
from harness.project.paths import ROOT
from harness.reporting.report.run import Run

PG = "postgres://host:5432"
CSV = ("file", "/data/events.csv")
RUNS = {"daily": "manual_1"}
ROWS = {"raw.events": 20, "staging.stg_events": 20, "fact.fct_events": 15}
Events = list[dict[str, Any]]


def uuid(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, name))


def facet(**fields: Any) -> dict[str, Any]:
    return {"_producer": "urn:made", "_schemaURL": "https://openlineage.io/spec/facets/1-0-0/Made.json", **fields}


def dataset(name: tuple[str, str], rows: int | None = None) -> dict[str, Any]:
    statistics = {} if rows is None else {"outputStatistics": facet(rowCount=rows)}
    return {"namespace": name[0], "name": name[1], "facets": {}, "outputFacets": statistics}


def run(
    name: str,
    parent: str | None,
    root: str,
    inputs: tuple[dict[str, Any], ...] = (),
    outputs: tuple[dict[str, Any], ...] = (),
    **facets: Any,
) -> Events:
    """Return the events of the run NAME, which ends well."""
    if parent:
        job = {"namespace": "ours", "name": "job"}
        facets["parent"] = facet(run={"runId": uuid(parent)}, job=job, root={"run": {"runId": uuid(root)}, "job": job})
    return [
        {
            "eventType": state,
            "eventTime": f"2026-11-27T22:00:0{second}+00:00",
            "producer": "urn:made",
            "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
            "run": {"runId": uuid(f"{root} {name}" if parent else root), "facets": facets},
            "job": {"namespace": "ours", "name": name, "facets": {}},
            "inputs": list(inputs),
            "outputs": list(outputs),
        }
        for second, state in enumerate(("START", "COMPLETE"))
    ]


def table(name: str, rows: int | None = None) -> dict[str, Any]:
    return dataset((PG, f"warehouse.{name}"), rows)


def dag_run(run_id: str, built: int = 15) -> Events:
    """Return the events of a run of the DAG `daily`, of its load and of dbt."""
    root = f"daily {run_id}"
    return [
        *run("daily", None, root, airflowDagRun=facet(dagRun={"dag_id": "daily", "run_id": run_id})),
        *run("load.events", root, root, (dataset(CSV),), (table("raw.events", 20),)),
        *run("stg_events", root, root, (table("raw.events"),), (table("staging.stg_events"),)),
        *run("fct_events", root, root, (table("staging.stg_events"),), (table("fact.fct_events", built),)),
    ]


@pytest.fixture
def events() -> Events:
    """Give the events of two runs, of which the second has changed nothing."""
    made: Events = json.loads(json.dumps([*dag_run("manual_1"), *dag_run("manual_2", built=0)]))
    return made


def test_every_mart_is_reached_from_the_file(events: Events) -> None:
    assert lineage.check(events, RUNS, ROWS) == "lineage: 1 marts are reached from events.csv, 16 events"
    found = lineage.graph(events)
    assert found.files() == {CSV}
    assert found.marts() == [(PG, "warehouse.fact.fct_events")]
    assert found.sources((PG, "warehouse.fact.fct_events")) == {
        CSV,
        (PG, "warehouse.raw.events"),
        (PG, "warehouse.staging.stg_events"),
    }
    assert lineage.row_counts(lineage.of_dag_runs(events, RUNS)) == {"raw.events": {20}, "fact.fct_events": {15}}


def drop(job: str) -> Callable[[Events], Events]:
    return lambda events: [event for event in events if event["job"]["name"] != job]


def change(job: str, how: Callable[[dict[str, Any]], object]) -> Callable[[Events], Events]:
    def changed(events: Events) -> Events:
        for event in events:
            if event["job"]["name"] == job:
                how(event)
        return events

    return changed


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (drop("load.events"), "warehouse.fact.fct_events is not made of a file"),
        (drop("stg_events"), "warehouse.fact.fct_events is not made of a file"),
        (drop("fct_events"), "no event says of which file fact.fct_events is made"),
        (drop("daily"), "the parent of fct_events has no event"),
        (change("load.events", lambda event: event["run"]["facets"].pop("parent")), "load.events has no parent"),
        (
            change("fct_events", lambda event: event["outputs"].__setitem__(0, table("fact.fct_events", 14))),
            "fact.fct_events has 15 rows, and the events of the first run say 14",
        ),
        (
            change("fct_events", lambda event: event["outputs"].__setitem__(0, table("fact.fct_events"))),
            "fact.fct_events has 15 rows, and the events of the first run say nothing",
        ),
        (
            change("load.events", lambda event: event.update(eventType="FAIL")),
            "warehouse.fact.fct_events is not made of a file",
        ),
        (
            change("daily", lambda event: event.update(eventTime="2026-11-27T22:00:00")),
            "START of daily: ValueError: eventTime has no time zone",
        ),
        (
            change("daily", lambda event: event["run"].update(runId="1")),
            "START of daily: ValueError: badly formed hexadecimal UUID string",
        ),
        (change("daily", lambda event: event.pop("producer")), "START of daily: KeyError: 'producer'"),
        (
            change("stg_events", lambda event: event["run"]["facets"]["parent"].pop("_schemaURL")),
            "START of stg_events: KeyError: '_schemaURL'",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said(events: Events, damage: Callable[[Events], Events], line: str) -> None:
    with pytest.raises(ChecksFailedError) as caught:
        lineage.check(damage(events), RUNS, ROWS)
    assert line in str(caught.value) + "".join(caught.value.evidence)


def written(folder: Path, events: Events) -> Path:
    folder.mkdir()
    for number, event in enumerate(reversed(events)):
        (folder / f"event-{number}.json").write_text(json.dumps(event))
    return folder


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "new" / "events.ndjson"
    monkeypatch.setattr(lineage, "EVENTS", path)
    return path


def test_events_are_collected_by_time_as_lines(tmp_path: Path, collected: Path, events: Events) -> None:
    folders = [written(tmp_path / "airflow", events[::2]), written(tmp_path / "dbt", events[1::2]), tmp_path / "none"]
    (folders[0] / "others.json").write_text("{")
    found, damaged = lineage.collect(folders, lineage.event_time(events[0]))
    assert damaged == []
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, events))
    assert [event["eventTime"] for event in found] == sorted(event["eventTime"] for event in events)
    assert [json.loads(line) for line in collected.read_text().splitlines()] == found


def test_events_of_an_earlier_run_are_not_collected(tmp_path: Path, collected: Path, events: Events) -> None:
    collected.parent.mkdir()
    collected.write_text("of a run before")
    lineage.forget()
    assert not collected.exists()
    lineage.forget()
    earlier = dag_run("manual_0")
    earlier[0]["eventTime"] = "2026-11-27T21:59:59+00:00"  # the others of its run are later
    since = lineage.event_time(events[0])
    found, _ = lineage.collect([written(tmp_path / "lineage", [*earlier, *events])], since)
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, events))


def test_a_file_without_an_event_hides_no_others(tmp_path: Path, events: Events) -> None:
    folder = written(tmp_path / "lineage", events)
    (folder / "event-half.json").write_text(json.dumps(events[0])[:100])
    (folder / "event-none.json").write_text("{}")
    found, damaged = lineage.read([folder])
    assert len(found) == len(events)
    assert [line.partition(":")[0] for line in damaged] == ["event-half.json", "event-none.json"]


def test_events_go_to_files_unless_it_is_said_where_to() -> None:
    files = {
        "OPENLINEAGE_NAMESPACE": "events-platform",
        "OPENLINEAGE__TRANSPORT__TYPE": "file",
        "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": "/run/lineage/event",
    }
    assert lineage.variables({"PATH": "/bin"}, "/run/lineage") == files
    assert lineage.variables({"OPENLINEAGE_NAMESPACE": "ours"}, "/run/lineage") == files | {
        "OPENLINEAGE_NAMESPACE": "ours"
    }
    given = {"OPENLINEAGE_URL": "http://server", "OPENLINEAGE_API_KEY": "secret", "OPENLINEAGE_ENDPOINT": "a@b"}
    found = lineage.variables(given, "/run/lineage")
    ours = {
        "OPENLINEAGE_NAMESPACE": "events-platform",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(TRANSPORT),  # with its limit of time
    }
    assert found == ours | given
    assert without_secrets(found) == ours | {"OPENLINEAGE_URL": "http://server"}
    described = {"OPENLINEAGE__TRANSPORT__TYPE": "http", "OPENLINEAGE__TRANSPORT__URL": "http://server"}
    assert lineage.variables(described, "/run/lineage") == {"OPENLINEAGE_NAMESPACE": "events-platform"} | described


def test_dbt_has_the_same_limit_of_time_in_its_own_environment() -> None:
    assert runpy.run_path(str(ROOT / "dbt" / "lineage.py"))["TRANSPORT"] == TRANSPORT


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, ""),
        ({"OPENLINEAGE_NAMESPACE": "ours"}, ""),
        ({"OPENLINEAGE_URL": "http://user:word@server"}, "to http://server"),
        ({"OPENLINEAGE__TRANSPORT__TYPE": "kafka"}, "to where OpenLineage is configured"),
        ({"OPENLINEAGE_DISABLED": "true"}, "nowhere, as OPENLINEAGE_DISABLED says"),
    ],
)
def test_it_is_said_where_events_go_if_not_to_files_of_the_run(environ: dict[str, str], place: str) -> None:
    assert lineage.elsewhere(environ) == place


def emit(run_id: str) -> None:
    """Write an event where the environment says, as the client does."""
    _, event = run("daily", None, run_id, outputs=(dataset((PG, "warehouse.raw.events")),))
    event["eventTime"] = datetime.now(UTC).isoformat()
    Path(f"{os.environ['OPENLINEAGE__TRANSPORT__LOG_FILE_PATH']}-{run_id}.json").write_text(json.dumps(event))


def test_the_events_of_a_run_that_fails_are_kept(collected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENLINEAGE_URL", raising=False)
    report = Run("dbt")

    @run_data.lineage_kept(report)
    def fail() -> None:
        emit("first")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [each.name for each in report.datasets] == ["raw.events"]
    assert [lineage.run_id(json.loads(line)) for line in collected.read_text().splitlines()] == [uuid("first")]
    assert "OPENLINEAGE__TRANSPORT__TYPE" not in os.environ

    monkeypatch.setenv("OPENLINEAGE_URL", "http://server")
    report = Run("dbt")
    with run_data.lineage_kept(report):
        assert not collected.exists()
    assert (report.datasets, collected.exists()) == ((), False)


def test_events_that_cannot_be_kept_are_a_line_and_those_that_cannot_be_read_a_note(
    collected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Run("dbt")
    collected.parent.write_text("no folder")
    with run_data.lineage_kept(report):
        emit("first")
        Path(f"{os.environ['OPENLINEAGE__TRANSPORT__LOG_FILE_PATH']}-half.json").write_text("{")
    assert capsys.readouterr().out.startswith("  the lineage events cannot be kept: [Errno 17] File exists")
    assert [each.name for each in report.datasets] == ["raw.events"]
    [note] = report.notes
    assert note.startswith("1 file of lineage events cannot be read, the first: event-half.json: ")
