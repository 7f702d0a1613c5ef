{{ config(severity='warn') }}
with

events as (

    select * from {{ ref('stg_events') }}

),

-- A status and the events up to the next one have the same number; those before a professional's first have 0.
numbered as (

    select
        event_id,
        event_type,
        professional_id,
        created_at,
        count(*) filter (where event_type in ('became_able_to_propose', 'became_unable_to_propose')) over (
            partition by professional_id
            order by created_at, event_id
        ) as status_number

    from events

),

latest_status as (

    select
        event_id,
        event_type,
        professional_id,
        created_at,
        first_value(event_type) over (
            partition by professional_id, status_number
            order by created_at, event_id
        ) = 'became_able_to_propose' as is_able

    from numbered

)

select
    event_id,
    professional_id,
    created_at

from latest_status

where event_type = 'proposed' and not is_able
