"""The dbt project against a real PostgreSQL: every mart, row by row, and how `dbt/run.py` behaves beside others."""

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import psycopg.sql
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from events.load import load
from harness.warehouse.roles import Warehouse
from tests.dbt.brute_force import MARTS, Event, expected, streams
from tests.dbt.common import (
    LOCK_KEY,
    MARTS_ALONE,
    NOON,
    PROJECT,
    Dbt,
    copy_of_the_project,
    day,
    five_days,
    loaded,
    read,
    replace,
    write,
    write_file,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams())
@example([])
@example([Event(1, "proposed", 1, NOON, "7_tuin_garden_1.5")])
@example([Event(1, "became_unable_to_propose", 1, NOON), Event(2, "became_able_to_propose", 1, NOON)])
def test_every_mart_equals_the_brute_force_computation(
    run_in_process: Callable[[str], object], warehouse: Warehouse, events: list[Event]
) -> None:
    write(warehouse, events)
    run_in_process(f"{MARTS_ALONE} --full-refresh")
    assert read(warehouse) == expected(events)


class Load(NamedTuple):
    """A load of the log as it is then, of an interval of it or of all."""

    log: list[Event]
    start: datetime | None
    end: datetime | None


@st.composite
def histories(draw: st.DrawFn) -> list[Load]:
    """Draw some loads of a log that grows and whose past is corrected: events vanish, appear, move, change."""
    log, loads = draw(streams()), []
    for _ in range(draw(st.integers(2, 4))):
        days = [event.created_at for event in log] or [NOON]
        starts = st.sampled_from(days).map(lambda at: at.replace(hour=0, minute=0, second=0, microsecond=0))
        start = draw(st.none() | starts | st.sampled_from(days))
        span = draw(st.none() | st.integers(1, 3).map(timedelta))
        loads.append(Load(log, start, (start or min(days)) + span if span else None))
        others = draw(streams())
        shift = (min(days) - min(event.created_at for event in others)).days if others else 0
        others = [event._replace(created_at=event.created_at + timedelta(shift)) for event in others]
        kept = {event.event_id: event for event in log if draw(st.integers(0, 4))}
        log = list((kept | {event.event_id: event for event in others}).values())
    return loads


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_after_any_loads_the_incremental_marts_equal_a_full_refresh_and_the_brute_force_computation(
    run_in_process: Callable[[str], object], warehouse: Warehouse, tmp_path: Path, history: list[Load]
) -> None:
    write(warehouse, [])
    run_in_process(f"{MARTS_ALONE} --full-refresh")
    for log, start, end in history:
        file = write_file(tmp_path / "events.csv", log)
        load(str(file), warehouse.loader_dsn, start=start, end=end, allow_empty=True, max_rejected=1.0)
        run_in_process(MARTS_ALONE)
        assert read(warehouse) == expected(loaded(warehouse))
    incremental = read(warehouse)
    run_in_process(f"{MARTS_ALONE} --full-refresh")
    assert incremental == read(warehouse)


# --- what an incremental build writes ------------------------------------------------------------------------------


def versions(warehouse: Warehouse) -> dict[tuple[str, date], tuple[Any, ...]]:
    """Return of each day's row in the incremental marts which version it is: one that was rewritten is another."""
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        facts = connection.execute("select 'fact', created_at::date, xmin::text, ctid::text from test_fact.fct_events")
        days = connection.execute("select 'day', date, xmin::text, ctid::text from test_analysis.availability_snapshot")
        return {(kind, at): tuple(version) for kind, at, *version in [*facts, *days]}


