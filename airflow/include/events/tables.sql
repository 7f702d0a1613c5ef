create table if not exists raw.loads (
    load_id bigint generated always as identity primary key,
    source_uri text not null,
    source_size_bytes bigint,
    source_sha256 text,
    interval_start timestamptz,
    interval_end timestamptz,
    run_id text,
    status text not null check (status in ('running', 'succeeded', 'failed')),
    failure text,
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    rows_read bigint,
    rows_loaded bigint,
    rows_rejected bigint,
    rows_outside bigint,
    rows_replaced bigint,
    check (rows_read = rows_loaded + rows_rejected + rows_outside)
);

create table if not exists raw.events (
    event_id bigint primary key,
    event_type text not null check (
        event_type in ('created_account', 'became_able_to_propose', 'became_unable_to_propose', 'proposed')
    ),
    professional_id_anonymized bigint not null,
    created_at timestamptz not null check (isfinite(created_at)),
    meta_data text,
    load_id bigint not null references raw.loads,
    check ((event_type = 'proposed') = (meta_data is not null))
);

create table if not exists raw.rejected_events (
    load_id bigint not null references raw.loads,
    line_number bigint not null,
    raw_text text not null,
    reason text not null,
    primary key (load_id, line_number)
);

-- `create index if not exists` would wait for a load that is publishing even where the index exists.
do $$
begin
    if to_regclass('raw.events_created_at') is null then
        create index events_created_at on raw.events (created_at);
    end if;
end
$$;
