{{ config(severity='error') }}
with

events as (

    select * from {{ ref('stg_events') }}

),

snapshot as (

    select * from {{ ref('availability_snapshot') }}

),

latest_status as (

    select distinct on (professional_id)
        professional_id,
        event_type

    from events

    where event_type in ('became_able_to_propose', 'became_unable_to_propose')

    order by professional_id asc, created_at desc, event_id desc

),

direct_count as (

    select count(*) as active_professionals

    from latest_status

    where event_type = 'became_able_to_propose'

),

last_day as (

    select max(created_at)::date as date

    from events

)

select
    last_day.date,
    snapshot.active_professionals as active_in_snapshot,
    direct_count.active_professionals as active_by_direct_count

from last_day

cross join direct_count

left join snapshot on last_day.date = snapshot.date

where last_day.date is not null and snapshot.active_professionals is distinct from direct_count.active_professionals
