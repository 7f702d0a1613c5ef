-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent,structure.column_order
{#- Build a table by changing its rows, so that the table and what others have put on it stay: grants, views, columns.
    It is one transaction: readers of any isolation level see all of it or nothing. -#}
{% macro build_table() -%}
    {%- set target = this.incorporate(type='table') -%}
    {%- set new_rows = api.Relation.create(schema='pg_temp', identifier=this.identifier[:54] ~ '__new') -%}

    {%- do run_hooks(pre_hooks, inside_transaction=False) -%}
    {%- set build = current_build() if is_incremental() else begin_build() -%}
    {%- set kind = build.kind if build else kind_of(this) -%}
    {%- do run_hooks(pre_hooks, inside_transaction=True) -%}

    {%- set grants = [] -%}
    {%- if kind is none -%}
        {%- set build_sql = get_create_table_as_sql(False, target, sql) -%}
    {%- else -%}
        {%- call statement('new_rows') -%}
            {{ create_new_rows(new_rows) }}
        {%- endcall -%}
        {%- set differences = differences_in_structure(target, new_rows) if kind == 'table' else [] -%}
        {%- if differences or kind != 'table' -%}
            {%- do drop_own_views() -%}
            {%- do check_that_nothing_is_lost(kind, target, new_rows, 'it has ' ~ differences | join(', ')) -%}
            {%- set grants = grants_on(target) -%}
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
    {%- if build -%}
        {%- do write_state() -%}
    {%- endif -%}
    {{ return(finish_build(target, grants)) }}
{%- endmacro %}


{#- Drop the project's own views of this model's relation, which is about to be replaced. They are built after it, in
    this run or in the next. -#}
{% macro drop_own_views() -%}
    {%- for node in graph.nodes.values() if model.unique_id in node.depends_on.nodes -%}
        {%- if node.resource_type == 'model' and node.config.materialized == 'view' -%}
            {%- do run_query('drop view if exists ' ~ node.relation_name) -%}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro %}


{#- Finish the build of a table or view: grants, GRANTS of a replaced relation, comments, hooks, commit; return what a
    materialization returns. -#}
{% macro finish_build(target, grants) -%}
    {%- do apply_grants(target, config.get('grants'), should_revoke=False) -%}
    {%- do restore_grants(target, grants) -%}
    {%- do persist_docs(target, model) -%}
    {%- do run_hooks(post_hooks, inside_transaction=True) -%}
    {%- do adapter.commit() -%}
    {%- do run_hooks(post_hooks, inside_transaction=False) -%}
    {{ return({'relations': [target]}) }}
{%- endmacro %}


{#- Create the temporary table NEW_ROWS with the rows that the model selects; the contract's constraints check them. A
    temporary table has no foreign keys: those of the target check its rows. -#}
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


{#- Statements that replace the rows of TARGET by NEW_ROWS, those rows for which CONDITION holds, which may read both as
    old_rows and new_rows. Rows that are equal are not written. Deletes come first, so that a unique value of a deleted
    row may be inserted again. Tables of others that inherit from TARGET keep their rows: `only`. -#}
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

    {% if others %}
    with new_rows as (select * from {{ new_rows }})

    update only {{ target }} as old_rows
    set {% for name in others %}{{ name }} = new_rows.{{ name }}{{ ', ' if not loop.last }}{% endfor %}
    from new_rows
    -- With the condition PostgreSQL reads no other old rows.
    where {{ same_key }} and ({{ condition }})
        -- Compared byte by byte: this includes nulls, and types without equality.
        and row(old_rows.{{ others | join(', old_rows.') }})::record
            *<> row(new_rows.{{ others | join(', new_rows.') }})::record;
    {% endif %}

    with new_rows as (select * from {{ new_rows }})

    insert into {{ target }} ({{ names | join(', ') }})
    select {{ names | join(', ') }} from new_rows
    where not exists (select from only {{ target }} as old_rows where {{ same_key }} and ({{ condition }}))
{%- endmacro %}


{#- The statements of the model's incremental strategy, for the columns of NEW_ROWS: others may have added more. -#}
{% macro incremental_sql(target, new_rows) -%}
    {%- set columns = [] -%}
    {%- for name in run_query('select * from ' ~ new_rows ~ ' limit 0').column_names -%}
        {%- do columns.append(api.Column.create(name, 'text')) -%}
    {%- endfor -%}
    {%- set name = config.get('incremental_strategy') or 'default' -%}
    {%- set strategy = adapter.get_incremental_strategy_macro(context, name) -%}
    {{ return(strategy({
        'target_relation': target,
        'temp_relation': new_rows,
        'unique_key': config.get('unique_key'),
        'dest_columns': columns,
        'incremental_predicates': config.get('incremental_predicates'),
    })) }}
{%- endmacro %}
