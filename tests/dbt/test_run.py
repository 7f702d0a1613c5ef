"""dbt/run.py: the lock, the parse, what it refuses, and the schemas of each target."""

import json
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from harness.processes.dbt_process import PROJECT, Dbt, Process
from harness.project.paths import SAMPLE
from harness.warehouse.roles import Warehouse, create_warehouse, drop_all, drop_warehouse
from tests.dbt.common import LOCK_KEY, copy_of_the_project
from tests.dbt.conftest import dbt_on
from tests.events_feed import create_tables, load

MODELS = sorted(PROJECT.glob("models/**/*.sql"))
REFUSED = "The warehouse refused the connection."
LS = "ls --quiet --resource-type model --output json --output-keys"


def wait_until_waiting(warehouse: Warehouse) -> None:
    """Wait until a build waits for the lock."""
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while connection.execute(waiting).fetchone() != (1,):
            time.sleep(0.05)


def test_a_build_waits_until_the_lock_is_free(dbt: Dbt, other_dbt: Dbt, warehouse: Warehouse) -> None:
    with psycopg.connect(warehouse.loader_dsn) as load:  # as a load does: till the end of its transaction
        load.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
        other_dbt.start("run --select stg_events", {"WAREHOUSE_LOCK_TIMEOUT": "60"})
        wait_until_waiting(warehouse)

        assert dbt.run("run", 31, {"WAREHOUSE_LOCK_TIMEOUT": "1"}) == (
            "waiting for a load or another build to end, at most 1 s\n"
            "✗ The warehouse was still busy after 1 s.\n"
            "  A load or another build holds its lock; pg_locks (locktype 'advisory') and pg_stat_activity show it.\n"
            "  Run this again after its end, or wait longer: WAREHOUSE_LOCK_TIMEOUT=3600\n"
        )
        assert len(dbt.run(f"{LS} name").splitlines()) == len(MODELS)  # a command that only reads takes no lock

    assert other_dbt.wait() == "exit code 0", other_dbt.output
    first, second, *_ = other_dbt.output.splitlines()
    assert first == "waiting for a load or another build to end, at most 60 s"
    assert second.startswith("✓ warehouse free (")


def test_a_build_whose_connection_breaks_while_it_waits(dbt: Dbt, warehouse: Warehouse) -> None:
    with psycopg.connect(warehouse.loader_dsn) as load:
        load.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
        dbt.start("run --select stg_events")
        wait_until_waiting(warehouse)
        with psycopg.connect(warehouse.admin_dsn) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dbt lock'"
            )
        assert dbt.wait() == "exit code 30"  # another try may succeed: see `feeds.dbt_task`
    what, why, next_step = dbt.output.splitlines()[-3:]
    assert what == "✗ The connection to the warehouse broke during the wait for a load or another build."
    assert "server closed the connection unexpectedly" in why
    assert next_step == "  Run this again when PostgreSQL is up."


# --- the parse -------------------------------------------------------------------------------------------------------

# What dbt says at level debug where the parse of an earlier run holds.
PARSED_BEFORE = "Partial parsing enabled, no changes found, skipping parsing"
ELSEWHERE = {
    "WAREHOUSE_HOST": "warehouse.invalid",
    "WAREHOUSE_PORT": "1",
    "WAREHOUSE_USER": "somebody",
    "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": "other",
}


def test_a_second_start_parses_nothing_wherever_the_warehouse_is(dbt: Dbt, tmp_path: Path) -> None:
    here = {"DBT_TARGET_PATH": str(tmp_path), "DBT_LOG_LEVEL": "debug"}
    assert PARSED_BEFORE not in dbt.run("run --select stg_events", env=here)
    assert PARSED_BEFORE in dbt.run("run --select stg_events", env=here)
    assert PARSED_BEFORE in dbt.run("ls", env=here | ELSEWHERE)
    assert PARSED_BEFORE not in dbt.run("ls", env=here | {"WAREHOUSE_DATABASE": "other"})  # models' names have it in


def test_the_parse_that_the_image_has_holds_in_its_containers(dbt: Dbt, tmp_path: Path) -> None:
    """By the steps of dbt/Dockerfile, without an engine; tests/cluster asks an image."""
    dockerfile = (PROJECT / "Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (DBT_\w+|WAREHOUSE_\w+)=(\S+)$", dockerfile, re.MULTILINE))
    [step] = re.findall(r"^RUN (WAREHOUSE_HOST=.*) \\\n    python /opt/dbt/run.py parse ", dockerfile, re.MULTILINE)
    assert arguments.keys() == {"DBT_TARGET", "WAREHOUSE_DATABASE", "WAREHOUSE_READER"}
    at_build = arguments | dict(part.split("=") for part in step.split())
    env = {"PATH": dbt.env["PATH"], "DBT_LOG_LEVEL": "debug"}
    image = replace(dbt, env=env, folder=tmp_path, project=copy_of_the_project(tmp_path))

    assert PARSED_BEFORE not in image.run("parse", env=at_build | {"DBT_TARGET_PATH": str(tmp_path / "built")})
    parsed = tmp_path / "parsed.msgpack"
    shutil.move(tmp_path / "built" / "partial_parse.msgpack", parsed)
    container = {**arguments, **ELSEWHERE, "DBT_PARTIAL_PARSE_FILE_PATH": str(parsed)}
    for target in ("first", "second"):
        assert PARSED_BEFORE in image.run("ls", env=container | {"DBT_TARGET_PATH": str(tmp_path / target)})
    container |= {"DBT_TARGET": "dev", "DBT_TARGET_PATH": str(tmp_path / "third")}
    assert PARSED_BEFORE not in image.run("ls", env=container)


