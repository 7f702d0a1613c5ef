"""Compare a mart of both sides: its rows, its definition, and what its builds took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from harness.diff.changes import Changes, described
from harness.diff.pairing import Comparison, Table, prepare
from harness.diff.project import Project
from harness.diff.results import Mart, Rows, SchemaChange, Verdict
from harness.diff.rows import compare_rows
from harness.diff.series import series_of
from harness.diff.values import columns_of
from harness.diff.verdicts import verdict
from harness.oracle.expected_numbers import Rows as ExpectedRows

UNIQUE = """
    select exists (
        select from pg_index
        where indrelid = to_regclass(%s) and indisunique and indisvalid and indpred is null and indexprs is null
            and (
                select array_agg(attname::text order by attname) from pg_attribute
                where attrelid = indrelid and attnum = any(indkey[:indnkeyatts - 1])
            ) = (select array_agg(name order by name) from unnest(%s::text[]) as name)
            and not exists (
                select from pg_attribute
                where attrelid = indrelid and attnum = any(indkey[:indnkeyatts - 1]) and not attnotnull
            )
    )
"""


@dataclass(frozen=True)
class Databases:
    """Both sides' databases: connections, and the projects that were built in them.

    Attributes:
        verdicts: those found, by table and the digest of its rows.
    """

    base: psycopg.Connection[Any]
    branch: psycopg.Connection[Any]
    base_project: Project
    branch_project: Project
    verdicts: dict[tuple[Any, ...], Verdict | None] = field(default_factory=dict)

    def connection(self, side: str) -> psycopg.Connection[Any]:
        """Return the connection of SIDE, `base` or `branch`."""
        return self.base if side == "base" else self.branch

    def count(self, side: str, table: Table) -> int:
        """Return how many rows TABLE of SIDE has."""
        query = sql.SQL("select count(*) from {}").format(table.identifier)
        [(rows,)] = self.connection(side).execute(query)
        return int(rows)

    def table(self, name: str, *, of_base: bool) -> Table:
        """Return the table of the model NAME on one side."""
        project, connection = (self.base_project, self.base) if of_base else (self.branch_project, self.branch)
        node = project.nodes[name]
        schema, relation, key = node["schema"], node["alias"], project.key(name)
        columns = columns_of(connection, schema, relation)
        key = key if all(column in columns for column in key) else ()
        identifier = sql.Identifier(schema, relation).as_string(connection)
        is_unique = bool(key) and connection.execute(UNIQUE, [identifier, list(key)]).fetchone() == (True,)
        return Table(schema, relation, columns, key, is_unique)


def new_mart(name: str, base: Project, branch: Project, changes: Changes) -> Mart:
    """Return the mart NAME, of which nothing is compared yet but what the projects BASE and BRANCH say of it."""
    project = branch if name in branch.nodes else base
    mart = Mart(
        name=name,
        path=f"dbt/{project.nodes[name]['original_file_path']}",
        key=project.key(name),
        in_base=name in base.nodes,
        in_branch=name in branch.nodes,
        exposures=project.exposures(name),
    )
    if mart.in_base and mart.in_branch:
        mart.causes = changes.causes(name, base, branch)
        mart.schema = described(name, base, branch)
    return mart


def compare_mart(
    mart: Mart, databases: Databases, expected: Mapping[str, Mapping[str, ExpectedRows]], *, are_samples: bool
) -> tuple[Rows | None, dict[str, Verdict]]:
    """Compare the present rows of MART's tables; add to it the differences of their columns, and what is drawn.

    Return None in the place of rows if only one side has it, and by side whether its rows are those EXPECTED of it.
    """
    tables = {}
    if mart.in_base:
        tables["base"] = databases.table(mart.name, of_base=True)
    if mart.in_branch:
        tables["branch"] = databases.table(mart.name, of_base=False)
    if len(tables) == 2:
        comparison = prepare(tables["base"], tables["branch"], databases.base, databases.branch)
        rows = compare_rows(comparison)
        digests, renamed = rows.digests, comparison.renamed
    else:
        [(side, table)] = tables.items()
        rows, renamed = None, {}
        mart.only_rows = databases.count(side, table)
        digests = {side: str(len(databases.verdicts))}  # not known
    verdicts = {}
    for side, table in tables.items():
        # Rows that are the same as others, of the other side or an earlier build, are right if those are.
        wanted = expected.get(side, {})
        known = (
            mart.name,
            id(wanted),
            side == "branch" and bool(renamed),
            tuple(table.columns.values()),
            digests[side],
        )
        if known not in databases.verdicts:
            databases.verdicts[known] = verdict(
                databases.connection(side),
                table,
                wanted,
                are_samples=are_samples,
                renamed=renamed if side == "branch" else {},
            )
        if found := databases.verdicts[known]:
            verdicts[side] = found
    if rows is None:
        return None, verdicts
    others = [change for change in mart.schema if not change.kind.startswith("column ")]
    others = without_renamed(others, comparison.renamed)
    mart.schema = column_changes(comparison) + others
    if not rows.are_same and not mart.series:
        mart.series = series_of(comparison, rows)
    return rows, verdicts


def column_changes(comparison: Comparison) -> list[SchemaChange]:
    """Return the columns that were added, removed, renamed or retyped."""
    base, branch = comparison.base.columns, comparison.branch.columns
    renamed = comparison.renamed
    changes = [SchemaChange("column renamed", old, old, new) for old, new in renamed.items()]
    for name, column in base.items():
        if name not in branch and name not in renamed:
            changes.append(SchemaChange("column removed", name, column.shown, None))
    for name, column in branch.items():
        if name not in base and name not in renamed.values():
            changes.append(SchemaChange("column added", name, None, column.shown))
    changes += [
        SchemaChange("column retyped", pair.name, pair.base.shown, pair.branch.shown)
        for pair in comparison.pairs
        if pair.base.shown != pair.branch.shown
    ]
    return changes


def without_renamed(changes: Sequence[SchemaChange], renamed: Mapping[str, str]) -> list[SchemaChange]:
    """Return CHANGES without those that only follow from columns that were RENAMED: one removed, its twin added."""

    def name(what: str) -> str:
        before, of, column = what.rpartition(" of ")
        return f"{before}{of}{renamed.get(column, column)}"

    removed = {(change.kind, name(change.what), change.base) for change in changes if change.branch is None}
    added = {(change.kind, change.what, change.branch) for change in changes if change.base is None}
    twins = removed & added
    return [
        change
        for change in changes
        if (change.kind, name(change.what), change.base) not in twins
        and (change.kind, change.what, change.branch) not in twins
        and not (change.kind == "key" and ", ".join(map(name, (change.base or "").split(", "))) == change.branch)
    ]
