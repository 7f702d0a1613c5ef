"""What `nox -s dbt` does from day to day, on a few events: what dbt is told, what is kept, whose warehouse it is."""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from events.load import load
from events.tables import create_tables
from harness.project.environments import install
from harness.project.paths import ROOT
from harness.warehouse.roles import Warehouse
from tests import clones
from tests.dbt.test_project import broken_rules
from tests.harness_command import run

EVENTS = """\
event_id;event_type;professional_id_anonymized;created_at;meta_data
1;became_able_to_propose;7;2020-01-01 09:00:00;
2;proposed;7;2020-01-01 10:00:00;4_dak_roof_1.10
"""
Session = Callable[..., tuple[int, str]]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Give an empty directory that every user may enter: as root, PostgreSQL runs as another."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture
def session(clone: Path, temporary: Path) -> Session:
    """Give a function that runs `python -m harness dbt ARGUMENTS` in a clone; it returns exit code and output."""
    (clone / "airflow" / "data" / "events.csv").write_text(EVENTS)

    def session(*arguments: str, **env: Any) -> tuple[int, str]:
        options: Any = {"python": clones.python_of(clone), "cwd": clone, "TMPDIR": str(temporary)}
        return run("dbt", *arguments, **options, **env)

    return session


def test_commands_that_read_models_find_them_built(session: Session, clone: Path, warehouse: Warehouse) -> None:
    on = ("--postgres", warehouse.server.dsn)

    exit_code, output = session(*on, "test", "--select", "availability_snapshot,test_type:data")
    assert exit_code == 0, output
    assert "Done. PASS=3 WARN=0 ERROR=0 SKIP=0 " in output

    exit_code, output = session(*on, "show", "--select", "professional_funnel", "--output", "json", "--quiet")
    assert exit_code == 0, output
    assert '"first_proposed_at": "2020-01-01T10:00:00"' in output

    exit_code, output = session(*on, "docs")
    assert exit_code == 0, output
    assert output.splitlines()[-1] == "✓ documentation: build/dbt-docs/index.html"
    page = (clone / "build/dbt-docs/index.html").read_text()
    assert "model.marketplace.professional_funnel" in page
    assert '"name": "days_account_to_able"' in page or '"name":"days_account_to_able"' in page


def test_a_kept_warehouse_stays_until_it_is_taken_down(session: Session, temporary: Path) -> None:
    try:
        exit_code, output = session("--keep", "run", "--select", "+dim_services", DOCKER_HOST="unix:///nothing")
        assert exit_code == 0, output
        *_, address, hint = output.splitlines()
        assert hint == f"  take it down: TMPDIR={temporary} nox -s dbt -- --down"
        with psycopg.connect(address.removeprefix("  warehouse  ")) as connection:
            assert connection.execute("select service_id from test_dim.dim_services").fetchall() == [(4,)]

        exit_code, output = session(
            "--keep", "run", "--select", "nothing_there", "--quiet", DOCKER_HOST="unix:///nothing"
        )
        assert exit_code == 0, output
        assert len(list(temporary.iterdir())) == 2  # a second one is beside the first
    finally:
        exit_code, output = session("--down")
    assert exit_code == 0, output
    assert output.count(" taken down\n") == 2
    assert list(temporary.iterdir()) == []


def test_a_failed_build_is_kept_as_well(session: Session, clone: Path, temporary: Path) -> None:
    (clone / "dbt/models/marts/dim/dim_services.sql").write_text("select 1 as other")
    try:
        exit_code, output = session("--keep", "run", "--quiet", DOCKER_HOST="unix:///nothing")
        assert exit_code == 49, output
        hint = f"  take it down: TMPDIR={temporary} nox -s dbt -- --down"
        assert f"\n{hint}\n✗ dbt run --quiet ended with exit code 1: " in output
    finally:
        assert session("--down")[1].endswith(" taken down\n")
    assert list(temporary.iterdir()) == []


def test_with_the_target_prod_it_builds_in_ones_own_warehouse(
    session: Session, warehouse: Warehouse, tmp_path: Path
) -> None:
    file = tmp_path / "events.csv"
    file.write_text(EVENTS.replace("4_dak_roof", "5_tuin_garden"))
    create_tables(warehouse.loader_dsn)
    load(str(file), warehouse.loader_dsn)

    exit_code, output = session("build", "--select", "+dim_services", DBT_TARGET="prod", **warehouse.dbt_env())

    assert exit_code == 0, output
    assert "sample loaded" not in output
    with psycopg.connect(warehouse.reader_dsn) as connection:
        assert connection.execute("select service_id from dim.dim_services").fetchall() == [(5,)]


@pytest.mark.parametrize(
    ("arguments", "env", "what"),
    [
        (["--keep", "--postgres", "host=x"], {}, "✗ --keep is for an ephemeral server, and this one is yours."),
        (["--keep"], {"DBT_TARGET": "prod"}, "✗ --keep is for an ephemeral server, and this one is yours."),
        (
            ["--postgres", "host=x"],
            {"DBT_TARGET": "prod"},
            "✗ --postgres is for an ephemeral warehouse, and DBT_TARGET=prod is for one of your own.",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(session: Session, arguments: list[str], env: dict[str, str], what: str) -> None:
    exit_code, output = session(*arguments, **env)

    assert exit_code == 2
    assert output.splitlines()[0] == what
    assert len(output.splitlines()) == 3


def test_the_target_prod_without_a_warehouse_uses_no_other(session: Session) -> None:
    exit_code, output = session(DBT_TARGET="prod")

    assert exit_code == 49
    assert output.startswith("✗ dbt needs WAREHOUSE_HOST, WAREHOUSE_PORT, WAREHOUSE_DATABASE, WAREHOUSE_USER, ")


def example(language: str) -> str:
    """Return the example of docs/add-a-model.md in a LANGUAGE."""
    text = (ROOT / "docs" / "add-a-model.md").read_text()
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


def test_a_new_model_needs_one_sql_and_one_yml_and_nothing_else(
    session: Session, clone: Path, warehouse: Warehouse
) -> None:
    folder = clone / "dbt/models/marts/analysis"
    (folder / "first_proposals.sql").write_text(example("sql"))
    (folder / "first_proposals.yml").write_text(example("yaml"))

    assert list(broken_rules(clone / "dbt")) == []
    exit_code, output = session("--postgres", warehouse.server.dsn)
    assert exit_code == 0, output
    assert "OK created sql table model test_analysis.first_proposals " in output
    assert "PASS first_proposals::the_first_proposal_counts " in output
    assert "model.marketplace.first_proposals" in (clone / "build/dbt-docs/index.html").read_text()
    lint = [str(install("lint")), "-m", "sqlfluff", "lint", "models/marts/analysis/first_proposals.sql"]
    linted = subprocess.run(lint, cwd=clone / "dbt", capture_output=True, text=True, timeout=60, check=False)
    assert linted.returncode == 0, linted.stdout
