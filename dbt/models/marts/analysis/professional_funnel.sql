with

events as (

    select * from {{ ref('stg_events') }}

),

stages as (

    select
        professional_id,
        min(created_at) filter (where event_type = 'created_account') as account_created_at,
        min(created_at) filter (where event_type = 'became_able_to_propose') as first_able_at,
        min(created_at) filter (where event_type = 'proposed') as first_proposed_at

    from events

    group by professional_id

),

funnel as (

    select
        professional_id,
        to_char(account_created_at, 'IYYYIW')::integer as cohort_week_id,
        account_created_at,
        first_able_at,
        first_proposed_at,
        first_able_at::date - account_created_at::date as days_account_to_able,
        first_proposed_at::date - first_able_at::date as days_able_to_proposal,
        first_proposed_at::date - account_created_at::date as days_account_to_proposal

    from stages

)

select * from funnel
