"""Find every row that two tables do not share, and how it differs.

Both tables are hashed once, by buckets of keys; only rows of buckets whose sums differ are looked at again, those of
the base's after they were copied beside the branch's. So two large tables with one difference cost little more than
hashing them, and what is reported was found by comparing values, not hashes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from harness.diff.results import ColumnChange, DuplicateKeys, Example, Rows
from harness.diff.slices import find_slices
from harness.diff.values import Column, Pair, hashed, pair

BUCKETS = 1 << 12  # with more, adding up takes longer; with fewer, more rows are looked at again
EXAMPLES = 5
SAMPLE = 1000  # rows by which a renamed column is found
SAME = 0.9  # of them must have the same value
Connection = psycopg.Connection[Any]
Result = TypeVar("Result")
Sums = dict[int, tuple[int, int]]  # by bucket: rows, and the sum of their hashes


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
        key: those by which rows are matched; without a declared key all of them, and then rows can only come or go.
        key_hash_function: PostgreSQL's for the type of a key of one column, which is faster than that of a record.
    """

    base: Table
    branch: Table
    base_connection: Connection
    branch_connection: Connection
    pairs: tuple[Pair, ...]
    key: tuple[Pair, ...]
    key_hash_function: str | None = None
    renamed: dict[str, str] = field(default_factory=dict)

    @property
    def has_key(self) -> bool:
        """Whether rows are matched by a declared key."""
        return bool(self.base.key or self.branch.key) and bool(self.key)

    def side(self, of_base: bool) -> tuple[Connection, Table]:
        """Return the connection and the table of one side."""
        return (self.base_connection, self.base) if of_base else (self.branch_connection, self.branch)

    def key_hash(self, of_base: bool) -> sql.Composable:
        """Return the expression of the hash of a row's key."""
        expressions = [pair.expression(of_base) for pair in self.key]
        if self.key_hash_function:
            return sql.SQL(f"coalesce({self.key_hash_function}({{}}, 0), 0)").format(*expressions)
        return hashed(expressions)

    def row_hash(self, of_base: bool) -> sql.Composable:
        """Return the expression of the hash of a row."""
        return hashed(pair.expression(of_base) for pair in self.pairs)


def prepare(base: Table, branch: Table, base_connection: Connection, branch_connection: Connection) -> Comparison:
    """Match the columns of BASE and BRANCH by name, and those that were renamed by their values."""
    for connection in (base_connection, branch_connection):
        connection.execute("set time zone 'UTC'; set extra_float_digits = 1; set datestyle = 'ISO'; set jit = off")
        connection.execute("set work_mem = '256MB'; set intervalstyle = 'postgres'")
    names = {name: name for name in branch.columns if name in base.columns}
    declared = branch.key or base.key
    if branch.key and base.key and len(branch.key) == len(base.key):
        # A renamed column of the key has no key to be matched by: its place in the key tells.
        for new, old in zip(branch.key, base.key, strict=True):
            if new not in base.columns and old not in branch.columns:
                names[new] = old
    key = tuple(name for name in declared if name in names) if all(name in names for name in declared) else ()

    def comparison(names: dict[str, str]) -> Comparison:
        pairs = {new: pair(base.columns[old], branch.columns[new]) for new, old in names.items()}
        in_order = [pairs[name] for name in branch.columns if name in pairs]
        renamed = {old: new for new, old in names.items() if old != new}
        keys = tuple(pairs[name] for name in key) or tuple(in_order)
        function = hash_function(branch_connection, keys[0].type) if len(keys) == 1 else None
        return Comparison(base, branch, base_connection, branch_connection, tuple(in_order), keys, function, renamed)

    found = comparison(names)
    renamed = renamed_columns(found) if key else {}
    return comparison(names | {new: old for old, new in renamed.items()}) if renamed else found


