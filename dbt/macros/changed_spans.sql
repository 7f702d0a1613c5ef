{#- Begin the transaction that builds this model, and return the kind of relation that it has now. All that it reads,
    deletes and records comes from one snapshot, whatever is committed meanwhile. Nobody else builds the table in that
    time, and no load swaps its rows in while the model reads raw.events: older snapshots would see them, too. So the
    locks are taken before the snapshot. -#}
{% macro begin_build() -%}
    {%- set kind = kind_of(this) -%}
    {%- set transaction_timeout = run_query("select current_setting('transaction_timeout', true)").rows[0][0] -%}
    {%- call statement('begin_build') -%}
        rollback;
        begin isolation level repeatable read read write;
        set local lock_timeout = '30min';
        set local statement_timeout = 0;
        {%- if transaction_timeout is not none %}
        set local transaction_timeout = 0;
        {%- endif %}
        set local idle_in_transaction_session_timeout = 0;
        -- An error, instead of only the rows that a policy allows.
        set local row_security = off;
        -- Definitions are compared as text.
        set local quote_all_identifiers = off;
        set local marketplace.builds = '{{ model.unique_id }}';
        {%- if kind == 'table' %}
        lock table {{ this }} in share row exclusive mode;
        {%- endif %}
        {%- for node in model.depends_on.nodes if node in graph.nodes and graph.nodes[node].relation_name %}
        lock table {{ graph.nodes[node].relation_name }} in access share mode;
        {%- endfor %}
    {%- endcall -%}
    {{ return(kind) }}
{%- endmacro %}


{#- Return whether the transaction that `begin_build` began for this model is still open. -#}
{% macro is_in_build() -%}
    {{ return(run_query("select current_setting('marketplace.builds', true) = '" ~ model.unique_id ~ "'").rows[0][0]) }}
{%- endmacro %}


{#- Set `marketplace.server` to what tells this server's transactions from another's. Where a managed service keeps the
    system's identifier to itself, it is when the statistics began: each server has its own, and a crash a new one. -#}
{% macro identify_server() -%}
    do $identify$ begin
        perform set_config('marketplace.server', system_identifier::text, true) from pg_control_system();
    exception when others then
        perform set_config('marketplace.server', (extract(epoch from stats_reset) * 1000000)::bigint::text, true)
        from pg_stat_bgwriter;
    end $identify$;
{%- endmacro %}


{#- A post-hook: record in the table's comment which transactions it has seen, or the table SOURCE has, from which it is
    built. The record is committed with the rows, or not at all. Transactions are those of one server: restored on
    another, the table has seen none. It is the comment's last line; what others wrote above it stays. -#}
{% macro record_snapshot(source=none) -%}
    {%- set until_now = "current_setting('marketplace.server') || ' ' || pg_current_snapshot()" -%}
    {%- set comment = "obj_description('" ~ this ~ "'::regclass, 'pg_class')" -%}
    {{ identify_server() }}

    do $record$ begin
        execute format(
            'comment on table %s is %L',
            '{{ this }}',
            concat_ws(
                e'\n',
                nullif(regexp_replace({{ comment }}, {{ snapshot_pattern() }}, ''), ''),
                {{ snapshot_of(source) if source else until_now }}
            )
        );
    end $record$
{%- endmacro %}


{% macro snapshot_pattern() -%}
    e'(?:^|\n)([0-9]+ [0-9]+:[0-9]+:[0-9,]*)$'
{%- endmacro %}


{#- The snapshot that TABLE's comment ends with, or null. -#}
{% macro snapshot_of(table) -%}
    substring(obj_description('{{ table }}'::regclass, 'pg_class') from {{ snapshot_pattern() }})
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


{#- Return the spans of time, as pairs of from and until (none is no bound), that loads of this model's feeds have
    changed since this table was built. Loads commit in any order, so these are the loads that the table has not seen,
    not those with a higher id. For a table without a record, or a load without a transaction, it is all time. The build
    of a model begins with this call; each later call in it returns the same spans. -#}
{% macro changed_spans() -%}
    {%- if flags.WHICH not in ('compile', 'generate', 'show') and not is_in_build() -%}
        {%- do begin_build() -%}
    {%- endif -%}
    {%- set query -%}
        {{ identify_server() }}

        with

        records as (

            select string_to_array({{ snapshot_of(this) }}, ' ') as record

        ),

        built as (

            select case when record[1] = current_setting('marketplace.server') then record[2]::pg_snapshot end as seen

            from records

        ),

        changes as (

            select case when loads.transaction_id is null or built.seen is null then '(,)' else loads.changed_span end as span

            from {{ ref('stg_loads') }} as loads

            cross join built

            where loads.is_change
                and loads.feed in ('{{ feeds_of(model) | join("', '") }}')
                and pg_visible_in_snapshot(loads.transaction_id, built.seen) is not true

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


{#- A constant of TYPE: the moment AT of `changed_spans`. -#}
{% macro utc(at, type) -%}
    '{{ at }}'::timestamp{{ " at time zone 'UTC'" if type == 'timestamptz' }}
{%- endmacro %}


{#- A constant: the first day in SPANS; `infinity` if there is none. -#}
{% macro first_day(spans) -%}
    '{{ (spans[0][0] or '-infinity') if spans else 'infinity' }}'::timestamp::date
{%- endmacro %}
