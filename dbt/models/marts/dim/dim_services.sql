with

events as (

    select * from {{ ref('stg_events') }}

),

services as (

    select distinct on (service_id)
        service_id,
        service_name_nl,
        service_name_en

    from events

    where event_type = 'proposed'

    order by service_id asc, created_at desc, event_id desc

)

select * from services
