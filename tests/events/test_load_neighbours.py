"""Loads beside tables, columns, constraints, roles and readers of others in the same warehouse."""

# ruff: noqa: S608 - the names in statements are this test's

import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import QueryCanceled, UndefinedTable

from events import load as load_module
from events import replacement
from events import swap as swap_module
from events.errors import ConstraintViolated, NotAllowed, TablesUnfit, TooManyRejected, WarehouseGone
from events.ledger import LoadResult
from events.load import load
from events.partitions import partitions
from events.tables import create_tables
from harness.warehouse.roles import Warehouse

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
DAY = datetime(2020, 1, 1, tzinfo=UTC)
ROWS_PER_DAY = 10
pytestmark = pytest.mark.usefixtures("small_partitions")


def row(event_id: int, day: int, professional: int) -> str:
    return f"{event_id};created_account;{professional};{DAY + timedelta(days=day):%Y-%m-%d} 09:00:00;"


def write(path: Path, *days: int, professional: int = 8, more: str = "") -> str:
    rows = [row(day * 1000 + number, day, professional) for day in days for number in range(ROWS_PER_DAY)]
    path.write_text("\n".join([HEADER, *rows, more]))
    return str(path)


def load_day(uri: str, dsn: str, day: int, **options: Any) -> LoadResult:
    return load(uri, dsn, start=DAY + timedelta(days=day), end=DAY + timedelta(days=day + 1), **options)


def ids(db: psycopg.Connection) -> list[int]:
    return [event_id for (event_id,) in db.execute("select event_id from raw.events order by 1")]


def tables(db: psycopg.Connection) -> set[str]:
    """Return the tables of `raw` that are no partition of raw.events."""
    found = db.execute(
        "select relname from pg_class where relnamespace = 'raw'::regnamespace and relkind in ('r', 'p')"
        " and oid not in (select relid from pg_partition_tree('raw.events'))"
    )
    return {name for (name,) in found} - {"events", "events_partitions", "loads", "rejected_events"}


def names(db: psycopg.Connection) -> list[str]:
    """Return the names of the partitions, in the order of their times."""
    return [partition.table.as_string(db).replace('"', "") for partition in partitions(db)]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return write(tmp_path / "events.csv", 0, 1, 2)


@pytest.fixture
def day_uri(tmp_path: Path) -> str:
    return write(tmp_path / "day.csv", 1, professional=9)


@contextmanager
def admin(warehouse: Warehouse) -> Iterator[psycopg.Connection]:
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as connection:
        yield connection


# --- tables ---------------------------------------------------------------------------------------------------------


def test_tables_of_others_stay(dsn: str, db: psycopg.Connection, uri: str, day_uri: str) -> None:
    """Whatever their names look like: those that somebody made, and those of ours that somebody renamed or detached."""
    load(uri, dsn)
    db.execute("create table raw.events_2020_backup as select * from raw.events")
    db.execute("create table raw.events_1_0123456789ab (of_somebody int)")
    first, _, last = names(db)
    [(edition,)] = db.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'raw.events'::regclass"
    )
    with psycopg.connect(dsn) as reader:  # so that what is replaced stays for now
        reader.execute(f"select 1 from {first}".encode())
        load_day(day_uri, dsn, 1)
    db.execute(f"alter table {edition} detach partition {last}".encode())
    load_day(uri, dsn, 1)
    load_day(uri, dsn, 0)
    assert tables(db) == {"events_2020_backup", "events_1_0123456789ab", last.removeprefix("raw.")}
    [(kept,)] = db.execute(f"select count(*) from {last}".encode())
    assert kept == ROWS_PER_DAY
    assert ids(db) == [day * 1000 + number for day in (0, 1) for number in range(ROWS_PER_DAY)]


