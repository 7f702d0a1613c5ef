{{ config(materialized='view') }}
-- Each column by its name: others may add columns to these tables, and drop them again.
with

proposals as (

    select
        event_id,
        professional_id,
        created_at

    from only({{ ref('fct_events') }})

),

status_events as (

    select
        event_id,
        professional_id,
        event_type,
        created_at

    from only({{ ref('int_status_events') }})

),

other_events as (

    select
        event_id,
        professional_id,
        event_type,
        created_at

    from only({{ ref('int_other_events') }})

),

events as (

    select
        event_id,
        professional_id,
        'proposed' as event_type,
        created_at

    from proposals
    union all
    select
        event_id,
        professional_id,
        event_type,
        created_at

    from status_events
    union all
    select
        event_id,
        professional_id,
        event_type,
        created_at

    from other_events

)

select * from events