def test_a_corrected_day_alone_is_rewritten_and_counted_anew_from_there(
    run_in_process: Callable[[str], object], warehouse: Warehouse, tmp_path: Path
) -> None:
    log = five_days()
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
    run_in_process(MARTS_ALONE)
    before = versions(warehouse)

    log[4] = log[4]._replace(event_type="became_unable_to_propose")  # of day 3
    file = str(write_file(tmp_path / "events.csv", log))
    midnight = day(3) - timedelta(hours=12)
    load(file, warehouse.loader_dsn, start=midnight, end=midnight + timedelta(1))
    run_in_process(MARTS_ALONE)
    after = versions(warehouse)

    assert after.keys() == before.keys()
    rewritten = sorted((kind, at.day) for kind, at in before if before[kind, at] != after[kind, at])
    assert rewritten == [("day", 3), ("day", 4), ("day", 5)]  # the day's proposal is the same
    assert read(warehouse) == expected(log)

    run_in_process(MARTS_ALONE)
    assert versions(warehouse) == after
    load(file, warehouse.loader_dsn, start=midnight, end=midnight + timedelta(1))  # the same once more
    run_in_process(MARTS_ALONE)
    assert versions(warehouse) == after

    with psycopg.connect(warehouse.transformer_dsn) as connection:  # what no load tells of
        connection.execute("update test_fact.fct_events set service_id = 8 where created_at < '2020-01-02'")
        connection.execute("delete from test_fact.fct_events where created_at > '2020-01-05'")
    run_in_process(f"{MARTS_ALONE} --full-refresh")
    assert read(warehouse) == expected(log)
    mended = {key for key, version in versions(warehouse).items() if after[key] != version}
    assert {(kind, at.day) for kind, at in mended} == {("fact", 1), ("fact", 5)}


def test_a_load_that_commits_after_a_later_one_is_seen(
    run_in_process: Callable[[str], object], warehouse: Warehouse
) -> None:
    log = five_days()
    with psycopg.connect(warehouse.loader_dsn) as slow:
        slow.execute(
            "insert into raw.loads (source_uri, status, interval_start, interval_end, transaction_id)"
            " values ('test', 'succeeded', '2020-01-02Z', '2020-01-03Z', pg_current_xact_id())"
        )
        load_id = slow.execute("select max(load_id) from raw.loads").fetchone()
        with psycopg.connect(warehouse.loader_dsn) as fast:
            later = fast.execute(
                "insert into raw.loads (source_uri, status, interval_start, interval_end, transaction_id)"
                " values ('test', 'succeeded', '2020-01-01Z', '2020-01-02Z', pg_current_xact_id()) returning load_id"
            ).fetchone()
            fast.cursor().executemany("insert into raw.events values (%s, %s, %s, %s, %s, 1)", log[:2])
        assert load_id
        assert later
        assert later[0] > load_id[0]
        run_in_process(MARTS_ALONE)
        assert read(warehouse) == expected(log[:2])
        slow.cursor().executemany("insert into raw.events values (%s, %s, %s, %s, %s, 1)", log[2:4])

    run_in_process(MARTS_ALONE)
    assert read(warehouse) == expected(log[:4])


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("alone", ["availability_snapshot", "dim_date", "int_status_events", "fct_events"])
def test_a_model_that_was_built_without_the_others_agrees_with_them_after_the_next_build(
    run_in_process: Callable[[str], object], warehouse: Warehouse, tmp_path: Path, first: int, alone: str
) -> None:
    log = five_days()
    start = day(first) - timedelta(hours=12)
    file = str(write_file(tmp_path / "events.csv", log))
    load(file, warehouse.loader_dsn, start=start, end=start + timedelta(3))
    run_in_process(MARTS_ALONE)
    load(file, warehouse.loader_dsn)

    run_in_process(f"{MARTS_ALONE} --select {alone}")
    run_in_process(MARTS_ALONE)

    assert read(warehouse) == expected(log)


@pytest.mark.parametrize("note", [None, "1 1:1:", "written by hand"])
def test_a_table_of_which_is_not_known_what_it_has_seen_is_counted_anew(
    run_in_process: Callable[[str], object], warehouse: Warehouse, tmp_path: Path, note: str | None
) -> None:
    log = five_days()
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
    run_in_process(MARTS_ALONE)
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        for table in (
            "test_fact.fct_events",
            "test_intermediate.int_status_events",
            "test_analysis.availability_snapshot",
        ):
            connection.execute(f"delete from {table}")  # noqa: S608 - our names
            comment = psycopg.sql.SQL("comment on table {} is {}")
            connection.execute(comment.format(psycopg.sql.Identifier(*table.split(".")), psycopg.sql.Literal(note)))

    run_in_process(MARTS_ALONE)

    assert read(warehouse) == expected(log)


