{{
    config(
        materialized='incremental',
        incremental_strategy='replace',
        incremental_predicates=[
            "old_rows.date >= (select min(new_rows.date) from new_rows)",
            "old_rows.date not in (select calendar_date from {{ ref('dim_date') }})",
        ],
        on_schema_change='fail',
    )
}}
-- depends_on: {{ ref('stg_loads') }}

with

dates as (

    select * from {{ ref('dim_date') }}

),

{% if is_incremental() %}
    -- The first day to count again: the first that a load has changed, or that has no row yet.
    recount as (

        select least({{ first_day(changed_spans()) }}, min(dates.calendar_date)) as first_date

        from dates

        left join only({{ this }}) as counted on dates.calendar_date = counted.date

        where counted.date is null

    ),

    -- The count of the day before, which has not changed.
    counted_before as (

        select counted.active_professionals

        from only({{ this }}) as counted

        inner join recount on counted.date = recount.first_date - 1

    ),

{% endif %}
status_events as (

    select * from {{ ref('int_status_events') }}
    {% if is_incremental() %}
        where created_at >= (select recount.first_date from recount)
    {% endif %}

),

{% if is_incremental() %}
    professionals as (

        select distinct professional_id from status_events

    ),

    -- The status that each of them had before.
    statuses_before as (

        select earlier.*

        from professionals

        cross join lateral (
            select all_status_events.* from {{ ref('int_status_events') }} as all_status_events
            where
                all_status_events.professional_id = professionals.professional_id
                and all_status_events.created_at < (select recount.first_date from recount)
            order by all_status_events.created_at desc, all_status_events.event_id desc
            limit 1
        ) as earlier

    ),

{% endif %}
statuses as (

    select * from status_events
    {% if is_incremental() %}
        union all
        select * from statuses_before
    {% endif %}

),

abilities as (

    select
        event_id,
        professional_id,
        created_at,
        (event_type = 'became_able_to_propose')::integer as able

    from statuses

),

-- What each status event adds to the number of active professionals: 1, -1, or 0 when it repeats the status before it.
changes as (

    select
        created_at::date as change_date,
        able - lag(able, 1, 0) over (partition by professional_id order by created_at, event_id) as net_change

    from abilities

),

net_changes as (

    select
        change_date,
        sum(net_change) as net_change

    from changes
    {% if is_incremental() %}
        where change_date >= (select recount.first_date from recount)
    {% endif %}

    group by change_date

),

snapshot as (

    select
        dates.calendar_date as date,
        (
            coalesce(sum(net_changes.net_change) over (order by dates.calendar_date), 0)
            {% if is_incremental() %}
                + coalesce((select counted_before.active_professionals from counted_before), 0)
            {% endif %}
        )::bigint as active_professionals

    from dates

    left join net_changes on dates.calendar_date = net_changes.change_date

    {% if is_incremental() %}
        where dates.calendar_date >= (select recount.first_date from recount)
    {% endif %}

)

select * from snapshot
