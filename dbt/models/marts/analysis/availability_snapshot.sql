with

events as (

    select * from {{ ref('stg_events') }}

),

dates as (

    select * from {{ ref('dim_date') }}

),

statuses as (

    select
        event_id,
        professional_id,
        created_at,
        (event_type = 'became_able_to_propose')::integer as able

    from events

    where event_type in ('became_able_to_propose', 'became_unable_to_propose')

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

    group by change_date

),

snapshot as (

    select
        dates.calendar_date as date,
        coalesce(sum(net_changes.net_change) over (order by dates.calendar_date), 0)::bigint as active_professionals

    from dates

    left join net_changes on dates.calendar_date = net_changes.change_date

)

select * from snapshot