def test_an_incremental_build_reads_only_the_partitions_of_the_changed_days(
    run: Callable[..., tuple[int, str]], warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.publishing.MIN_ROWS", 1)  # a day has a partition of its own
    file = str(write_file(tmp_path / "events.csv", five_days()))
    for number in range(1, 6):
        midnight = day(number) - timedelta(hours=12)
        load(file, warehouse.loader_dsn, start=midnight, end=midnight + timedelta(1))
    assert run("run")[0] == 0
    file = str(write_file(tmp_path / "events.csv", [e._replace(professional_id=9) for e in five_days()]))
    midnight = day(3) - timedelta(hours=12)
    load(file, warehouse.loader_dsn, start=midnight, end=midnight + timedelta(1))
    scans = """
        select sum(seq_scan + coalesce(idx_scan, 0)), relname
        from pg_stat_user_tables where relname ~ '^events_[0-9]+_[0-9a-f]+$' group by relname
    """
    partition_of = "select tableoid::regclass::text, created_at from raw.events where event_type = 'proposed'"
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        days = {table.removeprefix("raw."): at.day for table, at in connection.execute(partition_of)}
        assert sorted(days.values()) == [1, 2, 3, 4, 5]
        connection.execute("select pg_stat_force_next_flush()")
        before = {table: count for count, table in connection.execute(scans)}
        assert run("run", "--select", "fct_events", "int_status_events", "availability_snapshot")[0] == 0
        after = {table: count for count, table in connection.execute(scans)}

    assert [days[table] for table in days if after[table] != before[table]] == [3]


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
        for table in ("raw.events", "raw.rejected_events", "staging.stg_events", "intermediate.int_status_events"):
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
        ("professional_id", "dim_professionals__new"),
        ("service_id", "dim_services__new"),
        ("professional_id", "fct_events__new"),
    ]:
        assert f'null value in column "{column}" of relation "{mart}" violates not-null constraint' in output
    after, before = read(warehouse), expected(events)
    for mart in ("dim.dim_professionals", "dim.dim_services", "fact.fct_events"):
        assert after[mart] == before[mart]


def test_a_duplicated_key_fails_in_each_mart_and_leaves_the_published_table(
    dbt_python: str,
    environment: dict[str, str],
    run: Callable[..., tuple[int, str]],
    warehouse: Warehouse,
    tmp_path: Path,
) -> None:
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    events = [Event(1, "became_able_to_propose", 5, noon), Event(2, "proposed", 5, noon, "7_tuin_garden_1.5")]
    write(warehouse, events)
    assert run("run")[0] == 0
    published = read(warehouse)
    assert all(published.values())
    write(warehouse, [*events, Event(3, "proposed", 6, noon + timedelta(1), "8_dak_roof_2")])
    project = copy_of_the_project(tmp_path)
    for mart in MARTS:
        file = project / f"models/marts/{mart.replace('.', '/')}.sql"
        [last] = re.findall(r"^select \* from \w+$", file.read_text(), re.MULTILINE)
        replace(file, f"\n{last}\n", f"\n{last}\nunion all\n{last}\n")
    with Dbt(dbt_python, environment | {"DBT_TARGET_PATH": str(tmp_path / "target")}, project=project) as dbt:
        for mart in MARTS:
            model = mart.partition(".")[2]
            output = dbt.run(f"run --select {model}", exit_code=1)
            assert f'duplicate key value violates unique constraint "{model}__new_pkey"' in output
    assert read(warehouse) == published


