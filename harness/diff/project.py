"""A dbt project as its manifest describes it, and what of it another one has changed."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.diff.results import Changed, SchemaChange

BUILT = ("model", "seed", "snapshot")
MARTS = "marts"  # the folder of models that is compared
Node = Mapping[str, Any]
# Text in quotes, comments of SQL and of Jinja, and blanks.
_PARTS = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/|\{#.*?#\}|(\s+)", re.DOTALL)
# What says nothing about the rows, or is compared on its own.
_NOT_BUILT = ("docs", "meta", "tags", "group", "access", "enabled", "description")


@dataclass(frozen=True)
class Project:
    """A dbt project: what dbt has parsed of the folder FOLDER."""

    folder: Path
    manifest: Mapping[str, Any]

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Models, seeds and snapshots, by name."""
        nodes = self.manifest["nodes"].values()
        return {str(node["name"]): node for node in nodes if node["resource_type"] in BUILT}

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
            if node["resource_type"] == "test" and node.get("attached_node") == id_:
                found[str(node["name"])] = json.dumps(
                    [node.get("test_metadata"), node.get("raw_code"), node["config"].get("severity")], sort_keys=True
                )
        for node in self.manifest.get("unit_tests", {}).values():
            if node["model"] == name:
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
            if test["resource_type"] == "test" and test.get("attached_node") == node["unique_id"]:
                metadata = test.get("test_metadata") or {"name": "", "kwargs": {}}
                if metadata["name"] == "unique" and not test["config"].get("where"):
                    return (unquoted(metadata["kwargs"]["column_name"]),)
                if columns := metadata["kwargs"].get("combination_of_columns"):
                    return tuple(map(unquoted, columns))
        unique_key = node["config"].get("unique_key") or ()
        return (unique_key,) if isinstance(unique_key, str) else tuple(unique_key)

    def macros(self, node: Node) -> dict[str, str]:
        """Return the project's macros that NODE calls, also by way of others, with their text."""
        macros = self.own_macros
        found: dict[str, str] = {}
        waiting = list(node.get("depends_on", {}).get("macros", ()))
        while waiting:
            id_ = waiting.pop()
            macro = self.manifest["macros"].get(id_)
            if macro and id_ not in found:
                found[id_] = macros.get(macro["name"], "")
                waiting += macro["depends_on"]["macros"]
        names = {self.manifest["macros"][id_]["name"]: text for id_, text in found.items()}
        return {name: text for name, text in names.items() if name in macros}

    @cached_property
    def own_macros(self) -> dict[str, str]:
        """The text of each macro of the project and its packages; dbt's own are in the lock."""
        return {
            str(macro["name"]): str(macro["macro_sql"])
            for macro in self.manifest["macros"].values()
            if macro["package_name"] not in ("dbt", "dbt_postgres")
        }

    @cached_property
    def macros_of_dbt(self) -> set[str]:
        """The macros that dbt calls by itself: no model or test names them, nor does a macro that one calls."""
        called = {
            name
            for node in [
                *self.manifest["nodes"].values(),
                *self.manifest.get("unit_tests", {}).values(),
                *self.manifest["exposures"].values(),
            ]
            for name in self.macros(node)
        }
        entries = {id_ for id_, macro in self.manifest["macros"].items() if macro["name"] not in called}
        reached = {id_ for id_ in entries if self.manifest["macros"][id_]["name"] in self.own_macros}
        found = {"depends_on": {"macros": sorted(reached)}}
        return set(self.macros(found))


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
        descriptive: changes of nodes that say nothing about rows: descriptions and tests.
    """

    nodes: dict[str, list[str]]
    affected: set[str]
    descriptive: dict[str, list[str]]

    def listed(self) -> list[Changed]:
        """Return all changes, by node."""
        names = sorted(self.nodes.keys() | self.descriptive.keys())
        return [Changed(name, [*self.nodes.get(name, ()), *self.descriptive.get(name, ())]) for name in names]

    def causes(self, name: str, base: Project, branch: Project) -> list[str]:
        """Return why the rows of the node NAME may differ."""
        own = [f"its {what}" if what[:4] not in ("the ", "it i") else what for what in self.nodes.get(name, ())]
        above = ancestors([name], base.parents) | ancestors([name], branch.parents)
        return own + sorted(above & self.nodes.keys())


def compare_projects(
    base: Project, branch: Project, differs_for_all: Mapping[str, bool], *, everything: bool = False
) -> Changes:
    """Return what differs; DIFFERS_FOR_ALL has, by what concerns every node (`the load`), whether that differs.

    With EVERYTHING all nodes count as affected.
    """
    common = [what for what, differs in differs_for_all.items() if differs]
    dynamic = sorted(
        f"the macro {name}"
        for name in base.macros_of_dbt | branch.macros_of_dbt
        if base.own_macros.get(name) != branch.own_macros.get(name)
    )
    nodes: dict[str, list[str]] = {}
    descriptive: dict[str, list[str]] = {}
    for name in sorted(base.nodes.keys() | branch.nodes.keys()):
        what = [*compare_nodes(name, base, branch), *dynamic, *common]
        if what:
            nodes[name] = what
        if name in base.nodes and name in branch.nodes:
            kinds = dict.fromkeys(f"{change.kind}s" for change in described(name, base, branch))
            if about := [kind for kind in kinds if kind in ("tests", "descriptions")]:
                descriptive[name] = about
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
    if old.get("raw_code") != new.get("raw_code") or old.get("checksum") != new.get("checksum"):
        is_code = bare_sql(old.get("raw_code") or "") != bare_sql(new.get("raw_code") or "")
        is_seed = old["resource_type"] == "seed"
        found.append("rows" if is_seed else "SQL" if is_code else "SQL (only comments or blanks)")
    configs = [{k: v for k, v in node["config"].items() if k not in _NOT_BUILT} for node in (old, new)]
    keys = sorted(key for key in configs[0] | configs[1] if configs[0].get(key) != configs[1].get(key))
    if keys:
        found.append(f"configuration ({', '.join(keys)})")
    if constraints(old) != constraints(new):
        found.append("contract")
    if relation(old) != relation(new):
        found.append("place")
    macros = [project.macros(node) for project, node in ((base, old), (branch, new))]
    found += [
        f"the macro {macro}"
        for macro in sorted(macros[0].keys() | macros[1].keys())
        if macros[0].get(macro) != macros[1].get(macro)
    ]
    sources = [sources_of(project, node) for project, node in ((base, old), (branch, new))]
    if sources[0] != sources[1]:
        found.append("source")
    return found


def bare_sql(text: str) -> str:
    """Return SQL without comments, and with one blank for several; text in quotes stays."""
    parts = _PARTS.sub(lambda match: match[1] or " ", text)
    return " ".join(re.sub(r"(?<=\S) (?=[(),])|(?<=[(,]) (?=\S)", "", " ".join(parts.split())).split())


def sources_of(project: Project, node: Node) -> list[Any]:
    """Return the tables outside of the project that NODE reads."""
    ids = sorted(id_ for id_ in node.get("depends_on", {}).get("nodes", ()) if id_ in project.manifest["sources"])
    found = [project.manifest["sources"][id_] for id_ in ids]
    return [[source["schema"], source["identifier"]] for source in found]


def relation(node: Node) -> list[Any]:
    """Return the schema and the name of NODE's table."""
    return [node["schema"], node["alias"]]


def constraints(node: Node) -> dict[str, str]:
    """Return what NODE's contract says: by column its type, and its constraints."""
    if not node["config"].get("contract", {}).get("enforced"):
        return {}
    found = {f"type of {name}": str(column.get("data_type")) for name, column in node["columns"].items()}
    for name, column in node["columns"].items():
        for constraint in column.get("constraints") or ():
            found[f"{constraint_text(constraint)} of {name}"] = constraint_text(constraint)
    for constraint in node.get("constraints") or ():
        found[constraint_text(constraint)] = constraint_text(constraint)
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
    compare("test", lambda project, _: project.tests(name))
    compare("description", lambda _, node: descriptions(node))
    return changes


def descriptions(node: Node) -> dict[str, str]:
    """Return the descriptions of NODE and of its columns, one line each."""
    found = {"": node.get("description") or ""}
    found |= {name: column.get("description") or "" for name, column in node["columns"].items()}
    return {name: " ".join(text.split()) for name, text in found.items() if text}
