"""Loads beside tables, views and triggers that users have made, and in warehouses of earlier versions."""

# ruff: noqa: S608 - the statements' names are this test's

import logging
import re
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import QueryCanceled

from feeds.errors import TablesUnfit
from harness.warehouse.roles import Warehouse
from tests.events_feed import create_tables, load
from tests.feeds.common import generation, ids, ids_of, load_day, names, other_tables, query, write_days

ROWS_PER_DAY = 10
pytestmark = pytest.mark.usefixtures("small_partitions")


@pytest.fixture
def day_uri(tmp_path: Path) -> str:
    return write_days(tmp_path / "day.csv", 1, professional=9)


def test_tables_of_users_are_kept(dsn: str, db: psycopg.Connection, uri: str, day_uri: str) -> None:
    """Whatever their names are: tables that a user has made, and partitions that a user has renamed or detached."""
    load(uri, dsn)
    db.execute("create table raw.events_2020_backup as select * from raw.events")
    db.execute("create table raw.events_1_0123456789ab (of_user int)")
    first, _, last = names(db)
    with psycopg.connect(dsn) as reader:  # so that the replaced tables are not dropped yet
        reader.execute(f"select 1 from {first}".encode())
        load_day(day_uri, dsn, 1)
    db.execute(f"alter table {generation(db)} detach partition {last}".encode())
    load_day(uri, dsn, 1)
    load_day(uri, dsn, 0)
    assert other_tables(db) == {"events_2020_backup", "events_1_0123456789ab", last.removeprefix("raw.")}
    assert query(dsn, f"select count(*) from {last}") == [(ROWS_PER_DAY,)]
    assert ids(db) == ids_of(0, 1)


