{#- The incremental strategy `replace`: delete what one of the model's incremental_predicates names, then insert what it
    selects, which predicates may read as new_rows. dbt's own delete+insert looks up each new key in the table. The
    predicates are templates, for at parse time the table has no name yet. What they name and what the model reads are
    found in one transaction, or rows would be lost. -#}
{% macro get_incremental_replace_sql(arg_dict) -%}
    {%- if not is_in_build() -%}
        {%- do exceptions.raise_compiler_error(
            'The rows were read in another transaction than the one that is to replace them.\n'
            ~ 'A hook outside of the transaction ended it, most likely, or the model does not call changed_spans().\n'
            ~ 'Call it, and have hooks run inside of the transaction (transaction: true).'
        ) -%}
    {%- endif -%}
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
