-- Templates, whose indentation is not that of the SQL that they render:
-- sqlfluff:exclude_rules:layout.indent,structure.column_order
{#- Return `table`, `view`, `materialized view` …, or none if RELATION does not exist. dbt's cache would also find a
    function of that name. -#}
{% macro kind_of(relation) -%}
    {%- set query -%}
        select type from pg_identify_object('pg_class'::regclass, to_regclass('{{ relation }}'), 0)
    {%- endset -%}
    {{ return(run_query(query).rows[0][0]) }}
{%- endmacro %}


{#- List why the table EXISTING cannot have the rows of NEW_ROWS: columns and constraints that it lacks, and its own
    columns that need a value. Other columns and constraints, which somebody has added, are no difference. -#}
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


{#- A common table expression, `parts`: the parts of the tables or views ONE and OTHER, without what every relation has.
    The structure is what a model's own columns and constraints define. -#}
{% macro parts_of(one, other) -%}
    {#- Comments that dbt writes are nobody else's. -#}
    {%- set persisted = config.get('persist_docs', {}) -%}
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
            {%- if not persisted.get('columns') %}
            (false, 'comment' || of_column || ': ' || col_description(attrelid, attnum)),
            {%- endif %}
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
            {%- if not persisted.get('relation') %}
            ('comment: ' || nullif(regexp_replace(obj_description(oid, 'pg_class'), {{ snapshot_pattern() }}, ''), '')),
            {%- endif %}
            ('tablespace ' || (select spcname from pg_tablespace where pg_tablespace.oid = reltablespace))
        ) as parts_of_table (part)
        where oid in {{ both }}

    )
{%- endmacro %}


{#- Stop if TARGET, a KIND that differs from the model because of WHY, cannot be replaced by a new relation like NEW_ONE
    without a loss. A relation of another kind may belong to somebody else. -#}
{% macro check_that_nothing_is_lost(kind, target, new_one, why) -%}
    {%- set is_refresh = flags.FULL_REFRESH -%}
    {%- set is_other_kind = kind != target.type -%}
    {%- set lost = [] if is_other_kind and not is_refresh else parts_lost_with(target, new_one, is_refresh) -%}
    {%- if lost or not is_refresh and (is_other_kind or is_incremental()) -%}
        {%- do exceptions.raise_compiler_error(
            target.render()
            ~ (' is a ' ~ kind ~ ', and the model is a ' ~ target.type ~ '.\n' if is_other_kind else
               ' differs from the model: ' ~ why ~ '.\n')
            ~ ('A new ' ~ target.type ~ ' in its place would not have: ' ~ lost | join(', ') ~ '.\n' if lost)
            ~ ('Drop or change these, build again, and create them again.' if is_refresh else
               ('It may belong to somebody else. To keep it, rename it; to drop and replace it:' if is_other_kind else
                'Save their definitions, to create them again afterwards, and replace the table:')
               ~ ' dbt build --full-refresh --select ' ~ model.name)
        ) -%}
    {%- endif -%}
{%- endmacro %}


{#- List what NEW_ONE lacks of what is dropped with EXISTING or prevents its drop; if IS_REFRESH only the latter. -#}
{% macro parts_lost_with(existing, new_one, is_refresh) -%}
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
