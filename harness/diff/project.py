"""A dbt project as its manifest describes it, and what of it another one has changed."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from harness.diff.base import differing_files
from harness.diff.results import ChangedNode, SchemaChange

BUILT = ("model", "seed", "snapshot")
MARTS = "marts"  # the folder of models that is compared
Node = Mapping[str, Any]
# Text in quotes, comments of SQL and of Jinja, and blanks.
_PARTS = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/|\{#.*?#\}|\s+", re.DOTALL)
# Configuration that says nothing about the rows. Macros may read meta and tags.
_NOT_BUILT = ("docs", "group", "access", "enabled", "description")
# Settings of dbt_project.yml that every node is built by. Those of nodes are in the nodes' configuration.
_OF_ALL = ("dispatch", "flags", "quoting")
_ITS = ("SQL", "rows", "configuration", "contract", "place", "source")  # what a node has itself
# Macros that dbt, or an adapter, finds by their names.
_FOUND_BY_DBT = re.compile(r"(default|postgres)__|materialization_|get_incremental_|generate_|get_catalog|ref$|source$")
_VAR = re.compile(r"\bvar\b(?:\(\s*(['\"])(?P<name>\w+)\1)?")  # without a name it may be any


@dataclass(frozen=True)
class Project:
    """A dbt project: what dbt has parsed of the folder `dbt` in FOLDER."""

    folder: Path
    manifest: Mapping[str, Any]

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Models, seeds and snapshots, by name; a version of a model as dbt selects it, `customers.v2`."""
        nodes = self.manifest["nodes"].values()
        return {
            f"{node['name']}.v{node['version']}" if node.get("version") else str(node["name"]): node
            for node in nodes
            if node["resource_type"] in BUILT
        }

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of the nodes by their ids."""
        return {node["unique_id"]: name for name, node in self.nodes.items()}

    @cached_property
    def parents(self) -> dict[str, set[str]]:
        """The nodes that each node reads."""
        return {
            name: {self.names[id_] for id_ in node.get("depends_on", {}).get("nodes", ()) if id_ in self.names}
            for name, node in self.nodes.items()
        }

    @property
    def marts(self) -> list[str]:
        """The models that are compared."""
        return sorted(
            name for name, node in self.nodes.items() if node["resource_type"] == "model" and MARTS in node["fqn"]
        )

    def is_incremental(self, name: str) -> bool:
        """Return whether the model NAME is built in increments."""
        return name in self.nodes and self.nodes[name]["config"].get("materialized") == "incremental"

    def exposures(self, name: str) -> list[str]:
        """Return who reads the node NAME, also through other nodes."""
        readers = {name} | descendants({name}, self.parents)
        return sorted(
            exposure.get("label") or exposure["name"]
            for exposure in self.manifest["exposures"].values()
            if readers & {self.names.get(id_, "") for id_ in exposure["depends_on"]["nodes"]}
        )

    def tests(self, name: str) -> dict[str, str]:
        """Return the data tests and unit tests of the node NAME, each with a text of what it tests."""
        id_ = self.nodes[name]["unique_id"]
        found = {}
        for node in self.manifest["nodes"].values():
            if node["resource_type"] != "test":
                continue
            # One that is written in SQL of its own is attached to no node, and tests all that it reads.
            attached = node.get("attached_node")
            if id_ in ([attached] if attached else node["depends_on"]["nodes"]):
                config = [node["config"].get(name) for name in ("severity", "where", "limit", "warn_if", "error_if")]
                content = [node.get("test_metadata"), node["raw_code"], config]
                found[str(node["name"])] = json.dumps(content, sort_keys=True)
        for node in self.manifest.get("unit_tests", {}).values():
            if id_ in node["depends_on"]["nodes"]:
                found[str(node["name"])] = json.dumps([node["given"], node["expect"], node.get("overrides")])
        return found

    def key(self, name: str) -> tuple[str, ...]:
        """Return the key of the node NAME: its primary key, or what a test says is unique; none if nothing does."""
        node = self.nodes[name]
        for constraint in node.get("constraints") or ():
            if constraint["type"] == "primary_key":
                return tuple(map(unquoted, constraint["columns"]))
        for column in node["columns"].values():
            if any(constraint["type"] == "primary_key" for constraint in column.get("constraints") or ()):
                return (str(column["name"]),)
        for test in self.manifest["nodes"].values():
            if test["resource_type"] != "test" or test.get("attached_node") != node["unique_id"]:
                continue
            if test["config"].get("where") or not test.get("test_metadata"):
                continue
            arguments = test["test_metadata"]["kwargs"]
            if test["test_metadata"]["name"] == "unique":
                return (unquoted(arguments["column_name"]),)
            if columns := arguments.get("combination_of_columns"):
                return tuple(map(unquoted, columns))
        unique_key = node["config"].get("unique_key") or ()
        return tuple(map(unquoted, (unique_key,) if isinstance(unique_key, str) else unique_key))

    def called(self, ids: Iterable[str]) -> set[str]:
        """Return the ids of the macros IDS and of those that they call, also by way of others."""
        ids = set(ids)
        return ids | ancestors(ids, self.macros_called)

    @cached_property
    def macros_called(self) -> dict[str, set[str]]:
        """The ids of the macros that each macro calls."""
        return {id_: set(macro["depends_on"]["macros"]) for id_, macro in self.manifest["macros"].items()}

    def texts(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the text of the macros IDS by name, without dbt's own, which are in the lock."""
        own, found = self.manifest["metadata"].get("project_name"), {}
        for macro in (self.manifest["macros"][id_] for id_ in ids if id_ in self.own_macros):
            package = "" if macro["package_name"] == own else f"{macro['package_name']}."
            found[f"{package}{macro['name']}"] = str(macro["macro_sql"])
        return found

    def macros(self, node: Node) -> dict[str, str]:
        """Return the text of the macros that NODE calls, also by way of others."""
        return self.texts(self.called(node.get("depends_on", {}).get("macros", ())))

    @cached_property
    def own_macros(self) -> set[str]:
        """The ids of the macros of the project and its packages."""
        macros = self.manifest["macros"].items()
        return {id_ for id_, macro in macros if macro["package_name"] not in ("dbt", "dbt_postgres")}

    @cached_property
    def macros_of_dbt(self) -> set[str]:
        """The names of the macros that dbt calls by itself, and of what they call: hooks, materializations, overrides.

        So are all that no node, test or other macro names: what calls them is not known. An unused test is not.
        """
        macros = self.manifest["macros"]
        named, by_hooks = self.called(id_ for id_ in macros if macros[id_]["name"].startswith("test_")), set[str]()
        for node in [*self.manifest["nodes"].values(), *self.manifest.get("unit_tests", {}).values()]:
            called = self.called(node.get("depends_on", {}).get("macros", ()))
            (by_hooks if node["resource_type"] == "operation" else named).update(called)
        of_dbt = {macro["name"] for id_, macro in macros.items() if id_ not in self.own_macros}
        first = {
            id_
            for id_ in self.own_macros
            if id_ not in named or macros[id_]["name"] in of_dbt or _FOUND_BY_DBT.match(macros[id_]["name"])
        }
        return set(self.texts(self.called(first | by_hooks)))

    @cached_property
    def all_macros(self) -> dict[str, str]:
        """The text of every macro of the project and its packages."""
        return self.texts(self.own_macros)

    @cached_property
    def hooks(self) -> list[str]:
        """What dbt runs before and after all nodes."""
        nodes = [node for node in self.manifest["nodes"].values() if node["resource_type"] == "operation"]
        return [str(node["raw_code"]) for node in sorted(nodes, key=lambda node: str(node["name"]))]

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The content of dbt_project.yml."""
        return self.read_yaml("dbt_project.yml")

    @cached_property
    def variables(self) -> dict[str, Any]:
        """The values of dbt's variables by name, each by the package that it is for, or none."""
        values: dict[str, Any] = {}
        for name, value in (self.settings.get("vars") or self.read_yaml("vars.yml").get("vars") or {}).items():
            values.setdefault(str(name), {})[""] = value
            for inner, of_package in value.items() if isinstance(value, dict) else ():
                package = "this project" if name == self.settings.get("name") else name
                values.setdefault(str(inner), {})[package] = of_package
        return values

    def read_yaml(self, name: str) -> dict[str, Any]:
        """Return the content of a file of the project, which dbt has read; nothing if it is not there."""
        path = self.folder / "dbt" / name
        return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}

    def file(self, node: Node) -> bytes:
        """Return the content of NODE's file."""
        path = self.folder / "dbt" / node["original_file_path"]
        return path.read_bytes() if path.exists() else b""


