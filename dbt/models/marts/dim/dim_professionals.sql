with

events as (

    select * from {{ ref('stg_events') }}

),

professionals as (

    select
        professional_id,
        min(created_at) filter (where event_type = 'created_account') as account_created_at,
        min(created_at) as first_event_at,
        max(created_at) as last_event_at

    from events

    group by professional_id

)

select * from professionals