def renamed_columns(comparison: Comparison) -> dict[str, str]:
    """Return the columns that only the base has, by name, whose values are those of one that only the branch has."""
    paired = {(pair.base.name, pair.branch.name) for pair in comparison.pairs}
    only_base = [c for c in comparison.base.columns.values() if c.name not in {old for old, _ in paired}]
    only_branch = [c for c in comparison.branch.columns.values() if c.name not in {new for _, new in paired}]
    candidates = [pair(old, new) for old in only_base for new in only_branch if old.type == new.type]
    if not candidates:
        return {}
    samples = [sample(comparison, candidates, of_base) for of_base in (True, False)]
    keys = samples[0].keys() & samples[1].keys()
    renamed: dict[str, str] = {}
    for i, each in enumerate(candidates):
        values = [(samples[0][key][i], samples[1][key][i]) for key in keys]
        equal = sum(old == new for old, new in values)
        is_telling = len({old for old, _ in values}) > 1 or len(candidates) == 1
        is_taken = each.base.name in renamed or each.branch.name in renamed.values()
        if values and equal >= SAME * len(values) and is_telling and not is_taken:
            renamed[each.base.name] = each.branch.name
    return renamed


def sample(comparison: Comparison, columns: Sequence[Pair], of_base: bool) -> dict[int, tuple[int, ...]]:
    """Return hashes of the values of COLUMNS, by the hash of the key, of rows that most likely both sides have."""
    connection, table = comparison.side(of_base)
    values = sql.SQL(", ").join(hashed([each.expression(of_base)]) for each in columns)
    query = sql.SQL("select {} as key_hash, {} from {} order by key_hash limit {}").format(
        comparison.key_hash(of_base), values, table.identifier, SAMPLE
    )
    return {key: tuple(hashes) for key, *hashes in connection.execute(query).fetchall()}


def compare_rows(comparison: Comparison) -> Rows:
    """Compare the rows of both sides."""
    base_sums, branch_sums = both_sides(lambda of_base: bucket_sums(comparison, of_base))
    rows = Rows(
        base_rows=sum(count for count, _ in base_sums.values()),
        branch_rows=sum(count for count, _ in branch_sums.values()),
        duplicates=duplicate_keys(comparison),
        digests={"base": digest(base_sums), "branch": digest(branch_sums)},
    )
    different = [
        bucket for bucket in base_sums.keys() | branch_sums.keys() if base_sums.get(bucket) != branch_sums.get(bucket)
    ]
    if different:
        with candidates(comparison, different):
            describe(comparison, rows)
    return rows


def hash_function(connection: Connection, type_: str) -> str | None:
    """Return PostgreSQL's function that hashes values of TYPE_ itself; None if it has none."""
    query = """
        select amproc::regproc::text from pg_opclass
        join pg_am on pg_am.oid = opcmethod
        join pg_amproc on amprocfamily = opcfamily and amproclefttype = opcintype and amprocnum = 2
        where amname = 'hash' and opcdefault and opcintype = %s::regtype
    """
    found = connection.execute(query, [type_]).fetchone()
    return found[0] if found else None


def both_sides(of_side: Callable[[bool], Result]) -> tuple[Result, Result]:
    """Return what OF_SIDE returns for the base and for the branch, asked at the same time."""
    with ThreadPoolExecutor(2) as pool:
        base, branch = pool.submit(of_side, True), pool.submit(of_side, False)
        return base.result(), branch.result()


def bucket_sums(comparison: Comparison, of_base: bool) -> Sums:
    """Return the rows and the sum of their hashes, by bucket of their keys."""
    connection, table = comparison.side(of_base)
    query = sql.SQL(
        "select bucket, count(*), sum(hash) from ("
        "select {} & {} as bucket, {} as hash from {}) as hashed group by bucket"
    ).format(comparison.key_hash(of_base), BUCKETS - 1, comparison.row_hash(of_base), table.identifier)
    with connection.transaction():
        # PostgreSQL expects as many buckets as rows, and would sort these.
        connection.execute("set local enable_sort = off; set local max_parallel_workers_per_gather = 0")
        return {bucket: (count, total) for bucket, count, total in connection.execute(query).fetchall()}


def digest(sums: Sums) -> str:
    """Return a digest of the content of a side."""
    return hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()