def test_a_replaced_table_is_kept_while_a_view_depends_on_it(
    dsn: str, db: psycopg.Connection, uri: str, day_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    load(uri, dsn)
    table = names(db)[1]
    db.execute(f"create view raw.tuesday as select * from {table}".encode())
    caplog.set_level(logging.WARNING)
    for source, professional in ((day_uri, 9), (uri, 8), (day_uri, 9)):
        assert load_day(source, dsn, 1).loaded == ROWS_PER_DAY
        found = query(dsn, "select distinct professional_id_anonymized from raw.events where event_id / 1000 = 1")
        assert found == [(professional,)]
    replaced = f"{table}_replaced"
    reason = f"view raw.tuesday depends on table {replaced}"
    assert caplog.messages == [f"{replaced} was replaced and is kept, since other objects depend on it: {reason}"]
    assert other_tables(db) == {replaced.removeprefix("raw.")}
    assert query(dsn, "select count(*) from raw.tuesday") == [(ROWS_PER_DAY,)]
    db.execute("drop view raw.tuesday")
    load_day(uri, dsn, 1)
    assert other_tables(db) == set()


def test_a_replaced_generation_is_kept_while_one_of_its_tables_is(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    db.execute(f"create view raw.tuesday as select * from {names(db)[1]}".encode())
    for _ in range(2):
        assert load(uri, dsn, force=True).replaced == 3 * ROWS_PER_DAY
    assert len(other_tables(db)) == 2
    db.execute("drop view raw.tuesday")
    load(uri, dsn, force=True)
    assert other_tables(db) == set()


def test_a_replaced_table_is_kept_once_it_belongs_to_a_user(
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str, day_uri: str
) -> None:
    """As a partition of the user's table, or by its owner."""
    load(uri, dsn)
    first, second, _ = names(db)
    db.execute(
        f"create view raw.monday as select * from {first}; create view raw.tuesday as select * from {second}".encode()
    )
    for day in (0, 1):
        load_day(uri, dsn, day)
    first, second = f"{first}_replaced", f"{second}_replaced"
    with psycopg.connect(warehouse.admin_dsn) as admin:
        admin.execute(f"alter table {first} owner to {warehouse.server.user}".encode())
    db.execute("create table raw.archive (like raw.events) partition by range (created_at)")
    attach = f"alter table raw.archive attach partition {second} for values from ('2020-01-02') to ('2020-01-03')"
    db.execute(f"drop view raw.monday, raw.tuesday; {attach}".encode())
    load_day(day_uri, dsn, 1)
    assert other_tables(db) >= {name.removeprefix("raw.") for name in (first, second)}
    assert query(dsn, "select count(*) from raw.archive") == [(ROWS_PER_DAY,)]


@pytest.mark.parametrize("code", ["raise_exception", "insufficient_privilege", "undefined_table"])
def test_a_replaced_table_is_kept_while_an_event_trigger_protects_it(  # noqa: PLR0917 - pytest passes them by name
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    load(uri, dsn)
    table = names(db)[1]
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as admin:
        admin.execute(
            "create function public.keep() returns event_trigger language plpgsql as"
            f" $$ begin raise {code} using message = 'Nobody drops a table here.'; end $$;"
            " create event trigger keep on sql_drop when tag in ('DROP TABLE') execute function public.keep()".encode()
        )
        load_day(uri, dsn, 1)
        assert load_day(uri, dsn, 1, force=True).replaced == ROWS_PER_DAY
        assert [text for text in caplog.messages if text.startswith(table)] == [
            f"{table}_replaced was replaced and is kept, since dropping it is not allowed: Nobody drops a table here."
        ]
        admin.execute("drop event trigger keep")
    load(uri, dsn, force=True)
    assert other_tables(db) == set()


def test_a_renamed_generation_or_partition_is_replaced_and_kept(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    db.execute(f"""alter table {names(db)[0]} rename to "it's $swap$ and %s" """.encode())
    db.execute(f"alter table {generation(db)} rename to events_all".encode())
    assert load_day(uri, dsn, 1).replaced == ROWS_PER_DAY
    assert load(uri, dsn, force=True).replaced == 3 * ROWS_PER_DAY
    assert other_tables(db) == {"it's $swap$ and %s", "events_all"}


def test_rows_of_tables_that_inherit_from_the_ledger_are_kept(dsn: str, tmp_path: Path, warehouse: Warehouse) -> None:
    uri = write_days(tmp_path / "events.csv", 0, 1, 2, more=["x"])
    assert load(uri, dsn, max_rejected=0.5).rejected == 1
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as admin:
        admin.execute(
            "create schema archive; create table archive.rejects () inherits (raw.rejected_rows);"
            " create table archive.loads () inherits (raw.loads);"
            " insert into archive.rejects select * from only raw.rejected_rows;"
            " insert into archive.loads (load_id, feed, source_uri, status)"
            " values (1, 'events', 'of a user', 'running')"
        )
        assert load(uri, dsn, max_rejected=0.5, force=True).rejected == 1
        assert admin.execute("select count(*) from archive.rejects").fetchone() == (1,)
        assert admin.execute("select status, source_id from archive.loads").fetchall() == [("running", None)]
    assert load(uri, dsn, max_rejected=0.5).same_as_load_id == 2


@pytest.mark.parametrize("bounds", ["default", "for values from ('-infinity') to ('2019-01-01')"])
def test_a_partition_with_unknown_bounds_is_refused(dsn: str, db: psycopg.Connection, uri: str, bounds: str) -> None:
    load(uri, dsn)
    db.execute(
        f"alter table {generation(db)} detach partition {names(db)[0]};"
        " create table raw.of_user (like raw.events including constraints);"
        f" alter table {generation(db)} attach partition raw.of_user {bounds}".encode()
    )
    db.execute("insert into raw.events values (9, 'created_account', 9, '2018-01-01', null, 1)")
    before = ids(db)
    with pytest.raises(TablesUnfit) as caught:
        load_day(uri, dsn, 1)
    assert caught.value.what.startswith("raw.of_user, a partition of raw.events, cannot be replaced by a load: ")
    assert ids(db) == before
    db.execute(caught.value.next_step.partition(": ")[2].encode())
    assert load(uri, dsn).loaded == 3 * ROWS_PER_DAY
    assert query(dsn, "select event_id from raw.of_user") == [(9,)]


def test_a_half_detached_partition_is_refused(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    table = names(db)[1]
    detach = f"alter table {generation(db)} detach partition {table} concurrently"
    with psycopg.connect(dsn) as reader:
        reader.execute("select 1 from raw.events")
        db.execute("set statement_timeout = '200ms'")
        with pytest.raises(QueryCanceled):
            db.execute(detach.encode())
    with pytest.raises(TablesUnfit) as caught:
        load_day(uri, dsn, 1)
    db.execute(caught.value.next_step.partition(": ")[2].encode())
    assert load_day(uri, dsn, 1).loaded == ROWS_PER_DAY
    assert other_tables(db) == {table.removeprefix("raw.")}


def test_a_default_partition_of_the_table_itself_is_kept(
    dsn: str, db: psycopg.Connection, uri: str, day_uri: str
) -> None:
    load(uri, dsn)
    db.execute(
        "create table raw.of_user (like raw.events including constraints);"
        " alter table raw.events attach partition raw.of_user default"
    )
    assert load_day(day_uri, dsn, 1).loaded == load_day(uri, dsn, 1).loaded == ROWS_PER_DAY
    assert load(uri, dsn, force=True).replaced == 3 * ROWS_PER_DAY
    assert "of_user" not in other_tables(db)


FOREIGN = {
    "partitioned": "create table raw.events (event_id bigint, created_at timestamptz) partition by range (created_at);"
    " create table raw.events_1 partition of raw.events default",
    "partitioned like ours": "create table raw.events (event_id bigint not null, event_type text not null,"
    " professional_id_anonymized bigint not null, created_at timestamptz not null, meta_data text,"
    " load_id bigint not null) partition by range (created_at);"
    " create table raw.events_1 partition of raw.events for values from ('2020-01-01') to ('2021-01-01');"
    " insert into raw.events values (7, 'created_account', 7, '2020-02-02', null, 7)",
    "plain": "create table raw.events (event_id bigint, created_at timestamptz)",
    "a view": "create view raw.events as select 1 as event_id",
    "its ledger": "create table raw.loads (load_id bigint primary key, loaded_by text)",
    "its quarantine": "create table raw.rejected_rows (raw_text text)",
    "its record": "create table raw.partitions (name text)",
}


@pytest.mark.parametrize("made", FOREIGN)
def test_tables_of_another_program_are_refused_and_not_touched(bare_warehouse: Warehouse, uri: str, made: str) -> None:
    dsn = bare_warehouse.loader_dsn
    look = (
        "select attrelid::regclass::text, attname from pg_attribute join pg_class on oid = attrelid"
        " where relnamespace = 'raw'::regnamespace and attnum > 0 and relname !~ '^(loads|rejected)' order by 1, 2"
    )
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(FOREIGN[made].encode())
        before = query(dsn, look)
        with pytest.raises(TablesUnfit) as caught:  # noqa: PT012 - whichever is first
            create_tables(dsn)
            load_day(uri, dsn, 1)
        assert caught.value.exit_code == 25
        assert not re.search("drop|cascade|truncate|delete", caught.value.next_step)
        columns = [(table, column) for table, column in query(dsn, look) if table in {name for name, _ in before}]
        assert columns == before
        if made == "partitioned like ours":
            assert ids(db) == [7]


# It had no record of partitions, other names for the first of them, and only events.
EARLIEST = """
    drop table raw.loaded_days, raw.loaded_files, raw.snapshot_days, raw.partitions;
    alter table raw.loads
        drop column feed, drop column source_id, drop column rules_sha256, drop column rows_absent;
    alter table raw.rejected_rows rename to rejected_events;
    alter table raw.rejected_events
        drop column feed, drop column file_number, drop column column_name, drop column first_load_id,
        add primary key (load_id, line_number);
    alter table {partition} rename to events_0_0;
    alter table {generation} rename to events_0;
    create table raw.events_9 (of_user int)
"""


def test_a_warehouse_of_the_first_versions_is_taken_over(
    dsn: str, db: psycopg.Connection, uri: str, day_uri: str
) -> None:
    load(uri, dsn)
    load_day(day_uri, dsn, 1)
    db.execute(EARLIEST.format(partition=names(db)[0], generation=generation(db)).encode())
    create_tables(dsn)
    assert load_day(day_uri, dsn, 1).same_as_load_id is None
    assert load(uri, dsn).replaced == 3 * ROWS_PER_DAY
    assert load_day(day_uri, dsn, 1).loaded == ROWS_PER_DAY
    assert other_tables(db) == {"events_9"}
    assert query(dsn, "select distinct feed from raw.loads") == [("events",)]
