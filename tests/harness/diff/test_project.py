"""What of two dbt projects differs, and so which marts can differ: nothing less, and little more."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.diff.changes import Changes, bare_sql, compare_projects
from harness.diff.project import Project
from harness.diff.results import ChangedNode
from harness.processes.dbt_process import Dbt, Process
from harness.project.paths import ROOT

FILES = {
    "dbt_project.yml": """
name: shop
profile: warehouse
models:
  shop:
    +materialized: table
    marts: {+schema: marts}
vars: {tax: 21, shop: {zone: UTC}, nobody: 1}
on-run-start: "{{ note_start() }}"
""",
    "models/staging/stg_orders.sql": "select order_id, {{ cents('amount') }} as amount from"
    " {{ source('raw', 'orders') }}",
    "models/staging/stg_orders.yml": """
sources:
  - {name: raw, tables: [{name: orders}, {name: days}]}
models:
  - {name: stg_orders, description: One row per order.}
""",
    "models/marts/orders.sql": "select *, 'a  b' as note, amount * {{ var('tax') }} as tax\n"
    "from {{ ref('stg_orders') }}",
    "models/marts/orders.yml": """
models:
  - name: orders
    description: One row per order.
    config: {contract: {enforced: true}}
    columns:
      - name: order_id
        description: The order.
        data_type: bigint
        constraints: [{type: primary_key}]
        data_tests: [unique, positive]
      - {name: amount, data_type: bigint}
      - {name: note, data_type: text}
      - {name: tax, data_type: bigint}
unit_tests:
  - name: adds
    model: orders
    given: [{input: ref('stg_orders'), rows: [{order_id: 1, amount: 2}]}]
    expect: {rows: [{order_id: 1}]}
""",
    "models/marts/countries.sql": "select * from {{ ref('regions') }}",
    "models/marts/days.sql": "{{ config(materialized='incremental', unique_key='day') }}\n"
    "select {{ zone() }} as day from {{ source('raw', 'days') }}",
    "models/marts/history.sql": "select * from {{ ref('orders_history') }}",
    "models/exposures.yml": """
exposures:
  - {name: report, type: notebook, owner: {name: A}, depends_on: [ref('countries')]}
""",
    "snapshots/orders_history.sql": "{% snapshot orders_history %}"
    "{{ config(unique_key='order_id', strategy='check', check_cols='all') }}select * from {{ ref('stg_orders') }}"
    "{% endsnapshot %}",
    "seeds/regions.csv": "region\nNL\nBE\n",
    "macros/cents.sql": "{% macro cents(name) %}{{ rounded(name ~ ' * 100') }}{% endmacro %}",
    "macros/rounded.sql": "{% macro rounded(text) %}round({{ text }}){% endmacro %}",
    "macros/zone.sql": "{% macro zone() %}'{{ var('zone') }}'{% endmacro %}",
    "macros/start.sql": "{% macro note_start() %}select 1{% endmacro %}",
    "macros/schema.sql": "{% macro generate_schema_name(name, node) %}{{ lowered(name or 'staging') }}{% endmacro %}",
    "macros/lowered.sql": "{% macro lowered(text) %}{{ text | lower }}{% endmacro %}",
    "macros/nobody.sql": "{% macro nobody() %}1{% endmacro %}",
    "macros/positive.sql": "{% test positive(model, column_name) %}select 1 from {{ model }}"
    " where {{ tested(column_name) }}{% endtest %}",
    "macros/tested.sql": "{% macro tested(name) %}{{ name }} <= 0{% endmacro %}",
    "tests/no_gaps.sql": "select 1 from {{ ref('days') }} where false",
}
ALL = {"stg_orders", "orders", "countries", "days", "history", "orders_history", "regions"}
OF_ORDERS = {"stg_orders", "orders", "orders_history", "history"}


def write(root: Path, name: str, text: str | None) -> None:
    path = root / "dbt" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text) if text is not None else path.unlink()


@pytest.fixture(scope="module")
def dbt(processes: list[Process], tmp_path_factory: pytest.TempPathFactory) -> Dbt:
    names = ("HOST", "DATABASE", "USER")
    env = {f"WAREHOUSE_{name}": "none" for name in names} | {"WAREHOUSE_PORT": "1", "DBT_TARGET": "prod"}
    env |= {"PATH": os.environ["PATH"], "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": "none"}
    return Dbt(processes[0], env, tmp_path_factory.mktemp("artifacts"), bare=True)


@pytest.fixture(scope="module")
def base(dbt: Dbt, tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("base")
    for name, text in FILES.items():
        write(root, name, text)
    shutil.copy(ROOT / "dbt" / "profiles.yml", root / "dbt")
    return parsed(dbt, root)


def parsed(dbt: Dbt, root: Path, *options: str) -> Project:
    """Return the project in a folder, which dbt parses."""
    dbt = replace(dbt, project=root / "dbt")
    dbt.run(["parse", "--quiet", *options])
    return Project(root, json.loads((dbt.artifacts / "manifest.json").read_text()))


Parse = Callable[[Path], Project]


@pytest.fixture
def parse(dbt: Dbt, base: Project, tmp_path: Path) -> Parse:
    """Give a function that has dbt parse a changed project; it reads only the files that differ from the base's."""
    assert base.nodes
    before = str(dbt.artifacts / "partial_parse.msgpack")
    changed = replace(dbt, folder=tmp_path, env=dbt.env | {"DBT_PARTIAL_PARSE_FILE_PATH": before})
    return lambda root: parsed(changed, root)


