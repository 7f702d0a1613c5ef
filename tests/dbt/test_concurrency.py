"""Builds beside loads, readers and other builds, and without the lock that should keep them apart."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from harness.oracle.expected_numbers import Event
from harness.processes.dbt_process import Dbt
from harness.warehouse.roles import Warehouse
from tests.dbt.common import (
    LOCK_KEY,
    MARTS,
    corrected,
    day,
    expected,
    five_days,
    loaded,
    midnight,
    read,
    read_by,
    write_file,
)
from tests.dbt.conftest import with_parse_of
from tests.events_feed import load
from tests.poolers import pgbouncer

ONE_THREAD = "--threads 1"  # the number of a statement then says which it is


@pytest.fixture
def bare(dbt: Dbt) -> Dbt:
    """Give a dbt that takes no lock, as one that is started by hand."""
    return replace(dbt, bare=True)


# --- loads -----------------------------------------------------------------------------------------------------------


# Models of each kind: of raw events, of other models, of both. Their statements begin with number 12 and end before 76.
SOME = f"{MARTS} --select fct_events int_status_events dim_professionals availability_snapshot"
MOMENTS = range(12, 76)
STEP = 4  # in a build a load comes before every fourth statement
MODEL_READS_EVENTS = """
    select exists (
        select from pg_locks join pg_stat_activity using (pid)
        where relation = 'raw.events'::regclass and mode = 'AccessShareLock' and application_name = 'dbt'
    )
