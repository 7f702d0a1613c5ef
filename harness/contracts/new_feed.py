"""Write the files of a new feed: its contract, its staging model and the model's yml."""

import json
import re
from collections.abc import Iterator, Sequence

from feeds.contract import Column, Feed
from harness.contracts.file_layout import RESERVED
from harness.contracts.inference import Guess

# Of text that YAML does not read as itself.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NO_TEXT = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_UNPRINTABLE = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")  # as YAML sees it
_DBT_TYPES = {"timestamp with time zone": "timestamptz"}
_EXAMPLES = {
    "integer": "1",
    "number": "1",
    "string": "a",
    "boolean": "true",
    "date": '"2020-01-01"',
    "timestamp": '"2020-01-01 12:00:00+00"',
    "uuid": "00000000-0000-0000-0000-000000000001",
}


def contract(found: Guess, sample: str) -> str:
    """Return the contract that was FOUND, with its notes as comments; the feed's files are at the path SAMPLE."""
    return "\n".join(_contract(found, sample)) + "\n"


def _contract(found: Guess, sample: str) -> Iterator[str]:
    feed, notes, properties = found.feed, found.notes, found.feed.properties
    yield f"# {feed.name}, guessed from a file: look at each comment. docs/contracts.md describes each field."
    yield "apiVersion: v3.1.0"
    yield "kind: DataContract"
    yield f"id: {scalar(feed.name)}"
    yield f"name: {scalar(feed.name)}"
    yield f"version: {feed.version}"
    yield "status: draft"
    yield "servers:"
    yield "  - server: files"
    yield "    type: local"
    yield f"    path: {scalar(sample)} # where the files are: a path, a pattern or a URI"
    yield f"    format: {feed.format}"
    if feed.format == "csv":
        yield f"    delimiter: {scalar(properties.csv.delimiter)}"
    yield "customProperties:"
    if feed.time_column:
        yield f"  # {notes['time']}"
        yield f"  - {{property: timeColumn, value: {scalar(feed.time_column)}}}"
    else:
        yield f"  # {notes['time']}"
    if options := properties.csv.model_dump(exclude_defaults=True, exclude={"delimiter"}):
        yield f"  - {{property: csv, value: {flow(options)}}}"
    if drift := properties.drift.model_dump(exclude_defaults=True):
        yield f"  # {notes['drift']}"
        yield f"  - {{property: drift, value: {flow(drift)}}}"
    if "rejected" in notes:
        yield f"  # {notes['rejected']}"
    if "max_rejected" in properties.model_dump(exclude_defaults=True):
        yield f"  - {{property: maxRejected, value: {properties.max_rejected:g}}}"
    yield "  - {property: cadences, value: [daily]} # or weekly, monthly, several"
    yield "schema:"
    yield f"  - name: {scalar(feed.name)}"
    yield "    physicalType: file"
    yield f"    # The key is {', '.join(feed.key)}: {notes['key']}."
    yield "    properties:"
    for column in feed.columns:
        yield from _column(feed, column, found.column_notes.get(column.name))


def _column(feed: Feed, column: Column, note: str | None) -> Iterator[str]:
    yield f"      - name: {scalar(column.name)}"
    yield f"        logicalType: { ({'uuid': 'string', 'json': 'object'}.get(column.type, column.type)) }" + (
        f" # {note}" if note else ""
    )
    if column.type == "uuid":
        yield "        logicalTypeOptions: {format: uuid}"
    if column.type == "number" and column.digits:
        yield f"        physicalType: {column.sql_type}"
    if column.is_required:
        yield "        required: true"
    if column.name in feed.key:
        yield "        primaryKey: true"
        if len(feed.key) > 1:
            yield f"        primaryKeyPosition: {feed.key.index(column.name) + 1}"
    if column.header != column.name:
        yield f"        customProperties: [{{property: header, value: {quoted(column.header)}}}]"


def staging_sql(feed: Feed) -> str:
    """Return the staging model of FEED, which renames nothing yet."""
    rows = f"{feed.name}_" if feed.name in RESERVED else feed.name
    names = ",\n        ".join([*(column.name for column in feed.columns), "load_id"])
    selected = f"    select\n        {names}\n\n    from {{{{ source('raw', '{feed.name}') }}}}"
    return f"with\n\n{rows} as (\n\n{selected}\n\n)\n\nselect * from {rows}\n"


def staging_yml(feed: Feed) -> str:
    """Return the yml of the staging model, with the source that it reads."""
    return "\n".join(_staging_yml(feed)) + "\n"


def _staging_yml(feed: Feed) -> Iterator[str]:
    name, model = scalar(feed.name), f"stg_{feed.name}"
    yield "sources:"
    yield "  - name: raw"
    yield "    tables:"
    yield f"      - name: {name}"
    yield f"        description: The rows that loads wrote, as airflow/feeds/{feed.name}.yaml says they are."
    yield "        config: # dbt source freshness: the age of the last load that succeeded"
    yield "          freshness:"
    yield "            warn_after: {count: 36, period: hour}"
    yield "            error_after: {count: 72, period: hour}"
    yield "          loaded_at_query: >"
    yield "            select max(ended_at) from {{ this.include(identifier=false) }}.loads"
    yield "            where feed = '{{ this.identifier }}' and status = 'succeeded'"
    yield ""
    yield "models:"
    yield f"  - name: {model}"
    yield f"    description: One row per {_listed(feed.key)}."
    yield "    config:"
    yield "      contract:"
    yield "        enforced: true"
    if len(feed.key) > 1:
        yield "    data_tests:"
        yield "      - unique_combination:"
        yield f"          name: {model}_has_each_key_once"
        yield "          arguments:"
        yield f"            combination_of_columns: [{', '.join(map(scalar, feed.key))}]"
    yield "    columns:"
    for column in feed.columns:
        yield f"      - name: {scalar(column.name)}"
        yield f"        description: {quoted(f'The column {column.header!r} of the files.')}"
        yield f"        data_type: {_DBT_TYPES.get(column.sql_type, column.sql_type)}"
        if column.name in (*feed.key, feed.time_column):  # the raw table has a constraint for each required column
            yield "        data_tests:"
            if feed.key == (column.name,):
                yield "          - unique"
            yield "          - not_null"
    yield "      - name: load_id"
    yield "        description: The load that wrote the row."
    yield "        data_type: bigint"
    row = ", ".join(f"{scalar(name)}: {_EXAMPLES[feed.column(name).type]}" for name in feed.key)
    yield ""
    yield "unit_tests:"
    yield f"  - name: {model}_has_each_row"
    yield f"    model: {model}"
    yield "    given:"
    yield f"      - input: source('raw', '{feed.name}')"
    yield "        rows:"
    yield f"          - {{{row}}}"
    yield "    expect:"
    yield "      rows:"
    yield f"        - {{{row}}}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def scalar(text: str) -> str:
    """Return TEXT in YAML, with quotes where it would not be read as itself."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXT else quoted(text)


def quoted(text: str) -> str:
    """Return TEXT in YAML and in quotes. JSON's escapes are YAML's, but for pairs of surrogates."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def flow(options: dict[str, str]) -> str:
    """Return OPTIONS as a mapping of YAML on one line."""
    return "{" + ", ".join(f"{scalar(key)}: {scalar(value)}" for key, value in options.items()) + "}"
