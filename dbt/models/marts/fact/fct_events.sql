{{
    config(
        materialized='incremental',
        incremental_strategy='replace',
        incremental_predicates=["{{ is_in_spans('old_rows.created_at', changed_spans()) }}"],
        indexes=[
            {'columns': ['professional_id', 'created_at']},
            {'columns': ['created_at']},
        ],
        on_schema_change='fail',
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
            and {{ is_in_spans('created_at_tz', changed_spans(), 'timestamptz') }}
        {% endif %}

)

select * from proposals