def duplicate_keys(comparison: Comparison) -> dict[str, DuplicateKeys]:
    """Return by side how many keys occur more than once, and one of them; no side where the key is unique."""
    found = {}
    if comparison.has_key:
        for of_base in (True, False):
            connection, table = comparison.side(of_base)
            if table.is_unique:
                continue
            names = sql.SQL(", ").join(sql.Identifier((p.base if of_base else p.branch).name) for p in comparison.key)
            texts = sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier((p.base if of_base else p.branch).name))
                for p in comparison.key
            )
            numbers = sql.SQL(", ").join(map(sql.SQL, map(str, range(1, len(comparison.key) + 1))))
            query = sql.SQL(
                "select count(*) over (), count, {} from"
                " (select {}, count(*) from {} group by {} having count(*) > 1) as repeated order by {} limit 1"
            ).format(texts, names, table.identifier, numbers, names)
            if row := connection.execute(query).fetchone():
                key = {pair.name: value for pair, value in zip(comparison.key, row[2:], strict=True)}
                found["base" if of_base else "branch"] = DuplicateKeys(row[0], row[1], key)
    return found


@contextmanager
def candidates(comparison: Comparison, buckets: Sequence[int]) -> Iterator[None]:
    """Put the rows of BUCKETS of both sides, and then those that differ, into temporary tables of the branch."""
    connection, number = comparison.branch_connection, len(comparison.pairs)
    is_all = len(buckets) > BUCKETS // 2
    columns = [sql.Identifier(f"c{i}") for i in range(number)]

    def selected(of_base: bool) -> sql.Composed:
        expressions = sql.SQL(", ").join(
            sql.SQL("{} as {}").format(pair.expression(of_base), name)
            for pair, name in zip(comparison.pairs, columns, strict=True)
        )
        where = sql.SQL("true") if is_all else sql.SQL("key_hash & {} = any({})").format(BUCKETS - 1, list(buckets))
        query = "select * from (select {} as key_hash, {} as hash, {} from {}) as hashed where {}"
        parts = comparison.key_hash(of_base), comparison.row_hash(of_base), expressions
        return sql.SQL(query).format(*parts, comparison.side(of_base)[1].identifier, where)

    with connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("create temp table branch_rows as {}").format(selected(False)))
        connection.execute("create temp table base_rows as table branch_rows with no data")
        with (
            connection.cursor().copy("copy base_rows from stdin") as target,
            comparison.base_connection.cursor().copy(sql.SQL("copy ({}) to stdout").format(selected(True))) as source,
        ):
            for block in source:
                target.write(block)
        connection.execute("analyze base_rows; analyze branch_rows")
        split(connection, comparison)
        yield


def split(connection: Connection, comparison: Comparison) -> None:
    """Make `changed_rows`, `removed_rows` and `added_rows` of `base_rows` and `branch_rows`."""
    keys = [f"c{comparison.pairs.index(pair)}" for pair in comparison.key]
    every = [f"c{i}" for i in range(len(comparison.pairs))]
    repeats = "select from {} group by key_hash having count(*) > 1"
    [(has_repeats,)] = connection.execute(
        f"select exists ({repeats.format('base_rows')}) or exists ({repeats.format('branch_rows')})".encode()
    )
    number = "1"
    if has_repeats:
        # Rows that are equal belong together, as often as they occur on both sides; of the rest of a key's rows the
        # first of one side belongs to the first of the other.
        for side in ("base", "branch"):
            connection.execute(
                f"create temp table {side}_numbered as select *, row_number() over"
                f" (partition by key_hash, hash, {', '.join(every)}) as number from {side}_rows".encode()
            )
        equal = " and ".join(["a.hash = b.hash", "a.number = b.number", *same("a", "b", every)])
        for side, other in (("base", "branch"), ("branch", "base")):
            connection.execute(
                f"create temp table {side}_rest as select key_hash, hash, {', '.join(every)}, row_number() over"
                f" (partition by key_hash, {', '.join(keys)} order by {', '.join(every)}) as number"
                f" from {side}_numbered as a where not exists (select from {other}_numbered as b where {equal})".encode()
            )
        source, number = "{}_rest", "number"
    else:
        source = "{}_rows"
    base, branch = source.format("base"), source.format("branch")
    matched = " and ".join(
        ["a.key_hash = b.key_hash", *([f"a.{number} = b.{number}"] if has_repeats else []), *same("a", "b", keys)]
    )
    sides = ", ".join([f"a.{c} as base_{c}" for c in every] + [f"b.{c} as branch_{c}" for c in every])
    different = " or ".join(f"a.{c} is distinct from b.{c}" for c in every)
    connection.execute(
        f"create temp table changed_rows as select {sides} from {base} as a join {branch} as b"
        f" on {matched} where {different}".encode()
    )
    for name, these, others in (("removed", base, branch), ("added", branch, base)):
        connection.execute(
            f"create temp table {name}_rows as select {', '.join(every)} from {these} as a"
            f" where not exists (select from {others} as b where {matched})".encode()
        )