def unquoted(name: str) -> str:
    """Return the column NAME without quotes."""
    return name.strip('"')


def ancestors(of: Iterable[str], parents: Mapping[str, set[str]]) -> set[str]:
    """Return what OF read, also through others, by their PARENTS."""
    found: set[str] = set()
    waiting = list(of)
    while waiting:
        new = parents.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def descendants(of: Iterable[str], parents: Mapping[str, set[str]]) -> set[str]:
    """Return what reads OF, also through others, by the PARENTS of each."""
    children: dict[str, set[str]] = {}
    for name, named in parents.items():
        for parent in named:
            children.setdefault(parent, set()).add(name)
    return ancestors(of, children)


@dataclass(frozen=True)
class Changes:
    """What differs between two projects.

    Attributes:
        nodes: by node, what of it; a node may be in one project only.
        affected: the nodes whose rows can differ: the changed ones, and those that read them.
        descriptive: changes that say nothing about rows: by node descriptions and tests, and what only tests read.
    """

    nodes: dict[str, list[str]]
    affected: set[str]
    descriptive: dict[str, list[str]]

    def listed(self) -> list[ChangedNode]:
        """Return all changes, by node."""
        names = sorted(self.nodes.keys() | self.descriptive.keys())
        return [ChangedNode(name, [*self.nodes.get(name, ()), *self.descriptive.get(name, ())]) for name in names]

    def causes(self, name: str, base: Project, branch: Project) -> list[str]:
        """Return why the rows of the node NAME may differ."""
        own = self.nodes.get(name, [])
        above = ancestors([name], base.parents) | ancestors([name], branch.parents)
        # What concerns every node is named once.
        others = [
            node
            for node in above & self.nodes.keys()
            if any(w.startswith(_ITS) or w not in own for w in self.nodes[node])
        ]
        return [f"its {what}" if what.startswith(_ITS) else what for what in own] + sorted(others)


