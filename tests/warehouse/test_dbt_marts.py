"""The dbt project against a real PostgreSQL: every mart, row by row, and how `dbt/run.py` behaves beside others."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.load import load
from events.tables import create_tables
from harness.postgres import Server
from harness.warehouse import Warehouse, create_warehouse, drop_warehouse
from tests.warehouse.brute_force import FIRST_DAYS, MARTS, Event, Rows, expected, streams

PROJECT = Path(__file__).parents[2] / "dbt"
LOCK_KEY = 0x6576656E7473  # spelled out: the load and dbt/run.py must agree on it


# --- what runs dbt -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def dbt_python() -> str:
    """Give the Python of dbt's own environment."""
    if python := os.environ.get("DBT_PYTHON"):
        return python
    pytest.fail("set DBT_PYTHON to the Python of an environment with dbt-core and dbt-postgres")


@pytest.fixture
def warehouse(server: Server, passwords: dict[str, str]) -> Iterator[Warehouse]:
    """Give a new warehouse of the same name for each test: dbt's parse of the project, which has it in, then holds."""
    warehouse = create_warehouse(server, "warehouse_dbt", passwords)
    yield warehouse
    drop_warehouse(warehouse)


@pytest.fixture
def environment(warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the environment of a dbt process on WAREHOUSE, whose raw tables exist, with target `test`."""
    create_tables(warehouse.loader_dsn)
    folder = tmp_path_factory.getbasetemp() / "dbt"
    paths = {"DBT_TARGET_PATH": f"{folder / 'target'}", "DBT_LOG_PATH": f"{folder / 'logs'}"}
    return {"PATH": os.environ["PATH"], "DBT_TARGET": "test", **paths, **warehouse.dbt_env()}


@pytest.fixture
def start(dbt_python: str, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts `run.py ARGUMENTS`, with more environment variables by name."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
        command = [dbt_python, str(PROJECT / "run.py"), *arguments]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=environment | more, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """Give a function that runs `run.py ARGUMENTS` to its end and returns its exit code and its output."""

    def run(*arguments: str, **more: str) -> tuple[int, str]:
        process = start(*arguments, **more)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    return run


# --- the tables ----------------------------------------------------------------------------------------------------


def write(warehouse: Warehouse, events: list[Event]) -> None:
    """Make EVENTS all that raw.events holds."""
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute("truncate raw.events, raw.rejected_events, raw.loads restart identity")
        connection.execute("insert into raw.loads (source_uri, status) values ('test', 'succeeded')")
        with connection.cursor() as cursor:
            cursor.executemany("insert into raw.events values (%s, %s, %s, %s, %s, 1)", events)


def read(warehouse: Warehouse, prefix: str = "test_") -> dict[str, Rows]:
    """Return the rows of each mart in the order of its key."""
    with psycopg.connect(warehouse.reader_dsn, row_factory=psycopg.rows.dict_row) as connection:
        return {
            mart: connection.execute(f"select * from {prefix}{mart} order by {key}").fetchall()  # noqa: S608 -- our names
            for mart, key in MARTS.items()
        }


# --- the tests -----------------------------------------------------------------------------------------------------

# Starting Python and dbt takes seconds, so this one process runs dbt for each line that it reads.
DBT_LOOP = """
import sys
from run import main
for line in sys.stdin:
    print("exit code", main(line.split()), flush=True)
"""


def test_every_mart_equals_the_brute_force_computation(
    dbt_python: str, environment: dict[str, str], warehouse: Warehouse
) -> None:
    with subprocess.Popen(
        [dbt_python, "-c", DBT_LOOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment | {"PYTHONPATH": str(PROJECT)},
        text=True,
        bufsize=1,
    ) as dbt:
        commands, answers = dbt.stdin, dbt.stdout
        assert commands
        assert answers

        @settings(max_examples=10, deadline=None)
        @given(streams())
        def check(events: list[Event]) -> None:
            write(warehouse, events)
            print("run --quiet", file=commands)
            assert answers.readline() == "exit code 0\n"
            assert read(warehouse) == expected(events)

        check()
        commands.close()


def write_file(path: Path, events: list[Event]) -> None:
    """Write EVENTS as a log."""
    lines = ["event_id;event_type;professional_id_anonymized;created_at;meta_data"]
    for event in events:
        at = event.created_at.strftime("%Y-%m-%d %H:%M:%S.%f")
        lines.append(f"{event.event_id};{event.event_type};{event.professional_id};{at};{event.meta_data or ''}")
    path.write_text("\n".join([*lines, ""]))


def test_after_any_loads_the_incremental_marts_equal_the_brute_force_computation(
    dbt_python: str, environment: dict[str, str], warehouse: Warehouse, tmp_path: Path
) -> None:
    file = tmp_path / "events.csv"
    with subprocess.Popen(
        [dbt_python, "-c", DBT_LOOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment | {"PYTHONPATH": str(PROJECT)},
        text=True,
        bufsize=1,
    ) as dbt:
        commands, answers = dbt.stdin, dbt.stdout
        assert commands
        assert answers

        # Examples follow each other on one warehouse: each is one more change to what the ones before it have left.
        @settings(max_examples=15, deadline=None)
        @given(streams(), st.none() | st.sampled_from(FIRST_DAYS), st.integers(1, 4))
        def check(events: list[Event], first_day: date | None, days: int) -> None:
            write_file(file, events)
            start = datetime.combine(first_day, time(), UTC) + timedelta(1) if first_day else None
            end = start + timedelta(days) if start else None
            load(str(file), warehouse.loader_dsn, start=start, end=end, allow_empty=True, max_rejected=1.0)
            print("run --quiet", file=commands)
            assert answers.readline() == "exit code 0\n"
            with psycopg.connect(warehouse.loader_dsn) as connection:
                rows = connection.execute(
                    "select event_id, event_type, professional_id_anonymized, created_at, meta_data from raw.events"
                )
                left = [Event(*row) for row in rows]
            assert read(warehouse) == expected(left)

        check()
        commands.close()


def test_without_events_every_model_builds_empty_and_the_reader_sees_the_marts_alone(
    run: Callable[..., tuple[int, str]], warehouse: Warehouse, tmp_path: Path
) -> None:
    exit_code, output = run("build", DBT_TARGET="prod", DBT_TARGET_PATH=str(tmp_path))

    assert exit_code == 0, output
    assert " WARN=0 ERROR=0 SKIP=0 " in output
    assert "warning" not in output.lower()
    assert "deprecat" not in output.lower()
    assert read(warehouse, prefix="") == {mart: [] for mart in MARTS}
    with psycopg.connect(warehouse.reader_dsn, autocommit=True) as connection:
        for table in ("raw.events", "raw.loads", "raw.rejected_events", "staging.stg_events"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"table {table}")


def test_a_violated_contract_leaves_the_old_table(run: Callable[..., tuple[int, str]], warehouse: Warehouse) -> None:
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    events = [Event(1, "created_account", 5, noon), Event(2, "proposed", 5, noon, "7_tuin_garden_1.5")]
    write(warehouse, events)
    assert run("run")[0] == 0
    with psycopg.connect(warehouse.loader_dsn) as connection:  # rows that no load would write
        connection.execute("alter table raw.events drop constraint events_check")
        connection.execute("alter table raw.events alter professional_id_anonymized drop not null")
        connection.execute("insert into raw.events values (3, 'proposed', null, '2020-01-02', null, 1)")

    exit_code, output = run("run")

    assert exit_code == 1, output
    for column, mart in [
        ("professional_id", "dim_professionals__dbt_tmp"),
        ("service_id", "dim_services__dbt_tmp"),
        ("professional_id", "fct_events"),  # it is added to, not replaced
    ]:
        assert f'null value in column "{column}" of relation "{mart}" violates not-null constraint' in output
    after, before = read(warehouse), expected(events)
    for mart in ("dim.dim_professionals", "dim.dim_services", "fact.fct_events"):
        assert after[mart] == before[mart]


def test_a_failing_test_shows_its_rows(run: Callable[..., tuple[int, str]], warehouse: Warehouse) -> None:
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute("alter table raw.loads drop constraint loads_status_check")
        connection.execute("insert into raw.loads (source_uri, status) values ('test', 'forgotten')")

    exit_code, output = run("test", "--select", "raw_loads_have_a_known_status")

    assert exit_code == 1
    assert output.splitlines()[-4:] == [
        "rows that fail raw_loads_have_a_known_status, at most 10:",
        "  value_field | n_records",
        "  forgotten | 1",
        "to see all of them: python dbt/run.py show --limit -1 --select raw_loads_have_a_known_status",
    ]


def test_two_builds_at_once_both_end_well(start: Callable[..., subprocess.Popen[str]]) -> None:
    builds = [start("build", "--select", "+dim_services") for _ in range(2)]

    outputs = [build.communicate(timeout=120)[0] for build in builds]

    assert [build.returncode for build in builds] == [0, 0], outputs
    assert sum("waiting for a load or another build to end" in output for output in outputs) == 1


def test_a_build_waits_until_the_lock_is_free(
    start: Callable[..., subprocess.Popen[str]], run: Callable[..., tuple[int, str]], warehouse: Warehouse
) -> None:
    with psycopg.connect(warehouse.loader_dsn) as load:  # as a load does: till the end of its transaction
        load.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
        build = start("run", "--select", "stg_events", WAREHOUSE_LOCK_TIMEOUT="60")
        assert build.stdout
        assert build.stdout.readline() == "waiting for a load or another build to end, at most 60 s\n"

        assert run("run", WAREHOUSE_LOCK_TIMEOUT="1") == (
            31,
            "waiting for a load or another build to end, at most 1 s\n"
            "✗ The warehouse was still busy after 1 s.\n"
            "  A load or another build holds its lock; pg_locks (locktype 'advisory') and pg_stat_activity say which.\n"
            "  Run this again when it has ended, or wait longer: WAREHOUSE_LOCK_TIMEOUT=3600\n",
        )
        assert build.poll() is None

    output, _ = build.communicate(timeout=120)
    assert build.returncode == 0, output
    assert output.startswith("✓ warehouse free (")


def test_a_command_that_only_reads_takes_no_lock(run: Callable[..., tuple[int, str]], warehouse: Warehouse) -> None:
    with psycopg.connect(warehouse.loader_dsn) as load:
        load.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])

        exit_code, output = run("ls", "--quiet", "--resource-type", "model")

    assert (exit_code, output.split()) == (
        0,
        [
            "marketplace.marts.analysis.availability_snapshot",
            "marketplace.marts.dim.dim_date",
            "marketplace.marts.dim.dim_professionals",
            "marketplace.marts.dim.dim_services",
            "marketplace.marts.fact.fct_events",
            "marketplace.staging.stg_events",
            "marketplace.staging.stg_loads",
        ],
    )


def test_a_warehouse_that_is_not_reached(run: Callable[..., tuple[int, str]]) -> None:
    exit_code, output = run("build", WAREHOUSE_PORT="1")

    assert exit_code == 30
    assert output.splitlines()[0] == "✗ The warehouse was not reached."
    assert "port 1 failed: Connection refused" in output.splitlines()[1]
    assert len(output.splitlines()) == 3


def test_a_variable_that_is_missing(run: Callable[..., tuple[int, str]]) -> None:
    assert run("build", WAREHOUSE_HOST="", WAREHOUSE_USER="") == (
        32,
        "✗ dbt needs WAREHOUSE_HOST, WAREHOUSE_USER in the environment.\n"
        "  profiles.yml takes the warehouse's address and credentials from there.\n"
        "  Set what is missing, or run the session that does: nox -s dbt\n",
    )


@pytest.mark.parametrize(("target", "prefix"), [("prod", ""), ("test", "test_"), ("dev", "mine_")])
def test_each_target_has_schemas_of_its_own(run: Callable[..., tuple[int, str]], target: str, prefix: str) -> None:
    listing = ("ls", "--quiet", "--resource-type", "model", "--output", "json", "--output-keys", "name schema")
    exit_code, output = run(*listing, DBT_TARGET=target, WAREHOUSE_SCHEMA="mine")
    assert exit_code == 0, output
    models = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert {model["name"]: model["schema"] for model in models} == {
        "stg_events": f"{prefix}staging",
        "stg_loads": f"{prefix}staging",
        "dim_date": f"{prefix}dim",
        "dim_professionals": f"{prefix}dim",
        "dim_services": f"{prefix}dim",
        "fct_events": f"{prefix}fact",
        "availability_snapshot": f"{prefix}analysis",
    }
