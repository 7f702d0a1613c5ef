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

other_events as (

    select
        event_id,
        professional_id,
        event_type,
        created_at

    from events

    where
        event_type not in ('proposed', 'became_able_to_propose', 'became_unable_to_propose')
        {% if is_incremental() %}
            and {{ is_in_spans('created_at_tz', changed_spans(), 'timestamptz') }}
        {% endif %}

)

select * from other_events
