{#- A view is replaced in place, so that grants and views of others on it stay. Where its columns have changed in a way
    that PostgreSQL cannot follow, it is made anew, unless others depend on it. -#}
{% macro build_view() -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target = this.incorporate(type='view') -%}

    {%- do run_hooks(pre_hooks, inside_transaction=False) -%}
    {%- do run_hooks(pre_hooks, inside_transaction=True) -%}

    {%- set grants_before = grants_on(existing) -%}
    {%- if config.get('contract').enforced -%}
        {%- do get_assert_columns_equivalent(sql) -%}
    {%- endif -%}
    {%- call statement('main') -%}
        do $build_view$
        declare
            dependents text;
        begin
            create or replace view {{ target }} as (
                {{ sql }}
            );
        exception when invalid_table_definition or wrong_object_type then
            begin
                drop {{ existing.type if existing else 'view' }} {{ target }};
            exception when dependent_objects_still_exist then
                get stacked diagnostics dependents = pg_exception_detail;
                raise exception '{{ target }} is not what the model makes now, and others depend on it.'
                    using detail = dependents, hint = 'Drop what is named, build again, and make it anew.';
            end;
            create view {{ target }} as (
                {{ sql }}
            );
        end $build_view$
    {%- endcall -%}

    {{ return(finish_build(target, grants_before)) }}
{%- endmacro %}
