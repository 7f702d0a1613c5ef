"""What the report gets from lineage events: files, tables, who reads them, and the last change of each."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.pipeline.datasets import datasets, last_changes
from harness.reporting.report.run import Dataset

PG = "postgres://host:5432"
ENDED_AT = datetime(2026, 11, 27, 22, tzinfo=UTC)


def part(name: str, rows: int | None = None, kind: str = "output", **facets: Any) -> dict[str, Any]:
    """Return the table or, with a slash in its NAME, the file as an input or an output of an event."""
    statistics = {} if rows is None else {f"{kind}Statistics": {"rowCount": rows}}
    namespace, full = ("file", name) if "/" in name else (PG, f"warehouse.{name}")
    return {"namespace": namespace, "name": full, "facets": facets, f"{kind}Facets": statistics}


def event(
    inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], state: str = "COMPLETE", **facets: Any
) -> dict[str, Any]:
    return {
        "eventType": state,
        "eventTime": ENDED_AT.isoformat(),
        "job": {"namespace": "ours", "name": "job", "facets": facets},
        "inputs": inputs,
        "outputs": outputs,
    }


EXPOSURES = {"exposures": [{"name": "report", "type": "dashboard", "unique_id": "exposure.m.report"}]}
LINEAGE = {"fields": {"id": {"inputFields": [{"namespace": "file", "name": "/data/events.csv", "field": "event_id"}]}}}
SCHEMA = {"fields": [{"name": "id", "type": "bigint", "description": "The event. "}, {"name": "load_id", "type": None}]}
LOAD = event([part("/data/events.csv", 11, "input")], [part("raw.events", 10, schema=SCHEMA, columnLineage=LINEAGE)])
MODEL = event(
    [part("raw.events")],
    [part("fact.fct", 7, documentation={"description": "One row\nper id.\n"}, dbt_exposures=EXPOSURES)],
    dbt_node={"original_file_path": "models/fct.sql"},
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in which the model was changed by the first of two commits."""
    model = tmp_path / "project" / "dbt" / "models" / "fct.sql"
    model.parent.mkdir(parents=True)
    model.write_text("select 1")
    contract = tmp_path / "project" / "airflow" / "feeds" / "events.yaml"
    contract.parent.mkdir(parents=True)
    contract.write_text("name: events")
    environment = {"GIT_AUTHOR_DATE": "2026-01-02T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-02T00:00:00Z"}
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message"]
    for command in (["init", "--quiet"], ["add", "."], [*commit, "Fees are exact"], [*commit, "Nothing"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, env=environment)
    return tmp_path / "project"


def test_what_runs_have_read_and_made(clone: Path) -> None:
    test = event([part("fact.fct"), part("raw.events")], [], jobType={"jobType": "TEST"})
    failed = event([part("raw.gone")], [part("fact.gone")], "FAIL")
    [file, mart, raw, report] = datasets([LOAD, MODEL, test, failed], {"fact.fct": 8}, clone)
    assert file == Dataset("events.csv", "file", rows=11)
    assert raw == Dataset(
        "raw.events",
        "table",
        columns=(("id", "bigint", "The event.", "events.csv: event_id"), ("load_id", "", "", "")),
        made_of=("events.csv",),
        rows=10,
        built_at=ENDED_AT,
        changed=mart.changed,
    )
    changed = mart.changed.split()
    assert (changed[0], changed[2:]) == ("2026-01-02", ["Fees", "are", "exact"])
    assert mart == Dataset("fact.fct", "table", "One row per id.", (), ("raw.events",), 8, ENDED_AT, mart.changed)
    assert report == Dataset("report", "exposure", "A dashboard of dbt.", made_of=("fact.fct",))


def test_many_files_are_one(clone: Path) -> None:
    files = [part(f"/data/{number}.csv", 1, "input") for number in range(5)]
    fields = {"id": {"inputFields": [{"namespace": "file", "name": each["name"], "field": "ID"} for each in files]}}
    made = part("raw.events", 5, schema=SCHEMA, columnLineage={"fields": fields})
    found = {each.name: each for each in datasets([event(files, [made])], {}, clone)}
    assert list(found) == ["5 files of raw.events", "raw.events"]
    assert found["raw.events"].made_of == ("5 files of raw.events",)
    assert found["raw.events"].columns[0][3] == "5 files of raw.events: ID"
    assert found["5 files of raw.events"] == Dataset("5 files of raw.events", "file")


def test_the_files_of_two_feeds_are_apart(clone: Path) -> None:
    loads = [
        event([part(f"/{feed}/{number}.csv") for number in range(3)], [part(f"raw.{feed}"), part("raw.loads")])
        for feed in ("events", "visits")
    ]
    found = {each.name: each for each in datasets(loads, {}, clone)}
    assert found["raw.visits"].made_of == ("/visits/0.csv", "/visits/1.csv", "/visits/2.csv")
    assert len(found["raw.loads"].made_of) == 6
    for load in loads:
        load["inputs"].append(part(f"{load['inputs'][0]['name']}.gz"))
    found = {each.name: each for each in datasets(loads, {}, clone)}
    assert found["raw.visits"].made_of == ("4 files of raw.visits",)
    assert found["raw.loads"].made_of == ("4 files of raw.events", "4 files of raw.visits")


def test_files_of_one_name_keep_their_folders(clone: Path) -> None:
    load = event([part("/a/x.csv"), part("/b/x.csv"), part("/b/y.csv")], [part("raw.events")])
    assert [each.name for each in datasets([load], {}, clone)] == ["/a/x.csv", "/b/x.csv", "raw.events", "y.csv"]


def test_without_history_nothing_is_said_of_changes(tmp_path: Path, clone: Path) -> None:
    assert list(last_changes(clone)) == ["airflow/feeds/events.yaml", "dbt/models/fct.sql"]
    assert last_changes(tmp_path / "none") == {}
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{clone.parent}", shallow], check=True)
    assert last_changes(shallow / "project") == {}


def test_a_change_in_a_merge_and_any_name_are_known(clone: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=clone, check=True)

    git("checkout", "--quiet", "-b", "side", "HEAD~1")
    git("commit", "--quiet", "--allow-empty", "--message", "Side")
    git("checkout", "--quiet", "-")
    git("merge", "--quiet", "--no-commit", "--no-ff", "side")
    (clone / "dbt" / "models" / "fct_\u00fc.sql").write_text("select 1")
    git("add", ".")
    git("commit", "--quiet", "--message", "Merge \u2028 both")
    assert last_changes(clone)["dbt/models/fct_\u00fc.sql"].partition(" ")[2].partition(" ")[2] == "Merge \u2028 both"
