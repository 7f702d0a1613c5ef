{#- The incremental strategy `replace`: delete what one of the model's incremental_predicates names, then insert what it
    selects, which predicates may read as new_rows. dbt's own delete+insert looks up each new key in the table. The
    predicates are templates, for at parse time the table has no name yet. -#}
{% macro get_incremental_replace_sql(arg_dict) -%}
    {%- set columns = arg_dict['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    {%- set conditions = [] -%}
    {%- for predicate in arg_dict['incremental_predicates'] -%}
        {%- do conditions.append(render(predicate)) -%}
    {%- endfor -%}
    with

    new_rows as (

        select * from {{ arg_dict['temp_relation'] }}

    )

    delete from {{ arg_dict['target_relation'] }}
    where {{ conditions | join(' or ') }};

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }};
{%- endmacro %}
