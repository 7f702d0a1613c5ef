"""A dbt project as its manifest describes it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

BUILT = ("model", "seed", "snapshot")
MARTS = "marts"  # the folder of models that is compared
Node = Mapping[str, Any]
# Macros that dbt, or an adapter, finds by their names.
_FOUND_BY_DBT = re.compile(r"(default|postgres)__|materialization_|get_incremental_|generate_|get_catalog|ref$|source$")


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