def test_a_table_that_a_view_reads_stays_and_stops_nothing(
    dsn: str, db: psycopg.Connection, uri: str, day_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    load(uri, dsn)
    table = names(db)[1]
    db.execute(f"create view raw.tuesday as select * from {table}".encode())
    caplog.set_level(logging.WARNING)
    for source, professional in ((day_uri, 9), (uri, 8), (day_uri, 9)):
        assert load_day(source, dsn, 1).loaded == ROWS_PER_DAY
        found = db.execute("select distinct professional_id_anonymized from raw.events where event_id / 1000 = 1")
        assert found.fetchall() == [(professional,)]
    replaced = f"{table}_replaced"
    reason = f"view raw.tuesday depends on table {replaced}"
    assert caplog.messages == [f"{replaced} was replaced and is kept, since other objects depend on it: {reason}"]
    assert tables(db) == {replaced.removeprefix("raw.")}
    assert db.execute("select count(*) from raw.tuesday").fetchall() == [(ROWS_PER_DAY,)]
    db.execute("drop view raw.tuesday")
    load_day(uri, dsn, 1)
    assert tables(db) == set()


def test_the_edition_of_a_table_that_a_view_reads_stays_too(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    table = names(db)[1]
    db.execute(f"create view raw.tuesday as select * from {table}".encode())
    for _ in range(2):
        assert load(uri, dsn, force=True).replaced == 3 * ROWS_PER_DAY
    assert len(tables(db)) == 2
    db.execute("drop view raw.tuesday")
    load(uri, dsn, force=True)
    assert tables(db) == set()


def test_a_replaced_table_that_somebody_takes_over_stays(
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str, day_uri: str
) -> None:
    """As a partition of a table of theirs, or as another role's."""
    load(uri, dsn)
    first, second, _ = names(db)
    db.execute(
        f"create view raw.monday as select * from {first}; create view raw.tuesday as select * from {second}".encode()
    )
    for day in (0, 1):
        load_day(uri, dsn, day)
    first, second = f"{first}_replaced", f"{second}_replaced"
    with admin(warehouse) as connection:
        connection.execute(f"alter table {first} owner to {warehouse.server.user}".encode())
    db.execute("create table raw.archive (like raw.events) partition by range (created_at)")
    attach = f"alter table raw.archive attach partition {second} for values from ('2020-01-02') to ('2020-01-03')"
    db.execute(f"drop view raw.monday, raw.tuesday; {attach}".encode())
    load_day(day_uri, dsn, 1)
    assert tables(db) >= {name.removeprefix("raw.") for name in (first, second)}
    assert db.execute("select count(*) from raw.archive").fetchall() == [(ROWS_PER_DAY,)]


@pytest.mark.parametrize("code", ["raise_exception", "insufficient_privilege", "undefined_table"])
def test_an_event_trigger_that_lets_nobody_drop_a_table_stops_nothing(  # noqa: PLR0917 - pytest gives them by name
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    load(uri, dsn)
    table = names(db)[1]
    with admin(warehouse) as connection:
        connection.execute(
            "create function public.keep() returns event_trigger language plpgsql as"
            f" $$ begin raise {code} using message = 'Nobody drops a table here.'; end $$;"
            " create event trigger keep on sql_drop when tag in ('DROP TABLE') execute function public.keep()".encode()
        )
        load_day(uri, dsn, 1)
        assert load_day(uri, dsn, 1, force=True).replaced == ROWS_PER_DAY
        assert [text for text in caplog.messages if text.startswith(table)] == [
            f"{table}_replaced was replaced and is kept, since dropping it is not allowed: Nobody drops a table here."
        ]
        connection.execute("drop event trigger keep")
    load(uri, dsn, force=True)
    assert tables(db) == set()


def test_an_edition_that_somebody_renames_is_followed(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    [(edition,)] = db.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'raw.events'::regclass"
    )
    db.execute(f"alter table {edition} rename to events_all".encode())
    assert load_day(uri, dsn, 1).replaced == ROWS_PER_DAY
    assert load(uri, dsn, force=True).replaced == 3 * ROWS_PER_DAY


def test_rows_of_tables_that_inherit_from_ours_stay(dsn: str, tmp_path: Path, warehouse: Warehouse) -> None:
    """As an archive has them."""
    uri = write(tmp_path / "events.csv", 0, 1, 2, more="x")
    assert load(uri, dsn, max_rejected=0.5).rejected == 1
    with admin(warehouse) as connection:
        connection.execute(
            "create schema archive; create table archive.rejects () inherits (raw.rejected_events);"
            " create table archive.loads () inherits (raw.loads);"
            " insert into archive.rejects select * from only raw.rejected_events;"
            " insert into archive.loads (load_id, source_uri, status) values (1, 'theirs', 'running')"
        )
        assert load(uri, dsn, max_rejected=0.5, force=True).rejected == 1
        assert connection.execute("select count(*) from archive.rejects").fetchone() == (1,)
        assert connection.execute("select status, source_id from archive.loads").fetchall() == [("running", None)]
    assert load(uri, dsn, max_rejected=0.5).same_as_load_id == 2


@pytest.mark.parametrize("bounds", ["default", "for values from ('-infinity') to ('2019-01-01')"])
def test_a_partition_of_somebody_that_no_load_can_replace(
    dsn: str, db: psycopg.Connection, uri: str, bounds: str
) -> None:
    """Whose rows a new edition would leave behind."""
    load(uri, dsn)
    [(edition,)] = db.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'raw.events'::regclass"
    )
    db.execute(
        f"alter table {edition} detach partition {names(db)[0]};"
        " create table raw.theirs (like raw.events including constraints);"
        f" alter table {edition} attach partition raw.theirs {bounds}".encode()
    )
    db.execute("insert into raw.events values (9, 'created_account', 9, '2018-01-01', null, 1)")
    before = ids(db)
    with pytest.raises(TablesUnfit) as caught:
        load_day(uri, dsn, 1)
    assert caught.value.what.startswith("raw.theirs, a partition of raw.events, cannot be replaced by a load: ")
    assert ids(db) == before
    db.execute(caught.value.next_step.partition(": ")[2].encode())
    assert load(uri, dsn).loaded == 3 * ROWS_PER_DAY
    assert db.execute("select event_id from raw.theirs").fetchall() == [(9,)]


def test_a_partition_that_somebody_has_half_detached(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    table = names(db)[1]
    [(edition,)] = db.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'raw.events'::regclass"
    )
    with psycopg.connect(dsn) as reader:
        reader.execute("select 1 from raw.events")
        db.execute("set statement_timeout = '200ms'")
        with pytest.raises(QueryCanceled):
            db.execute(f"alter table {edition} detach partition {table} concurrently".encode())
    with pytest.raises(TablesUnfit) as caught:
        load_day(uri, dsn, 1)
    db.execute(caught.value.next_step.partition(": ")[2].encode())
    assert load_day(uri, dsn, 1).loaded == ROWS_PER_DAY
    assert tables(db) == {table.removeprefix("raw.")}


def test_a_default_partition_of_the_table_stays(dsn: str, db: psycopg.Connection, uri: str, day_uri: str) -> None:
    load(uri, dsn)
    db.execute(
        "create table raw.theirs (like raw.events including constraints);"
        " alter table raw.events attach partition raw.theirs default"
    )
    assert load_day(day_uri, dsn, 1).loaded == load_day(uri, dsn, 1).loaded == ROWS_PER_DAY
    assert load(uri, dsn, force=True).replaced == 3 * ROWS_PER_DAY
    assert db.execute(
        "select relid from pg_partition_tree('raw.events') where relid = 'raw.theirs'::regclass"
    ).fetchone()


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
    "its quarantine": "create table raw.rejected_events (raw_text text)",
    "its record": "create table raw.events_partitions (name text)",
}


@pytest.mark.parametrize("made", FOREIGN)
def test_tables_that_somebody_else_made_are_refused_and_left_as_they_are(
    warehouse: Warehouse, uri: str, made: str
) -> None:
    with psycopg.connect(warehouse.loader_dsn, autocommit=True) as db:
        db.execute(FOREIGN[made].encode())
        look = (
            "select attrelid::regclass::text, attname from pg_attribute join pg_class on oid = attrelid"
            " where relnamespace = 'raw'::regnamespace and attnum > 0 and relname !~ '^(loads|rejected)' order by 1, 2"
        )
        before = db.execute(look).fetchall()
        with pytest.raises(TablesUnfit) as caught:  # noqa: PT012 - whichever comes first
            create_tables(warehouse.loader_dsn)
            load_day(uri, warehouse.loader_dsn, 1)
        assert caught.value.exit_code == 25
        assert not re.search("drop|cascade|truncate|delete", caught.value.next_step)
        assert set(before) <= set(db.execute(look).fetchall())
        if made == "partitioned like ours":
            assert ids(db) == [7]


def test_a_warehouse_of_an_earlier_version_is_taken_over(
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str, day_uri: str
) -> None:
    """Which had no record of its partitions, and other names for the first of them."""
    load(uri, dsn)
    load_day(day_uri, dsn, 1)
    [(edition,)] = db.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'raw.events'::regclass"
    )
    db.execute(f"alter table {edition} rename to events_0; alter table {names(db)[0]} rename to events_0_0".encode())
    db.execute("drop table raw.events_partitions; create table raw.events_9 (of_somebody int)")
    db.execute("alter table raw.loads drop column source_id, drop column rules_sha256")
    create_tables(warehouse.loader_dsn)
    assert load_day(day_uri, dsn, 1).same_as_load_id is None
    assert load(uri, dsn).replaced == 3 * ROWS_PER_DAY
    assert load_day(day_uri, dsn, 1).loaded == ROWS_PER_DAY
    assert tables(db) == {"events_9"}


