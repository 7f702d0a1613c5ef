with

snapshot as (

    select * from {{ ref('availability_snapshot') }}

),

revenue as (

    select * from {{ ref('service_revenue_daily') }}

),

totals_per_day as (

    select
        date,
        sum(proposals)::bigint as proposals,
        sum(lead_fee_revenue) as lead_fee_revenue

    from revenue

    group by date

),

totals as (

    select
        snapshot.date,
        snapshot.active_professionals,
        coalesce(totals_per_day.proposals, 0) as proposals,
        coalesce(totals_per_day.lead_fee_revenue, 0)::numeric(38, 6) as lead_fee_revenue

    from snapshot

    left join totals_per_day on snapshot.date = totals_per_day.date

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
