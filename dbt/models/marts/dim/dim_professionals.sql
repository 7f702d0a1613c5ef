{{
    config(
        materialized='incremental',
        incremental_strategy='replace',
        incremental_predicates=[
            "old_rows.professional_id in (select new_rows.professional_id from new_rows)",
            "{{ is_in_spans(['old_rows.account_created_at', 'old_rows.first_event_at', 'old_rows.last_event_at'], changed_spans()) }}",
        ],
        on_schema_change='fail',
    )
}}
-- depends_on: {{ ref('stg_loads') }}

with

{% if is_incremental() %}
    -- Those who have an event in the changed days now, and those whose row has a moment in them: no other row changes.
    changed as (

        select professional_id

        from {{ ref('int_events') }}

        where {{ is_in_spans('created_at', changed_spans()) }}
        union
        select professional_id

        from only({{ this }})

        where {{ is_in_spans(['account_created_at', 'first_event_at', 'last_event_at'], changed_spans()) }}

    ),

{% endif %}
events as (

    {% if is_incremental() %}
        select found.*

        from changed

        -- With an offset PostgreSQL looks up the events of each, instead of reading all.
        cross join lateral (
            select events_of_one.* from {{ ref('int_events') }} as events_of_one
            where events_of_one.professional_id = changed.professional_id
            offset 0  -- noqa: AM09
        ) as found
    {% else %}
        select * from {{ ref('int_events') }}
    {% endif %}

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
