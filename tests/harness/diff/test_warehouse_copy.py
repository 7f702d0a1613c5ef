"""The raw tables of a user's warehouse are copied by somebody who may only read, and the warehouse does not change."""

# ruff: noqa: S608 - the statements' names are this test's

import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from feeds.contract import CONTRACTS, Feed, read_feed
from feeds.dsn import connection_url
from feeds.load import load
from feeds.tables import create_tables
from harness.diff import warehouse_copy
from harness.diff.base import Base
from harness.diff.results import Diff
from harness.diff.run import Options, Run
from harness.diff.warehouse_copy import Copied, Relation, copy_raw, find_source
from harness.errors import PostgresError
from harness.processes.background import in_background
from harness.project.paths import ROOT
from harness.warehouse.roles import Warehouse, create_warehouse, drop_warehouse
from harness.warehouse.server import Server
from tests.feeds.common import DAY, contract, wait_until, write_days
from tests.feeds.test_old_warehouse import OLD

pytestmark = pytest.mark.usefixtures("small_partitions")
ROWS_PER_DAY = 10
EVENTS = read_feed(CONTRACTS / "events.yaml")
READER, PASSWORD = "diff_test_reader", "p@ss 'word"
VISITS = """
    {name: site, logicalType: string, required: true, primaryKey: true, primaryKeyPosition: 1},
    {name: day, logicalType: date, required: true, primaryKey: true, primaryKeyPosition: 2},
    {name: visitors, logicalType: integer}
"""
CUSTOMERS = """
    {name: customer_id, logicalType: integer, required: true, primaryKey: true},
    {name: city, logicalType: string}
"""
# What others may have put into the schema raw, and beside it.
ADDITIONS = """
    create schema others;
    grant usage on schema others to public;
    create type others.mood as enum ('good', 'bad');
    create domain others.fee as numeric(5, 2) check (value > 0);
    create table others.rates (day date, rate numeric);
    create function others.keep() returns trigger language plpgsql as 'begin return new; end';
    create trigger keep before insert on raw.rejected_rows for each row execute function others.keep();
    create view raw.rates as select * from others.rates;
    create table raw.kept as select * from raw.events;
    alter table raw.events add column mood others.mood default 'bad', add column note text default 'x',
        add column fee others.fee default 1.5, add column tags text[] default '{a,"b c"}',
        add column twice bigint generated always as (event_id * 2) stored;
    create index on raw.events (note);
"""


@pytest.fixture
def visits(tmp_path: Path) -> Feed:
    """Give a feed whose time is a date."""
    return contract(tmp_path, "visits", VISITS, "{property: timeColumn, value: day}")


@pytest.fixture
def customers(tmp_path: Path) -> Feed:
    """Give a snapshot with a history."""
    return contract(tmp_path, "customers", CUSTOMERS, "{property: history, value: true}")


@pytest.fixture
def feeds(visits: Feed, customers: Feed) -> dict[str, Feed]:
    return {feed.name: feed for feed in (EVENTS, visits, customers)}


@pytest.fixture
def filled(warehouse: Warehouse, feeds: dict[str, Feed], tmp_path: Path) -> Warehouse:
    """Give the user's warehouse, with rows of three feeds and what others have added."""
    for feed in feeds.values():
        create_tables(warehouse.loader_dsn, feed)
    events = write_days(tmp_path / "events.csv", 0, 1, 2, more=["1;bad", "2;bad"])
    load(EVENTS, warehouse.loader_dsn, source_uri=events, max_rejected=0.5)
    load(EVENTS, warehouse.loader_dsn, source_uri=events, max_rejected=0.5)  # unchanged
    with pytest.raises(Exception, match="rejected"):
        load(EVENTS, warehouse.loader_dsn, source_uri=write_days(tmp_path / "bad.csv", more=["x;y"]))
    (tmp_path / "visits.csv").write_text("site,day,visitors\na,2020-01-01,3\nb,2020-01-01,\na,2020-01-02,0\n")
    load(feeds["visits"], warehouse.loader_dsn, source_uri=str(tmp_path / "visits.csv"))
    for number, city in enumerate(("delft", "gent"), 1):
        (tmp_path / "customers.csv").write_text(f"customer_id,city\n1,{city}\n{number + 1},\n")
        load(
            feeds["customers"], warehouse.loader_dsn, source_uri=str(tmp_path / "customers.csv"),
            start=DAY + timedelta(days=number), end=DAY + timedelta(days=number + 1),
        )  # fmt: skip
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute(ADDITIONS.encode())
    return warehouse


