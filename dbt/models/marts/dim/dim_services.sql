with

service_days as (

    select * from {{ ref('int_service_days') }}

),

services as (

    select distinct on (service_id)
        service_id,
        service_name_nl,
        service_name_en

    from service_days

    order by service_id asc, last_proposed_at desc, last_event_id desc

)

select * from services