# --- columns, constraints, indexes ----------------------------------------------------------------------------------

KEPT = {
    "a nullable column": "alter table raw.events add column note text",
    "a column with a default": "alter table raw.events add column seen_at timestamptz not null default now()",
    "a generated column": "alter table raw.events add column day date"
    " generated always as ((created_at at time zone 'UTC')::date) stored",
    "a column of any name": 'alter table raw.events add column "a {0} %s ""b""" int default 3',
    "a check": "alter table raw.events add constraint positive check (event_id >= 0)",
    "a unique constraint": "alter table raw.events add constraint once unique (event_id, created_at)",
    "an index": "create index by_professional on raw.events (professional_id_anonymized) include (created_at)"
    " where event_type = 'proposed'",
    "a unique index": "create unique index on raw.events ((event_id + 1), created_at)",
    "a foreign key": "create table raw.kinds (kind text primary key); insert into raw.kinds values ('created_account');"
    " alter table raw.events add constraint kind_is_known foreign key (event_type) references raw.kinds",
    "a foreign key that is not valid": "create table raw.kinds (kind text primary key);"
    " insert into raw.kinds values ('created_account');"
    " alter table raw.events add constraint kind_is_known foreign key (event_type) references raw.kinds not valid",
    "a trigger that is off": "create function raw.f() returns trigger language plpgsql as 'begin return null; end';"
    " create trigger t after insert on raw.events for each row execute function raw.f();"
    " alter table raw.events disable trigger t",
}


