-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent
{#- A view is replaced in place, so that grants and views of others on it stay. Where PostgreSQL cannot do that, since
    its columns have changed or it is no view, it is made anew, unless something would be lost. -#}
{% macro build_view() -%}
    {%- set kind = kind_of(this) -%}
    {%- set target = this.incorporate(type='view') -%}
    {%- set new_one = api.Relation.create(schema='pg_temp', identifier=this.identifier[:54] ~ '__new') -%}

    {%- do run_hooks(pre_hooks, inside_transaction=False) -%}
    {%- do run_hooks(pre_hooks, inside_transaction=True) -%}

    {%- set grants_before = grants_on(target) -%}
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
    {%- if misfit -%}
        {%- call statement('new_one') -%}
            create temporary view {{ new_one }} {{ options }} as (
                {{ sql }}
            )
        {%- endcall -%}
        {%- do refuse_to_lose(kind, target, new_one, misfit) -%}
        {%- call statement('main') -%}
            drop view {{ new_one }};
            drop {{ kind }} {{ target }};
            create view {{ target }} {{ options }} as (
                {{ sql }}
            )
        {%- endcall -%}
    {%- endif -%}

    {{ return(finish_build(target, grants_before)) }}
{%- endmacro %}


{#- The clause with the options of VIEW, `security_invoker` say: without it `create or replace` resets them. -#}
{% macro options_of_view(view) -%}
    {%- set query -%}
        select format('with (%s)', array_to_string(reloptions, ', ')) from pg_class
        where oid = to_regclass('{{ view }}') and relkind = 'v' and reloptions is not null
    {%- endset -%}
    {{ return(run_query(query).columns[0].values() | join) }}
{%- endmacro %}