@pytest.fixture
def reader(server: Server) -> Iterator[str]:
    """Give a role that may do nothing yet."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        statement = sql.SQL("create role {0} login password {1}; alter role {0} set default_transaction_read_only = on")
        connection.execute(statement.format(sql.Identifier(READER), PASSWORD))
        yield READER
        connection.execute(sql.SQL("drop role {}").format(sql.Identifier(READER)))


@pytest.fixture
def reader_dsn(filled: Warehouse, reader: str, server: Server) -> Iterator[str]:
    """Give the DSN of a role that may only read the tables of `filled`, and not their partitions."""
    with psycopg.connect(filled.admin_dsn, autocommit=True) as connection:
        tables = connection.execute(
            "select oid::regclass::text from pg_class where relnamespace = 'raw'::regnamespace"
            " and relkind in ('r', 'p') and not relispartition"
        ).fetchall()
        granted = ", ".join(name for (name,) in tables)
        connection.execute(f"grant usage on schema raw to {reader}; grant select on {granted} to {reader}".encode())
        connection.execute(
            sql.SQL("grant connect on database {} to {}").format(
                sql.Identifier(filled.database), sql.Identifier(reader)
            )
        )
        yield connection_url(reader, PASSWORD, server.host, server.port, filled.database)
        connection.execute(f"drop owned by {reader}".encode())


@pytest.fixture
def copy(reader_dsn: str, bare_warehouse: Warehouse, feeds: dict[str, Feed]) -> Callable[[], Copied]:
    """Give the copy of `filled` into `bare_warehouse`, to be made by a role that may only read."""
    return lambda: copy_raw(find_source(reader_dsn), bare_warehouse, feeds)


def fingerprint(warehouse: Warehouse) -> dict[str, Any]:
    """Return all that is in WAREHOUSE and of its server's roles and databases that a reader could have changed."""
    catalogs = {
        "classes": "select oid, relname, relkind, relfilenode, relacl::text, reloptions, relowner from pg_class",
        "attributes": "select attrelid, attname, atttypid, attacl::text from pg_attribute",
        "schemas": "select nspname, nspacl::text from pg_namespace where nspname !~ '^pg_(toast_)?temp'",
        "roles": "select rolname, rolsuper, rolconfig from pg_roles",
        "databases": "select oid, datacl::text from pg_database where datname = current_database()",
        "depends": "select classid, objid, refobjid from pg_depend",
    }
    with psycopg.connect(warehouse.admin_dsn) as connection:
        found: dict[str, Any] = {
            name: sorted(map(str, connection.execute(query.encode()))) for name, query in catalogs.items()
        }
        tables = connection.execute(
            "select oid::regclass::text from pg_class where relkind = 'r' and relnamespace in"
            " (to_regnamespace('raw'), to_regnamespace('others'))"
        ).fetchall()
        for (table,) in tables:
            statement = sql.SQL("select ctid::text, xmin::text, t::text from {} as t").format(sql.SQL(table))
            rows = connection.execute(statement)
            found[table] = sorted(map(str, rows))
    return found


def rows_of(warehouse: Warehouse, table: str, columns: str = "*") -> list[str]:
    with psycopg.connect(warehouse.admin_dsn) as connection:
        connection.execute("set timezone = 'UTC'")
        return sorted(str(row) for row in connection.execute(f"select {columns} from {table}".encode()))


def test_all_rows_are_copied_and_the_warehouse_does_not_change(
    filled: Warehouse, bare_warehouse: Warehouse, copy: Callable[[], Copied]
) -> None:
    before = fingerprint(filled)
    copied = copy()
    assert fingerprint(filled) == before
    assert copied == Copied(
        {"customers": 2, "events": 30, "visits": 3},
        [
            [
                "Not copied from the warehouse: raw.kept and raw.rates.",
                "No load has made them.",
                "Models that read them do not build with --warehouse-dsn.",
            ],
            [
                "Copied as text: raw.events.mood.",
                "Their types are of an extension, or somebody made them; the copy does not have them.",
                "Models that need the type do not build, or may give other rows than in the warehouse.",
            ],
        ],
    )
    for table in ("visits", "customers", "customers_history", "loaded_files", "loaded_days", "snapshot_days"):
        assert rows_of(bare_warehouse, f"raw.{table}") == rows_of(filled, f"raw.{table}") != []
    assert rows_of(bare_warehouse, "raw.rejected_rows") == rows_of(filled, "raw.rejected_rows")
    assert len(rows_of(filled, "raw.rejected_rows")) == 3
    columns = "event_id, created_at, meta_data, load_id, mood::text, note, twice, fee, tags"
    assert rows_of(bare_warehouse, "raw.events", columns) == rows_of(filled, "raw.events", columns)
    assert rows_of(bare_warehouse, "raw.events", "pg_typeof(fee)")[0] == "('numeric',)"
    columns = (
        "load_id, feed, source_uri, status, failure, started_at, ended_at, seconds, rows_read, same_as_load_id,"
        " transaction_id is null"
    )
    assert rows_of(bare_warehouse, "raw.loads", columns) == rows_of(filled, "raw.loads", columns)


