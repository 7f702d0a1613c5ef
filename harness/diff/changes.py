"""What of two dbt projects differs, and so the rows of which models can differ."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.diff.base import differing_files
from harness.diff.project import Node, Project, ancestors, descendants
from harness.diff.results import ChangedNode, SchemaChange

# Text in quotes, comments of SQL and of Jinja, and blanks.
_PARTS = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/|\{#.*?#\}|\s+", re.DOTALL)
# Configuration that says nothing about the rows. Macros may read meta and tags.
_NOT_BUILT = ("docs", "group", "access", "enabled", "description")
# Settings of dbt_project.yml that every node is built by. Those of nodes are in the nodes' configuration.
_OF_ALL = ("dispatch", "flags", "quoting")
_ITS = ("SQL", "rows", "configuration", "contract", "place", "source")  # what a node has itself
_VAR = re.compile(r"\bvar\b(?:\(\s*(['\"])(?P<name>\w+)\1)?")  # without a name it may be any


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
        descriptive |= {file: ["it changes no model"] for file in files}
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
