-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent
{#- Replace a view in place, so that grants and views of others on it stay. Where PostgreSQL cannot do that, because its
    columns have changed or it is no view, create it anew, unless something would be lost. -#}
{% macro build_view() -%}
    {%- set target = this.incorporate(type='view') -%}
    {%- set new_one = api.Relation.create(schema='pg_temp', identifier=this.identifier[:54] ~ '__new') -%}

    {%- do run_hooks(pre_hooks, inside_transaction=False) -%}
    {%- do run_hooks(pre_hooks, inside_transaction=True) -%}

    {%- if config.get('contract').enforced -%}
        {%- do get_assert_columns_equivalent(sql) -%}
    {%- endif -%}
    {%- set options = options_of_view(target) -%}
    {%- call statement('main') -%}
        do $build_view$ begin
            create or replace view {{ target }} {{ options }} as (
                {{ sql }}
            );
        exception when invalid_table_definition or wrong_object_type then
            perform set_config('marketplace.misfit', sqlerrm, true);
        end $build_view$
    {%- endcall -%}
    {%- set misfit = run_query("select current_setting('marketplace.misfit', true)").rows[0][0] -%}
    {%- set grants = [] -%}
    {%- if misfit -%}
        {%- set kind = kind_of(this) -%}
        {%- call statement('new_one') -%}
            create temporary view {{ new_one }} {{ options }} as (
                {{ sql }}
            )
        {%- endcall -%}
        {%- do drop_own_views() -%}
        {%- do check_that_nothing_is_lost(kind, target, new_one, misfit) -%}
        {%- set grants = grants_on(target) -%}
        {%- call statement('main') -%}
            drop view {{ new_one }};
            drop {{ kind }} {{ target }};
            create view {{ target }} {{ options }} as (
                {{ sql }}
            )
        {%- endcall -%}
    {%- endif -%}

    {{ return(finish_build(target, grants)) }}
{%- endmacro %}


{#- The clause with the options of VIEW, e.g. `security_invoker`: without it `create or replace` resets them. -#}
{% macro options_of_view(view) -%}
    {%- set query -%}
        select format('with (%s)', array_to_string(reloptions, ', ')) from pg_class
        where oid = to_regclass('{{ view }}') and relkind = 'v' and reloptions is not null
    {%- endset -%}
    {{ return(run_query(query).columns[0].values() | join) }}
{%- endmacro %}
