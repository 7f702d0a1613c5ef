-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent,structure.column_order
{#- A table is built by changing its rows: the table stays, and so does what others have put on it, grants and views and
    columns. It is one transaction, which readers of any isolation see whole or not at all. -#}
{% macro build_table() -%}
    {%- set kind = kind_of(this) -%}
    {%- set target = this.incorporate(type='table') -%}
    {%- set new_rows = api.Relation.create(schema='pg_temp', identifier=this.identifier[:54] ~ '__new') -%}

    {%- do run_hooks(pre_hooks, inside_transaction=False) -%}
    {%- if not is_incremental() -%}
        {%- do begin_build() -%}
    {%- endif -%}
    {%- do run_hooks(pre_hooks, inside_transaction=True) -%}

    {%- set grants_before = grants_on(target) -%}
    {%- if kind is none -%}
        {%- set build_sql = get_create_table_as_sql(False, target, sql) -%}
    {%- else -%}
        {%- call statement('new_rows') -%}
            {{ create_new_rows(new_rows) }}
        {%- endcall -%}
        {%- set differences = differences_in_structure(target, new_rows) if kind == 'table' else [] -%}
        {%- if differences or kind != 'table' -%}
            {%- do refuse_to_lose(kind, target, new_rows, 'it has ' ~ differences | join(', ')) -%}
            {%- set build_sql -%}
                drop {{ kind }} {{ target }};
                {{ get_create_table_as_sql(False, target, 'select * from ' ~ new_rows) }}
            {%- endset -%}
        {%- elif is_incremental() -%}
            {%- set build_sql = incremental_sql(target, new_rows) -%}
        {%- else -%}
            {%- set build_sql = replace_rows(target, new_rows) -%}
        {%- endif -%}
    {%- endif -%}
    {%- call statement('main') -%}
        {{ build_sql }}
    {%- endcall -%}

    {%- do create_missing_indexes(target) -%}
    {{ return(finish_build(target, grants_before)) }}
{%- endmacro %}


{#- Say what has the name of RELATION: `table`, `view`, `materialized view`, or none. dbt's own cache would name a
    function of that name, too. -#}
{% macro kind_of(relation) -%}
    {%- set query -%}
        select type from pg_identify_object('pg_class'::regclass, to_regclass('{{ relation }}'), 0)
    {%- endset -%}
    {{ return(run_query(query).rows[0][0]) }}
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


{#- Statements: make the rows of TARGET (those for which CONDITION holds, which may read both as old_rows and new_rows)
    the rows of NEW_ROWS, and touch none that is the same already. Rows go first, so that what is unique in one of them
    may come again in another. Tables that others made to inherit from TARGET keep their rows: `only`. -#}
{% macro replace_rows(target, new_rows, condition='true') -%}
    {%- set query -%}
        select quote_ident(attname), coalesce(attnum = any(indkey::smallint[]), false)
        from pg_attribute left join pg_index on indrelid = attrelid and indisprimary
        where attrelid = '{{ new_rows }}'::regclass and attnum > 0 and not attisdropped
        order by attnum
    {%- endset -%}
    {%- set columns = run_query(query).rows -%}
    {%- set names = columns | map(attribute=0) | list -%}
    {%- set others = columns | rejectattr(1) | map(attribute=0) | list -%}
    {%- set same_keys = [] -%}
    {%- for key in columns | selectattr(1) | map(attribute=0) -%}
        {%- do same_keys.append('old_rows.' ~ key ~ ' = new_rows.' ~ key) -%}
    {%- endfor -%}
    {%- set same_key = same_keys | join(' and ') or 'false' -%}
    with new_rows as (select * from {{ new_rows }})

    delete from only {{ target }} as old_rows
    where ({{ condition }}) and not exists (select from new_rows where {{ same_key }});

    with new_rows as (select * from {{ new_rows }})

    merge into only {{ target }} as old_rows
    using new_rows
    -- The condition again, for PostgreSQL to read no more of the old rows than it has to.
    on {{ same_key }} and ({{ condition }})
    {%- if others %}
    -- Other bytes: nulls and types without equality are compared as well.
    when matched and row(old_rows.{{ others | join(', old_rows.') }})::record
        *<> row(new_rows.{{ others | join(', new_rows.') }})::record
        then update set {% for name in others %}{{ name }} = new_rows.{{ name }}{{ ', ' if not loop.last }}{% endfor %}
    {%- endif %}
    when not matched then insert ({{ names | join(', ') }}) values (new_rows.{{ names | join(', new_rows.') }})
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
        with {{ parts_of(existing, new_rows) }}

        (
            select 'no ' || part as difference from parts where relation = '{{ new_rows }}'::regclass and is_structure
            except
            select 'no ' || part from parts where relation = '{{ existing }}'::regclass
        )
        union all
        select format('a needed column %I', attname) from pg_attribute
        where attrelid = '{{ existing }}'::regclass and attnum > 0 and not attisdropped
            and attnotnull and not atthasdef and attidentity = ''
            and attname not in (select attname from pg_attribute where attrelid = '{{ new_rows }}'::regclass)
        union all
        select 'partitions' from pg_class where oid = '{{ existing }}'::regclass and relkind = 'p'
        order by difference
    {%- endset -%}
    {{ return(run_query(query).columns[0].values() | list) }}
{%- endmacro %}


{#- A common table expression, `parts`: what the tables or views ONE and OTHER are made of, as far as it is not what
    each has anyway. The structure is what a model's own columns and constraints say. -#}
{% macro parts_of(one, other) -%}
    {%- set both = "('" ~ one ~ "'::regclass, '" ~ other ~ "'::regclass)" -%}
    parts as (

        select attrelid as relation, is_structure, part
        from pg_attribute
        cross join lateral (select ' of column ' || quote_ident(attname)) as named (of_column)
        cross join lateral (
            values
            (true, format('column %I %s', attname, format_type(atttypid, atttypmod))),
            (false, case when atthasdef then 'default' end || of_column),
            (false, 'grants ' || attacl::text || of_column),
            (false, 'comment' || of_column || ': ' || col_description(attrelid, attnum)),
            (false, 'statistics target ' || attstattarget || of_column),
            (false, 'options ' || attoptions::text || of_column),
            (false, case when attcompression <> '' then 'compression' end || of_column),
            (false, (select 'storage' || of_column from pg_type where oid = atttypid and typstorage <> attstorage))
        ) as parts_of_column (is_structure, part)
        where attrelid in {{ both }} and attnum > 0 and not attisdropped
        union all
        select conrelid, true, 'constraint ' || pg_get_constraintdef(oid)
        from pg_constraint
        where conrelid in {{ both }}
        union all
        select oid, false, part
        from pg_class
        cross join lateral (
            values
            ('owner ' || relowner::regrole),
            ('options ' || reloptions::text),
            (case when relreplident <> 'd' then 'replica identity' end),
            (case when relrowsecurity or relforcerowsecurity then 'row level security' end),
            ('access method ' || (select amname from pg_am where pg_am.oid = relam)),
            ('tablespace ' || (select spcname from pg_tablespace where pg_tablespace.oid = reltablespace)),
            ('comment: ' || nullif(regexp_replace(obj_description(oid, 'pg_class'), {{ note_pattern() }}, ''), ''))
        ) as parts_of_table (part)
        where oid in {{ both }}

    )
{%- endmacro %}


{#- Stop where what is at the place of TARGET, a KIND that does not fit the model for the reason WHY, cannot be replaced
    by a new one, as NEW_ONE is, without a loss. What is of another kind may be somebody's altogether. -#}
{% macro refuse_to_lose(kind, target, new_one, why) -%}
    {%- set is_refresh = flags.FULL_REFRESH -%}
    {%- set is_other_kind = kind != target.type -%}
    {%- set kept_out = [] if is_other_kind and not is_refresh else what_would_go(target, new_one, is_refresh) -%}
    {%- if kept_out or not is_refresh and (is_other_kind or is_incremental()) -%}
        {%- do exceptions.raise_compiler_error(
            target.render() ~ ' is '
            ~ ('a ' ~ kind ~ ', and the model makes a ' ~ target.type ~ '.\n' if is_other_kind else
               'not what the model makes now: ' ~ why ~ '.\n')
            ~ ('A new ' ~ target.type ~ ' in its place would be without: ' ~ kept_out | join(', ') ~ '.\n' if kept_out)
            ~ ('Drop or change what is named, build again, and make it anew.' if is_refresh else
               ('It may be somebody\'s: rename it to keep it, or have it dropped:' if is_other_kind else
                'Build it new, once all that is named is written down to be made again:')
               ~ ' dbt build --full-refresh --select ' ~ model.name)
        ) -%}
    {%- endif -%}
{%- endmacro %}


{#- List what would go with EXISTING or not let it go, but for what NEW_ONE has as well: where IS_REFRESH, only what
    would not let it go. -#}
{% macro what_would_go(existing, new_one, is_refresh) -%}
    {%- set query -%}
        with {{ parts_of(existing, new_one) }}

        select distinct pg_describe_object(classid, objid, objsubid) as part
        from pg_depend
        where
            refclassid = 'pg_class'::regclass
            and refobjid = '{{ existing }}'::regclass
            and deptype in ('n'{{ ", 'a'" if not is_refresh }})
            and classid <> 'pg_attrdef'::regclass
            and not (classid = 'pg_class'::regclass and objid = refobjid)
            and not exists (select from pg_constraint where oid = objid and conrelid = refobjid)
            and not exists (select from pg_rewrite where oid = objid and ev_class = refobjid and ev_type = '1')
            and not (classid = 'pg_class'::regclass and {{ is_index_of_the_model('objid') }})
        {%- if not is_refresh %}
        union all
        (
            select part from parts where relation = '{{ existing }}'::regclass and part is not null
            {{- ' and not is_structure' if existing.type == 'view' }}
            except
            select part from parts where relation = '{{ new_one }}'::regclass
        )
        union all
        select 'inheritance from ' || inhparent::regclass from pg_inherits where inhrelid = '{{ existing }}'::regclass
        {%- endif %}
        order by part
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


{#- The statements that give again what others may do with RELATION; `restore_grants` executes those that are
    needed where something new has taken its place. -#}
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


{% macro restore_grants(relation, grants_before) -%}
    {%- for grant in grants_before | reject('in', grants_on(relation)) -%}
        {%- do run_query(grant) -%}
    {%- endfor -%}
{%- endmacro %}