def test_a_renamed_column_is_refused(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert run("run")[0] == 0
    project = copy_of_the_project(tmp_path)
    sql = project / "models/marts/analysis/service_revenue_daily.sql"
    replace(sql, "as lead_fee_revenue", "as revenue")

    exit_code, output = run("run", "--select", sql.stem, project=project, DBT_TARGET_PATH=str(tmp_path / "target"))

    assert exit_code == 1, output
    assert "This model has an enforced contract that failed." in output
    told = [line.split("|")[1:-1] for line in output.splitlines() if "missing in" in line]
    assert [[cell.strip() for cell in cells] for cells in told] == [
        ["lead_fee_revenue", "", "DECIMAL", "missing in definition"],
        ["revenue", "DECIMAL", "", "missing in contract"],
    ]


def test_what_may_be_wrong_in_the_log_is_counted_and_only_warned_of(
    run: Callable[..., tuple[int, str]], warehouse: Warehouse
) -> None:
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    garden = "7_tuin_garden_1.5"
    write(
        warehouse,
        [
            Event(1, "proposed", 5, noon, garden),  # no status yet
            Event(3, "became_able_to_propose", 5, noon),
            Event(2, "proposed", 5, noon, garden),  # at the same time, but before by its id
            Event(4, "proposed", 5, noon, "7_tuin_garden_-0.10"),
            Event(5, "became_unable_to_propose", 5, noon + timedelta(1)),
            Event(6, "proposed", 5, noon + timedelta(2), garden),
            Event(7, "proposed", 6, noon, garden),  # never a status
        ],
    )

    exit_code, output = run("build", "--exclude-resource-type", "unit_test")

    assert exit_code == 0, output
    assert " WARN=2 ERROR=0 SKIP=0 " in output
    assert rows_shown(output, "proposals_are_by_able_professionals") == [
        "event_id | professional_id | created_at",
        "1 | 5 | 2020-01-01 12:00:00",
        "2 | 5 | 2020-01-01 12:00:00",
        "6 | 5 | 2020-01-03 12:00:00",
        "7 | 6 | 2020-01-01 12:00:00",
    ]
    assert rows_shown(output, "lead_fees_are_not_negative") == [
        "event_id | professional_id | created_at | service_lead_fee",
        "4 | 5 | 2020-01-01 12:00:00 | -0.100000",
    ]


def rows_shown(output: str, test: str) -> list[str]:
    """Return the rows that fail TEST, sorted, below their header, as OUTPUT shows them."""
    _, below = output.split(f"rows that fail {test}, at most 10:\n")
    rows = list(itertools.takewhile(lambda line: line.startswith("  "), below.splitlines()))
    return [rows[0].strip(), *sorted(row.strip() for row in rows[1:])]


def test_a_snapshot_that_is_not_what_a_direct_count_says_is_an_error(
    run: Callable[..., tuple[int, str]], warehouse: Warehouse
) -> None:
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    write(warehouse, [Event(1, "became_able_to_propose", 5, noon), Event(2, "became_able_to_propose", 6, noon)])
    assert run("run")[0] == 0
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        connection.execute("update test_analysis.availability_snapshot set active_professionals = 1")

    exit_code, output = run("test", "--select", "last_day_agrees_with_a_direct_count")

    assert exit_code == 1, output
    assert rows_shown(output, "last_day_agrees_with_a_direct_count") == [
        "date | active_in_snapshot | active_by_direct_count",
        "2020-01-01 | 1 | 2",
    ]


@pytest.mark.parametrize(
    ("hours", "exit_code", "told"),
    [
        (1, 0, "PASS freshness of raw.loads"),
        (40, 0, "WARN freshness of raw.loads"),
        (80, 1, "ERROR STALE freshness of raw.loads"),
    ],
)
def test_freshness_goes_by_the_last_load_that_succeeded(
    run: Callable[..., tuple[int, str]], warehouse: Warehouse, hours: int, exit_code: int, told: str
) -> None:
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute(
            "insert into raw.loads (source_uri, status, ended_at) values"
            " ('test', 'succeeded', now() - %s), ('test', 'failed', now())",
            [timedelta(hours=hours)],
        )

    code, output = run("source", "freshness")

    assert code == exit_code, output
    assert told in output


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
            "marketplace.intermediate.int_status_events",
            "marketplace.marts.analysis.professional_funnel",
            "marketplace.marts.analysis.professional_productivity_daily",
            "marketplace.marts.analysis.service_revenue_daily",
            "marketplace.staging.stg_events",
            "marketplace.staging.stg_loads",
        ],
    )


# What dbt says at level debug where the parse of an earlier run holds.
PARSED_BEFORE = "Partial parsing enabled, no changes found, skipping parsing"
ELSEWHERE = {
    "WAREHOUSE_HOST": "warehouse.invalid",
    "WAREHOUSE_PORT": "1",
    "WAREHOUSE_USER": "somebody",
    "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": "other",
}


