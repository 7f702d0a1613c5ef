-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent
{#- A condition: the index with the oid OID is in the model's configuration. -#}
{% macro is_index_of_the_model(oid) -%}
    {%- set definitions = [] -%}
    {%- for index in config.get('indexes', []) -%}
        {%- do definitions.append("'" ~ index_definition(index) ~ "'") -%}
    {%- endfor -%}
    coalesce(substring(pg_get_indexdef({{ oid }}) from ' USING (.*)$') in ({{ definitions | join(', ') or 'null' }}), false)
{%- endmacro %}


{% macro index_definition(index) -%}
    {{ return((index.type or 'btree') ~ ' (' ~ index.columns | join(', ') ~ ')') }}
{%- endmacro %}


{% macro create_missing_indexes(target) -%}
    {%- if config.get('indexes') -%}
        {%- set query -%}
            select substring(pg_get_indexdef(indexrelid) from ' USING (.*)$') from pg_index
            where indrelid = '{{ target }}'::regclass
        {%- endset -%}
        {%- set existing = run_query(query).columns[0].values() -%}
        {%- for index in config.get('indexes') if index_definition(index) not in existing -%}
            {%- do run_query(get_create_index_sql(target, index)) -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}


{#- List the statements that grant on the model's table what others than its owner may do with RELATION. -#}
{% macro grants_on(relation) -%}
    {%- set query -%}
        select format(
            'grant %s on %s to %s%s', privilege_type, '{{ this }}',
            case when grantee = 0 then 'public' else grantee::regrole::text end,
            case when is_grantable then ' with grant option' end
        )
        from pg_class, aclexplode(relacl)
        where oid = to_regclass('{{ relation }}') and grantee <> relowner
    {%- endset -%}
    {{ return(run_query(query).columns[0].values() | list) }}
{%- endmacro %}


{#- Execute those of GRANTS, statements of a relation that was replaced, that RELATION does not have. -#}
{% macro restore_grants(relation, grants) -%}
    {%- if grants -%}
        {%- for grant in grants | reject('in', grants_on(relation)) -%}
            {%- do run_query(grant) -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}


{#- Quote the names of roles, which may have any characters; dbt's own macro quotes only those that it revokes from. -#}
{% macro postgres__get_grant_sql(relation, privilege, grantees) -%}
    {%- set names = [] -%}
    {%- for grantee in grantees -%}
        {%- do names.append('public' if grantee == 'public' else adapter.quote(grantee | replace('"', '""'))) -%}
    {%- endfor -%}
    grant {{ privilege }} on {{ relation.render() }} to {{ names | join(', ') }}
{%- endmacro %}