@pytest.mark.parametrize(
    ("bare", "together"),
    [(False, True), (True, True), pytest.param(True, False, marks=pytest.mark.slow)],
    ids=["by run.py", "by hand", "by hand, one by one"],
)
def test_an_edit_of_any_yml_changes_no_configuration(dbt: Dbt, tmp_path: Path, *, bare: bool, together: bool) -> None:
    """A bare dbt parses only what has changed; run.py everything, so that descriptions are not forgotten either."""
    project = copy_of_the_project(tmp_path)
    dbt = replace(dbt, folder=tmp_path, project=project, bare=bare)
    described = re.compile(r"(description: (?:>\n +)?)(?=\w)")

    def configurations() -> dict[str, Any]:
        dbt.run("parse --quiet", env={"DBT_TARGET_PATH": str(tmp_path / "target")})
        manifest = json.loads((tmp_path / "target" / "manifest.json").read_text())
        nodes = {**manifest["nodes"], **manifest["sources"], **manifest["exposures"], **manifest["unit_tests"]}
        return {name: [node["config"], bare or bool(node["description"])] for name, node in nodes.items()}

    before = configurations()
    severities = {
        name.split(".")[2]: config["severity"] for name, (config, _) in before.items() if "severity" in config
    }
    assert severities["proposals_are_by_able_professionals"] == severities["lead_fees_are_not_negative"] == "warn"
    ymls = [path for path in project.rglob("*.yml") if path.parent != project]
    assert len(ymls) >= 14
    for edited in [ymls] if together else [[yml] for yml in ymls]:
        for yml in edited:
            yml.write_text(described.sub(r"\1Edited, ", yml.read_text(), count=1))
        assert configurations() == before, edited


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "exit_code", "what", "why"),
    [
        ({"WAREHOUSE_PORT": "1"}, 30, "The warehouse cannot be reached.", "port 1 failed: Connection refused"),
        ({"WAREHOUSE_HOST": "host.invalid"}, 30, "The warehouse cannot be reached.", 'host name "host.invalid"'),
        ({"WAREHOUSE_PORT": "99999"}, 35, REFUSED, 'invalid port number: "99999"'),
        ({"DBT_ENV_SECRET_WAREHOUSE_PASSWORD": "wrong"}, 35, REFUSED, "FATAL: password authentication failed for user"),
        ({"WAREHOUSE_USER": "nobody"}, 35, REFUSED, "FATAL: password authentication failed for user"),
        ({"WAREHOUSE_DATABASE": "a=b"}, 35, REFUSED, 'FATAL: database "a=b" does not exist'),
        ({"PGSSLMODE": "require"}, 35, REFUSED, "server does not support SSL, but SSL was required"),
        ({"WAREHOUSE_USER": "\udcff"}, 35, REFUSED, "codec can't encode"),
    ],
)
def test_a_connection_that_is_not_made(dbt: Dbt, env: dict[str, str], exit_code: int, what: str, why: str) -> None:
    lines = dbt.run("build", exit_code, env).splitlines()
    assert lines[0] == f"✗ {what}"
    assert why in lines[1]
    assert len(lines) == 3


def test_a_role_without_a_free_connection_is_told_apart_from_one_that_is_refused(
    dbt: Dbt, warehouse: Warehouse
) -> None:
    role = sql.Identifier(warehouse.role("transformer"))
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("alter role {} connection limit 0").format(role))
        try:
            what, why, _ = dbt.run("build", 30).splitlines()
        finally:
            admin.execute(sql.SQL("alter role {} connection limit -1").format(role))
    assert what == "✗ The warehouse does not accept connections now."
    assert "too many connections for role" in why


@pytest.mark.parametrize("seconds", ["soon", "-1", "1.5", "2147484", "٣"])
def test_a_lock_timeout_that_is_no_number_of_seconds(dbt: Dbt, seconds: str) -> None:
    output = dbt.run("build", 32, {"WAREHOUSE_LOCK_TIMEOUT": seconds})
    assert output.splitlines()[0] == f"✗ WAREHOUSE_LOCK_TIMEOUT is {seconds!r}, not a number of seconds up to 2147483."


