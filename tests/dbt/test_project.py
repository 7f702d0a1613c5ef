"""The rules of the dbt project that dbt itself does not enforce; a copy that breaks one shows that it is noticed."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.processes.dbt_process import PROJECT, Dbt
from harness.reporting import dbt_report
from tests.dbt.common import copy_of_the_project


def broken_rules(project: Path) -> Iterator[str]:
    """Yield a line for each rule that PROJECT breaks."""
    for name in ("packages.yml", "dependencies.yml"):
        if (project / name).exists():
            yield f"{name}: packages would be downloaded at run time"
    for yml in sorted(project.glob("tests/*.yml")):
        for test in yaml.safe_load(yml.read_text())["data_tests"]:
            if "config" in test:
                yield f"{test['name']}: its config belongs in the .sql, for a partial parse forgets it"
    for sql in sorted(project.glob("models/**/*.sql")):
        for rule in (*rules_broken_in_sql(sql), *rules_broken_in_yml(sql)):
            yield f"{sql.stem}: {rule}"


def rules_broken_in_sql(sql: Path) -> Iterator[str]:
    text = re.sub(r"--.*", "", sql.read_text())
    if "staging" not in sql.parts and "source(" in text:
        yield "reads a source past staging"
    ctes = set(re.findall(r"^ *(\w+) as \($", text, re.MULTILINE))
    for relation in re.findall(
        r"\b(?:from|join)\s+(?:only\b[\s(]*)?(?!lateral\b|only\b)([a-z_]\w*\.?\w*)",
        re.sub(r"extract\([^)]*\)", "", text),
    ):
        if relation not in ctes | {"new_rows"}:  # what an incremental predicate may read
            yield f"reads {relation} without ref"


def rules_broken_in_yml(sql: Path) -> Iterator[str]:
    yml = sql.with_suffix(".yml")
    if not yml.exists():
        yield "no yml beside it"
        return
    properties = yaml.safe_load(yml.read_text())
    [model] = [model for model in properties.get("models", []) if model["name"] == sql.stem] or [{}]
    columns: list[dict[str, Any]] = model.get("columns", [])
    if not re.match(r"One row per [^.]+\.(\s|$)", model.get("description", "")):
        yield "no grain: its description does not start with a sentence `One row per ….`"
    if model.get("config", {}).get("contract") != {"enforced": True}:
        yield "no enforced contract"
    tested = {column["name"]: set(map(str, column.get("data_tests", []))) for column in columns}
    not_null = {name for name, tests in tested.items() if "not_null" in tests}
    combinations = [
        set(test["unique_combination"]["arguments"]["combination_of_columns"])
        for test in model.get("data_tests", [])
        if "unique_combination" in test
    ]
    keys = [*({name} for name, tests in tested.items() if "unique" in tests), *combinations]
    if not any(key <= not_null for key in keys):
        yield "no key: no column, and no combination of them, is tested to be both unique and not_null"
    constraints = [constraint for part in (model, *columns) for constraint in part.get("constraints", [])]
    is_view = "staging" in sql.parts or "materialized='view'" in sql.read_text()  # which has no constraints
    if not is_view and not any(constraint["type"] == "primary_key" for constraint in constraints):
        yield "no primary key among the constraints"
    for column in columns:
        if not column.get("description"):
            yield f"{column['name']} has no description"
    if not any(test["model"] == sql.stem for test in properties.get("unit_tests", [])):
        yield "no unit test"


def test_the_project_breaks_no_rule() -> None:
    assert len(list(PROJECT.glob("models/**/*.sql"))) >= 11
    assert list(broken_rules(PROJECT)) == []


def replace(path: str, old: str, new: str, count: int = 1) -> Callable[[Path], object]:
    """Return what replaces the first COUNT of OLD in the file PATH of a project by NEW; -1 is all."""

    def break_it(project: Path) -> None:
        file = project / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, count))

    return break_it


INVARIANTS_YML = "tests/invariants.yml"
REVENUE_YML = "models/marts/analysis/service_revenue_daily.yml"
FACT_SQL, FACT_YML = "models/marts/fact/fct_events.sql", "models/marts/fact/fct_events.yml"


@pytest.mark.parametrize(
    ("break_it", "rule"),
    [
        (lambda project: (project / FACT_YML).unlink(), "fct_events: no yml beside it"),
        (lambda project: (project / "packages.yml").touch(), "packages.yml: packages would be downloaded at run time"),
        (
            replace(FACT_YML, "One row per", "Holds each"),
            "fct_events: no grain: its description does not start with a sentence `One row per ….`",
        ),
        (replace(FACT_YML, "enforced: true", "enforced: false"), "fct_events: no enforced contract"),
        (
            replace(INVARIANTS_YML, "    description", "    config: {severity: warn}\n    description"),
            "proposals_are_by_able_professionals: its config belongs in the .sql, for a partial parse forgets it",
        ),
        (
            replace(FACT_YML, "- unique", "- not_null"),
            "fct_events: no key: no column, and no combination of them, is tested to be both unique and not_null",
        ),
        (
            replace(REVENUE_YML, "- unique_combination", "- other"),
            "service_revenue_daily: no key: "
            "no column, and no combination of them, is tested to be both unique and not_null",
        ),
        (
            replace(REVENUE_YML, "- not_null", "- accepted_values"),
            "service_revenue_daily: no key: "
            "no column, and no combination of them, is tested to be both unique and not_null",
        ),
        (replace(REVENUE_YML, "primary_key", "unique"), "service_revenue_daily: no primary key among the constraints"),
        (replace(FACT_YML, "primary_key", "not_null"), "fct_events: no primary key among the constraints"),
        (
            replace(FACT_YML, "        description: The service proposed on.\n", ""),
            "fct_events: service_id has no description",
        ),
        (replace(FACT_YML, "model: fct_events", "model: stg_events", -1), "fct_events: no unit test"),
        (
            replace(FACT_SQL, "ref('stg_events')", "source('raw', 'events')"),
            "fct_events: reads a source past staging",
        ),
        (
            replace(FACT_SQL, "{{ ref('stg_events') }}", "raw.events"),
            "fct_events: reads raw.events without ref",
        ),
    ],
)
def test_a_broken_rule_is_noticed(break_it: Callable[[Path], object], rule: str, tmp_path: Path) -> None:
    project = shutil.copytree(PROJECT, tmp_path / "dbt", ignore=shutil.ignore_patterns("target", "logs"))

    break_it(project)

    # Without those that the project itself breaks: one fault, one failed test.
    assert sorted(set(broken_rules(project)) - set(broken_rules(PROJECT))) == [rule]


def test_the_line_of_each_test_is_found(dbt: Dbt, tmp_path: Path) -> None:
    dbt.run("parse --quiet", env={"DBT_TARGET_PATH": str(tmp_path)})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    tests = [node for node in manifest["nodes"].values() if node["resource_type"] == "test"]
    found, numbers, wanted = {}, {}, {}
    for node in [*tests, *manifest["unit_tests"].values()]:
        name, lines = node["name"], (PROJECT / node["original_file_path"]).read_text().splitlines()
        numbers[name] = dbt_report.line_of(PROJECT / node["original_file_path"], node)
        found[name] = lines[numbers[name] - 1].strip()
        wanted[name] = {f"name: {name}", f"- name: {name}"}
        if node["original_file_path"].endswith(".sql"):  # the file is the test
            wanted[name] = {lines[0]}
        elif "test_metadata" in node:
            wanted[name].add(f"- {node['test_metadata']['name']}")
    assert len(found) > 50
    assert {name: line for name, line in found.items() if line not in wanted[name]} == {}
    # Several tables have a column of the same name.
    assert {name: number for name, number in numbers.items() if re.fullmatch("source_.*_load_id", name)} == {
        "source_unique_raw_loads_load_id": 53,
        "source_not_null_raw_loads_load_id": 54,
        "source_not_null_raw_loaded_days_load_id": 85,
        "source_not_null_raw_loaded_files_load_id": 109,
        "source_not_null_raw_rejected_rows_load_id": 127,
    }


def test_a_feeds_pipeline_builds_what_depends_on_it_and_what_that_is_built_from(dbt: Dbt, tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path)
    tables = "".join(f"{{name: {name}}}, " for name in ("orders", "bills"))
    (project / "models/staging/orders.yml").write_text(f"sources: [{{name: raw, tables: [{tables}]}}]\n")
    for name in ("orders", "bills"):
        source = f"{{{{ source('raw', '{name}') }}}}"
        (project / f"models/staging/stg_{name}.sql").write_text(f"select * from {source}\n")  # noqa: S608 - a model
    joined = "select * from {{ ref('stg_orders') }} natural join {{ ref('dim_services') }}\n"
    (project / "models/marts/fact/orders_of_services.sql").write_text(joined)

    of_copy = dataclasses.replace(dbt, project=project, folder=tmp_path)

    def selected(feed: str) -> set[str]:
        listed = f"ls --quiet --resource-type model --output name --select @source:raw.{feed} +feed_days"
        found = set(re.findall(r"^\w+$", of_copy.run(listed), re.MULTILINE))
        assert found >= of_the_ledger
        return found - of_the_ledger

    of_the_ledger = {"feed_days", "stg_loads", "stg_loaded_days", "stg_loaded_files"}
    assert selected("bills") == {"stg_bills"}
    assert selected("orders") == {
        *("stg_orders", "orders_of_services", "dim_services", "int_service_days", "stg_events")
    }
    assert selected("events") == {path.stem for path in project.glob("models/**/*.sql")} - {"stg_bills"} - of_the_ledger
