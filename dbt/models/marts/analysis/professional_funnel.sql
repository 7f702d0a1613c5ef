{{
    config(
        materialized='incremental',
        incremental_strategy='replace',
        incremental_predicates=[
            "old_rows.professional_id in (select new_rows.professional_id from new_rows)",
            "{{ is_in_spans(['old_rows.account_created_at', 'old_rows.first_able_at', 'old_rows.first_proposed_at'], changed_spans()) }}",
            "coalesce(old_rows.account_created_at, old_rows.first_able_at, old_rows.first_proposed_at) is null
                and not exists (
                    select from {{ ref('dim_professionals') }} as professionals
                    where professionals.professional_id = old_rows.professional_id
                )",
        ],
        on_schema_change='fail',
    )
}}
-- depends_on: {{ ref('stg_loads') }}, {{ ref('dim_professionals') }}

with

{% if is_incremental() %}
    changed as (

        select professional_id

        from {{ ref('int_events') }}

        where {{ is_in_spans('created_at', changed_spans()) }}
        union
        select professional_id

        from only({{ this }})

        where {{ is_in_spans(['account_created_at', 'first_able_at', 'first_proposed_at'], changed_spans()) }}

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