def same(left: str, right: str, columns: Sequence[str]) -> list[str]:
    """Return the conditions that COLUMNS of LEFT and RIGHT are equal."""
    return [f"{left}.{column} is not distinct from {right}.{column}" for column in columns]


def describe(comparison: Comparison, rows: Rows) -> None:
    """Add to ROWS what the temporary tables say."""
    connection = comparison.branch_connection
    counts = [
        int(connection.execute(f"select count(*) from {name}_rows".encode()).fetchone()[0])  # type: ignore[index]
        for name in ("added", "removed", "changed")
    ]
    rows.added, rows.removed, rows.changed = counts
    if rows.changed:
        rows.columns = column_changes(connection, comparison)
    rows.examples = [
        example for kind in ("changed", "removed", "added") for example in examples(connection, comparison, kind)
    ]
    rows.slices = find_slices(comparison, rows)


def column_changes(connection: Connection, comparison: Comparison) -> list[ColumnChange]:
    """Return the columns with changed values, and how these differ."""
    queries = []
    for i, each in enumerate(comparison.pairs):
        base, branch = f"base_c{i}", f"branch_c{i}"
        changed = f"{base} is distinct from {branch}"
        difference = {
            "number": f"({branch}::numeric - {base}::numeric)",
            "time": f"case when isfinite({base}) and isfinite({branch}) then {branch} - {base} end",
            "other": "null::numeric",
        }[each.family]
        where = f"filter (where {changed})"
        queries.append(
            f"select count(*) {where}, count({base}) filter (where {branch} is null),"
            f" count({branch}) filter (where {base} is null), min({difference}) {where},"
            f" percentile_disc(0.5) within group (order by {difference}) {where}, max({difference}) {where}"
            " from changed_rows"
        )
    changes = []
    for each, query in zip(comparison.pairs, queries, strict=True):
        [(rows, became_null, was_null, *figures)] = connection.execute(query.encode())
        if rows:
            smallest, median, largest = (None if figure is None else str(figure) for figure in figures)
            changes.append(ColumnChange(each.name, each.type, rows, became_null, was_null, smallest, median, largest))
    return changes


def examples(connection: Connection, comparison: Comparison, kind: str) -> list[Example]:
    """Return the first rows of KIND, by key."""
    every = range(len(comparison.pairs))
    keys = [comparison.pairs.index(pair) for pair in comparison.key]
    names = [pair.name for pair in comparison.pairs]
    prefixes = {"changed": ("base_", "branch_"), "removed": ("", None), "added": (None, "")}[kind]
    columns = [f"differing.{prefix}c{i}::text" for prefix in prefixes if prefix is not None for i in every]
    first = next(prefix for prefix in prefixes if prefix is not None)
    order = ", ".join(f"differing.{first}c{i}" for i in keys)
    query = f"select {', '.join(columns)} from {kind}_rows as differing order by {order} limit {EXAMPLES}"  # noqa: S608
    found = []
    for row in connection.execute(query.encode()).fetchall():
        values = iter(row)
        base, branch = ([next(values) for _ in every] if prefix is not None else None for prefix in prefixes)
        some = branch if branch is not None else base
        assert some is not None
        key = {names[i]: some[i] for i in keys} if comparison.has_key else {}
        shown = [i for i in every if names[i] not in key and (not base or not branch or base[i] != branch[i])]

        def of(side: list[Any] | None, shown: Sequence[int] = shown) -> dict[str, str | None] | None:
            return None if side is None else {names[i]: side[i] for i in shown}

        found.append(Example(kind, key, of(base), of(branch)))
    return found
