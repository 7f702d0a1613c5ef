"""Clones whose dbt project is changed, and runs of `nox -s diff` in them."""

import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from harness.warehouse.server import Server
from tests import clones, harness_command

Run = Callable[..., tuple[int, str]]
DIMENSIONS = "dbt/models/marts/dim"
ANALYSIS, FACTS = "dbt/models/marts/analysis", "dbt/models/marts/fact/fct_events"
EVENTS = """\
event_id;event_type;professional_id_anonymized;created_at;meta_data
1;created_account;1;2020-01-01 08:00:00;
2;became_able_to_propose;1;2020-01-01 09:00:00;
3;proposed;1;2020-01-01 10:00:00;4_dak_roof_1.10
4;became_able_to_propose;2;2020-01-02 09:00:00;
5;proposed;2;2020-01-02 10:00:00;4_dak_roof_2.20
6;proposed;1;2020-01-02 11:00:00;5_tuin_garden_3.30
7;proposed;1;2020-01-02 12:00:00;5_tuin_garden_4.40
8;proposed;1;2020-01-02 13:00:00;4_dak_roof_0.50
9;became_unable_to_propose;1;2020-01-03 09:00:00;
10;proposed;2;2020-01-03 10:00:00;5_tuin_garden_1.00
11;created_account;3;2020-01-04 08:00:00;
12;became_able_to_propose;3;2020-01-04 09:00:00;
13;proposed;3;2020-01-04 10:00:00;4_dak_roof_7.00
14;proposed;3;2020-01-05 10:00:00;5_tuin_garden_1.25
"""
NEW_MODEL = """with

facts as (

    select * from {{ ref('fct_events') }}

),

services as (

    select
        professional_id,
        count(distinct service_id) as services

    from facts

    group by professional_id

)

select * from services
"""
WITH_AN_ACCOUNT = """    from events

    inner join (
        select professional_id as account_id from {{ ref('stg_events') }} where event_type = 'created_account'
    ) as accounts on events.professional_id = accounts.account_id
"""


def edit(clone: Path, name: str, *changes: tuple[str, str]) -> None:
    """Replace texts of the file NAME, each of which it has."""
    text = (clone / name).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (clone / name).write_text(text)


def rename_column(repository: Path) -> None:
    """Rename the column service_name_en of dim_services to service_name."""
    edit(repository, f"{DIMENSIONS}/dim_services.sql", ("service_name_en", "service_name_en as service_name"))
    names = ("name: service_name_en", "service_name_en: n", "service_name_en: o")
    changes = [(name, name.replace("service_name_en", "service_name")) for name in names]
    edit(repository, f"{DIMENSIONS}/dim_services.yml", *changes)


def runner(server: Server, clone: Path, temporary: Path) -> Run:
    """Return a function that runs `python -m harness diff ARGUMENTS` in CLONE; it returns exit code and output."""
    return partial(harness_command.run, *command(server), **options(clone, temporary))


def options(repository: Path, temporary: Path) -> dict[str, Any]:
    """Return how the harness of a clone is started, with a folder for its temporary files and a summary beside that."""
    return {
        "python": clones.python_of(repository),
        "cwd": repository,
        "TMPDIR": str(temporary),
        "GITHUB_STEP_SUMMARY": str(temporary.with_name("summary.md")),
    }


def command(server: Server) -> list[str]:
    """Return the command that compares a clone with its base on few events, on SERVER."""
    return ["diff", "--postgres", server.dsn, "--events", "build/events.csv"]


def made(server: Server) -> set[tuple[str, str]]:
    """Return the databases and roles of SERVER."""
    query = "select 'database', datname from pg_database union all select 'role', rolname from pg_roles"
    with psycopg.connect(server.dsn) as connection:
        return set(connection.execute(query).fetchall())


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Interrupt PROCESS, check that none that it has started is left, and return its output from now on."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    _, left = psutil.wait_procs(started, timeout=10)
    assert left == []
    return output


def interrupted_after(phase: str, server: Server, options: dict[str, Any], temporary: Path) -> None:
    """Interrupt a comparison when PHASE has ended, and check that nothing of it is left."""
    before = made(server)
    process = harness_command.start(*command(server), **options)
    harness_command.read_until(process, f"^✓ {phase}")
    assert len(made(server)) > len(before)
    assert harness_command.error_lines(interrupt(process))[:2] == [
        "✗ Interrupted by SIGINT.",
        "  Everything was taken down, unless it is named above.",
    ]
    assert made(server) == before
    assert list(temporary.iterdir()) == []
