{{
    config(
        materialized='incremental',
        incremental_strategy='replace',
        incremental_predicates=[
            "date >= {{ first_changed_date() }}",
            "date not in (select calendar_date from {{ ref('dim_date') }})",
        ],
        on_schema_change='fail',
        post_hook='{{ remember_loads() }}',
    )
}}
-- depends_on: {{ ref('stg_loads') }}

with

events as (

    select * from {{ ref('stg_events') }}

),

dates as (

    select * from {{ ref('dim_date') }}

),

{% if is_incremental() %}
-- The days from here on are counted anew: the first that a load has changed, or the first that is not there yet.
recount as (

    select least({{ first_changed_date() }}, max(date) + 1) as first_date

    from {{ this }}

),

-- What the days before amount to: they have not changed.
before as (

    select count_before.active_professionals

    from {{ this }} as count_before

    inner join recount on count_before.date = recount.first_date - 1

),

{% endif %}
statuses as (

    select
        event_id,
        professional_id,
        created_at,
        (event_type = 'became_able_to_propose')::integer as able

    from events

    where
        event_type in ('became_able_to_propose', 'became_unable_to_propose')
        {% if is_incremental() %}
        and professional_id in (
            select professional_id from events
            where created_at >= coalesce((select first_date from recount), '-infinity')
        )
        {% endif %}

),

-- What each status event adds to the number of active professionals: 1, -1, or 0 when it repeats the status before it.
changes as (

    select
        created_at::date as change_date,
        able - lag(able, 1, 0) over (partition by professional_id order by created_at, event_id) as net_change

    from statuses

),

net_changes as (

    select
        change_date,
        sum(net_change) as net_change

    from changes
    {% if is_incremental() %}
    where change_date >= coalesce((select first_date from recount), '-infinity')
    {% endif %}

    group by change_date

),

snapshot as (

    select
        dates.calendar_date as date,
        (
            coalesce(sum(net_changes.net_change) over (order by dates.calendar_date), 0)
            {% if is_incremental() %}
            + coalesce((select active_professionals from before), 0)
            {% endif %}
        )::bigint as active_professionals

    from dates

    left join net_changes on dates.calendar_date = net_changes.change_date

    {% if is_incremental() %}
    where dates.calendar_date >= coalesce((select first_date from recount), '-infinity')
    {% endif %}

)

select * from snapshot
