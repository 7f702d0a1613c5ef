{{ config(severity='error') }}
-- The days that differ, and by how much: changes that are not in the ledger, which fct_events follows.
with

events as (

    select * from {{ ref('stg_events') }}

),

facts as (

    select * from {{ ref('fct_events') }}

),

proposed as (

    select
        created_at::date as proposed_date,
        count(*) as proposals,
        sum(service_lead_fee) as lead_fees

    from events

    where event_type = 'proposed'

    group by proposed_date

),

counted as (

    select
        created_at::date as proposed_date,
        count(*) as proposals,
        sum(service_lead_fee) as lead_fees

    from facts

    group by proposed_date

),

differences as (

    select
        coalesce(proposed.proposed_date, counted.proposed_date) as proposed_date,
        proposed.proposals,
        counted.proposals as proposals_in_fct_events,
        proposed.lead_fees,
        counted.lead_fees as lead_fees_in_fct_events

    from proposed

    full outer join counted on proposed.proposed_date = counted.proposed_date

    where (proposed.proposals, proposed.lead_fees) is distinct from (counted.proposals, counted.lead_fees)

)

select * from differences
