"""Loads as other roles, and with other settings of a role."""

# ruff: noqa: S608 - the statements' names are this test's

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from feeds.errors import TablesUnfit, WarehouseBusy
from harness.warehouse.roles import Warehouse
from tests.events_feed import create_tables, load
from tests.feeds.common import DAY, account, ids, ids_of, load_day, names, query, write_days

ROWS_PER_DAY = 10
pytestmark = pytest.mark.usefixtures("small_partitions")


def test_tables_that_an_administrator_loads_belong_to_the_loader(bare_warehouse: Warehouse, uri: str) -> None:
    admin_dsn, loader_dsn = bare_warehouse.admin_dsn, bare_warehouse.loader_dsn
    create_tables(admin_dsn)
    assert load(uri, admin_dsn).loaded == 3 * ROWS_PER_DAY
    assert load_day(uri, loader_dsn, 1).loaded == ROWS_PER_DAY
    assert load_day(uri, admin_dsn, 1).loaded == ROWS_PER_DAY
    assert load(uri, loader_dsn, force=True).loaded == 3 * ROWS_PER_DAY
    owners = "select distinct pg_get_userbyid(relowner) from pg_class where relnamespace = 'raw'::regnamespace"
    assert query(admin_dsn, owners) == [(bare_warehouse.role("loader"),)]
    assert query(bare_warehouse.transformer_dsn, "select count(*) from raw.events") == [(3 * ROWS_PER_DAY,)]


def test_a_partition_of_another_owner_is_refused_by_name(
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str
) -> None:
    load(uri, dsn)
    table = names(db)[2]
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as admin:
        admin.execute(f"alter table {table} owner to {warehouse.server.user}".encode())
        with pytest.raises(TablesUnfit) as caught:
            load_day(uri, dsn, 1)
        assert caught.value.what.startswith(f"{table}, a partition of raw.events, belongs to {warehouse.server.user},")
        admin.execute(caught.value.next_step.partition(": ")[2].encode())
    assert load_day(uri, dsn, 1).loaded == ROWS_PER_DAY


def test_a_role_with_one_connection_loads_only_whole_partitions(
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, uri: str
) -> None:
    load(uri, dsn)
    db.close()
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as admin:
        admin.execute(f"alter role {warehouse.role('loader')} connection limit 1".encode())
        try:
            assert load(uri, dsn, force=True).loaded == 3 * ROWS_PER_DAY
            with pytest.raises(WarehouseBusy, match="too many connections"):
                load(uri, dsn, start=DAY + timedelta(hours=9, minutes=5))
        finally:
            admin.execute(f"alter role {warehouse.role('loader')} connection limit -1".encode())
        [(failure,)] = admin.execute("select failure from raw.loads where load_id = 3")
        assert "too many connections" in failure


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


def test_other_settings_of_the_role_and_tables_with_names_of_temporary_ones(
    warehouse: Warehouse, dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    taken = ("suspects", "known", "resolved", "outside", "moved", "rejects")
    for name in taken:
        db.execute(f"create table raw.{name} as select generate_series(1, 5000) as event_id".encode())
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as admin:
        for name, value in SETTINGS.items():
            admin.execute(
                sql.SQL("alter role {} in database {} set {} = {}").format(
                    *map(sql.Identifier, (warehouse.role("loader"), warehouse.database, name)), sql.Literal(value)
                )
            )
    duplicates = ["no event", account(1, DAY, 9), account(2001, DAY, 9)]
    uri = write_days(tmp_path / "events.csv", 0, 1, 2, more=duplicates)
    create_tables(dsn)
    slow: dict[str, Any] = {"report": lambda _: time.sleep(0.8), "report_every_s": 0}  # in the middle of a COPY
    assert load(uri, dsn, max_rejected=0.5, **slow).reasons == {"field_count": 1, "duplicate_key": 2}
    moved = write_days(tmp_path / "day.csv", 1, more=[account(2003, DAY + timedelta(days=1), 9)])
    assert load_day(moved, dsn, 1).replaced == ROWS_PER_DAY + 1
    assert load_day(moved, dsn, 1).same_as_load_id == 2
    assert load_day(moved, dsn, 1, dry_run=True).loaded == ROWS_PER_DAY + 1
    assert ids(db) == ids_of(0, 1, 2)
    for name in taken:
        assert db.execute(f"select count(*) from raw.{name}".encode()).fetchall() == [(5000,)]
