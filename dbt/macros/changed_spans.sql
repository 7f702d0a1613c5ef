{#- A post-hook: note in the table's comment which transactions it has seen, or the table FROM has, of which it is made.
    It is committed with the rows, or not at all. Transactions are those of one server: restored on another, the table
    has seen none. -#}
{% macro remember_loads(from=none) -%}
    {%- set until_now = "(select system_identifier || ' ' || pg_current_snapshot() from pg_control_system())" -%}
    {%- set as_from = "obj_description('" ~ from ~ "'::regclass, 'pg_class')" -%}
    do $remember$ begin
        execute format('comment on table {{ this }} is %L', {{ as_from if from else until_now }});
    end $remember$
{%- endmacro %}


{#- Ask for the spans of time, as pairs of from and until (none is no bound), that loads have changed since this table
    was built. Loads commit in any order, so it is those that the table has not seen, not those with a higher id.
    Where that cannot be told, of a table without a note or a load without a transaction, it is all time. -#}
{% macro changed_spans() -%}
    {%- set query -%}
        with

        built as (

            select
                case
                    when split_part(obj_description('{{ this }}'::regclass, 'pg_class'), ' ', 1) = system_identifier::text
                        then split_part(obj_description('{{ this }}'::regclass, 'pg_class'), ' ', 2)::pg_snapshot
                end as seen

            from pg_control_system()

        ),

        changes as (

            select case when loads.transaction_id is null or built.seen is null then '(,)' else loads.changed_span end as span

            from {{ ref('stg_loads') }} as loads

            cross join built

            where loads.is_change and pg_visible_in_snapshot(loads.transaction_id, built.seen) is not true

        ),

        spans as (

            select unnest(range_agg(span)) as span

            from changes

        )

        select
            lower(span)::text as from_at,
            upper(span)::text as until_at

        from spans

        order by span
    {%- endset -%}
    {{ return(run_query(query).rows) }}
{%- endmacro %}


{#- A condition: COLUMN, a timestamp in UTC or a timestamptz, is in one of SPANS. The bounds are constants, so that
    PostgreSQL reads only the partitions, or index entries, concerned. -#}
{% macro is_in_spans(column, spans, type='timestamp') -%}
    {%- set conditions = [] -%}
    {%- for from_at, until_at in spans -%}
        {%- set from_condition = column ~ ' >= ' ~ utc(from_at, type) if from_at else 'true' -%}
        {%- set until_condition = column ~ ' < ' ~ utc(until_at, type) if until_at else 'true' -%}
        {%- do conditions.append('(' ~ from_condition ~ ' and ' ~ until_condition ~ ')') -%}
    {%- endfor -%}
    ({{ conditions | join(' or ') or 'false' }})
{%- endmacro %}


{#- A constant of TYPE: the moment AT, as `changed_spans` gives it. -#}
{% macro utc(at, type) -%}
    '{{ at }}'::timestamp{{ " at time zone 'UTC'" if type == 'timestamptz' }}
{%- endmacro %}


{#- A constant: the first day that SPANS touch; `infinity` if there is none. -#}
{% macro first_day(spans) -%}
    '{{ (spans[0][0] or '-infinity') if spans else 'infinity' }}'::timestamp::date
{%- endmacro %}
