{#- What has been committed by now, as a text; of one server, as another counts transactions anew. -#}
{% macro seen_by_now() -%}
    (select system_identifier || ' ' || pg_current_snapshot() from pg_control_system())
{%- endmacro %}


{#- A post-hook: note in the table's comment which loads it was built from. It is committed with the rows, or not at all. -#}
{% macro remember_loads() -%}
    do $remember$ begin
        execute format('comment on table {{ this }} is %L', {{ seen_by_now() }});
    end $remember$
{%- endmacro %}


{#- An expression: the first day on which a load has changed anything since the table was built, `infinity` if none has.
    Loads commit in any order, so it asks which are not in the snapshot noted, not which have a higher id. -#}
{% macro first_changed_date() -%}
    (
        select
            coalesce(
                min(
                    case
                        when
                            split_part(built.seen, ' ', 1) = (select system_identifier::text from pg_control_system())
                            and loads.transaction_id is not null
                            then loads.changed_from_at
                        else '-infinity'
                    end
                ),
                'infinity'
            )::date
        from {{ ref('stg_loads') }} as loads
        cross join (select coalesce(obj_description('{{ this }}'::regclass, 'pg_class'), '') as seen) as built
        where
            loads.is_change
            and case
                when
                    split_part(built.seen, ' ', 1) = (select system_identifier::text from pg_control_system())
                    and loads.transaction_id is not null
                    then not pg_visible_in_snapshot(loads.transaction_id, split_part(built.seen, ' ', 2)::pg_snapshot)
                else true
            end
    )
{%- endmacro %}
