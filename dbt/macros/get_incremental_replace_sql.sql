{#- The incremental strategy `replace`: the rows that one of the model's incremental_predicates names become those that
    it selects. Predicates may read both, as old_rows and new_rows; PostgreSQL reads no old rows but these. dbt's own
    strategies look up each new key in the table. The predicates are templates, for at parse time the table has no name
    yet. What they name and what the model reads are found in one transaction, or rows would be lost. -#}
{% macro get_incremental_replace_sql(arg_dict) -%}
    {%- if not is_in_build() -%}
        {%- do exceptions.raise_compiler_error(
            'The rows were read in another transaction than the one that is to replace them.\n'
            ~ 'A hook outside of the transaction ended it, most likely, or the model does not call changed_spans().\n'
            ~ 'Call it, and have hooks run inside of the transaction (transaction: true).'
        ) -%}
    {%- endif -%}
    {%- set conditions = [] -%}
    {%- for predicate in arg_dict['incremental_predicates'] -%}
        {%- do conditions.append(render(predicate)) -%}
    {%- endfor -%}
    {{ replace_rows(arg_dict['target_relation'], arg_dict['temp_relation'], conditions | join(' or ')) }}
{%- endmacro %}
