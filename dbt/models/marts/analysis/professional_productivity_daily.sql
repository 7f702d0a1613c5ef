with

snapshot as (

    select * from {{ ref('availability_snapshot') }}

),

proposals as (

    select * from {{ ref('fct_events') }}

),

proposals_per_day as (

    select
        created_at::date as date,
        count(*) as proposals,
        sum(service_lead_fee) as lead_fee_revenue

    from proposals

    group by created_at::date

),

totals as (

    select
        snapshot.date,
        snapshot.active_professionals,
        coalesce(proposals_per_day.proposals, 0) as proposals,
        coalesce(proposals_per_day.lead_fee_revenue, 0)::numeric(38, 6) as lead_fee_revenue

    from snapshot

    left join proposals_per_day on snapshot.date = proposals_per_day.date

),

productivity as (

    select
        date,
        active_professionals,
        proposals,
        lead_fee_revenue,
        (proposals::numeric / nullif(active_professionals, 0))::numeric(38, 6) as proposals_per_active_professional,
        (lead_fee_revenue / nullif(active_professionals, 0))::numeric(38, 6) as lead_fee_revenue_per_active_professional

    from totals

)

select * from productivity