@pytest.mark.parametrize("added", KEPT)
def test_what_somebody_adds_to_the_table_is_kept(  # noqa: PLR0917 - pytest gives them by name
    dsn: str, db: psycopg.Connection, uri: str, day_uri: str, tmp_path: Path, added: str
) -> None:
    load(uri, dsn)
    db.execute(KEPT[added].encode())
    look = (
        "select (select array_agg(attname order by attnum) from pg_attribute where attrelid = relid and attnum > 0),"
        " (select array_agg(replace(pg_get_constraintdef(oid), ' NOT VALID', '') order by conname) from pg_constraint"
        " where conrelid = relid and contype in ('c', 'f', 'u') and conname !~ '_created_at_check$'),"
        " (select array_agg(indisvalid and relispartition) from pg_index join pg_class on oid = indexrelid"
        " where indrelid = relid and not indisprimary)"
        " from pg_partition_tree('raw.events') where isleaf"
    )
    before = db.execute(look).fetchall()
    assert load_day(day_uri, dsn, 1).loaded == ROWS_PER_DAY  # one partition
    assert load(uri, dsn, force=True).replaced == 3 * ROWS_PER_DAY  # a new edition
    cut = write(tmp_path / "cut.csv", 1, professional=7)
    load(cut, dsn, start=DAY + timedelta(days=1, hours=8), end=DAY + timedelta(days=1, hours=12))  # rows are copied
    for found in db.execute(look).fetchall():
        assert found == before[0]
    assert ids(db) == [day * 1000 + number for day in range(3) for number in range(ROWS_PER_DAY)]


def test_a_constraint_of_any_name_is_kept(dsn: str, db: psycopg.Connection, uri: str, day_uri: str) -> None:
    """Those that the partitions' bounds have had among them."""
    for name in ("events_bounds", "created_at_check"):
        db.execute(f"alter table raw.events add constraint {name} check (event_id >= 0)".encode())
    assert load(uri, dsn).loaded == 3 * ROWS_PER_DAY
    assert load_day(day_uri, dsn, 1).loaded == ROWS_PER_DAY


def test_values_of_such_a_column_stay_where_the_load_keeps_the_rows(
    dsn: str, db: psycopg.Connection, uri: str, tmp_path: Path
) -> None:
    load(uri, dsn)
    db.execute("alter table raw.events add column note text default 'new'")
    db.execute("update raw.events set note = 'mine ' || event_id")
    moved = write(tmp_path / "day.csv", 1, more=row(2003, 1, 9))
    assert load_day(moved, dsn, 1).replaced == ROWS_PER_DAY + 1
    notes: dict[int, str] = dict(db.execute("select event_id, note from raw.events").fetchall())
    assert notes == {
        **{number: f"mine {number}" for day in (0, 2) for number in range(day * 1000, day * 1000 + ROWS_PER_DAY)},
        **{1000 + number: "new" for number in range(ROWS_PER_DAY)},
        2003: "new",
    }


