-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent
{#- Begin the transaction that builds this model, and ask once what has changed. Return the answer, which the
    transaction keeps for `current_build`:
    kind: of the relation that the model has now, see `kind_of`;
    spans: what `changed_spans` returns;
    snapshot: what the table will have seen: the loads that this question sees, or those that the tables have seen that
    the model reads, whichever is less; none if one of them is unknown.
    Locks come before the question. So until the commit nobody else builds this table or those that it reads, and no load
    swaps its rows into raw tables that it reads. Locks on names of models, taken in the order of names, come before
    locks on tables: nobody waits for one with the other in hand. Users may write to the table, and vacuum may work on
    it. -#}
{% macro begin_build() -%}
    {%- set locks = {state_name(model): name_lock(model)} -%}
    {%- set snapshots = ['(pg_current_snapshot())'] -%}
    {%- for node in tables_behind(model) -%}
        {%- do locks.update({state_name(node): name_lock(node, is_shared=True)}) -%}
        {%- do snapshots.append('(' ~ snapshot_of(node) ~ ')') -%}
    {%- endfor -%}
    {%- call statement('begin_build', fetch_result=True) -%}
        rollback;
        begin isolation level read committed read write;
        {{ create_model_state() }};
        commit;
        begin isolation level read committed read write;
        set local lock_timeout = '30min';
        set local statement_timeout = 0;
        set local idle_in_transaction_session_timeout = 0;
        select set_config('transaction_timeout', '0', true) where current_setting('transaction_timeout', true) is not null;
        -- An error, instead of only the rows that a policy allows.
        set local row_security = off;
        -- Definitions are compared as text.
        set local quote_all_identifiers = off;
        {%- for name in locks | sort %}
        {{ locks[name] }};
        {%- endfor %}
        do $lock$ begin
            -- It may still be a view, or nothing.
            if (select relkind from pg_class where oid = to_regclass('{{ this }}')) in ('r', 'p') then
                lock table {{ this }} in row exclusive mode;
            end if;
        end $lock$;
        {%- for node in model.depends_on.nodes if node in graph.nodes and graph.nodes[node].relation_name %}
        lock table {{ graph.nodes[node].relation_name }} in access share mode;
        {%- endfor %}
        {{ identify_server() }};

        select set_config(
            'marketplace.build',
            json_build_object(
                'model', '{{ model.unique_id }}',
                'kind', (select type from pg_identify_object('pg_class'::regclass, to_regclass('{{ this }}'), 0)),
                'snapshot', (
                    -- Whoever took the earlier of two snapshots saw no more than the other.
                    select snapshot from (values {{ snapshots | join(', ') }}) as snapshots (snapshot)
                    order by
                        pg_snapshot_xmax(snapshot) nulls first,
                        (select count(*) from pg_snapshot_xip(snapshot)) desc
                    limit 1
                ),
                'spans', ({{ spans_of_changes() if is_incremental() else 'null' }})
            )::text,
            true
        )
    {%- endcall -%}
    {{ return(fromjson(load_result('begin_build').data[0][0])) }}
{%- endmacro %}


{#- A statement: lock the name of NODE until the transaction ends, alone or shared. -#}
{% macro name_lock(node, is_shared=False) -%}
    select pg_advisory_xact_lock{{ '_shared' if is_shared }}(hashtextextended('{{ state_name(node) }}', 0))
{%- endmacro %}


{#- Return what `begin_build` returned, if the transaction that it began for this model is still open; or none. -#}
{% macro current_build() -%}
    {%- set build = fromjson(run_query("select current_setting('marketplace.build', true)").rows[0][0] or '{}') -%}
    {{ return(build if build.model == model.unique_id else none) }}
{%- endmacro %}


{#- The nodes of the tables that NODE reads, also through views and ephemeral models. -#}
{% macro tables_behind(node) -%}
    {%- set tables = [] -%}
    {%- for id in node.depends_on.nodes if id in graph.nodes -%}
        {%- set parent = graph.nodes[id] -%}
        {%- if parent.config.materialized in ('table', 'incremental') -%}
            {%- do tables.append(parent) -%}
        {%- else -%}
            {%- do tables.extend(tables_behind(parent)) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(tables | unique(attribute='unique_id') | list) }}
{%- endmacro %}


{#- Set `marketplace.server` to what tells this server's transactions from another's. Where a managed service keeps the
    system's identifier to itself, it is when the statistics began: each server has its own, and a crash a new one. -#}
{% macro identify_server() -%}
    do $identify$ begin
        perform set_config('marketplace.server', system_identifier::text, true) from pg_control_system();
    exception when others then
        perform set_config('marketplace.server', (extract(epoch from stats_reset) * 1000000)::bigint::text, true)
        from pg_stat_bgwriter;
    end $identify$
{%- endmacro %}