@pytest.fixture
def branch(base: Project, tmp_path: Path) -> Path:
    return shutil.copytree(base.folder, tmp_path / "branch")


Edit = tuple[str, str, str | None]  # a file, a text of it, and what is there instead; all of it if the text is empty


def change(root: Path, *edits: Edit) -> None:
    for name, old, new in edits:
        path = root / "dbt" / name
        text = path.read_text() if path.exists() else ""
        assert not old or text.count(old) == 1
        write(root, name, text.replace(old, new or "") if old else new)


STAGING, ORDERS, YML = "models/staging/stg_orders.sql", "models/marts/orders.sql", "models/marts/orders.yml"
PROJECT, DAYS = "dbt_project.yml", "models/marts/days.sql"
CHANGES: dict[str, tuple[list[Edit], dict[str, list[str]], set[str]]] = {
    "nothing": ([], {}, set()),
    "descriptions, tests, what only these read, an exposure, a file that moved": (
        [
            (YML, "One row per order", "Orders"),
            (YML, "[unique, positive]", "[unique]"),
            (YML, "amount: 2", "amount: 3"),
            ("tests/no_gaps.sql", "false", "day is null"),
            (YML, "true}}", "true}, docs: {show: false}}"),
            (PROJECT, "nobody: 1", "nobody: 2"),
            (PROJECT, "name: shop\n", "name: shop\nquery-comment: Shop\n"),
            ("macros/tested.sql", "<=", "<"),
            ("macros/positive.sql", "select 1", "select 2"),
            ("models/exposures.yml", "notebook", "dashboard"),
            ("macros/other.sql", "", "{% test other(model) %}select 1{% endtest %}"),
            ("models/marts/history.sql", "", None),
            ("models/marts/more/history.sql", "", FILES["models/marts/history.sql"]),
        ],
        {},
        set(),
    ),
    "SQL": ([(STAGING, "amount from", "amount, 1 as more from")], {"stg_orders": ["SQL"]}, OF_ORDERS),
    "SQL of the last one": ([(ORDERS, "amount *", "amount +")], {"orders": ["SQL"]}, {"orders"}),
    "a comment": (
        [(ORDERS, "select", "-- All of them.\n{# a note #}\nselect /* every */")],
        {"orders": ["SQL (only comments or blanks)"]},
        {"orders"},
    ),
    "blanks": ([(ORDERS, "*,", "*\n    ,")], {"orders": ["SQL (only comments or blanks)"]}, {"orders"}),
    "a type of the contract": (
        [(YML, "{name: tax, data_type: bigint}", "{name: tax, data_type: numeric}")],
        {"orders": ["contract"]},
        {"orders"},
    ),
    "a constraint": ([(YML, "primary_key", "not_null")], {"orders": ["contract"]}, {"orders"}),
    "no contract": ([(YML, "true", "false")], {"orders": ["configuration (contract)", "contract"]}, {"orders"}),
    "configuration in the SQL": (
        [(DAYS, "unique_key='day'", "unique_key=['day']")],
        {"days": ["SQL", "configuration (unique_key)"]},
        {"days"},
    ),
    "configuration in the yml": (
        [(YML, "true}}", "true}, post-hook: select 1}")],
        {"orders": ["configuration (post-hook)"]},
        {"orders"},
    ),
    "meta, which a macro may read": (
        [(YML, "true}}", "true}, meta: {a: 1}}")],
        {"orders": ["configuration (meta)"]},
        {"orders"},
    ),
    "configuration in dbt_project.yml": (
        [(PROJECT, "+materialized: table", "+materialized: view")],
        {name: ["configuration (materialized)"] for name in ("stg_orders", "orders", "countries", "history")},
        ALL - {"regions", "days"},
    ),
    "a schema in dbt_project.yml": (
        [(PROJECT, "+schema: marts", "+schema: analysis")],
        {name: ["configuration (schema)", "place"] for name in ("orders", "countries", "history", "days")},
        {"orders", "countries", "history", "days"},
    ),
    "variables that a model reads, and a macro": (
        [(PROJECT, "tax: 21", "tax: 9"), (PROJECT, "zone: UTC", "zone: CET")],
        {"orders": ["the variable tax"], "days": ["the variable zone"]},
        {"orders", "days"},
    ),
    "a variable that is read by a computed name": (
        [(PROJECT, "tax: 21", "tax: 9"), (ORDERS, "var('tax')", "var('t' ~ 'ax')")],
        {"orders": ["SQL", "the variable tax"]},
        {"orders"},
    ),
    "variables in a file of their own": (
        [
            (PROJECT, "vars: {tax: 21, shop: {zone: UTC}, nobody: 1}\n", ""),
            ("vars.yml", "", "vars: {tax: 9, shop: {zone: UTC}, nobody: 1}\n"),
        ],
        {"orders": ["the variable tax"]},
        {"orders"},
    ),
    "a setting of the project": (
        [(PROJECT, "name: shop\n", "name: shop\nquoting: {identifier: false}\n")],
        {name: ["dbt_project.yml (quoting)"] for name in ALL},
        ALL,
    ),
    "a hook of every run": (
        [(PROJECT, '"{{ note_start() }}"', "select 2")],
        {name: ["hooks of every run"] for name in ALL},
        ALL,
    ),
    "a macro of such a hook": (
        [("macros/start.sql", "1", "2")],
        {name: ["the macro note_start"] for name in ALL},
        ALL,
    ),
    "a macro": ([("macros/cents.sql", "100", "10")], {"stg_orders": ["the macro cents"]}, OF_ORDERS),
    "a macro that a macro calls": (
        [("macros/rounded.sql", "round(", "floor(")],
        {"stg_orders": ["the macro rounded"]},
        OF_ORDERS,
    ),
    "comments of a macro": (
        [("macros/rounded.sql", "round(", "{# Half up. #}round(")],
        {"stg_orders": ["the macro rounded (only comments or blanks)"]},
        OF_ORDERS,
    ),
    "a macro that dbt calls": (
        [("macros/schema.sql", "'staging'", "'stage'")],
        {name: ["the macro generate_schema_name"] for name in ALL - {"stg_orders", "regions", "orders_history"}}
        | {name: ["place", "the macro generate_schema_name"] for name in ("stg_orders", "regions", "orders_history")},
        ALL,
    ),
    "a macro that such a macro calls": (
        [("macros/lowered.sql", "| lower", "| lower | trim")],
        {name: ["the macro lowered"] for name in ALL},
        ALL,
    ),
    "a macro that dbt calls and a model, too": (
        [("macros/schema.sql", "name or", "name ~ '' or"), (ORDERS, "a  b", "{{ generate_schema_name('a', none) }}")],
        {name: ["the macro generate_schema_name"] for name in ("countries", "days", "history")}
        | {name: ["place", "the macro generate_schema_name"] for name in ("stg_orders", "regions", "orders_history")}
        | {"orders": ["SQL", "the macro generate_schema_name", "the macro lowered"]},
        ALL,
    ),
    "a materialization": (
        [
            (
                "macros/table.sql",
                "",
                "{% materialization table, adapter='postgres' %}{{ return({}) }}{% endmaterialization %}",
            )
        ],
        {name: ["the macro materialization_table_postgres"] for name in ALL},
        ALL,
    ),
    "a macro whose caller is not known": (
        [("macros/nobody.sql", "1", "2")],
        {name: ["the macro nobody"] for name in ALL},
        ALL,
    ),
    "a seed's rows": ([("seeds/regions.csv", "BE", "DE")], {"regions": ["rows"]}, {"regions", "countries"}),
    "a new model": (
        [("models/marts/new.sql", "", "select * from {{ ref('orders') }}")],
        {"new": ["it is new"]},
        {"new"},
    ),
    "a removed model": (
        [("models/marts/days.sql", "", None), ("tests/no_gaps.sql", "", None)],
        {"days": ["it is gone"]},
        {"days"},
    ),
    "a renamed model": (
        [("models/marts/history.sql", "", None), ("models/marts/past.sql", "", FILES["models/marts/history.sql"])],
        {"history": ["it is gone"], "past": ["it is new"]},
        {"history", "past"},
    ),
    "a disabled model": (
        [(DAYS, "unique_key", "enabled=false, unique_key"), ("tests/no_gaps.sql", "", None)],
        {"days": ["it is gone"]},
        {"days"},
    ),
    "a model in another layer": (
        [("models/marts/history.sql", "", None), ("models/staging/history.sql", "", FILES["models/marts/history.sql"])],
        {"history": ["configuration (schema)", "place"]},
        {"history"},
    ),
    "an alias": (
        [(YML, "true}}", "true}, alias: sales}")],
        {"orders": ["configuration (alias)", "place"]},
        {"orders"},
    ),
    "a source's table": (
        [("models/staging/stg_orders.yml", "name: orders}", "name: orders, identifier: orders_2}")],
        {"stg_orders": ["source"]},
        OF_ORDERS,
    ),
    "a snapshot": (
        [("snapshots/orders_history.sql", "'all'", "['amount']")],
        {"orders_history": ["SQL", "configuration (check_cols)"]},
        {"orders_history", "history"},
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_only_what_can_differ_is_built(base: Project, branch: Path, parse: Parse, case: str) -> None:
    edits, nodes, affected = CHANGES[case]
    change(branch, *edits)
    changes = compare_projects(base, parse(branch), {})
    assert changes.nodes == nodes
    assert changes.affected == affected


def test_a_large_seed_whose_checksum_is_that_of_its_path(branch: Path, dbt: Dbt, tmp_path: Path) -> None:
    folder, large = replace(dbt, folder=tmp_path), "region\n" + "NL\n" * 400_000
    root = shutil.copytree(branch, tmp_path / "base")
    write(root, "seeds/regions.csv", large)
    write(branch, "seeds/regions.csv", f"{large}BE\n")
    old, new = (parsed(folder, each, "--no-partial-parse") for each in (root, branch))
    assert old.nodes["regions"]["checksum"] == new.nodes["regions"]["checksum"]
    assert compare_projects(old, new, {}).nodes == {"regions": ["rows"]}


def test_a_renamed_project_whose_text_has_one_blank_less(base: Project, branch: Path, dbt: Dbt, tmp_path: Path) -> None:
    write(branch, PROJECT, FILES[PROJECT].replace("shop", "store"))
    change(branch, (ORDERS, "a  b", "a b"))  # dbt takes the parse of a file that it has if only blanks differ
    project = parsed(replace(dbt, folder=tmp_path), branch, "--no-partial-parse")
    changes = compare_projects(base, project, {})
    assert (changes.nodes, changes.descriptive) == ({"orders": ["SQL"]}, {})


def test_versions_of_a_model(base: Project, branch: Path, parse: Parse) -> None:
    yml = "models: [{name: sales, latest_version: 2, versions: [{v: 1}, {v: 2}]}]"
    versions = {f"models/marts/sales_v{version}.sql": f"select {version} as one" for version in (1, 2)}
    change(branch, ("models/marts/sales.yml", "", yml), *((name, "", text) for name, text in versions.items()))
    write(branch, "models/marts/latest.sql", "select * from {{ ref('sales') }}")
    project = parse(branch)
    assert compare_projects(base, project, {}).nodes == {
        name: ["it is new"] for name in ("sales.v1", "sales.v2", "latest")
    }
    assert project.marts == ["countries", "days", "history", "latest", "orders", "sales.v1", "sales.v2"]
    assert project.parents["latest"] == {"sales.v2"}
    assert [project.nodes[name]["alias"] for name in ("sales.v1", "sales.v2")] == ["sales_v1", "sales_v2"]


def test_all_changes_are_listed_with_what_no_model_is_built_from(base: Project, branch: Path, parse: Parse) -> None:
    change(
        branch,
        (STAGING, "amount from", "amount, 1 as more from"),
        (YML, "The order.", "Of the order."),
        ("macros/tested.sql", "<=", "<"),
        ("tests/no_gaps.sql", "false", "day is null"),
    )
    changes = compare_projects(base, parse(branch), {"the load": False})
    assert changes.listed() == [
        ChangedNode("days", ["tests"]),
        ChangedNode("orders", ["descriptions"]),
        ChangedNode("stg_orders", ["SQL"]),
        ChangedNode("the macro tested", ["no model calls it"]),
    ]


def test_a_file_that_no_model_is_built_from(base: Project, branch: Path, parse: Parse) -> None:
    change(branch, ("models/exposures.yml", "notebook", "dashboard"))
    changes = compare_projects(base, parse(branch), {})
    assert changes.listed() == [ChangedNode("dbt/models/exposures.yml", ["it changes no model"])]


def test_what_concerns_every_node(base: Project) -> None:
    changes = compare_projects(base, base, {"the load": True, "the lock of dbt": False})
    assert changes.nodes == {name: ["the load"] for name in ALL}
    assert changes.causes("orders", base, base) == ["the load"]
    assert compare_projects(base, base, {}, everything=True) == Changes({}, ALL, {})


def test_why_a_mart_may_differ(base: Project, branch: Path, parse: Parse) -> None:
    change(branch, (STAGING, "amount from", "amount, 1 as more from"), ("macros/nobody.sql", "1", "2"))
    write(branch, ORDERS, FILES[ORDERS].replace("amount *", "amount +"))
    project = parse(branch)
    changes = compare_projects(base, project, {})
    assert changes.causes("orders", base, project) == ["its SQL", "the macro nobody", "stg_orders"]
    assert changes.causes("history", base, project) == ["the macro nobody", "stg_orders"]
    assert changes.causes("countries", base, project) == ["the macro nobody"]


def test_who_reads_a_mart(base: Project) -> None:
    assert base.exposures("regions") == base.exposures("countries") == ["report"]
    assert base.exposures("orders") == []


def with_macros(*texts: tuple[str, str, str]) -> Project:
    """Return a project `p` of one model, `m`, that calls each of the macros: package, name and text."""
    macros = {
        f"macro.{package}.{name}": {
            "name": name,
            "package_name": package,
            "macro_sql": text,
            "depends_on": {"macros": []},
        }
        for package, name, text in texts
    }
    node = {
        "unique_id": "model.p.m",
        "name": "m",
        "resource_type": "model",
        "schema": "s",
        "alias": "m",
        "raw_code": "select 1",
        "config": {},
        "columns": {},
        "depends_on": {"macros": list(macros), "nodes": []},
    }
    return Project(
        Path("/nowhere"), {"metadata": {"project_name": "p"}, "nodes": {"m": node}, "macros": macros, "sources": {}}
    )


def test_macros_of_packages() -> None:
    base = with_macros(("utils", "star", "*"), ("p", "star", "a"), ("dbt", "star", "b"))
    for changed, nodes in {
        ("utils", "star", "x"): {"m": ["the macro utils.star"]},
        ("p", "star", "x"): {"m": ["the macro star"]},
        ("dbt", "star", "x"): {},  # is in the lock
    }.items():
        others = [("utils", "star", "*"), ("p", "star", "a"), ("dbt", "star", "b")]
        branch = with_macros(*(changed if each[:2] == changed[:2] else each for each in others))
        assert compare_projects(base, branch, {}).nodes == nodes


def model(columns: Sequence[dict[str, Any]] = (), tests: Sequence[dict[str, Any]] = (), **more: Any) -> Project:
    """Return a project of one model, `m`, with tests."""
    node = {"unique_id": "model.p.m", "name": "m", "resource_type": "model", "config": {}, **more}
    node["columns"] = {column["name"]: column for column in columns}
    nodes = {"m": node}
    for number, test in enumerate(tests):
        config = {"where": test.pop("where", None)}
        more = {"resource_type": "test", "attached_node": "model.p.m", "config": config}
        nodes[str(number)] = {"name": str(number), "test_metadata": test or None, **more}
    return Project(Path(), {"nodes": nodes})


def unique(column: str, **more: str) -> dict[str, Any]:
    return {"name": "unique", "kwargs": {"column_name": column}, **more}


PRIMARY_KEY = {"type": "primary_key"}
COMBINATION = {"name": "unique_combination", "kwargs": {"combination_of_columns": ["a", '"B c"']}}
A_KEY = {"name": "a", "constraints": [{"type": "not_null"}, PRIMARY_KEY]}


@pytest.mark.parametrize(
    ("project", "key"),
    [
        (model([A_KEY]), ("a",)),
        (model([A_KEY], [unique("b")]), ("a",)),
        (model(constraints=[PRIMARY_KEY | {"columns": ["b", '"C d"']}]), ("b", "C d")),
        (model([{"name": "Order ID", "quote": True, "constraints": [PRIMARY_KEY]}]), ("Order ID",)),
        (model(tests=[unique("a")]), ("a",)),
        (model(tests=[unique('"Order ID"')]), ("Order ID",)),
        (model(tests=[COMBINATION]), ("a", "B c")),
        (model(tests=[COMBINATION | {"where": "a > 0"}, unique("b")]), ("b",)),
        (model(tests=[unique("a", where="b > 0"), COMBINATION]), ("a", "B c")),
        (model(tests=[unique("a", where="b > 0")]), ()),
        (model(tests=[{}, {"name": "not_null", "kwargs": {"column_name": "a"}}]), ()),
        (model(config={"unique_key": "a"}), ("a",)),
        (model(config={"unique_key": ["a", '"B"']}), ("a", "B")),
        (model(config={"unique_key": ["a", "b"]}, tests=[unique("c")]), ("c",)),
        (model([{"name": "a", "constraints": [{"type": "unique"}]}]), ()),
        (model(), ()),
    ],
)
def test_the_key_of_a_model(project: Project, key: tuple[str, ...]) -> None:
    assert project.key("m") == key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select a from b", "select\n  a\n\nfrom b  "),
        ("select a -- all\nfrom b", "select a from b"),
        ("select /* x\n */ f(a, b)", "select f( a,b )"),
        ("{# why #}select '{# x #}'", "select '{# x #}'"),
    ],
)
def test_comments_and_blanks_are_no_sql(one: str, other: str) -> None:
    assert bare_sql(one) == bare_sql(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select 'a  b'", "select 'a b'"),
        ("select 'a -- b'", "select 'a'"),
        ("select 'it''s  a'", "select 'it''s a'"),
        ("select 'a', 'b'", "select 'b', 'a'"),
        ("select a b", "select ab"),
        ("select 'a /* b */'", "select 'a'"),
    ],
)
def test_what_is_more_than_comments_and_blanks(one: str, other: str) -> None:
    assert bare_sql(one) != bare_sql(other)
