-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent
{#- Return the spans of time, whole days, as pairs of from and until (none is no bound), in which loads of this model's
    feeds have changed rows since this table was built; all time for a table or a load of which that is unknown. The
    build of a model begins with this call; each later call in it returns the same spans. -#}
{% macro changed_spans() -%}
    {%- if flags.WHICH in ('compile', 'generate', 'show') -%}
        {{ return([[none, none]]) }}
    {%- endif -%}
    {{ return((current_build() or begin_build()).spans) }}
{%- endmacro %}


{#- A query with one value, the spans as JSON. Loads commit in any order: changes are of those loads that the table has
    not seen, not of those with a higher id. -#}
{% macro spans_of_changes() -%}
    with

    seen as (

        select {{ snapshot_of(model) }} as snapshot

    ),

    changes as (

        select unnest(case when loads.transaction_id is null then '{(,)}' else loads.changed_spans end) as span

        from {{ ref('stg_loads') }} as loads

        cross join seen

        where
            loads.is_change
            and loads.feed in ('{{ feeds_of(model) | join("', '") }}')
            and pg_visible_in_snapshot(loads.transaction_id, seen.snapshot) is not true
        union all
        select '(,)' from seen where snapshot is null

    ),

    whole_days as (

        select
            tsrange(
                date_trunc('day', lower(span)), date_trunc('day', upper(span) + interval '1 day - 1 microsecond')
            ) as span

        from changes

    ),

    spans as (

        select unnest(range_agg(span)) as span

        from whole_days

    )

    select coalesce(json_agg(json_build_array(lower(span), upper(span)) order by span), '[]') from spans
{%- endmacro %}


{#- The feeds that NODE is built from, also through other models: the tables of the source `raw`; of a history its feed,
    too. -#}
{% macro feeds_of(node) -%}
    {%- set feeds = [] -%}
    {%- for id in node.depends_on.nodes -%}
        {%- if id in graph.sources -%}
            {%- set table = graph.sources[id].identifier -%}
            {%- do feeds.extend([table, table.removesuffix('_history')]) -%}
        {%- elif id in graph.nodes -%}
            {%- do feeds.extend(feeds_of(graph.nodes[id])) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(feeds | unique | list) }}
{%- endmacro %}


{#- A condition: one of COLUMNS, each a date, a timestamp in UTC or a timestamptz, is in one of SPANS. The bounds are
    constants, so that PostgreSQL reads only the partitions, or index entries, concerned. -#}
{% macro is_in_spans(columns, spans, type='timestamp') -%}
    {%- set conditions = [] -%}
    {%- for column in ([columns] if columns is string else columns) -%}
        {%- for from_at, until_at in spans -%}
            {%- set from_condition = column ~ ' >= ' ~ utc(from_at, type) if from_at else 'true' -%}
            {%- set until_condition = column ~ ' < ' ~ utc(until_at, type) if until_at else 'true' -%}
            {%- do conditions.append('(' ~ from_condition ~ ' and ' ~ until_condition ~ ')') -%}
        {%- endfor -%}
    {%- endfor -%}
    ({{ conditions | join(' or ') or 'false' }})
{%- endmacro %}


{#- A constant of TYPE: the moment AT of `changed_spans`. -#}
{% macro utc(at, type) -%}
    '{{ at }}'::timestamp{{ " at time zone 'UTC'" if type == 'timestamptz' }}
{%- endmacro %}


{#- A constant: the first day in SPANS; `infinity` if there is none. -#}
{% macro first_day(spans) -%}
    '{{ (spans[0][0] or '-infinity') if spans else 'infinity' }}'::timestamp::date
{%- endmacro %}
