with

events as (

    select * from {{ ref('stg_events') }}

),

proposals as (

    select
        event_id,
        professional_id,
        service_id,
        created_at,
        service_lead_fee

    from events

    where event_type = 'proposed'

)

select * from proposals
