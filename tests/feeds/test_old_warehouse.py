"""A warehouse of the version that knew only events is brought along, or left as it is."""

from pathlib import Path

import psycopg
import pytest

from feeds.errors import TablesUnfit
from harness.warehouse.roles import Warehouse
from tests.events_feed import create_tables, load
from tests.feeds.common import ids, ids_of, write_days

# As that version made them: with a generation, a partition in it, and both in the record.
OLD = """
    create table raw.loads (
        load_id bigint generated always as identity primary key, source_uri text not null, source_id text,
        source_size_bytes bigint, source_sha256 text, interval_start timestamptz, interval_end timestamptz, run_id text,
        status text not null check (status in ('running', 'succeeded', 'failed')), failure text,
        started_at timestamptz not null default clock_timestamp(), ended_at timestamptz,
        seconds numeric generated always as (extract(epoch from ended_at - started_at)) stored,
        rows_read bigint, rows_loaded bigint, rows_rejected bigint, rows_outside bigint, rows_replaced bigint,
        same_as_load_id bigint references raw.loads, rules_sha256 text, transaction_id xid8, moved_from timestamptz,
        check (rows_read = rows_loaded + rows_rejected + rows_outside)
    );
    create table raw.rejected_events (
        load_id bigint not null references raw.loads, line_number bigint not null, raw_text text not null,
        reason text not null, primary key (load_id, line_number)
    );
    create table raw.events_partitions (
        table_id regclass primary key, table_name name not null, load_id bigint not null, retired_at timestamptz,
        kept_for text
    );
    create table raw.events (
        event_id bigint not null, event_type text not null, professional_id_anonymized bigint not null,
        created_at timestamptz not null, meta_data text, load_id bigint not null,
        constraint events_event_type check (
            event_type in ('created_account', 'became_able_to_propose', 'became_unable_to_propose', 'proposed')
        ),
        constraint events_created_at check (isfinite(created_at)),
        constraint events_check check ((event_type = 'proposed') = (meta_data is not null))
    ) partition by range (created_at);
    create table raw.events_0_0123456789ab partition of raw.events for values from (minvalue) to (maxvalue)
    partition by range (created_at);
    create table raw.events_1_0123456789ab partition of raw.events_0_0123456789ab
    for values from (minvalue) to (maxvalue);
    alter table raw.events_1_0123456789ab add primary key (event_id);
    insert into raw.events_partitions (table_id, table_name, load_id)
    values
        ('raw.events_0_0123456789ab', 'events_0_0123456789ab', 0),
        ('raw.events_1_0123456789ab', 'events_1_0123456789ab', 1);
    insert into raw.loads (source_uri, source_id, status, rows_read, rows_loaded, rows_rejected, rows_outside)
    values ('events.csv', 'an id', 'succeeded', 4, 1, 3, 0);
    insert into raw.events values (7, 'created_account', 8, '2020-01-05', null, 1);
    insert into raw.rejected_events
    values (1, 3, '8;x;8;2020-01-05;', 'event_type'), (1, 4, '9;', 'field_count'), (1, 5, '7;…', 'duplicate_event_id');
    create view raw.of_user as select raw_text from raw.rejected_events
"""


@pytest.fixture
def old(bare_warehouse: Warehouse) -> str:
    """Give the loader's DSN of a warehouse of that version."""
    with psycopg.connect(bare_warehouse.loader_dsn) as connection:
        connection.execute(OLD)
    return bare_warehouse.loader_dsn


def test_its_events_ledger_and_quarantine_are_brought_along(tmp_path: Path, old: str) -> None:
    create_tables(old)
    create_tables(old)
    with psycopg.connect(old, autocommit=True) as db:
        rejected = db.execute(
            "select feed, load_id, file_number, line_number, reason, column_name from raw.rejected_rows order by 4"
        )
        assert rejected.fetchall() == [
            ("events", 1, 1, 3, "value", "event_type"),
            ("events", 1, 1, 4, "field_count", None),
            ("events", 1, 1, 5, "duplicate_key", None),
        ]
        assert db.execute("select feed, rows_read from raw.loads").fetchall() == [("events", 4)]
        assert db.execute("select count(*) from raw.of_user").fetchone() == (3,)
        assert ids(db) == [7]
        assert load(write_days(tmp_path / "events.csv", 0), old).replaced == 1
        assert ids(db) == ids_of(0)
        assert db.execute("select rows_absent from raw.loads order by load_id").fetchall() == [(None,), (0,)]
        # Event 7 has moved.
        days = db.execute("select day::text, rows_added, rows_changed, rows_removed from raw.loaded_days order by day")
        assert days.fetchall() == [("2020-01-01", 9, 1, 0), ("2020-01-05", 0, 0, 1)]
        assert db.execute(
            "select to_regclass('raw.events_partitions'), to_regclass('raw.rejected_events')"
        ).fetchone() == (
            None,
            None,
        )


def test_it_stays_as_it_is_where_a_name_is_taken(old: str) -> None:
    with psycopg.connect(old, autocommit=True) as db:
        db.execute("create table raw.partitions (of_user int)")
        with pytest.raises(TablesUnfit, match=r"raw\.partitions has an unexpected structure"):
            create_tables(old)
        assert db.execute("select count(*) from raw.rejected_events").fetchone() == (3,)
        assert db.execute("select to_regclass('raw.rejected_rows')").fetchone() == (None,)
