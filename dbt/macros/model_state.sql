-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent
{#- The table with the state of each table that a model has: which transactions it has seen, as of which build. -#}
{% macro model_state() -%}
    {%- set schema = generate_schema_name('intermediate', none) | trim -%}
    {{ return(api.Relation.create(database=target.database, schema=schema, identifier='model_state')) }}
{%- endmacro %}


{#- NODE's name in that table: its schema and its own. -#}
{% macro state_name(node) -%}
    {{ return(node.schema ~ '.' ~ node.alias) }}
{%- endmacro %}


{#- A statement: create that table if it is missing, or add the column that an earlier version did not have; of several
    builds that do so at the same time one does. Readers may see it, so that metrics can tell which models are behind. -#}
{% macro create_model_state() -%}
    {%- set state = model_state() -%}
    {%- set schema = state.without_identifier().include(database=False) -%}
    {%- set lock -%}
        perform pg_advisory_xact_lock(hashtextextended('{{ state.schema }}.{{ state.identifier }}', 0))
    {%- endset -%}
    {%- set has_feeds -%}
        exists (
            select from pg_attribute
            where attrelid = '{{ state }}'::regclass and attname = 'feeds' and not attisdropped
        )
    {%- endset -%}
    {%- set feeds_comment = 'The tables of raw that it is built from, also through other models.' -%}
    {%- set grant -%}
        begin
            {{ get_grant_sql(state, 'select', [env_var('WAREHOUSE_READER', 'reader')]) }};
        exception when undefined_object then
            null;
        end
    {%- endset -%}
    do $create$ begin
        if to_regclass('{{ state }}') is null then
            {{ lock }};
            begin
                create schema {{ schema }};
            exception when duplicate_schema or unique_violation or insufficient_privilege then
                null;
            end;
            begin
                create table {{ state }} (
                    model text primary key,
                    table_oid oid not null,
                    server text not null,
                    snapshot pg_snapshot,
                    built_at timestamptz not null,
                    invocation_id text not null,
                    run_id text,
                    feeds text[]
                );
                {%- for what, comment in {
                    'table ' ~ state: 'One row per table of a model: what it has seen. If a row is deleted, the next build'
                        ~ ' computes all of that table. docs/adr/0006-incremental-models-follow-the-ledger.md',
                    'column ' ~ state ~ '.model': 'The schema and the name of the table.',
                    'column ' ~ state ~ '.table_oid': 'Its oid: another table of this name has seen nothing.',
                    'column ' ~ state ~ '.server': 'The server of which the snapshot is.',
                    'column ' ~ state ~ '.snapshot': 'Which transactions the table has seen; null if that is unknown.',
                    'column ' ~ state ~ '.built_at': 'When its last build began.',
                    'column ' ~ state ~ '.invocation_id': 'The id that dbt gave to that build.',
                    'column ' ~ state ~ '.run_id': 'The DAG and its run, as in raw.loads; null outside of Airflow.',
                    'column ' ~ state ~ '.feeds': feeds_comment
                }.items() %}
                comment on {{ what }} is '{{ comment }}';
                {%- endfor %}
                {{ grant }};
            -- It may not know yet what it has waited for.
            exception when duplicate_table or unique_violation then
                null;
            end;
        end if;
        if not {{ has_feeds }} then
            {{ lock }};
            -- Another build may have added it meanwhile, and reads the table: do not wait for that.
            if not {{ has_feeds }} then
                alter table {{ state }} add column feeds text[];
                comment on column {{ state }}.feeds is '{{ feeds_comment }}';
                {{ grant }};
            end if;
        end if;
    end $create$
{%- endmacro %}


{#- An expression: the snapshot that the table of NODE has seen; null if that is unknown. Transactions are those of one
    server: restored on another, the table has seen none. -#}
{% macro snapshot_of(node) -%}
    (
        select snapshot from {{ model_state() }}
        where
            model = '{{ state_name(node) }}'
            and table_oid = to_regclass('{{ node.relation_name }}')
            and server = current_setting('marketplace.server')
    )
{%- endmacro %}


{#- Write down what the table of this model has seen, as `begin_build` has found it: committed with the rows, or not at
    all. Rows of tables that are gone go. Earlier versions had the snapshot in the last line of the table's comment; what
    others wrote above it stays. -#}
{% macro write_state() -%}
    {%- set state = model_state() -%}
    {%- set run = env_var('AIRFLOW_CTX_DAG_ID', '') ~ ' ' ~ env_var('AIRFLOW_CTX_DAG_RUN_ID', '') -%}
    {%- call statement('write_state') -%}
        insert into {{ state }} (model, table_oid, server, snapshot, built_at, invocation_id, run_id, feeds)
        select
            '{{ state_name(model) }}',
            '{{ this }}'::regclass,
            current_setting('marketplace.server'),
            (current_setting('marketplace.build')::json ->> 'snapshot')::pg_snapshot,
            now(),
            '{{ invocation_id }}',
            nullif(trim('{{ run | replace("'", "''") }}'), ''),
            string_to_array('{{ feeds_of(model) | sort | join(' ') }}', ' ')
        on conflict (model) do update set
            table_oid = excluded.table_oid,
            server = excluded.server,
            snapshot = excluded.snapshot,
            built_at = excluded.built_at,
            invocation_id = excluded.invocation_id,
            run_id = excluded.run_id,
            feeds = excluded.feeds;

        delete from {{ state }}
        where
            model in (
                select model from {{ state }}
                where table_oid not in (select oid from pg_class)
                for update skip locked
            );

        do $comment$
        declare
            text text := obj_description('{{ this }}'::regclass, 'pg_class');
        begin
            if text ~ {{ snapshot_pattern() }} then
                execute format(
                    'comment on table %s is %L', '{{ this }}', nullif(regexp_replace(text, {{ snapshot_pattern() }}, ''), '')
                );
            end if;
        end $comment$
    {%- endcall -%}
{%- endmacro %}


{% macro snapshot_pattern() -%}
    e'(?:^|\n)([0-9]+ [0-9]+:[0-9]+:[0-9,]*)$'
{%- endmacro %}
