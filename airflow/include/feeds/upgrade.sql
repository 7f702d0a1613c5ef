-- Tables of the version that knew only events.
do $$
begin
    if to_regclass('raw.events_partitions') is not null then
        alter table raw.events_partitions rename to partitions;
    end if;
end $$;

alter table raw.loads add column if not exists feed text not null default 'events';
alter table raw.loads alter column feed drop default;

alter table raw.rejected_events rename to rejected_rows;
alter table raw.rejected_rows
    add column feed text not null default 'events',
    add column file_number int not null default 1,
    add column column_name text,
    add column first_load_id bigint;
update raw.rejected_rows set first_load_id = load_id;
alter table raw.rejected_rows
    alter column first_load_id set not null,
    alter column feed drop default,
    alter column file_number drop default,
    drop constraint rejected_events_pkey,
    add primary key (load_id, file_number, line_number);
update raw.rejected_rows as rejected
set reason = renamed.reason, column_name = renamed.column_name
from (
    values
        ('not_utf8', 'encoding', null),
        ('event_id', 'type', 'event_id'),
        ('event_type', 'value', 'event_type'),
        ('professional_id', 'type', 'professional_id_anonymized'),
        ('created_at', 'type', 'created_at'),
        ('metadata_missing', 'rule', 'only_proposals_have_metadata'),
        ('metadata_unexpected', 'rule', 'only_proposals_have_metadata'),
        ('metadata', 'pattern', 'meta_data'),
        ('service_id', 'pattern', 'meta_data'),
        ('lead_fee', 'pattern', 'meta_data'),
        ('duplicate_event_id', 'duplicate_key', null)
) as renamed (old_reason, reason, column_name)
where rejected.reason = renamed.old_reason;
