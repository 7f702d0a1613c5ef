with

events as (

    select * from {{ ref('int_events') }}

),

days as (

    select generate_series(date_trunc('day', min(created_at)), max(created_at), interval '1 day') as day_start_at

    from events

),

calendar as (

    select
        to_char(day_start_at, 'YYYYMMDD')::integer as calendar_id,
        day_start_at::date as calendar_date,
        extract(dow from day_start_at)::integer + 1 as day_of_week,
        date_trunc('month', day_start_at)::date as first_day_of_month,
        (date_trunc('month', day_start_at) + interval '1 month - 1 day')::date as last_day_of_month,
        date_trunc('quarter', day_start_at)::date as first_day_of_quarter,
        (date_trunc('quarter', day_start_at) + interval '3 months - 1 day')::date as last_day_of_quarter,
        date_trunc('year', day_start_at)::date as first_day_of_year,
        (date_trunc('year', day_start_at) + interval '1 year - 1 day')::date as last_day_of_year,
        extract(isodow from day_start_at) <= 5 as is_weekday,
        to_char(day_start_at, 'YYYYMM')::integer as fiscal_period_id,
        to_char(day_start_at, 'IYYYIW')::integer as fiscal_week_id

    from days

)

select * from calendar
