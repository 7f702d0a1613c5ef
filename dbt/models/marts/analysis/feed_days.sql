{{ config(materialized='view') }}

with

all_loads as (

    select * from {{ ref('stg_loads') }}

),

loaded_days as (

    select * from {{ ref('stg_loaded_days') }}

),

loaded_files as (

    select * from {{ ref('stg_loaded_files') }}

),

loads as (

    select * from all_loads

    where is_successful

),

-- A load without a bound covers the days from the first to the last of its rows; one whose days are not known, those
-- until it ended. One without files, such as a replay of rejected rows, covers only the days of its rows.
spans_of_rows as (

    select
        load_id,
        min(day) as first_day,
        max(day) as last_day

    from loaded_days

    where rows_loaded > 0

    group by load_id

),

covering_loads as (

    select
        loads.load_id,
        loads.feed,
        loads.has_days,
        loads.ended_at,
        coalesce(
            lower(loads.loaded_span)::date,
            spans_of_rows.first_day,
            case when not loads.has_days then '-infinity'::date end
        ) as first_day,
        coalesce(
            (upper(loads.loaded_span) - interval '1 microsecond')::date,
            spans_of_rows.last_day,
            case when not loads.has_days then loads.ended_at::date end
        ) as last_day

    from loads

    left join spans_of_rows on loads.load_id = spans_of_rows.load_id

    where not loads.has_days or loads.load_id in (select loaded_files.load_id from loaded_files)

),

days_of_loads as (

    select
        loads.feed,
        loads.ended_at,
        loaded_days.*

    from loaded_days

    inner join loads on loaded_days.load_id = loads.load_id

),

days as (

    select distinct
        feed,
        day

    from days_of_loads

),

bounds as (

    select
        feed,
        min(day) as first_day,
        max(day) as last_day

    from days

    group by feed

),

covered_days as (

    select
        feed,
        load_id,
        true as has_days,
        ended_at,
        day as covered_day

    from days_of_loads

    where rows_loaded > 0

    union all
    select
        covering_loads.feed,
        covering_loads.load_id,
        covering_loads.has_days,
        covering_loads.ended_at,
        days_of_span.day_start_at::date as covered_day

    from covering_loads

    inner join bounds on covering_loads.feed = bounds.feed

    cross join lateral generate_series(
        greatest(covering_loads.first_day, bounds.first_day)::timestamp,
        least(covering_loads.last_day, bounds.last_day)::timestamp,
        '1 day'
    ) as days_of_span (day_start_at)

),

-- The first load that had the day in its interval.
first_loads as (

    select distinct on (days.feed, days.day)
        days.feed,
        days.day,
        covered_days.load_id,
        covered_days.has_days,
        covered_days.ended_at

    from covered_days

    inner join days on covered_days.feed = days.feed and covered_days.covered_day = days.day

    order by days.feed, days.day, covered_days.ended_at, covered_days.load_id

),

counts as (

    select
        days_of_loads.feed,
        days_of_loads.day,
        sum(days_of_loads.rows_loaded) filter (where days_of_loads.load_id = first_loads.load_id) as rows_first_loaded,
        sum(days_of_loads.rows_added) filter (where days_of_loads.ended_at > first_loads.ended_at) as late_rows,
        sum(days_of_loads.rows_changed) filter (where days_of_loads.ended_at > first_loads.ended_at) as corrected_rows,
        sum(days_of_loads.rows_removed) filter (where days_of_loads.ended_at > first_loads.ended_at) as withdrawn_rows,
        max(days_of_loads.ended_at) filter (where days_of_loads.rows_added > 0) as latest_arrival_at,
        max(days_of_loads.ended_at) filter (
            where days_of_loads.rows_added + days_of_loads.rows_changed + days_of_loads.rows_removed > 0
        ) as last_changed_at

    from days_of_loads

    left join first_loads on days_of_loads.feed = first_loads.feed and days_of_loads.day = first_loads.day

    group by days_of_loads.feed, days_of_loads.day

),

present as (

    select distinct on (feed, day)
        feed,
        day,
        ended_at as last_loaded_at,
        rows_present

    from days_of_loads

    where rows_present is not null

    order by feed asc, day asc, ended_at desc, load_id desc

),

-- The load that has read each file last: what earlier ones said of it no longer holds.
latest_readers as (

    select distinct on (loads.feed, loaded_files.source_id) loads.load_id

    from loaded_files

    inner join loads on loaded_files.load_id = loads.load_id

    order by loads.feed asc, loaded_files.source_id asc, loads.ended_at desc, loads.load_id desc

),

-- Nor does it for a day that a later load had whole in its interval, and read one of the same files, or everything.
absent as (

    select
        reported.feed,
        reported.day,
        max(reported.rows_absent) as rows_absent

    from days_of_loads as reported

    where
        reported.rows_absent > 0
        and reported.load_id in (select latest_readers.load_id from latest_readers)
        and not exists (

            select

            from loads as later

            where
                later.feed = reported.feed
                and later.ended_at > reported.ended_at
                and (
                    later.loaded_span = '(,)'
                    or (
                        later.loaded_span @> tsrange(reported.day::timestamp, reported.day + interval '1 day')
                        and exists (

                            select

                            from loaded_files as own

                            inner join loaded_files as again on own.source_id = again.source_id

                            where own.load_id = reported.load_id and again.load_id = later.load_id

                        )
                    )
                )

        )

    group by reported.feed, reported.day

),

latest_loads as (

    select
        feed,
        max(ended_at) as ended_at

    from loads

    group by feed

),

feed_days as (

    select
        days.feed,
        days.day as date,
        first_loads.ended_at as first_loaded_at,
        case when first_loads.has_days then coalesce(counts.rows_first_loaded, 0) end::bigint as rows_first_loaded,
        case
            when present.day is not null then present.rows_present
            when first_loads.has_days is not false then 0
        end::bigint as rows_loaded,
        coalesce(counts.late_rows, 0)::bigint as late_rows,
        coalesce(counts.corrected_rows, 0)::bigint as corrected_rows,
        coalesce(counts.withdrawn_rows, 0)::bigint as withdrawn_rows,
        coalesce(absent.rows_absent, 0)::bigint as absent_rows,
        counts.latest_arrival_at,
        counts.last_changed_at,
        coalesce(absent.rows_absent > 0, false)
        or coalesce(present.last_loaded_at < days.day + interval '1 day', false)
        or coalesce(
            counts.last_changed_at > first_loads.ended_at
            and counts.last_changed_at > latest_loads.ended_at - interval '7 days',
            false
        ) as is_provisional

    from days

    inner join counts on days.feed = counts.feed and days.day = counts.day

    inner join latest_loads on days.feed = latest_loads.feed

    left join first_loads on days.feed = first_loads.feed and days.day = first_loads.day

    left join present on days.feed = present.feed and days.day = present.day

    left join absent on days.feed = absent.feed and days.day = absent.day

)

select * from feed_days
