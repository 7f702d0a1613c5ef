"""Whole runs of `nox -s dbt` on a few events, in a clone: what is kept, whose warehouse it is, a new model."""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.project.environments import install
from harness.project.paths import ROOT
from harness.warehouse.roles import Warehouse
from tests import clones, harness_command
from tests.dbt.test_project import broken_rules
from tests.events_feed import load

EVENTS = """\
event_id;event_type;professional_id_anonymized;created_at;meta_data
1;became_able_to_propose;7;2020-01-01 09:00:00;
2;proposed;7;2020-01-01 10:00:00;4_dak_roof_1.10
"""
Run = Callable[..., tuple[int, str]]

REPORT = "  report: build/report/index.html"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Give an empty directory that every user may enter: as root, PostgreSQL runs as another."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture
def run(clone: Path, temporary: Path) -> Run:
    """Give a function that runs `python -m harness dbt ARGUMENTS` in the clone; it returns exit code and output."""
    (clone / "airflow" / "data" / "events.csv").write_text(EVENTS)

    def run(*arguments: str, **env: Any) -> tuple[int, str]:
        options: Any = {"python": clones.python_of(clone), "cwd": clone, "TMPDIR": str(temporary)}
        return harness_command.run("dbt", *arguments, **options | env)

    return run


def emitted(clone: Path) -> list[tuple[str, str]]:
    """Return the state and the job of the last run's lineage events."""
    events = map(json.loads, (clone / "build" / "lineage" / "events.ndjson").read_text().splitlines())
    return [(event["eventType"], event["job"]["name"]) for event in events]


def test_a_kept_warehouse_stays_until_it_is_taken_down_even_if_the_build_failed(
    run: Run, temporary: Path, clone: Path
) -> None:
    hint = f"  take it down: TMPDIR={temporary} nox -s dbt -- --down"
    command = ("--keep", "run", "--quiet")
    try:
        exit_code, output = run(*command, "--select", "+dim_services", DOCKER_HOST="unix:///nothing")
        assert exit_code == 0, output
        *_, address, again, down, report = output.splitlines()
        assert (again, down) == ("  use it again: nox -s dbt -- --reuse build --select MODEL", hint)
        assert report == REPORT
        with psycopg.connect(address.removeprefix("  warehouse  ")) as connection:
            assert connection.execute("select service_id from test_dim.dim_services").fetchall() == [(4,)]
            connection.execute("delete from test_dim.dim_services")
        job = "dbt-run-marketplace"
        loaded = [("START", "load.events"), ("COMPLETE", "load.events")]
        built, dim_services = emitted(clone), ("COMPLETE", "warehouse.test_dim.marketplace.dim_services")
        assert [*built[:3], built[-1]] == [*loaded, ("START", job), ("COMPLETE", job)]
        assert dim_services in built

        exit_code, output = run("--reuse", "run", "--quiet", "--select", "dim_services")  # without its parents
        assert exit_code == 0, output
        assert re.fullmatch(rf"✓ PostgreSQL 18\.\d+ from a wheel on 127\.0\.0\.1:\d+, kept\n{REPORT}\n", output)
        with psycopg.connect(address.removeprefix("  warehouse  ")) as connection:
            assert connection.execute("select service_id from test_dim.dim_services").fetchall() == [(4,)]

        exit_code, output = run(*command, "--nonsense", DOCKER_HOST="unix:///nothing")
        assert exit_code == 49, output
        assert f"\n{hint}\n{REPORT}\n✗ dbt run --quiet --nonsense ended with exit code 2.\n" in output
        assert emitted(clone) == [*loaded, ("START", job), ("FAIL", job)]
        assert len(list(temporary.iterdir())) == 2  # the second is beside the first
    finally:
        exit_code, output = run("--down")
    assert exit_code == 0, output
    assert output.count(" taken down\n") == 2
    assert list(temporary.iterdir()) == []
    exit_code, output = run("--reuse", "build")
    assert (exit_code, output.splitlines()[:2]) == (62, [REPORT, "✗ No warehouse of nox -s dbt is up."])