"""


def test_no_load_is_lost_whichever_statement_of_a_build_it_comes_before(
    bare: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    """Each load corrects another day, so that none repairs what was missed of an earlier one."""
    log = {event.event_id: event for number in range(1, 80) for event in events_of_day(number)}
    load(str(write_file(tmp_path / "events.csv", list(log.values()))), warehouse.loader_dsn)
    bare.run(f"{MARTS} {ONE_THREAD}")
    days = iter(range(1, 80))
    for first in range(STEP):
        loads: list[threading.Thread] = []
        bare.start(f"{SOME} {ONE_THREAD}", pauses=MOMENTS[first::STEP])
        while bare.wait() == "paused":
            number = next(days)
            for event in events_of_day(number):
                opposite = {"became_able_to_propose": "became_unable_to_propose"}.get(
                    event.event_type, event.event_type
                )
                log[event.event_id] = event._replace(event_type=opposite, professional_id=event.professional_id + 1)
            if number % 3 == 0:  # an event comes from another day
                log[10 * number - 9] = log[10 * number - 9]._replace(created_at=day(number))
            file = str(write_file(tmp_path / f"{number}.csv", list(log.values())))
            span = {"start": midnight(number), "end": midnight(number + 1)}
            loads.append(threading.Thread(target=load, args=(file, warehouse.loader_dsn), kwargs=span))
            loads[-1].start()
            with psycopg.connect(warehouse.admin_dsn) as connection:
                waits = connection.execute(MODEL_READS_EVENTS).fetchone() == (True,)
            if not waits:
                for thread in loads:
                    thread.join()
            bare.go_on()
        for thread in loads:
            thread.join()

        bare.run(MARTS)

        wanted = expected(loaded(warehouse))
        assert len(wanted["fact.fct_events"]) == 79
        assert read(warehouse) == wanted
    assert next(days) > 60  # in all, a load before each statement


def events_of_day(number: int) -> list[Event]:
    """Return a status event and a proposal."""
    status = "became_able_to_propose" if number % 2 else "became_unable_to_propose"
    return [
        Event(10 * number, status, number % 7, day(number)),
        Event(10 * number + 1, "proposed", number % 7, day(number), "7_tuin_garden_1.5"),
    ]


# --- other builds ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("has_five_days")
def test_a_build_beside_another_one_without_the_lock(
    bare: Dbt, other_dbt: Dbt, warehouse: Warehouse, tmp_path: Path
) -> None:
    """The second waits for the table, and then finds nothing to do; neither duplicates or loses a row."""
    log = corrected(five_days())
    load(str(write_file(tmp_path / "events.csv", log)), warehouse.loader_dsn)
    waiting = "select count(*) from pg_locks where not granted and locktype = 'advisory'"
    other = replace(other_dbt, bare=True, env=with_parse_of(bare))

    bare.start(f"{MARTS} --select fct_events", pauses=["__new"])
    assert bare.wait() == "paused"
    other.start(f"{MARTS} --select fct_events")
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        deadline = time.monotonic() + 60
        while connection.execute(waiting).fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    bare.go_on()
    assert bare.wait() == "exit code 0", bare.output
    assert other.wait() == "exit code 0", other.output

    bare.run(MARTS)
    assert read(warehouse) == expected(log)


def test_two_builds_at_the_same_time_wait_for_one_another(dbt: Dbt, other_dbt: Dbt, warehouse: Warehouse) -> None:
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        connection.execute("drop schema test_staging cascade")
    arguments = "build --select +dim_services --exclude-resource-type unit_test"
    dbt.start(arguments, pauses=["int_service_days"])
    assert dbt.wait() == "paused", dbt.output
    other_dbt.start(arguments)
    waiting = "select count(*) from pg_stat_activity where datname = %s and wait_event = 'advisory'"
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        deadline = time.monotonic() + 60
        while connection.execute(waiting, [warehouse.database]).fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    dbt.go_on()
    assert dbt.wait() == "exit code 0", dbt.output
    assert other_dbt.wait() == "exit code 0", other_dbt.output
    assert "waiting for a load or another build to end" in other_dbt.output


# --- readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("has_five_days")
def test_readers_with_an_older_snapshot_see_the_old_rows(dbt: Dbt, warehouse: Warehouse, tmp_path: Path) -> None:
    logs = [five_days(), corrected(five_days()), five_days()[2:]]
    for old, new, how in zip(logs, logs[1:], ("", "--full-refresh"), strict=False):
        load(str(write_file(tmp_path / "events.csv", new)), warehouse.loader_dsn)
        with (
            psycopg.connect(warehouse.reader_dsn) as repeatable,
            psycopg.connect(warehouse.reader_dsn) as serializable,
        ):
            repeatable.execute("set transaction isolation level repeatable read")
            serializable.execute("set transaction isolation level serializable")
            for reader in (repeatable, serializable):
                reader.execute("select 1")

            dbt.run(f"{MARTS} {how}")

            for reader in (repeatable, serializable):
                assert read_by(reader) == expected(old)
        assert read(warehouse) == expected(new)


# --- the lock --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("has_five_days")
def test_a_build_that_loses_the_lock_commits_nothing_more(dbt: Dbt, warehouse: Warehouse, tmp_path: Path) -> None:
    load(str(write_file(tmp_path / "events.csv", corrected(five_days()))), warehouse.loader_dsn)
    dbt.start(f"{MARTS} {ONE_THREAD}", pauses=["dim_professionals__new"])
    assert dbt.wait() == "paused"
    with psycopg.connect(warehouse.admin_dsn) as connection:
        ended = connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dbt lock'"
        ).fetchall()
    assert ended == [(True,)]
    built = read(warehouse)
    dbt.go_on()
    assert dbt.wait() == "exit code 33"
    assert dbt.output.splitlines()[-3:] == [
        "✗ The warehouse's lock was lost while dbt ran.",
        "  An administrator, a restart, or a pooler's limit on idle transactions ended its connection.",
        "  Run it again: models that were built before stay, and nothing was committed afterwards.",
    ]
    assert read(warehouse) == built
    assert built["dim.dim_professionals"] == expected(five_days())["dim.dim_professionals"]
    assert built["fact.fct_events"] == expected(corrected(five_days()))["fact.fct_events"]  # from before


@pytest.fixture
def pooler(warehouse: Warehouse) -> Iterator[Callable[[str], int]]:
    """Give a function that starts PgBouncer in a mode and gives its port."""
    with ExitStack() as started:
        yield lambda mode: started.enter_context(pgbouncer(warehouse, "transformer", mode))


@pytest.mark.needs("pgbouncer")
def test_a_pooler_that_keeps_no_transaction_together_is_refused(dbt: Dbt, pooler: Callable[[str], int]) -> None:
    output = dbt.run("run", 34, {"WAREHOUSE_HOST": "127.0.0.1", "WAREHOUSE_PORT": str(pooler("statement"))})

    what, why, next_step = output.splitlines()
    assert what == "✗ The warehouse's lock could not be taken."
    assert "server closed the connection" in why
    assert next_step.endswith("a pooler has to be in its mode session or transaction.")


@pytest.mark.needs("pgbouncer")
def test_the_lock_is_held_through_a_pooler_in_transaction_mode(
    dbt: Dbt, warehouse: Warehouse, tmp_path: Path, pooler: Callable[[str], int]
) -> None:
    load(str(write_file(tmp_path / "events.csv", five_days())), warehouse.loader_dsn)
    address = {"WAREHOUSE_HOST": "127.0.0.1", "WAREHOUSE_PORT": str(pooler("transaction"))}
    with psycopg.connect(warehouse.loader_dsn, autocommit=True) as beside:
        for pause in ("dim_services", "dim_services__new"):  # created, then changed
            dbt.start(MARTS, address, pauses=[pause])
            assert dbt.wait() == "paused", dbt.output
            time.sleep(2.5)
            assert beside.execute("select pg_try_advisory_xact_lock(%s)", [LOCK_KEY]).fetchone() == (False,)
            dbt.go_on()
            assert dbt.wait() == "exit code 0", dbt.output
            assert read(warehouse) == expected(five_days())
            assert beside.execute("select pg_try_advisory_xact_lock(%s)", [LOCK_KEY]).fetchone() == (True,)
