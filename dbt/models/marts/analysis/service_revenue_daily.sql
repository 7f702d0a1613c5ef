{{
    config(
        materialized='incremental',
        incremental_strategy='replace',
        incremental_predicates=["{{ is_in_spans('old_rows.date', changed_spans()) }}"],
        on_schema_change='fail',
    )
}}
-- depends_on: {{ ref('stg_loads') }}

with

service_days as (

    select * from {{ ref('int_service_days') }}

),

revenue as (

    select
        service_id,
        date,
        proposals,
        lead_fee_revenue

    from service_days
    {% if is_incremental() %}
        where {{ is_in_spans('date', changed_spans()) }}
    {% endif %}

)

select * from revenue
