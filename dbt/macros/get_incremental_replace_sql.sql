{#- The incremental strategy `replace`: the rows that one of the model's incremental_predicates selects are replaced by
    those that the model selects. Predicates may read both, as old_rows and new_rows; PostgreSQL reads no other old rows,
    while dbt's own strategies look up each new key in the table. Predicates are templates, since the table has no name
    yet when dbt parses. They have to be rendered in the transaction in which the model reads, or rows would be lost. -#}
{% macro get_incremental_replace_sql(arg_dict) -%}
    {%- if not current_build() -%}
        {%- do exceptions.raise_compiler_error(
            'The rows were read in another transaction than the one that replaces them.\n'
            ~ 'A hook outside of the transaction has most likely ended it, or the model does not call changed_spans().\n'
            ~ 'Call it, and run hooks inside of the transaction (transaction: true).'
        ) -%}
    {%- endif -%}
    {%- set conditions = [] -%}
    {%- for predicate in arg_dict['incremental_predicates'] -%}
        {%- do conditions.append(render(predicate)) -%}
    {%- endfor -%}
    {{ replace_rows(arg_dict['target_relation'], arg_dict['temp_relation'], conditions | join(' or ') or 'false') }}
{%- endmacro %}