def test_its_loads_are_of_a_transaction_that_the_copy_has_seen(
    filled: Warehouse, bare_warehouse: Warehouse, copy: Callable[[], Copied]
) -> None:
    with psycopg.connect(filled.admin_dsn) as connection:  # of another server, which has had more transactions
        connection.execute("update raw.loads set transaction_id = '4000000000' where transaction_id is not null")
    copy()
    query = (
        "select count(*) filter (where transaction_id is null) as failed,"
        " count(*) filter (where pg_visible_in_snapshot(transaction_id, pg_current_snapshot())) from raw.loads"
    )
    with psycopg.connect(bare_warehouse.transformer_dsn) as connection:  # may read it
        assert connection.execute(query.encode()).fetchone() == (0, 6)


def test_it_has_the_partitions_of_the_warehouse(
    filled: Warehouse, bare_warehouse: Warehouse, copy: Callable[[], Copied]
) -> None:
    copy()
    tree = "pg_partition_tree('raw.events') join pg_class on oid = relid"
    bounds = "level, isleaf, pg_get_expr(relpartbound, oid)"
    assert rows_of(bare_warehouse, tree, bounds) == rows_of(filled, tree, bounds)
    assert len(rows_of(filled, tree, bounds)) == 5
    with psycopg.connect(bare_warehouse.loader_dsn) as connection, pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(
            "insert into raw.events (event_id, event_type, professional_id_anonymized, created_at,"
            " load_id) select event_id, event_type, professional_id_anonymized, created_at, load_id from raw.events"
        )


def test_an_older_warehouse_is_brought_along_and_feeds_that_it_lacks_are_empty(
    bare_warehouse: Warehouse, server: Server, passwords: dict[str, str], feeds: dict[str, Feed]
) -> None:
    old = create_warehouse(server, f"old_{secrets.token_hex(4)}", passwords)
    try:
        with psycopg.connect(old.loader_dsn) as connection:
            connection.execute(OLD.encode())
        before = fingerprint(old)
        copied = copy_raw(find_source(old.loader_dsn), bare_warehouse, feeds)
        assert fingerprint(old) == before
    finally:
        drop_warehouse(old)
    assert copied.rows == {"events": 1}
    assert rows_of(bare_warehouse, "raw.rejected_rows", "line_number, reason, column_name, first_load_id") == [
        "(3, 'value', 'event_type', 1)",
        "(4, 'field_count', None, 1)",
        "(5, 'duplicate_key', None, 1)",
    ]
    assert rows_of(bare_warehouse, "raw.loads", "feed, rows_read, rows_absent, transaction_id") == [
        "('events', 4, None, None)"
    ]
    assert rows_of(bare_warehouse, "raw.visits") == []


