-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent,structure.column_order
{#- A table is built by changing its rows: the table stays, and so does what others have put on it, grants and views and
    columns. It is one transaction, which readers of any isolation see whole or not at all. -#}
{% macro build_table() -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target = this.incorporate(type='table') -%}
    {%- set new_rows = api.Relation.create(schema='pg_temp', identifier=this.identifier[:54] ~ '__new') -%}

    {%- do run_hooks(pre_hooks, inside_transaction=False) -%}
    {%- if not is_incremental() -%}
        {%- do begin_build() -%}
    {%- endif -%}
    {%- do run_hooks(pre_hooks, inside_transaction=True) -%}

    {%- set grants_before = grants_on(existing) -%}
    {%- if existing is none -%}
        {%- set build_sql = get_create_table_as_sql(False, target, sql) -%}
    {%- else -%}
        {%- call statement('new_rows') -%}
            {{ create_new_rows(new_rows) }}
        {%- endcall -%}
        {%- set differences = differences_in_structure(existing, new_rows) if existing.is_table else ['a ' ~ existing.type] -%}
        {%- if differences -%}
            {%- do refuse_to_lose(existing, new_rows, differences) -%}
            {%- set build_sql -%}
                drop {{ existing.type }} {{ existing }};
                {{ get_create_table_as_sql(False, target, 'select * from ' ~ new_rows) }}
            {%- endset -%}
        {%- elif is_incremental() -%}
            {%- set build_sql = incremental_sql(target, new_rows) -%}
        {%- else -%}
            {%- set build_sql = replace_all_rows(target, new_rows) -%}
        {%- endif -%}
    {%- endif -%}
    {%- call statement('main') -%}
        {{ build_sql }}
    {%- endcall -%}

    {%- do create_missing_indexes(target) -%}
    {{ return(finish_build(target, grants_before)) }}
{%- endmacro %}


{#- End the build of a table or view: grants, comments, hooks, the commit; return what a materialization returns. -#}
{% macro finish_build(target, grants_before) -%}
    {%- do apply_grants(target, config.get('grants'), should_revoke=False) -%}
    {%- do restore_grants(target, grants_before) -%}
    {%- do persist_docs(target, model) -%}
    {%- do run_hooks(post_hooks, inside_transaction=True) -%}
    {%- do adapter.commit() -%}
    {%- do run_hooks(post_hooks, inside_transaction=False) -%}
    {{ return({'relations': [target]}) }}
{%- endmacro %}


{#- Make the temporary table NEW_ROWS of what the model selects, which its contract's constraints check. A temporary
    table has no foreign keys: those of the table itself check its rows. -#}
{% macro create_new_rows(new_rows) -%}
    {%- if config.get('contract').enforced -%}
        {%- set columns = {} -%}
        {%- for name, column in model['columns'].items() -%}
            {%- do columns.update({name: dict(column, constraints=without_foreign_keys(column['constraints']))}) -%}
        {%- endfor -%}
        {%- set parts = adapter.render_raw_columns_constraints(raw_columns=columns) -%}
        {%- set constraints = without_foreign_keys(model['constraints']) -%}
        {{ get_assert_columns_equivalent(sql) }}
        create temporary table {{ new_rows }} (
            {{ (parts + adapter.render_raw_model_constraints(raw_constraints=constraints)) | join(',\n            ') }}
        ) on commit drop;

        insert into {{ new_rows }} ({{ adapter.dispatch('get_column_names', 'dbt')() }})
        {{ get_select_subquery(sql) }}
    {%- else -%}
        create temporary table {{ new_rows }} on commit drop as (
            {{ sql }}
        )
    {%- endif -%}
{%- endmacro %}


{% macro without_foreign_keys(constraints) -%}
    {{ return(constraints | rejectattr('type', 'equalto', 'foreign_key') | list) }}
{%- endmacro %}


{#- Statements: make the rows of TARGET those of NEW_ROWS, and touch none that is the same already. -#}
{% macro replace_all_rows(target, new_rows) -%}
    {%- set query -%}
        select quote_ident(attname), coalesce(attnum = any(indkey::smallint[]), false)
        from pg_attribute left join pg_index on indrelid = attrelid and indisprimary
        where attrelid = '{{ new_rows }}'::regclass and attnum > 0 and not attisdropped
        order by attnum
    {%- endset -%}
    {%- set columns = run_query(query).rows -%}
    {%- set names = columns | map(attribute=0) | list -%}
    {%- set keys = columns | selectattr(1) | map(attribute=0) | list -%}
    {%- set others = columns | rejectattr(1) | map(attribute=0) | list -%}
    {%- if keys -%}
        merge into {{ target }} as old_rows
        using {{ new_rows }} as new_rows
        on {% for key in keys %}old_rows.{{ key }} = new_rows.{{ key }}{{ ' and ' if not loop.last }}{% endfor %}
        {%- if others %}
        -- Other bytes: nulls and types without equality are compared as well.
        when matched and row(old_rows.{{ others | join(', old_rows.') }})::record
            *<> row(new_rows.{{ others | join(', new_rows.') }})::record
            then update set {% for name in others %}{{ name }} = new_rows.{{ name }}{{ ', ' if not loop.last }}{% endfor %}
        {%- endif %}
        when not matched then insert ({{ names | join(', ') }}) values (new_rows.{{ names | join(', new_rows.') }})
        when not matched by source then delete
    {%- else -%}
        delete from {{ target }};

        insert into {{ target }} ({{ names | join(', ') }}) select {{ names | join(', ') }} from {{ new_rows }}
    {%- endif -%}
{%- endmacro %}


{#- The statements of the model's incremental strategy. Columns that others have added to TARGET are none of it. -#}
{% macro incremental_sql(target, new_rows) -%}
    {%- set names = run_query('select * from ' ~ new_rows ~ ' limit 0').column_names -%}
    {%- set name = config.get('incremental_strategy') or 'default' -%}
    {%- set strategy = adapter.get_incremental_strategy_macro(context, name) -%}
    {{ return(strategy({
        'target_relation': target,
        'temp_relation': new_rows,
        'unique_key': config.get('unique_key'),
        'dest_columns': adapter.get_columns_in_relation(target) | selectattr('name', 'in', names) | list,
        'incremental_predicates': config.get('incremental_predicates'),
    })) }}
{%- endmacro %}


{#- List why the table EXISTING cannot take NEW_ROWS: the columns and constraints of NEW_ROWS that it has not, and its
    own columns that need a value. Other columns and constraints that somebody has added are no difference. -#}
{% macro differences_in_structure(existing, new_rows) -%}
    {%- set query -%}
        with

        columns as (

            select attrelid, attname, attnotnull and not atthasdef and attidentity = '' as is_needed,
                format('column %I %s', attname, format_type(atttypid, atttypmod)) as part
            from pg_attribute
            where attrelid in ('{{ existing }}'::regclass, '{{ new_rows }}'::regclass) and attnum > 0 and not attisdropped

        ),

        parts as (

            select attrelid as relation, part from columns
            union all
            select conrelid, lower(contype) || ' ' || pg_get_constraintdef(oid) from pg_constraint

        )

        (
            select 'no ' || part as difference from parts where relation = '{{ new_rows }}'::regclass
            except
            select 'no ' || part from parts where relation = '{{ existing }}'::regclass
        )
        union all
        select 'a needed ' || part from columns
        where attrelid = '{{ existing }}'::regclass and is_needed
            and attname not in (select attname from columns where attrelid = '{{ new_rows }}'::regclass)
        order by difference
    {%- endset -%}
    {{ return(run_query(query).columns[0].values() | list) }}
{%- endmacro %}


{#- Stop where EXISTING, which differs from the model's NEW_ROWS, cannot be replaced by a new table without a loss. -#}
{% macro refuse_to_lose(existing, new_rows, differences) -%}
    {%- set is_refresh = flags.FULL_REFRESH -%}
    {%- set kept_out = what_depends_on(existing, new_rows, deptypes="'n'" if is_refresh else "'n', 'a'") -%}
    {%- if kept_out or is_incremental() -%}
        {%- do exceptions.raise_compiler_error(
            existing.render() ~ ' is not what the model makes now: it has ' ~ differences | join(', ') ~ '.\n'
            ~ ('A new table in its place would be without: ' ~ kept_out | join(', ') ~ '.\n' if kept_out else '')
            ~ ('Drop or change what is named, build again, and make it anew.' if is_refresh else
               'Build it new, once all that is named is written down to be made again:'
               ~ ' dbt build --full-refresh --select ' ~ model.name)
        ) -%}
    {%- endif -%}
{%- endmacro %}


{#- Describe what depends on EXISTING and would go with it (a), or not let it go (n), but for what the model makes. -#}
{% macro what_depends_on(existing, new_rows, deptypes) -%}
    {%- set query -%}
        select distinct pg_describe_object(classid, objid, objsubid) as dependent
        from pg_depend
        where
            refclassid = 'pg_class'::regclass
            and refobjid = '{{ existing }}'::regclass
            and deptype in ({{ deptypes }})
            and classid <> 'pg_attrdef'::regclass
            and not exists (select from pg_constraint where oid = objid and conrelid = refobjid)
            and not (classid = 'pg_class'::regclass and {{ is_index_of_the_model('objid') }})
        union all
        select format('column %I', attname) from pg_attribute
        where
            attrelid = '{{ existing }}'::regclass and attnum > 0 and not attisdropped and 'a' in ({{ deptypes }})
            and attname not in (
                select attname from pg_attribute where attrelid = '{{ new_rows }}'::regclass and attnum > 0
            )
        order by dependent
    {%- endset -%}
    {{ return(run_query(query).columns[0].values() | list) }}
{%- endmacro %}


{#- A condition: the index with the oid OID is one that the model's configuration asks for. -#}
{% macro is_index_of_the_model(oid) -%}
    {%- set definitions = [] -%}
    {%- for index in config.get('indexes', []) -%}
        {%- do definitions.append("'" ~ definition_of(index) ~ "'") -%}
    {%- endfor -%}
    coalesce(substring(pg_get_indexdef({{ oid }}) from ' USING (.*)$') in ({{ definitions | join(', ') or 'null' }}), false)
{%- endmacro %}


{% macro definition_of(index) -%}
    {{ return((index.type or 'btree') ~ ' (' ~ index.columns | join(', ') ~ ')') }}
{%- endmacro %}


{% macro create_missing_indexes(target) -%}
    {%- for index in config.get('indexes', []) -%}
        {%- set query -%}
            select 1 from pg_index
            where
                indrelid = '{{ target }}'::regclass
                and substring(pg_get_indexdef(indexrelid) from ' USING (.*)$') = '{{ definition_of(index) }}'
        {%- endset -%}
        {%- set there = run_query(query).rows -%}
        {%- if not there -%}
            {%- do run_query(get_create_index_sql(target, index)) -%}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro %}


{#- The statements that give again what others may do with RELATION (or none); `restore_grants` executes those that are
    needed where something new has taken its place. -#}
{% macro grants_on(relation) -%}
    {%- if relation is none -%}
        {{ return([]) }}
    {%- endif -%}
    {%- set query -%}
        select format(
            'grant %s on %s to %s%s', privilege_type, '{{ this }}',
            case when grantee = 0 then 'public' else grantee::regrole::text end,
            case when is_grantable then ' with grant option' end
        )
        from pg_class, aclexplode(relacl)
        where oid = '{{ relation }}'::regclass and grantee <> relowner
    {%- endset -%}
    {{ return(run_query(query).columns[0].values() | list) }}
{%- endmacro %}


{% macro restore_grants(relation, grants_before) -%}
    {%- for grant in grants_before | reject('in', grants_on(relation)) -%}
        {%- do run_query(grant) -%}
    {%- endfor -%}
{%- endmacro %}
