{{ config(severity='warn') }}
with

proposals as (

    select * from {{ ref('fct_events') }}

)

select
    event_id,
    professional_id,
    created_at,
    service_lead_fee

from proposals

where service_lead_fee < 0