def test_a_role_with_a_short_timeout_and_a_password_of_the_environment_is_enough(
    filled: Warehouse,
    bare_warehouse: Warehouse,
    feeds: dict[str, Feed],
    reader_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with psycopg.connect(filled.admin_dsn) as connection:
        connection.execute(f"alter role {READER} set statement_timeout = '200ms'".encode())
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("PGAPPNAME", "a test")
    source = find_source(reader_dsn.replace(f":{quote(PASSWORD)}@", "@"))
    monkeypatch.delenv("PGPASSWORD")  # as what starts a server does
    monkeypatch.delenv("PGAPPNAME")
    assert PASSWORD not in repr(source)
    assert conninfo_to_dict(source.dsn)["application_name"] == "a test"
    with psycopg.connect(filled.loader_dsn) as other:
        other.execute("lock table raw.visits in access exclusive mode")
        copied = in_background(lambda: copy_raw(source, bare_warehouse, feeds))
        time.sleep(0.5)
        assert not copied.done()
    assert copied.result(timeout=30).rows["events"] == 30


def test_a_load_that_ends_meanwhile_is_not_in_the_copy_and_is_noted(
    filled: Warehouse,
    bare_warehouse: Warehouse,
    copy: Callable[[], Copied],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_table = warehouse_copy.copy_table

    def copy_after_a_load(reader: Any, writer: Any, relation: Relation, as_text: list[str]) -> int:
        if relation.name == "loads":
            with psycopg.connect(filled.loader_dsn) as connection:
                connection.execute("insert into raw.loads (feed, source_uri, status) values ('events', '', 'failed')")
        return copy_table(reader, writer, relation, as_text)

    monkeypatch.setattr(warehouse_copy, "copy_table", copy_after_a_load)
    notes = copy().notes
    assert [notes[0][0], notes[0][2]] == [
        "1 load ended while the warehouse was copied.",
        "Run it again to compare with what came later.",
    ]
    assert re.fullmatch(r"The copy holds what was there when it began, at \d\d:\d\d:\d\d UTC\.", notes[0][1])
    assert len(rows_of(filled, "raw.loads")) == len(rows_of(bare_warehouse, "raw.loads")) + 1 == 7


def test_a_load_at_the_same_time_ends_after_the_copy_which_has_the_rows_of_before(
    filled: Warehouse,
    bare_warehouse: Warehouse,
    copy: Callable[[], Copied],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    columns = "event_id, professional_id_anonymized, load_id"
    before = rows_of(filled, "raw.events", columns)
    copy_table = warehouse_copy.copy_table
    other = write_days(tmp_path / "other.csv", 0, 1, 2, professional=9)
    loads: list[Future[Any]] = []

    def copy_beside_a_load(reader: Any, writer: Any, relation: Relation, as_text: list[str]) -> int:
        if not loads:
            loads.append(in_background(lambda: load(EVENTS, filled.loader_dsn, source_uri=other)))
            time.sleep(0.5)  # the load would have ended
        return copy_table(reader, writer, relation, as_text)

    monkeypatch.setattr(warehouse_copy, "copy_table", copy_beside_a_load)
    copy()
    assert loads[0].result(timeout=30).replaced == 30
    assert rows_of(bare_warehouse, "raw.events", columns) == before
    assert rows_of(filled, "raw.events", columns) != before


def test_an_interrupt_leaves_no_session_and_no_table(
    filled: Warehouse,
    bare_warehouse: Warehouse,
    copy: Callable[[], Copied],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(psycopg.Copy, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        copy()
    with psycopg.connect(filled.admin_dsn, autocommit=True) as connection:
        left = "select count(*) from pg_stat_activity where usename = %s"
        wait_until(lambda: connection.execute(left, [READER]).fetchone() == (0,))
    assert rows_of(bare_warehouse, "pg_tables where schemaname = 'raw'", "tablename") == []


REFUSED = "Grant them: grant usage on schema raw to …; grant select on all tables in schema raw to …"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (f"revoke select on raw.visits from {READER}", "permission denied for table visits"),
        (f"revoke usage on schema raw from {READER}", "permission denied for schema raw"),
        (
            f"alter table raw.visits enable row level security; create policy p on raw.visits to {READER} using (true)",
            'query would be affected by row-level security policy for table "visits"',
        ),
    ],
)
def test_what_may_not_be_read_is_named(
    statement: str,
    message: str,
    filled: Warehouse,
    copy: Callable[[], Copied],
) -> None:
    with psycopg.connect(filled.admin_dsn) as connection:
        connection.execute(statement.encode())
    with pytest.raises(PostgresError) as refused:
        copy()
    assert str(refused.value).splitlines() == [
        f"The user of --warehouse-dsn may not read all raw tables: {message}.",
        "It lacks a privilege on the schema raw or on a table in it, or a policy hides rows from it.",
        REFUSED,
    ]


def test_who_has_locked_a_table_is_named(
    filled: Warehouse,
    copy: Callable[[], Copied],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warehouse_copy, "LOCK_TIMEOUT_S", 0.05)
    with psycopg.connect(filled.loader_dsn, application_name="psql") as other:
        other.execute("lock table raw.visits in access exclusive mode")
        with pytest.raises(PostgresError) as refused:
            copy()
        pid = other.info.backend_pid
    assert str(refused.value).splitlines() == [
        f"raw.visits of --warehouse-dsn is locked by {filled.role('loader')} (psql, pid {pid}) for more than 0.05 s.",
        "It alters, empties or vacuums the table, or has not ended its transaction after that.",
        "Run it again when that has ended: select * from pg_stat_activity shows what it does.",
    ]


@pytest.fixture
def other_encoding(server: Server, passwords: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    """Give a warehouse whose database has another encoding, with the tables of events."""
    name = f"other_{secrets.token_hex(4)}"
    statement = "create database {} template template0 encoding {} lc_collate 'C' lc_ctype 'C'"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        database = sql.Identifier(f"{name}{server.suffix}")
        connection.execute(sql.SQL(statement).format(database, request.param))
    warehouse = create_warehouse(server, name, passwords)
    create_tables(warehouse.loader_dsn, EVENTS)
    yield warehouse
    drop_warehouse(warehouse)


@pytest.mark.parametrize("other_encoding", ["LATIN1"], indirect=True)
def test_text_of_another_encoding_is_the_same_text(other_encoding: Warehouse, bare_warehouse: Warehouse) -> None:
    insert = "insert into raw.loads (feed, source_uri, status) values ('events', 'caf\u00e9', 'failed')"
    with psycopg.connect(other_encoding.loader_dsn, client_encoding="utf8") as connection:
        connection.execute(insert.encode())
    copy_raw(find_source(other_encoding.loader_dsn), bare_warehouse, {"events": EVENTS})
    assert rows_of(bare_warehouse, "raw.loads", "source_uri") == ["('caf\u00e9',)"]


@pytest.mark.parametrize("other_encoding", ["SQL_ASCII"], indirect=True)
def test_text_that_is_none_is_named(other_encoding: Warehouse, bare_warehouse: Warehouse) -> None:
    insert = b"insert into raw.loads (feed, source_uri, status) values ('events', 'caf\xe9', 'failed')"
    with psycopg.connect(other_encoding.loader_dsn, client_encoding="sql_ascii") as connection:
        connection.execute(insert)
    with pytest.raises(PostgresError) as refused:
        copy_raw(find_source(other_encoding.loader_dsn), bare_warehouse, {"events": EVENTS})
    assert str(refused.value).splitlines() == [
        'A text in a raw table cannot be copied: invalid byte sequence for encoding "UTF8": 0xe9.',
        "The encoding of the database of --warehouse-dsn does not check its texts, and the copy has UTF-8.",
        "Correct the text, or compare with files: --events, --feed",
    ]


def test_a_database_without_a_ledger_is_refused(bare_warehouse: Warehouse) -> None:
    with pytest.raises(PostgresError) as refused:
        find_source(bare_warehouse.transformer_dsn)
    assert str(refused.value).splitlines() == [
        f"The database {bare_warehouse.database} of --warehouse-dsn has no ledger, raw.loads.",
        "The DSN most likely names another database, or no pipeline has loaded into this one yet.",
        "List the server's databases with psql --list, and name the warehouse.",
    ]


def test_a_server_that_does_not_answer_or_has_another_version_is_refused(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PostgresError, match=r"^--warehouse-dsn: .*refused"):
        find_source("postgresql://nobody:secret@127.0.0.1:1/warehouse")
    monkeypatch.setattr(warehouse_copy, "MAJOR", 13)
    with pytest.raises(PostgresError, match=r"has version \d\d; the project is tested on 14 to 13\.\n"):
        find_source(warehouse.transformer_dsn)


def test_a_table_that_cannot_follow_its_contract_is_named(
    bare_warehouse: Warehouse, feeds: dict[str, Feed], reader_dsn: str, tmp_path: Path
) -> None:
    changed = contract(
        tmp_path, "visits", VISITS.replace("visitors, logicalType: integer", "visitors, logicalType: date"),
        "{property: timeColumn, value: day}",
    )  # fmt: skip
    with pytest.raises(PostgresError, match=r"^The copy of raw\.visits cannot follow the contract of this tree: "):
        copy_raw(find_source(reader_dsn), bare_warehouse, feeds | {"visits": changed})


def test_a_change_of_the_load_is_noted_as_not_shown(
    bare_warehouse: Warehouse, feeds: dict[str, Feed], reader_dsn: str
) -> None:
    diff = Diff(base="", branch="", data="", load=["airflow/feeds/visits.yaml"])
    side: Any = SimpleNamespace(warehouse=bare_warehouse)
    options = Options(warehouse=find_source(reader_dsn))
    run = Run(Base("", "", ROOT), options, (side, side), diff, feeds=feeds)
    run.load()
    assert not options.are_samples
    assert not diff.load_differs  # so nothing is loaded twice
    assert diff.notes[0] == [
        "The load differs from the base's: airflow/feeds/visits.yaml.",
        "With --warehouse-dsn both sides have the rows as the warehouse has them, so what that changes is not shown.",
        "Compare with files, which each side loads by its own code: --events, --feed",
    ]
    assert diff.data == "a copy of the warehouse: 2 customers, 30 events, 3 visits"
