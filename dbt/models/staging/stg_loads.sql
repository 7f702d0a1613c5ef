with

loads as (

    select * from {{ source('raw', 'loads') }}

),

renamed as (

    select
        load_id,
        transaction_id,
        coalesce(status = 'succeeded' and same_as_load_id is null, false) as is_change,
        -- A load without a start reaches back to the first event; one that took events from before it, to those.
        least(coalesce(interval_start, '-infinity'), moved_from) at time zone 'UTC' as changed_from_at

    from loads

)

select * from renamed
