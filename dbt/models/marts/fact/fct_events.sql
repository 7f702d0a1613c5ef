{{
    config(
        materialized='incremental',
        incremental_strategy='replace',
        incremental_predicates=["created_at >= {{ first_changed_date() }}"],
        on_schema_change='fail',
        post_hook='{{ remember_loads() }}',
    )
}}
-- depends_on: {{ ref('stg_loads') }}

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

    where
        event_type = 'proposed'
        {% if is_incremental() %}
        and created_at >= {{ first_changed_date() }}
        {% endif %}

)

select * from proposals