def test_a_second_start_parses_nothing_wherever_the_warehouse_is(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    here = {"DBT_TARGET_PATH": str(tmp_path), "DBT_LOG_LEVEL": "debug"}
    builds = [run("build", "--exclude-resource-type", "unit_test", **here) for _ in range(2)]
    elsewhere = run("ls", **here, **ELSEWHERE)
    other_database = run("ls", **here, WAREHOUSE_DATABASE="other")  # models' names have it in

    assert [exit_code for exit_code, _ in (*builds, elsewhere, other_database)] == [0, 0, 0, 0]
    said = [output for _, output in (*builds, elsewhere, other_database)]
    assert [PARSED_BEFORE in output for output in said] == [False, True, True, False]


def test_the_parse_that_the_image_has_holds_in_its_containers(dbt_python: str, tmp_path: Path) -> None:
    """By the steps of dbt/Dockerfile, without an engine; tests/cluster asks an image."""
    dockerfile = (PROJECT / "Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (DBT_\w+|WAREHOUSE_\w+)=(\S+)$", dockerfile, re.MULTILINE))
    [step] = re.findall(r"^RUN (WAREHOUSE_HOST=.*) \\\n    python /opt/dbt/run.py parse ", dockerfile, re.MULTILINE)
    assert arguments.keys() == {"DBT_TARGET", "WAREHOUSE_DATABASE", "WAREHOUSE_READER"}
    at_build = arguments | dict(part.split("=") for part in step.split())
    project = shutil.copytree(PROJECT, tmp_path / "dbt", ignore=shutil.ignore_patterns("target", "logs", "__pycache__"))

    def start(command: str, target: str, **more: str) -> str:
        paths = {"DBT_TARGET_PATH": str(tmp_path / target), "DBT_LOG_PATH": str(tmp_path / "logs")}
        env = {"PATH": os.environ["PATH"], "DBT_LOG_LEVEL": "debug", **paths, **more}
        argv = [dbt_python, str(project / "run.py"), command]
        return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout

    assert PARSED_BEFORE not in start("parse", "built", **at_build)
    parsed = tmp_path / "parsed.msgpack"
    shutil.move(tmp_path / "built" / "partial_parse.msgpack", parsed)
    container = {**arguments, **ELSEWHERE, "DBT_PARTIAL_PARSE_FILE_PATH": str(parsed)}
    assert PARSED_BEFORE in start("ls", "first", **container)
    assert PARSED_BEFORE in start("ls", "second", **container)
    assert PARSED_BEFORE not in start("ls", "third", **container | {"DBT_TARGET": "dev"})


def test_a_warehouse_that_is_not_reached(run: Callable[..., tuple[int, str]]) -> None:
    exit_code, output = run("build", WAREHOUSE_PORT="1")

    assert exit_code == 30
    assert output.splitlines()[0] == "✗ The warehouse was not reached."
    assert "port 1 failed: Connection refused" in output.splitlines()[1]
    assert len(output.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "env", "what"),
    [
        (("run", "--selector", ""), {}, "An argument is empty."),
        (("run", "--exclude="), {}, "An argument is empty."),
        (("run",), {"WAREHOUSE_HOST": "u:SECRET@host"}, "WAREHOUSE_HOST is not what its name says."),
        (("run",), {"WAREHOUSE_HOST": "postgresql://u:SECRET@host/db"}, "WAREHOUSE_HOST is not what its name says."),
        (("run",), {"WAREHOUSE_PORT": "9/SECRET"}, "WAREHOUSE_PORT is not what its name says."),
        (("run",), {"WAREHOUSE_DATABASE": "w password=SECRET"}, "WAREHOUSE_DATABASE is not what its name says."),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_shown(
    run: Callable[..., tuple[int, str]], arguments: tuple[str, ...], env: dict[str, str], what: str
) -> None:
    code, output = run(*arguments, **env)
    assert code == 32
    assert output.splitlines()[0] == f"✗ {what}"
    assert len(output.splitlines()) == 3
    assert "SECRET" not in output


def test_a_variable_that_is_missing(run: Callable[..., tuple[int, str]]) -> None:
    assert run("build", WAREHOUSE_HOST="", WAREHOUSE_USER="") == (
        32,
        "✗ dbt needs WAREHOUSE_HOST, WAREHOUSE_USER in the environment.\n"
        "  profiles.yml takes the warehouse's address and credentials from there.\n"
        "  Set what is missing, or run the session that does: nox -s dbt\n",
    )


def test_a_variable_that_chooses_what_is_built_and_is_empty(run: Callable[..., tuple[int, str]]) -> None:
    assert run("build", WAREHOUSE_SCHEMA=" ", DBT_TARGET="") == (
        32,
        "✗ DBT_TARGET, WAREHOUSE_SCHEMA is set and empty.\n"
        "  It chooses what is built, and for whom; a script most likely copies a variable that is not set.\n"
        "  Give it a value, or unset it for the default.\n",
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
        "int_status_events": f"{prefix}intermediate",
        "dim_date": f"{prefix}dim",
        "dim_professionals": f"{prefix}dim",
        "dim_services": f"{prefix}dim",
        "fct_events": f"{prefix}fact",
        "availability_snapshot": f"{prefix}analysis",
        "service_revenue_daily": f"{prefix}analysis",
        "professional_funnel": f"{prefix}analysis",
        "professional_productivity_daily": f"{prefix}analysis",
    }
