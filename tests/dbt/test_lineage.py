"""The OpenLineage events of dbt/run.py: models, what they are made of and their rows, below the task that ran dbt."""

import socket
from pathlib import Path
from typing import Any

import pytest

from harness.pipeline import lineage
from harness.processes.dbt_process import Dbt
from harness.project.paths import SAMPLE
from harness.warehouse.roles import Warehouse
from tests.events_feed import load

TASK, RUN = "01a21526-e400-76c3-8b48-2e706fad5a5a", "01a21526-e400-7ba8-9501-09b1b1f71b1d"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "lineage"
    place.mkdir()
    return place


def variables(place: Path) -> dict[str, str]:
    return lineage.variables({}, place) | {
        "OPENLINEAGE_PARENT_ID": f"events-platform/daily.dbt_build/{TASK}",
        "OPENLINEAGE_ROOT_PARENT_ID": f"events-platform/daily/{RUN}",
    }


def emitted(place: Path, kind: str) -> list[Any]:
    """Return the events of the jobs of KIND."""
    return [event for event in lineage.read([place])[0] if event["job"]["facets"]["jobType"]["jobType"] == kind]


def test_models_are_below_the_run_which_is_below_the_task(dbt: Dbt, warehouse: Warehouse, place: Path) -> None:
    load(str(SAMPLE), warehouse.loader_dsn)
    dbt.run("build --select +dim_services --exclude-resource-type unit_test", env=variables(place))
    start, complete = emitted(place, "JOB")
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["job"]["name"] == "dbt-run-marketplace"
    assert (lineage.parent_of(start), lineage.root_of(start)) == (TASK, RUN)
    models = emitted(place, "MODEL")
    tests = emitted(place, "TEST")
    assert tests
    below = {(lineage.parent_of(event), lineage.root_of(event)) for event in [*models, *tests]}
    assert below == {(start["run"]["runId"], RUN)}
    assert lineage.invalid(lineage.read([place])[0]) == []

    found = lineage.graph(models)
    server = f"postgres://{warehouse.server.host}:{warehouse.server.port}"
    mart = (server, f"{warehouse.database}.test_dim.dim_services")
    assert (server, f"{warehouse.database}.raw.events") in found.sources(mart)
    assert lineage.row_counts(models)["test_dim.dim_services"] == {34}


def test_a_failed_run_has_its_own_events_and_not_those_of_the_run_before(
    dbt: Dbt, warehouse: Warehouse, place: Path
) -> None:
    load(str(SAMPLE), warehouse.loader_dsn)
    dbt.run("run --select stg_events", env=variables(place))
    assert len(emitted(place, "MODEL")) == 2
    dbt.run("run --select stg_events --no-such-option", 2, env=variables(place))
    assert len(emitted(place, "MODEL")) == 2
    assert [event["eventType"] for event in emitted(place, "JOB")] == ["START", "COMPLETE", "START", "FAIL"]


def test_events_that_cannot_be_written_fail_no_run(dbt: Dbt, place: Path) -> None:
    place.rmdir()
    output = dbt.run("run --select stg_events", env=variables(place))
    assert output.endswith("\ndbt's lineage events are lost, 4 of 4: FileNotFoundError\n")


def test_a_server_that_does_not_answer_costs_a_second(dbt: Dbt) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(1)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        output = dbt.run("run --select stg_events", env=lineage.variables({"OPENLINEAGE_URL": url}, "/none"))
        assert output.endswith("\ndbt's lineage events are lost, 4 of 4: ConnectionError\n")
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):  # it was tried once
            silent.accept()


def test_a_command_that_only_reads_and_a_run_without_a_place_emit_nothing(dbt: Dbt, place: Path) -> None:
    dbt.run("ls --quiet", env=variables(place))
    dbt.run("run --quiet --select stg_events")
    assert list(place.iterdir()) == []
