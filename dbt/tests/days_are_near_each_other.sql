{{ config(severity='warn') }}
with

events as (

    select * from {{ ref('stg_events') }}

),

days as (

    select
        created_at::date as event_date,
        count(*) as events

    from events

    group by event_date

),

gaps as (

    select
        event_date,
        events,
        event_date - lag(event_date) over (order by event_date) > 366 as is_after_a_gap

    from days

),

-- Days between which there is no gap have the same number.
numbered as (

    select
        event_date,
        events,
        count(*) filter (where is_after_a_gap) over (order by event_date) as period_number

    from gaps

),

periods as (

    select
        event_date,
        events,
        sum(events) over (partition by period_number) as events_of_period

    from numbered

),

bulk as (

    select max(events_of_period) as events_of_period

    from periods

)

select
    periods.event_date,
    periods.events

from periods

cross join bulk

where periods.events_of_period < bulk.events_of_period
