with

events as (

    select
        event_id,
        event_type,
        professional_id_anonymized,
        created_at,
        meta_data,
        load_id

    from {{ source('raw', 'events') }}

),

renamed as (

    select
        event_id,
        event_type,
        professional_id_anonymized as professional_id,
        -- A timestamp without time zone: its day is the same whatever the session's time zone.
        created_at at time zone 'UTC' as created_at,
        -- raw.events is partitioned by it: a condition on it reads only the partitions concerned.
        created_at as created_at_tz,
        split_part(meta_data, '_', 1)::bigint as service_id,
        split_part(meta_data, '_', 2) as service_name_nl,
        split_part(meta_data, '_', 3) as service_name_en,
        split_part(meta_data, '_', 4)::numeric(18, 6) as service_lead_fee,
        load_id

    from events

)

select * from renamed