def compare_projects(
    base: Project, branch: Project, differs_for_all: Mapping[str, bool], *, everything: bool = False
) -> Changes:
    """Return what differs; DIFFERS_FOR_ALL has, by what concerns every node (`the load`), whether that differs.

    With EVERYTHING all nodes count as affected.
    """
    common = [what for what, differs in differs_for_all.items() if differs]
    common += [f"dbt_project.yml ({what})" for what in _OF_ALL if base.settings.get(what) != branch.settings.get(what)]
    if base.hooks != branch.hooks:
        common.append("hooks of every run")
    different = differing_macros(base.all_macros, branch.all_macros)
    of_dbt = [different[name] for name in sorted((base.macros_of_dbt | branch.macros_of_dbt) & different.keys())]
    nodes: dict[str, list[str]] = {}
    descriptive: dict[str, list[str]] = {}
    for name in sorted(base.nodes.keys() | branch.nodes.keys()):
        what = list(dict.fromkeys([*compare_nodes(name, base, branch), *of_dbt, *common]))
        if what:
            nodes[name] = what
        if name in base.nodes and name in branch.nodes:
            kinds = dict.fromkeys(f"{change.kind}s" for change in described(name, base, branch))
            if about := [kind for kind in kinds if kind in ("tests", "descriptions")]:
                descriptive[name] = about
    found = {what for whats in nodes.values() for what in whats}
    descriptive |= {macro: ["no model calls it"] for macro in different.values() if macro not in found}
    if not nodes and not descriptive:
        files = differing_files(base.folder, branch.folder, "dbt")
        descriptive |= {file: ["no model is built from it"] for file in files}
    parents = {
        name: base.parents.get(name, set()) | branch.parents.get(name, set())
        for name in base.nodes.keys() | branch.nodes.keys()
    }
    affected = set(parents) if everything else set(nodes) | descendants(nodes, parents)
    return Changes(nodes, affected, descriptive)


def compare_nodes(name: str, base: Project, branch: Project) -> list[str]:
    """Return what of the node NAME differs that can change its rows."""
    if name not in base.nodes:
        return ["it is new"]
    if name not in branch.nodes:
        return ["it is gone"]
    old, new = base.nodes[name], branch.nodes[name]
    found = []
    if old["resource_type"] == "seed":
        if base.file(old) != branch.file(new):  # the checksum of a large one is of its path
            found.append("rows")
    elif old.get("raw_code") != new.get("raw_code") or old.get("checksum") != new.get("checksum"):
        is_code = bare_sql(old.get("raw_code") or "") != bare_sql(new.get("raw_code") or "")
        found.append("SQL" if is_code else "SQL (only comments or blanks)")
    configs = [{k: v for k, v in node["config"].items() if k not in _NOT_BUILT} for node in (old, new)]
    keys = sorted(key for key in configs[0] | configs[1] if configs[0].get(key) != configs[1].get(key))
    if keys:
        found.append(f"configuration ({', '.join(keys)})")
    if constraints(old) != constraints(new):
        found.append("contract")
    if relation(old) != relation(new):
        found.append("place")
    found += differing_macros(base.macros(old), branch.macros(new)).values()
    found += differing_variables(name, base, branch)
    sources = [sources_of(project, node) for project, node in ((base, old), (branch, new))]
    if sources[0] != sources[1]:
        found.append("source")
    return found