def test_empty_variables_count_as_not_set(dbt: Dbt) -> None:
    names = ("WAREHOUSE_LOCK_TIMEOUT", "DBT_FAILURES_PATH", "DBT_FULL_REFRESH", "DBT_USE_COLORS", "DBT_LOG_LEVEL")
    assert " PASS=1 " in dbt.run("run --select stg_events", env=dict.fromkeys(names, ""))


def test_names_of_any_characters(
    warehouse: Warehouse, processes: list[Process], tmp_path: Path, passwords: dict[str, str]
) -> None:
    server = replace(warehouse.server, suffix=" '\"\\%s é@{{x}}")
    named = create_warehouse(server, "any", passwords)
    other = replace(named, database="Any \\%s é@={{x}};")
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        rename = sql.SQL("alter database {} rename to {}")
        admin.execute(rename.format(sql.Identifier(named.database), sql.Identifier(other.database)))
    try:
        create_tables(other.loader_dsn)
        for start in (None, datetime(2020, 1, 1, tzinfo=UTC)):  # the second drops what the first has made
            load(str(SAMPLE), other.loader_dsn, start=start)
        dbt_on(other, processes[0], tmp_path).run("run --select +dim_date")
        with psycopg.connect(other.reader_dsn) as reader:
            assert reader.execute("select count(*) from test_dim.dim_date").fetchone() == (105,)
    finally:
        drop_warehouse(other)
        drop_all(server)


@pytest.mark.parametrize(
    ("arguments", "env", "what"),
    [
        (("run", "--selector", ""), {}, "An argument is empty."),
        (("run", "--exclude="), {}, "An argument is empty."),
        (("run",), {"WAREHOUSE_HOST": "u:SECRET@host"}, "WAREHOUSE_HOST is invalid."),
        (("run",), {"WAREHOUSE_HOST": "postgresql://u:SECRET@host/db"}, "WAREHOUSE_HOST is invalid."),
        (("run",), {"WAREHOUSE_PORT": "9/SECRET"}, "WAREHOUSE_PORT is invalid."),
        (("run",), {"WAREHOUSE_DATABASE": "w password=SECRET"}, "WAREHOUSE_DATABASE is invalid."),
        (("run",), {"WAREHOUSE_DATABASE": 'a"SECRET'}, "WAREHOUSE_DATABASE is invalid."),
    ],
)
def test_an_invalid_argument_or_address_is_refused_and_not_shown(
    dbt: Dbt, arguments: tuple[str, ...], env: dict[str, str], what: str
) -> None:
    output = dbt.run(arguments, 32, env)
    assert output.splitlines()[0] == f"✗ {what}"
    assert len(output.splitlines()) == 3
    assert "SECRET" not in output


def test_a_missing_variable_is_refused(dbt: Dbt) -> None:
    assert dbt.run("build", 32, {"WAREHOUSE_HOST": "", "WAREHOUSE_USER": ""}) == (
        "✗ dbt needs WAREHOUSE_HOST, WAREHOUSE_USER in the environment.\n"
        "  profiles.yml takes the warehouse's address and credentials from there.\n"
        "  Set these variables, or run the session that sets them: nox -s dbt\n"
    )


def test_an_empty_variable_that_chooses_what_is_built_is_refused(dbt: Dbt) -> None:
    assert dbt.run("build", 32, {"WAREHOUSE_SCHEMA": " ", "DBT_TARGET": ""}) == (
        "✗ DBT_TARGET, WAREHOUSE_SCHEMA is set, but empty.\n"
        "  It chooses dbt's target, schemas or reader; a script most likely copies a variable that is not set.\n"
        "  Give it a value, or unset it for the default.\n"
    )


# --- schemas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "prefix"), [("prod", ""), ("test", "test_"), ("dev", "mine_")])
def test_each_target_has_its_own_schemas(dbt: Dbt, target: str, prefix: str) -> None:
    output = dbt.run(f"{LS} name schema", env={"DBT_TARGET": target, "WAREHOUSE_SCHEMA": "mine"})
    models = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    # The folder of a model names its schema.
    schemas = {sql.stem: f"{prefix}{sql.parent.name}" for sql in MODELS}
    assert {schemas["stg_events"], schemas["fct_events"]} == {f"{prefix}staging", f"{prefix}fact"}
    assert {model["name"]: model["schema"] for model in models} == schemas


# --- interrupts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_dbt_is_imported_prints_no_traceback(dbt: Dbt, number: signal.Signals) -> None:
    argv = [dbt.process.python, "-X", "importtime", str(PROJECT / "run.py"), "ls"]
    process = subprocess.Popen(argv, env=dbt.env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(r"\| +dbt_common", line):  # that module was imported
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1] == f"✗ ended by {number.name}: dbt had not begun, or had ended"
    assert "Traceback" not in errors
    assert process.returncode == 128 + number
