{#- Of our own, since dbt's put a new table or view in the place of the old one, and drop that with all that depends on
    it: docs/adr/0007-tables-change-in-place.md. -#}
{% materialization table, adapter='postgres' %}
    {{ return(build_table()) }}
{% endmaterialization %}


{% materialization incremental, adapter='postgres' %}
    {{ return(build_table()) }}
{% endmaterialization %}


{% materialization view, adapter='postgres' %}
    {{ return(build_view()) }}
{% endmaterialization %}