def test_indexes_are_made_before_readers_have_to_wait(
    dsn: str, db: psycopg.Connection, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(uri, dsn)
    db.execute("create index on raw.events (professional_id_anonymized)")
    swap, seen = swap_module.swap, []

    def swap_and_compare(connection: psycopg.Connection, *arguments: Any) -> None:
        look = (
            "select oid from pg_class where relkind = 'i' and relnamespace = 'raw'::regnamespace"
            " and relname ~ 'professional' order by 1"
        )
        seen.append(connection.execute(look).fetchall())
        swap(connection, *arguments)
        seen.append(connection.execute(look).fetchall())

    monkeypatch.setattr(load_module, "swap", swap_and_compare)
    load(uri, dsn, force=True)
    assert len(seen[0]) == 2 * 3
    assert seen[0] == seen[1]


@pytest.mark.parametrize("by_name", [False, True])
def test_what_somebody_writes_while_a_load_publishes_is_kept(
    dsn: str, db: psycopg.Connection, uri: str, day_uri: str, *, by_name: bool
) -> None:
    """Into raw.events, or into the partition whose rows the load copies."""
    load(uri, dsn)
    db.execute("alter table raw.events add column note text")
    table = names(db)[1] if by_name else "raw.events"
    start, end = DAY + timedelta(days=1, hours=10), DAY + timedelta(days=1, hours=11)
    with psycopg.connect(dsn) as writer, ThreadPoolExecutor(1) as pool:
        writer.execute(f"update {table} set note = 'mine' where event_id = 1005".encode())
        loading = pool.submit(load, day_uri, dsn, start=start, end=end, lock_timeout_s=10)
        waits = "select 1 from pg_locks where not granted and relation = to_regclass(%s)"
        while not db.execute(waits, (table,)).fetchone():
            assert not loading.done()
            time.sleep(0.02)
        writer.commit()
        assert loading.result().loaded == 0
    assert db.execute("select event_id from raw.events where note = 'mine'").fetchall() == [(1005,)]


@pytest.mark.parametrize(
    "wanted", ["vacuum full {}", "insert into {} values (1500, 'created_account', 8, '2020-01-02', null, 1)"]
)
def test_somebody_who_waits_for_a_partition_while_a_load_copies_its_rows(
    dsn: str, db: psycopg.Connection, uri: str, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """He holds nobody up, and what he writes is not lost without a word."""
    load(uri, dsn)
    table = names(db)[1]
    prepare = replacement.Replacement.make_partitions
    start, end = DAY + timedelta(days=1, hours=10), DAY + timedelta(days=1, hours=10, minutes=1)
    with psycopg.connect(dsn, autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        waiting: list[Any] = []

        def prepare_later(*arguments: Any) -> None:
            waiting.append(pool.submit(other.execute, wanted.format(table).encode()))
            waits = "select 1 from pg_locks where not granted and relation = to_regclass(%s)"
            while not db.execute(waits, (table,)).fetchone():
                time.sleep(0.02)
            prepare(*arguments)

        monkeypatch.setattr(replacement.Replacement, "make_partitions", prepare_later)
        assert load(uri, dsn, start=start, end=end, lock_timeout_s=20).loaded == 0  # the rows around it are copied
        if wanted.startswith("insert"):
            with pytest.raises(UndefinedTable):
                waiting[0].result()
    assert len(ids(db)) == 3 * ROWS_PER_DAY


REFUSED = {
    "alter table raw.events add source text not null default ''; alter table raw.events alter source drop default": (
        "raw.events has a column that a load cannot fill: source."
    ),
    "alter table raw.events alter event_id add generated by default as identity": (
        "raw.events has a column that a load cannot fill: event_id."
    ),
    "alter table raw.events drop column meta_data cascade;"
    " alter table raw.events add meta_data text generated always as (null) stored": (
        "raw.events has a column that a load cannot fill: meta_data."
    ),
    "alter table raw.events alter column meta_data type varchar(50)": (
        "raw.events is not as this project makes it: its column meta_data is character varying(50), not text."
    ),
    "alter table raw.events drop column meta_data cascade": (
        "raw.events is not as this project makes it: its column meta_data is missing."
    ),
    "create function raw.f() returns trigger language plpgsql as 'begin return null; end';"
    ' create trigger "Tell us" after insert on raw.events for each row execute function raw.f()': (
        'raw.events has something that a load cannot keep: the trigger "Tell us".'
    ),
    "create function raw.f() returns trigger language plpgsql as 'begin return null; end';"
    " create trigger t after insert on raw.events for each statement execute function raw.f()": (
        "raw.events has something that a load cannot keep: the trigger t."
    ),
    "create rule r as on insert to raw.events do also notify events": (
        "raw.events has something that a load cannot keep: the rule r."
    ),
    "alter table raw.events add unique (event_id, created_at);"
    " create table raw.notes (event_id bigint, created_at timestamptz, constraint of_event"
    " foreign key (event_id, created_at) references raw.events (event_id, created_at))": (
        "raw.events has something that a load cannot keep: the foreign key of_event of raw.notes."
    ),
}


@pytest.mark.parametrize("added", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(dsn: str, db: psycopg.Connection, uri: str, added: str) -> None:
    load(uri, dsn)
    before = ids(db)
    db.execute(added.encode())
    for options in ({}, {"dry_run": True}):
        with pytest.raises(TablesUnfit) as caught:
            load_day(uri, dsn, 1, **options)
        assert caught.value.what == REFUSED[added]
    assert ids(db) == before
    [(failure,)] = db.execute("select failure from raw.loads where load_id = 2")
    assert failure.startswith(REFUSED[added])


def test_a_trigger_of_a_partition_is_refused_by_name(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    table = names(db)[1]
    db.execute("create function raw.f() returns trigger language plpgsql as $$ begin return new; end $$")
    db.execute(f"create trigger theirs before insert on {table} execute function raw.f()".encode())
    with pytest.raises(TablesUnfit) as caught:
        load(uri, dsn)
    assert caught.value.what == f"raw.events has something that a load cannot keep: the trigger theirs of {table}."


def test_a_partition_that_somebody_has_renamed(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    [(leaf,)] = db.execute("select relid::text from pg_partition_tree('raw.events') where isleaf limit 1")
    db.execute(f"""alter table {leaf} rename to "it's $swap$ and %s" """.encode())
    assert load(uri, dsn, force=True).replaced == 3 * ROWS_PER_DAY
    assert db.execute("""select count(*) > 0 from raw."it's $swap$ and %%s" """, ()).fetchone() == (True,)


def test_a_column_that_is_added_while_a_load_is_under_way(
    dsn: str, db: psycopg.Connection, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = load_module.wait_for_turn

    def alter_first(*arguments: Any) -> None:
        db.execute("alter table raw.events add column if not exists note text")
        wait(*arguments)

    monkeypatch.setattr(load_module, "wait_for_turn", alter_first)
    with pytest.raises(TablesUnfit, match=r"^raw\.events was altered during the load\."):
        load(uri, dsn)
    assert load(uri, dsn).loaded == 3 * ROWS_PER_DAY


def test_a_row_that_violates_somebodys_constraint(dsn: str, db: psycopg.Connection, uri: str, tmp_path: Path) -> None:
    load(uri, dsn)
    db.execute("alter table raw.events add constraint few check (event_id < 2500)")
    db.execute("create table raw.people (id bigint primary key); insert into raw.people values (8)")
    db.execute(
        "alter table raw.events add constraint known foreign key (professional_id_anonymized) references raw.people"
    )
    for more, name in ((row(2501, 1, 8), "few"), (row(1501, 1, 9), "known")):
        with pytest.raises(ConstraintViolated) as caught:
            load_day(write(tmp_path / "day.csv", 1, more=more), dsn, 1)
        assert caught.value.what.startswith(f"A row violates the constraint {name}: ")
        assert len(ids(db)) == 3 * ROWS_PER_DAY


def test_a_foreign_key_that_is_not_valid_holds_for_new_rows(dsn: str, db: psycopg.Connection, uri: str) -> None:
    load(uri, dsn)
    db.execute(
        "create table raw.people (id bigint primary key); alter table raw.events"
        " add constraint known foreign key (professional_id_anonymized) references raw.people not valid"
    )
    with pytest.raises(ConstraintViolated) as caught:
        load_day(uri, dsn, 1)
    assert caught.value.what.startswith("A row violates the constraint known: ")


@pytest.mark.parametrize("fails", ["select 1 / 0", "select 1 from somewhere", "select 9999999999", "raise"])
def test_somebodys_function_that_fails_stops_the_load_in_three_lines(
    dsn: str, db: psycopg.Connection, uri: str, fails: str
) -> None:
    body = "begin raise 'no'; end" if fails == "raise" else f"begin return ({fails}); end"
    db.execute(f"create function raw.f() returns int language plpgsql as $${body}$$".encode())
    db.execute("alter table raw.events add column f int; alter table raw.events alter f set default raw.f()")
    with pytest.raises(TablesUnfit, match=r"^PostgreSQL refused a statement of the load: "):
        load(uri, dsn)
    assert ids(db) == []


def test_an_index_that_a_value_does_not_fit_in(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    load(write(tmp_path / "events.csv", 0), dsn)
    db.execute("create index on raw.events (meta_data)")
    name = "".join(f"{number:x}" for number in range(9000))
    more = f"99;proposed;8;2020-01-01 12:00:00;1_{name}_b_4.5"
    with pytest.raises(TablesUnfit, match=r"^PostgreSQL refused a statement of the load: index row "):
        load(write(tmp_path / "events.csv", 0, more=more), dsn)


def test_a_publication_of_all_tables(warehouse: Warehouse, dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    """Then a delete needs a replica identity: a table that has no key yet refuses it."""
    with admin(warehouse) as connection:
        connection.execute("create publication everything for all tables")
    uri = write(tmp_path / "events.csv", 0, 1, 2, more="\n".join([row(1, 0, 9), row(2001, 0, 9)]))
    assert load(uri, dsn, max_rejected=0.5).rejected == 2
    moved = write(tmp_path / "day.csv", 1, more=row(2003, 1, 9))
    assert load_day(moved, dsn, 1).replaced == ROWS_PER_DAY + 1
    assert len(ids(db)) == 3 * ROWS_PER_DAY


# --- roles and settings ---------------------------------------------------------------------------------------------


def test_what_an_administrator_loads_belongs_to_the_owner(warehouse: Warehouse, uri: str, day_uri: str) -> None:
    create_tables(warehouse.admin_dsn)
    assert load(uri, warehouse.admin_dsn).loaded == 3 * ROWS_PER_DAY
    assert load_day(day_uri, warehouse.loader_dsn, 1).loaded == ROWS_PER_DAY
    assert load_day(uri, warehouse.admin_dsn, 1).loaded == ROWS_PER_DAY
    assert load(uri, warehouse.loader_dsn, force=True).loaded == 3 * ROWS_PER_DAY
    with admin(warehouse) as connection:
        owners = "select distinct pg_get_userbyid(relowner) from pg_class where relnamespace = 'raw'::regnamespace"
        assert connection.execute(owners).fetchall() == [(warehouse.role("loader"),)]
        connection.execute(f"set role {warehouse.role('transformer')}".encode())
        assert connection.execute("select count(*) from raw.events").fetchall() == [(3 * ROWS_PER_DAY,)]


def test_a_partition_of_another_role_is_refused_by_name(
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str
) -> None:
    load(uri, dsn)
    table = names(db)[2]
    with admin(warehouse) as connection:
        connection.execute(f"alter table {table} owner to {warehouse.server.user}".encode())
    with pytest.raises(TablesUnfit) as caught:
        load_day(uri, dsn, 1)
    assert caught.value.what.startswith(f"{table}, a partition of raw.events, belongs to {warehouse.server.user},")
    with admin(warehouse) as connection:
        connection.execute(caught.value.next_step.partition(": ")[2].encode())
    assert load_day(uri, dsn, 1).loaded == ROWS_PER_DAY


def test_a_role_that_may_connect_once(warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str) -> None:
    """Loads all of a file; a load that keeps rows needs a second connection, and says so."""
    load(uri, dsn)
    db.close()
    with admin(warehouse) as connection:
        connection.execute("alter role loader connection limit 1")
        try:
            assert load(uri, dsn, force=True).loaded == 3 * ROWS_PER_DAY
            with pytest.raises(WarehouseGone, match="too many connections"):
                load(uri, dsn, start=DAY + timedelta(hours=10))
        finally:
            connection.execute("alter role loader connection limit -1")
        [(failure,)] = connection.execute("select failure from raw.loads where load_id = 3")
        assert "too many connections" in failure


def test_a_role_that_may_not_load(warehouse: Warehouse, dsn: str, uri: str) -> None:
    assert dsn
    with pytest.raises(NotAllowed) as caught:
        load(uri, warehouse.transformer_dsn)
    assert caught.value.what.startswith("The load's role lacks a privilege: permission denied")


SETTINGS = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "search_path": "raw, pg_temp",
    "statement_timeout": "400ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "400ms",
    "transaction_timeout": "600ms",
    "timezone": "Asia/Tokyo",
    "datestyle": "SQL, DMY",
    "bytea_output": "escape",
    "quote_all_identifiers": "on",
}


def test_a_role_with_other_settings_and_tables_of_the_same_names(
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    """Some of the others' tables have names of temporary ones of loads, and come first in the search path."""
    ours = ("suspects", "known", "resolved", "outside", "moved", "rejects")
    for name in ours:
        db.execute(f"create table raw.{name} as select generate_series(1, 5000) as event_id".encode())
    with admin(warehouse) as connection:
        for name, value in SETTINGS.items():
            connection.execute(
                sql.SQL("alter role {} in database {} set {} = {}").format(
                    *map(sql.Identifier, (warehouse.role("loader"), warehouse.database, name)), sql.Literal(value)
                )
            )
    uri = write(tmp_path / "events.csv", 0, 1, 2, more="\n".join(["no event", row(1, 0, 9), row(2001, 0, 9)]))
    create_tables(dsn)
    slow: dict[str, Any] = {"report": lambda _: time.sleep(0.8), "report_every_s": 0}  # in the middle of a COPY
    assert load(uri, dsn, max_rejected=0.5, **slow).reasons == {"field_count": 1, "duplicate_event_id": 2}
    moved = write(tmp_path / "day.csv", 1, more=row(2003, 1, 9))
    assert load_day(moved, dsn, 1).replaced == ROWS_PER_DAY + 1
    assert load_day(moved, dsn, 1).same_as_load_id == 2
    assert load_day(moved, dsn, 1, dry_run=True).loaded == ROWS_PER_DAY + 1
    assert ids(db) == [day * 1000 + number for day in range(3) for number in range(ROWS_PER_DAY)]
    for name in ours:
        assert db.execute(f"select count(*) from raw.{name}".encode()).fetchall() == [(5000,)]


# --- a file of another format ---------------------------------------------------------------------------------------


def test_a_large_file_of_another_format_is_refused_early_with_some_examples(
    dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "events.csv"
    lines = 200_000
    path.write_text("\n".join([HEADER, *(f"{number},created_account,8,2020-01-01" for number in range(lines))]))
    with pytest.raises(TooManyRejected) as caught:
        load(str(path), dsn)
    counts = "select rows_read, rows_rejected, rows_loaded, rows_outside from raw.loads"
    [(read, rejected, loaded, outside)] = db.execute(counts)
    assert rejected == read < lines / 5
    assert (loaded, outside) == (None, 0)
    assert caught.value.what.startswith(f"{read} of the first {read} rows of ")
    assert f"field_count {read}" in caught.value.why
    examples = db.execute("select line_number, raw_text from raw.rejected_events order by 1").fetchall()
    assert examples == [(number + 2, f"{number},created_account,8,2020-01-01") for number in range(1000)]


def test_a_file_whose_good_rows_come_last_is_not_refused(dsn: str, tmp_path: Path) -> None:
    """As few bytes as a row can have: what is left of the file could make up for those rejected until its end."""
    path = tmp_path / "events.csv"
    good = [f"{number};proposed;1;2020-01-01 00:00:00;1_a_b_1" for number in range(10_000)]
    path.write_text("\n".join([HEADER, *["x"] * 5_000, *good]))
    assert load(str(path), dsn, max_rejected=1 / 3).loaded == 10_000
    with pytest.raises(TooManyRejected, match=r"^5000 of the first 14999 rows "):
        load(str(path), dsn, max_rejected=1 / 3 - 0.0001)


# --- readers --------------------------------------------------------------------------------------------------------

READ = "select event_id, professional_id_anonymized, created_at::date - '2020-01-01' from raw.events order by 1, 2"
LEVELS = list(psycopg.IsolationLevel)[1:]


def test_each_reader_sees_the_table_before_or_after(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each isolation, with a snapshot from before, from during and from after loads with duplicates and moves."""
    load(write(tmp_path / "events.csv", 0, 1, 2), dsn)
    day, whole = tmp_path / "day.csv", tmp_path / "whole.csv"
    for number, path in enumerate([day, whole, day]):
        days = (1,) if path == day else (0, 1, 2)
        duplicates = [row(1003, 1, 77), row(1004, 1, 77)]
        write(path, *days, professional=20 + number, more="\n".join([*duplicates, row(2003 + number, 1, 30 + number)]))
        before = db.execute(READ).fetchall()
        readers: list[tuple[str, psycopg.Connection]] = []

        def begin(when: str, readers: list[tuple[str, psycopg.Connection]] = readers) -> None:
            for level in LEVELS:
                reader = psycopg.connect(dsn)
                reader.isolation_level = level
                reader.execute("select count(*) from raw.loads")  # its snapshot is of now
                readers.append((f"{when}, {level.name}", reader))

        stage: Callable[..., Any] = load_module._Load._stage
        swap = swap_module.swap

        def staged(*arguments: Any, stage: Callable[..., Any] = stage, begin: Callable[[str], None] = begin) -> Any:
            begin("while it stages")
            return stage(*arguments)

        def swapped(*arguments: Any, swap: Callable[..., Any] = swap, begin: Callable[[str], None] = begin) -> None:
            begin("before it publishes")
            swap(*arguments)
            begin("after it has published")

        begin("before")
        with monkeypatch.context() as patch:
            patch.setattr(load_module._Load, "_stage", staged)
            patch.setattr(load_module, "swap", swapped)
            if path == day:
                load_day(str(path), dsn, 1, max_rejected=0.5)
            else:
                load(str(path), dsn, max_rejected=0.5)
        begin("after")
        after = db.execute(READ).fetchall()
        assert after != before
        assert len({event_id for event_id, *_ in after}) == len(after) == 3 * ROWS_PER_DAY
        assert len(readers) == 5 * len(LEVELS)
        for name, reader in readers:
            assert reader.execute(READ).fetchall() in (before, after), (number, name)
            reader.close()