def differing_macros(base: Mapping[str, str], branch: Mapping[str, str]) -> dict[str, str]:
    """Return by name which of the macros BASE and BRANCH, texts by name, differ, as it is said."""
    found = {}
    for name in sorted(base.keys() | branch.keys()):
        if base.get(name) != branch.get(name):
            is_text = bare_sql(base.get(name, "")) != bare_sql(branch.get(name, ""))
            found[name] = f"the macro {name}{'' if is_text else ' (only comments or blanks)'}"
    return found


def differing_variables(name: str, base: Project, branch: Project) -> list[str]:
    """Return the variables that differ, of those that the node NAME or a macro may read."""
    names = base.variables.keys() | branch.variables.keys()
    different = {each for each in names if base.variables.get(each) != branch.variables.get(each)}
    if not different:
        return []
    read = set()
    for project in (base, branch):
        node = project.nodes[name]
        of_dbt = (project.all_macros[each] for each in project.macros_of_dbt)
        for text in [node.get("raw_code") or "", *project.macros(node).values(), *of_dbt]:
            read |= {found["name"] for found in _VAR.finditer(text)}
    return [f"the variable {each}" for each in sorted(different) if each in read or None in read]


def bare_sql(text: str) -> str:
    """Return SQL without comments, and with no more blanks than it needs; text in quotes stays."""
    quoted: list[str] = []

    def replaced(part: re.Match[str]) -> str:
        if part[1] is None:
            return "" if part[0].startswith("{#") else " "
        quoted.append(part[1])
        return "\0"

    bare = re.sub(r" ?([(),]) ?", r"\1", " ".join(_PARTS.sub(replaced, text).split()))
    return re.sub("\0", lambda _: quoted.pop(0), bare)


def sources_of(project: Project, node: Node) -> list[Any]:
    """Return the tables outside of the project that NODE reads."""
    ids = sorted(id_ for id_ in node.get("depends_on", {}).get("nodes", ()) if id_ in project.manifest["sources"])
    found = [project.manifest["sources"][id_] for id_ in ids]
    return [[source["schema"], source["identifier"]] for source in found]


def relation(node: Node) -> list[Any]:
    """Return the schema and the name of NODE's table."""
    return [node["schema"], node["alias"]]


def constraints(node: Node) -> dict[str, str]:
    """Return what NODE's contract says: by column its type, and its constraints, of which the name says all."""
    if not node["config"].get("contract", {}).get("enforced"):
        return {}
    found = {f"type of {name}": str(column.get("data_type")) for name, column in node["columns"].items()}
    for name, column in node["columns"].items():
        for constraint in column.get("constraints") or ():
            found[f"{constraint_text(constraint)} of {name}"] = ""
    for constraint in node.get("constraints") or ():
        found[constraint_text(constraint)] = ""
    return found


def constraint_text(constraint: Mapping[str, Any]) -> str:
    """Return a constraint for people: `primary key (service_id, date)`, `check (proposals > 0)`."""
    about = ", ".join(constraint.get("columns") or ()) or constraint.get("expression") or ""
    return f"{str(constraint['type']).replace('_', ' ')}{f' ({about})' if about else ''}"


def described(name: str, base: Project, branch: Project) -> list[SchemaChange]:
    """Return the differences of what the two projects say of the node NAME, which both have."""
    old, new = base.nodes[name], branch.nodes[name]
    changes: list[SchemaChange] = []

    def compare(kind: str, of: Callable[[Project, Node], Mapping[str, str]]) -> None:
        before, after = of(base, old), of(branch, new)
        changes.extend(
            SchemaChange(kind, what, before.get(what), after.get(what))
            for what in sorted(before.keys() | after.keys())
            if before.get(what) != after.get(what)
        )

    compare("materialization", lambda _, node: {"": str(node["config"].get("materialized"))})
    compare("place", lambda _, node: {"": ".".join(relation(node))})
    compare("key", lambda project, _: {"": ", ".join(project.key(name))})
    compare("constraint", lambda _, node: {k: v for k, v in constraints(node).items() if not k.startswith("type of ")})
    tests = base.tests(name), branch.tests(name)
    for test in sorted(tests[0].keys() | tests[1].keys()):
        if tests[0].get(test) != tests[1].get(test):  # what a test is says its name
            changes.append(SchemaChange("test", test, *("" if test in side else None for side in tests)))
    compare("description", lambda _, node: descriptions(node))
    return changes


def descriptions(node: Node) -> dict[str, str]:
    """Return the descriptions of NODE and of its columns, one line each."""
    found = {"": node.get("description") or ""}
    found |= {name: column.get("description") or "" for name, column in node["columns"].items()}
    return {name: " ".join(text.split()) for name, text in found.items() if text}
