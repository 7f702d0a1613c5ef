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

events as (

    select * from {{ ref('stg_events') }}

),

-- A group for each spelling of the names: to sort all proposals would take several times as long.
spellings as (

    select
        created_at::date as date,
        service_id,
        service_name_nl,
        service_name_en,
        count(*) as proposals,
        sum(service_lead_fee) as lead_fee_revenue,
        max(created_at) as last_proposed_at,
        -- Of the events at that time the last.
        (max(array[(extract(epoch from created_at) * 1000000)::bigint, event_id]))[2] as last_event_id

    from events

    where
        event_type = 'proposed'
        {% if is_incremental() %}
            and {{ is_in_spans('created_at_tz', changed_spans(), 'timestamptz') }}
        {% endif %}

    group by created_at::date, service_id, service_name_nl, service_name_en

),

service_days as (

    select distinct on (date, service_id)
        date,
        service_id,
        service_name_nl,
        service_name_en,
        (sum(proposals) over service_day)::bigint as proposals,
        sum(lead_fee_revenue) over service_day as lead_fee_revenue,
        last_proposed_at,
        last_event_id

    from spellings

    window service_day as (partition by date, service_id)

    order by date asc, service_id asc, last_proposed_at desc, last_event_id desc

)

select * from service_days