def test_help_has_the_sessions_options_then_dbts_and_starts_nothing(run: Run, temporary: Path) -> None:
    exit_code, output = run("build", "--help", TMPDIR="/nowhere")
    assert exit_code == 0, output
    own, _, of_dbt = output.partition("\nUsage: cli build ")
    assert own.startswith("usage: nox -s dbt -- [--keep | --reuse | --down | --postgres DSN] [COMMAND OF DBT, ")
    assert re.findall(r"^  (--\w+)", own, re.MULTILINE) == ["--postgres", "--keep", "--reuse", "--down"]
    assert "--full-refresh" in of_dbt
    assert list(temporary.iterdir()) == []


def test_with_the_target_prod_it_builds_in_the_users_own_warehouse(
    run: Run, warehouse: Warehouse, tmp_path: Path
) -> None:
    file = tmp_path / "events.csv"
    file.write_text(EVENTS.replace("4_dak_roof", "5_tuin_garden"))
    load(str(file), warehouse.loader_dsn)

    exit_code, output = run("run", "--select", "+dim_services", DBT_TARGET="prod", **warehouse.dbt_env())

    assert exit_code == 0, output
    assert "samples loaded" not in output
    with psycopg.connect(warehouse.reader_dsn) as connection:
        assert connection.execute("select service_id from dim.dim_services").fetchall() == [(5,)]
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute("update raw.loads set ended_at = ended_at - interval '4 days'")
    exit_code, output = run("source", "freshness", DBT_TARGET="prod", **warehouse.dbt_env())
    assert exit_code == 49
    assert "\n✗ dbt source freshness ended with exit code 1: raw.events is stale.\n" in output
    assert "\n  Load newer files: " in output


def test_with_the_target_prod_and_no_warehouse_it_uses_no_other(run: Run) -> None:
    exit_code, output = run(DBT_TARGET="prod")

    assert exit_code == 49
    assert output.startswith("✗ dbt needs WAREHOUSE_HOST, WAREHOUSE_PORT, WAREHOUSE_DATABASE, WAREHOUSE_USER, ")


def example(language: str) -> str:
    """Return the example of docs/add-a-model.md in a LANGUAGE."""
    text = (ROOT / "docs" / "add-a-model.md").read_text()
    block, *_ = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)  # others are incremental
    return str(block)


def test_a_new_model_needs_one_sql_and_one_yml_and_nothing_else(
    run: Run, clone: Path, warehouse: Warehouse, tmp_path: Path
) -> None:
    folder, summary = clone / "dbt/models/marts/analysis", tmp_path / "summary.md"
    (folder / "first_proposals.sql").write_text(example("sql"))
    (folder / "first_proposals.yml").write_text(example("yaml"))
    on = ("--postgres", warehouse.server.dsn)

    assert [rule for rule in broken_rules(clone / "dbt") if rule.startswith("first_proposals: ")] == []
    lint = [str(install("lint")), "-m", "sqlfluff", "lint", "models/marts/analysis/first_proposals.sql"]
    linted = subprocess.run(lint, cwd=clone / "dbt", capture_output=True, text=True, timeout=60, check=False)
    assert linted.returncode == 0, linted.stdout

    exit_code, output = run(*on, "build", "--select", "+first_proposals", GITHUB_STEP_SUMMARY=str(summary))
    assert exit_code == 0, output
    assert "OK created sql table model test_analysis.first_proposals " in output
    assert "PASS first_proposals::the_first_proposal_counts " in output
    headline, _, *table = summary.read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if line]
    assert rows[0] == ["dbt", "passed", "warned", "skipped", "failed", "seconds"]
    assert {tuple(row[2:5]) for row in rows[2:]} == {("0", "0", "0")}
    assert {row[0] for row in rows[2:]} == {"test", "unit test", "model"}
    assert headline.startswith("## ✓ dbt: build --select +first_proposals: ")
    assert all(f"{passed} {kind}s" in headline for kind, passed, *_ in rows[2:])

    exit_code, output = run(*on, "docs")
    assert exit_code == 0, output
    assert [line.partition(" (")[0] for line in output.splitlines()[-3:]] == [
        "✓ models built",
        "✓ documentation: build/dbt-docs/index.html",
        REPORT,
    ]
    assert "model.marketplace.first_proposals" in (clone / "build/dbt-docs/index.html").read_text()
    catalog = json.loads((clone / "build/dbt/target/catalog.json").read_text())  # of what is in the warehouse
    assert "first_proposed_at" in catalog["nodes"]["model.marketplace.first_proposals"]["columns"]
