with

loaded_days as (

    select
        load_id,
        day,
        rows_loaded,
        rows_added,
        rows_changed,
        rows_removed,
        rows_absent,
        rows_present

    from {{ source('raw', 'loaded_days') }}

)

select * from loaded_days
