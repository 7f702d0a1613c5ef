with

loads as (

    select
        load_id,
        feed,
        status,
        interval_start,
        interval_end,
        same_as_load_id,
        transaction_id,
        ended_at,
        rows_absent,
        moved_from

    from {{ source('raw', 'loads') }}

),

changed_days as (

    select
        load_id,
        day

    from {{ source('raw', 'loaded_days') }}

    where rows_added + rows_changed + rows_removed > 0

),

renamed as (

    select
        load_id,
        transaction_id,
        coalesce(status = 'succeeded' and same_as_load_id is null, false) as is_change,
        case
            when rows_absent is not null
                then coalesce(
                    (
                        select range_agg(tsrange(changed_days.day, changed_days.day + 1)) from changed_days
                        where changed_days.load_id = loads.load_id
                    ),
                    '{}'
                )
            -- A load of an older version: if rows moved into its interval, days outside it changed, too, and the ledger
            -- has the first of them, not the last.
            else tsmultirange(
                tsrange(
                    case when interval_start is not null then least(interval_start, moved_from) end at time zone 'UTC',
                    case when moved_from is null then interval_end end at time zone 'UTC'
                )
            )
        end as changed_spans,
        feed,
        rows_absent is not null as has_days,
        coalesce(status = 'succeeded', false) as is_successful,
        tsrange(interval_start at time zone 'UTC', interval_end at time zone 'UTC') as loaded_span,
        ended_at at time zone 'UTC' as ended_at

    from loads

)

select * from renamed
