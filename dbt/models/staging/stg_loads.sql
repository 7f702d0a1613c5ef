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
        moved_from

    from {{ source('raw', 'loads') }}

),

renamed as (

    select
        load_id,
        transaction_id,
        coalesce(status = 'succeeded' and same_as_load_id is null, false) as is_change,
        -- If rows moved into the interval, days outside it changed, too: the ledger has the first of them, not
        -- the last.
        tsrange(
            case when interval_start is not null then least(interval_start, moved_from) end at time zone 'UTC',
            case when moved_from is null then interval_end end at time zone 'UTC'
        ) as changed_span,
        feed

    from loads

)

select * from renamed
