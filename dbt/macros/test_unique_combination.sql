{#- A model's key of several columns: each combination that several rows have, and how many. -#}
{% test unique_combination(model, combination_of_columns) %}
select
    {{ combination_of_columns | join(',\n    ') }},
    count(*) as n_records

from {{ model }}

group by {{ combination_of_columns | join(', ') }}

having count(*) > 1
{% endtest %}
