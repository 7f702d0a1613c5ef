with

proposals as (

    select * from {{ ref('fct_events') }}

),

revenue as (

    select
        service_id,
        created_at::date as date,
        count(*) as proposals,
        sum(service_lead_fee) as lead_fee_revenue

    from proposals

    group by service_id, created_at::date

)

select * from revenue
