create table if not exists raw.loads (
    load_id bigint generated always as identity primary key,
    -- The source as it is shown, without secrets. What identifies it is source_id, a digest of all of its URI.
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
    -- The load that had brought the same, and still stood: this one had nothing to do.
    same_as_load_id bigint references raw.loads,
    -- A digest of the code that decided which rows are valid: with other rules the same file may bring other rows.
    rules_sha256 text,
    -- The transaction that wrote the load's rows: they are as it left them while they, and no others, have it as xmin.
    transaction_id xid8,
    -- The earliest of the events that were elsewhere and moved into the interval: days outside it changed, too.
    moved_from timestamptz,
    check (rows_read = rows_loaded + rows_rejected + rows_outside)
);

-- Of a warehouse that is older than a column. Where it is there, nothing waits for the loads that are under way.
do $$
declare
    missing text;
begin
    for missing in
        select format('%I %s', name, type)
        from (values ('source_id', 'text'), ('rules_sha256', 'text'), ('moved_from', 'timestamptz')) as added (name, type)
        where not exists (select from pg_attribute where attrelid = 'raw.loads'::regclass and attname = name)
    loop
        execute 'alter table raw.loads add column if not exists ' || missing;
    end loop;
end $$;

create table if not exists raw.rejected_events (
    load_id bigint not null references raw.loads,
    line_number bigint not null,
    raw_text text not null,
    reason text not null,
    primary key (load_id, line_number)
);

-- The tables that loads have made: partitions of raw.events, and those that they have replaced and not dropped yet.
create table if not exists raw.events_partitions (
    table_id regclass primary key,
    table_name name not null,
    load_id bigint not null,
    -- Since when it is no partition of raw.events any more.
    retired_at timestamptz,
    -- Why it was not dropped then: what depends on it, as the log has named it.
    kept_for text
);
