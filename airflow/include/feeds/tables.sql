create table if not exists raw.loads (
    load_id bigint generated always as identity primary key,
    -- The name of the feed, and of its raw table.
    feed text not null,
    -- The source's URI without its secrets. Its identity is source_id, a digest of the whole URI.
    source_uri text not null,
    source_id text,
    source_size_bytes bigint,
    source_sha256 text,
    interval_start timestamptz,
    interval_end timestamptz,
    run_id text,
    status text not null check (status in ('running', 'succeeded', 'failed')),
    failure text,
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    seconds numeric generated always as (extract(epoch from ended_at - started_at)) stored,
    rows_read bigint,
    rows_loaded bigint,
    rows_rejected bigint,
    rows_outside bigint,
    rows_replaced bigint,
    -- The earlier load of the same file whose rows were unchanged: this one had nothing to do.
    same_as_load_id bigint references raw.loads,
    -- A digest of the code that decided which rows are valid: other rules may accept other rows of the same file.
    rules_sha256 text,
    -- The transaction that wrote the load's rows: as long as these rows, and no others, have it as xmin, they are unchanged.
    transaction_id xid8,
    -- Only of a load of an older version, which has no days: the earliest time of a row before it moved into the interval.
    moved_from timestamptz,
    -- The valid rows of the files outside the interval whose keys the raw table does not have: the sum over the load's days
    -- in raw.loaded_days. Null if these are not recorded: of a snapshot, and of a load of an older version.
    rows_absent bigint,
    check (rows_read = rows_loaded + rows_rejected + rows_outside)
);

-- Add the columns that an older version did not have; if none is missing, this waits for no running load.
do $$
declare
    missing text;
begin
    for missing in
        select format('%I %s', name, type)
        from (values ('source_id', 'text'), ('rules_sha256', 'text'), ('moved_from', 'timestamptz'),
            ('rows_absent', 'bigint'), ('feed', 'text not null default ''events''')) as added (name, type)
        where not exists (select from pg_attribute where attrelid = 'raw.loads'::regclass and attname = name)
    loop
        execute 'alter table raw.loads add column if not exists ' || missing;
    end loop;
end $$;

-- The files of each load that read them to their ends, in the order in which it read them.
create table if not exists raw.loaded_files (
    load_id bigint not null references raw.loads,
    file_number int not null,
    source_uri text not null,
    source_id text not null,
    size_bytes bigint not null,
    sha256 text not null,
    -- The line with the names of columns, if it has one: rejected rows are read by it again. Of Parquet the columns
    -- whose types are not the contract's: its rejected rows do not show them.
    header text,
    primary key (load_id, file_number)
);

-- What each load of an interval did, by the day (UTC) of its rows; days without any such row are left out.
create table if not exists raw.loaded_days (
    load_id bigint not null references raw.loads,
    day date not null,
    -- The rows of the day that the load has put into the raw table.
    rows_loaded bigint not null default 0,
    -- Those whose key the raw table did not have at all.
    rows_added bigint not null default 0,
    -- Those whose values were others before, or that were on another day.
    rows_changed bigint not null default 0,
    -- The keys that the day had before, and has no longer: they are gone, or on another day.
    rows_removed bigint not null default 0,
    -- The valid rows of the files outside the interval whose key the raw table does not have after the load.
    rows_absent bigint not null default 0,
    -- The rows that the day has after the load, which may have covered only a part of it; null if it wrote none of them.
    rows_present bigint,
    primary key (load_id, day)
);

-- The days of which a snapshot was loaded, and the load of each.
create table if not exists raw.snapshot_days (
    feed text not null,
    day date not null,
    load_id bigint not null references raw.loads,
    primary key (feed, day)
);

create table if not exists raw.rejected_rows (
    feed text not null,
    load_id bigint not null references raw.loads,
    file_number int not null,
    line_number bigint not null,
    raw_text text not null,
    reason text not null,
    -- The column, or the rule, that the reason is about.
    column_name text,
    -- The load since which every load that read the file has rejected the row.
    first_load_id bigint not null,
    primary key (load_id, file_number, line_number)
);

-- The tables that loads have made: partitions of raw tables, and replaced ones that were not dropped yet.
create table if not exists raw.partitions (
    table_id regclass primary key,
    table_name name not null,
    load_id bigint not null,
    -- When it was replaced; null while it is a partition of a raw table.
    retired_at timestamptz,
    -- Why it could not be dropped then, such as the view that depends on it; the log has named it.
    kept_for text
);
