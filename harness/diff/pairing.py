"""Two tables that are compared: which of their columns belong together, and as which type values are compared."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

from harness.diff.values import TEXT, Column, Pair, fingerprint, hashed, pair

SAMPLE = 1000  # rows by which a renamed column is found
SAME = 0.9  # of them must have the same value
AGREEMENT = 0.5  # and be so much more alike than two columns that have nothing to do with each other: Cohen's kappa
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Table:
    """A table or view of one side.

    Attributes:
        key: the columns that its project declares to be unique together; none if it declares none.
        is_unique: whether PostgreSQL enforces that.
    """

    schema: str
    name: str
    columns: dict[str, Column]
    key: tuple[str, ...] = ()
    is_unique: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        """Its qualified name."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class Comparison:
    """A base's and a branch's table, ready to be compared: each side's connection, and which columns belong together.

    Attributes:
        pairs: the columns that both sides have, a renamed one too.
        key: those of the declared key; none if there is none that both sides have.
    """

    base: Table
    branch: Table
    base_connection: Connection
    branch_connection: Connection
    pairs: tuple[Pair, ...]
    key: tuple[Pair, ...]
    renamed: dict[str, str] = field(default_factory=dict)

    @property
    def has_key(self) -> bool:
        """Whether rows are matched by a declared key."""
        return bool(self.key)

    @property
    def matched_by(self) -> tuple[Pair, ...]:
        """The columns by which rows are matched: without a key all of them, and then rows can only come or go."""
        return self.key or self.pairs

    def side(self, of_base: bool) -> tuple[Connection, Table]:
        """Return the connection and the table of one side."""
        return (self.base_connection, self.base) if of_base else (self.branch_connection, self.branch)


def prepare(base: Table, branch: Table, base_connection: Connection, branch_connection: Connection) -> Comparison:
    """Match the columns of BASE and BRANCH by name, and those that were renamed by their values."""
    for connection in (base_connection, branch_connection):
        connection.execute("set time zone 'UTC'; set extra_float_digits = 1; set datestyle = 'ISO'; set jit = off")
        connection.execute("set work_mem = '256MB'; set intervalstyle = 'postgres'; set bytea_output = 'hex'")
    names = {name: name for name in branch.columns if name in base.columns}
    declared = branch.key or base.key
    if branch.key and base.key and len(branch.key) == len(base.key):
        # A renamed column of the key has no key to be matched by: its place in the key tells.
        for new, old in zip(branch.key, base.key, strict=True):
            is_renamed = new not in base.columns and old not in branch.columns
            if is_renamed and base.columns[old].type == branch.columns[new].type:
                names[new] = old
    key = declared if all(name in names for name in declared) else ()

    def comparison(names: dict[str, str]) -> Comparison:
        pairs = {new: pair(base.columns[old], branch.columns[new]) for new, old in names.items()}
        in_order = tuple(pairs[name] for name in branch.columns if name in pairs)
        keys = tuple(pairs[name] for name in key)
        renamed = {old: new for new, old in names.items() if old != new}
        return with_text(Comparison(base, branch, base_connection, branch_connection, in_order, keys, renamed))

    found = comparison(names)
    renamed = renamed_columns(found) if key else {}
    return comparison(names | {new: old for old, new in renamed.items()}) if renamed else found


def with_text(comparison: Comparison) -> Comparison:
    """Return COMPARISON with those columns compared as text of which a value is none of the type they should have."""
    as_text = {}
    for each in comparison.pairs:
        for of_base in (True, False):
            connection, table = comparison.side(of_base)
            if not each.may_fail(of_base):
                continue
            query = sql.SQL("select count({}) from {}").format(each.expression(of_base), table.identifier)
            try:
                with connection.transaction():
                    connection.execute(query)
            except psycopg.DataError:
                as_text[each] = replace(each, type=TEXT)
    if not as_text:
        return comparison
    pairs, key = (tuple(as_text.get(each, each) for each in columns) for columns in (comparison.pairs, comparison.key))
    return replace(comparison, pairs=pairs, key=key)


def renamed_columns(comparison: Comparison) -> dict[str, str]:
    """Return the columns that only the base has, by name, whose values are those of one that only the branch has."""
    old_names = {pair.base.name for pair in comparison.pairs}
    new_names = {pair.branch.name for pair in comparison.pairs}
    only_base = [column for column in comparison.base.columns.values() if column.name not in old_names]
    only_branch = [column for column in comparison.branch.columns.values() if column.name not in new_names]
    candidates = [pair(old, new) for old in only_base for new in only_branch if old.type == new.type]
    candidates = [each for each in candidates if not each.may_fail(True)]
    if not candidates:
        return {}
    samples = [sample(comparison, candidates, of_base) for of_base in (True, False)]
    keys = samples[0].keys() & samples[1].keys()
    scored = []
    for i, each in enumerate(candidates):
        score = agreement([(samples[0][key][i], samples[1][key][i]) for key in keys], is_only=len(candidates) == 1)
        scored.append((score, -i, each))
    renamed: dict[str, str] = {}
    for score, _, each in sorted(scored, key=lambda one: one[:2], reverse=True):
        if score >= AGREEMENT and each.base.name not in renamed and each.branch.name not in renamed.values():
            renamed[each.base.name] = each.branch.name
    return renamed


def agreement(values: Sequence[tuple[int, int]], *, is_only: bool) -> float:
    """Return how far two columns agree beyond chance: 1 if in all of VALUES, 0 if in fewer than a renamed one would.

    A column with a single value tells something only if it IS_ONLY one.
    """
    rows = len(values)
    equal = sum(old == new for old, new in values)
    if not rows or equal < SAME * rows:
        return 0
    olds, news = (Counter(value) for value in zip(*values, strict=True))
    by_chance = sum(count * news[value] for value, count in olds.items()) / rows**2
    if by_chance == 1:
        return float(is_only)
    return (equal / rows - by_chance) / (1 - by_chance)


def sample(comparison: Comparison, columns: Sequence[Pair], of_base: bool) -> dict[int, tuple[int, ...]]:
    """Return hashes of the values of COLUMNS, by the hash of the key, of rows that most likely both sides have."""
    connection, table = comparison.side(of_base)
    values = sql.SQL(", ").join(fingerprint([each], of_base) for each in columns)
    query = sql.SQL("select {} as key_hash, {} from {} order by key_hash limit {}").format(
        hashed(comparison.key, of_base), values, table.identifier, SAMPLE
    )
    return {key: tuple(hashes) for key, *hashes in connection.execute(query).fetchall()}
