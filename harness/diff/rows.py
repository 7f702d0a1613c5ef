"""Find every row that two tables do not share, and how it differs.

Both tables are hashed once, by buckets of keys; only rows of buckets whose sums differ are looked at again, those of
the base's after they were copied beside the branch's. So two large tables with one difference cost little more than
hashing them, and what is reported was found by comparing values, not hashes.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from harness.diff.results import ColumnChange, DuplicateKeys, Example, Rows
from harness.diff.slices import find_slices
from harness.diff.values import TEXT, Column, Pair, difference, fingerprint, hashed, pair

BUCKETS = 1 << 12  # with more, adding up takes longer; with fewer, more rows are looked at again
EXAMPLES = 5
ROWS_AT_ONCE = 1000  # that are copied
SAMPLE = 1000  # rows by which a renamed column is found
SAME = 0.9  # of them must have the same value
AGREEMENT = 0.5  # and be so much more alike than two columns that have nothing to do with each other: Cohen's kappa
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


def compare_rows(comparison: Comparison) -> Rows:
    """Compare the rows of both sides."""
    if not comparison.pairs:
        return compare_counts(comparison)
    base_sums, branch_sums = both_sides(lambda of_base: bucket_sums(comparison, of_base))
    repeated = both_sides(lambda of_base: duplicate_keys(comparison, of_base))
    rows = Rows(
        base_rows=sum(count for count, _ in base_sums.values()),
        branch_rows=sum(count for count, _ in branch_sums.values()),
        duplicates={side: found for side, found in zip(("base", "branch"), repeated, strict=True) if found},
        digests={"base": digest(base_sums), "branch": digest(branch_sums)},
    )
    different = [
        bucket for bucket in base_sums.keys() | branch_sums.keys() if base_sums.get(bucket) != branch_sums.get(bucket)
    ]
    if different:
        has_repeats = bool(rows.duplicates) if comparison.has_key else None
        with candidates(comparison, different, has_repeats):
            describe(comparison, rows)
    return rows


def compare_counts(comparison: Comparison) -> Rows:
    """Compare the number of rows of two tables without a common column."""

    def count(of_base: bool) -> int:
        connection, table = comparison.side(of_base)
        [(rows,)] = connection.execute(sql.SQL("select count(*) from {}").format(table.identifier))
        return int(rows)

    base, branch = both_sides(count)
    digests = {"base": digest({0: (base, 0)}), "branch": digest({0: (branch, 0)})}
    return Rows(base, branch, added=max(branch - base, 0), removed=max(base - branch, 0), digests=digests)


def both_sides(of_side: Callable[[bool], Result]) -> tuple[Result, Result]:
    """Return what OF_SIDE returns for the base and for the branch, asked at the same time."""
    with ThreadPoolExecutor(2) as pool:
        base, branch = pool.submit(of_side, True), pool.submit(of_side, False)
        return base.result(), branch.result()


def bucket_sums(comparison: Comparison, of_base: bool) -> Sums:
    """Return the rows and the sum of their hashes, by bucket of their keys."""
    connection, table = comparison.side(of_base)
    # Hashes are mixed before they are summed up: else two rows that swap a value have the same sum. Their 64 bits are
    # the seed, since the function folds its argument to 32. The offset keeps PostgreSQL from computing them twice.
    query = sql.SQL(
        "select bucket, count(*), sum(hashint8extended(hash, hash)) from ("
        "select ({} & {})::integer as bucket, {} as hash from {} offset 0) as hashed group by bucket"
    ).format(
        hashed(comparison.matched_by, of_base), BUCKETS - 1, fingerprint(comparison.pairs, of_base), table.identifier
    )
    with connection.transaction():
        # PostgreSQL expects as many buckets as rows, and would sort these.
        connection.execute("set local enable_sort = off; set local max_parallel_workers_per_gather = 0")
        return {bucket: (count, total) for bucket, count, total in connection.execute(query).fetchall()}


def digest(sums: Sums) -> str:
    """Return a digest of the content of a side."""
    return hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()


def duplicate_keys(comparison: Comparison, of_base: bool) -> DuplicateKeys | None:
    """Return how many keys occur more than once on one side, and one of them; None if the key is unique."""
    connection, table = comparison.side(of_base)
    columns = {pair.column(of_base).name for pair in comparison.key}
    if not columns or (table.is_unique and columns >= set(table.key)):
        return None
    names = [sql.Identifier(f"k{i}") for i in range(len(comparison.key))]
    values = sql.SQL(", ").join(
        sql.SQL("{} as {}").format(pair.expression(of_base), name)
        for pair, name in zip(comparison.key, names, strict=True)
    )
    every = sql.SQL(", ").join(names)
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in names)
    query = sql.SQL(
        "select count(*) over (), rows, {} from"
        " (select {}, count(*) as rows from (select {} from {}) as keys group by {} having count(*) > 1) as repeated"
        " order by {} limit 1"
    ).format(texts, every, values, table.identifier, every, every)
    found = connection.execute(query).fetchone()
    if not found:
        return None
    key = {pair.name: value for pair, value in zip(comparison.key, found[2:], strict=True)}
    return DuplicateKeys(found[0], found[1], key)


@contextmanager
def candidates(comparison: Comparison, buckets: Sequence[int], has_repeats: bool | None) -> Iterator[None]:
    """Put the rows of BUCKETS of both sides, and then those that differ, into temporary tables of the branch.

    HAS_REPEATS says whether a side has several rows of one key; None if that is not known.
    """
    connection = comparison.branch_connection
    is_all = len(buckets) > BUCKETS // 2

    def selected(of_base: bool) -> sql.Composed:
        expressions = sql.SQL(", ").join(
            sql.SQL("{} as {}").format(pair.expression(of_base), sql.Identifier(f"c{i}"))
            for i, pair in enumerate(comparison.pairs)
        )
        where = sql.SQL("true") if is_all else sql.SQL("key_hash & {} = any({})").format(BUCKETS - 1, list(buckets))
        query = "select * from (select {} as key_hash, {} as hash, {} from {}) as hashed where {}"
        hashes = hashed(comparison.matched_by, of_base), hashed(comparison.pairs, of_base)
        return sql.SQL(query).format(*hashes, expressions, comparison.side(of_base)[1].identifier, where)

    with connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("create table pg_temp.branch_rows as {}").format(selected(False)))
        connection.execute("create table pg_temp.base_rows as table pg_temp.branch_rows with no data")
        copy_out = sql.SQL("copy ({}) to stdout (format binary)").format(selected(True))
        with (
            connection.cursor().copy("copy pg_temp.base_rows from stdin (format binary)") as target,
            comparison.base_connection.cursor().copy(copy_out) as source,
        ):
            rows = iter(source)
            while block := b"".join(itertools.islice(rows, ROWS_AT_ONCE)):
                target.write(block)
        connection.execute("analyze pg_temp.base_rows; analyze pg_temp.branch_rows")
        split(connection, comparison, has_repeats)
        yield


def split(connection: Connection, comparison: Comparison, has_repeats: bool | None) -> None:
    """Make `changed_rows`, `removed_rows` and `added_rows` of `base_rows` and `branch_rows`, all in `pg_temp`."""
    keys = [f"c{comparison.pairs.index(pair)}" for pair in comparison.matched_by]
    every = [f"c{i}" for i in range(len(comparison.pairs))]
    if has_repeats is None:
        repeats = "select from pg_temp.{} group by key_hash having count(*) > 1"
        [(has_repeats,)] = connection.execute(
            f"select exists ({repeats.format('base_rows')}) or exists ({repeats.format('branch_rows')})".encode()
        )
    base, branch, matches = "pg_temp.base_rows", "pg_temp.branch_rows", ["a.key_hash = b.key_hash"]
    if has_repeats:
        # Rows that are equal belong together, as often as they occur on both sides; of the rest of a key's rows the
        # first of one side belongs to the first of the other.
        for side in ("base", "branch"):
            connection.execute(
                f"create table pg_temp.{side}_numbered as select *, row_number() over"  # noqa: S608
                f" (partition by key_hash, hash, {', '.join(every)}) as number from pg_temp.{side}_rows".encode()
            )
        equal = " and ".join(["a.hash = b.hash", "a.number = b.number", *same(every)])
        for side, other in (("base", "branch"), ("branch", "base")):
            connection.execute(
                f"create table pg_temp.{side}_rest as select key_hash, {', '.join(every)}, row_number() over"  # noqa: S608
                f" (partition by key_hash, {', '.join(keys)} order by {', '.join(every)}) as number"
                f" from pg_temp.{side}_numbered as a"
                f" where not exists (select from pg_temp.{other}_numbered as b where {equal})".encode()
            )
        base, branch, matches = "pg_temp.base_rest", "pg_temp.branch_rest", [*matches, "a.number = b.number"]
    matched = " and ".join([*matches, *same(keys)])
    different = " or ".join(f"a.{column} is distinct from b.{column}" for column in every)
    # Rows as values: both sides of a wide table are more columns than a table may have.
    connection.execute(
        f"create table pg_temp.changed_rows as select a as base, b as branch from {base} as a join {branch} as b"  # noqa: S608
        f" on {matched} where {different}".encode()
    )
    for name, these, others in (("removed", base, branch), ("added", branch, base)):
        connection.execute(
            f"create table pg_temp.{name}_rows as select * from {these} as a"  # noqa: S608
            f" where not exists (select from {others} as b where {matched})".encode()
        )


def same(columns: Sequence[str]) -> list[str]:
    """Return the conditions that COLUMNS of `a` and `b` are equal."""
    return [f"a.{column} is not distinct from b.{column}" for column in columns]


def describe(comparison: Comparison, rows: Rows) -> None:
    """Add to ROWS what the temporary tables say."""
    connection = comparison.branch_connection
    rows.added, rows.removed, rows.changed = (
        int(connection.execute(f"select count(*) from pg_temp.{name}_rows".encode()).fetchone()[0])  # type: ignore[index]  # noqa: S608
        for name in ("added", "removed", "changed")
    )
    if rows.changed:
        rows.columns = column_changes(connection, comparison)
    rows.examples = [
        example for kind in ("changed", "removed", "added") for example in examples(connection, comparison, kind)
    ]
    rows.slices = find_slices(comparison, rows)


def column_changes(connection: Connection, comparison: Comparison) -> list[ColumnChange]:
    """Return the columns with changed values, and how these differ."""
    counted = ", ".join(
        f"count(*) filter (where (base).c{i} is distinct from (branch).c{i})" for i in range(len(comparison.pairs))
    )
    [counts] = connection.execute(f"select {counted} from pg_temp.changed_rows".encode()).fetchall()  # noqa: S608
    changes = []
    for i, (each, rows) in enumerate(zip(comparison.pairs, counts, strict=True)):
        if not rows:
            continue
        base, branch = f"(base).c{i}", f"(branch).c{i}"
        by = "null" if each.family == "other" else difference(each.type, base, branch)
        query = (
            "select count(*) filter (where is_null and not was_null), count(*) filter (where was_null and not is_null),"  # noqa: S608
            " min(by), percentile_disc(0.5) within group (order by by), max(by)"
            f" from (select {base} is null as was_null, {branch} is null as is_null, {by} as by"
            f" from pg_temp.changed_rows where {base} is distinct from {branch}) as changed"
        )
        [(became_null, was_null, *figures)] = connection.execute(query.encode())
        smallest, median, largest = (None if figure is None else shown(figure) for figure in figures)
        changes.append(ColumnChange(each.name, each.type, rows, became_null, was_null, smallest, median, largest))
    return changes


def shown(figure: object) -> str:
    """Return FIGURE as text, a number without an exponent."""
    return f"{figure:f}" if isinstance(figure, Decimal) else str(figure)


def examples(connection: Connection, comparison: Comparison, kind: str) -> list[Example]:
    """Return the first rows of KIND, by key."""
    every = range(len(comparison.pairs))
    names = [pair.name for pair in comparison.pairs]
    prefixes = {"changed": ("(base).", "(branch)."), "removed": ("", None), "added": (None, "")}[kind]
    first = next(prefix for prefix in prefixes if prefix is not None)

    def array(values: Sequence[str], type_: str) -> str:  # a query cannot have as many columns
        return f"array[{', '.join(values)}]::{type_}[]"

    differ = ["true" if kind != "changed" else f"(base).c{i} is distinct from (branch).c{i}" for i in every]
    columns = [
        "null" if prefix is None else array([f"{prefix}c{i}::text" for i in every], "text") for prefix in prefixes
    ]
    order = ", ".join(f"{first}c{comparison.pairs.index(pair)}" for pair in comparison.matched_by)
    query = (
        f"select {', '.join(columns)}, {array(differ, 'boolean')}"  # noqa: S608
        f" from (select * from pg_temp.{kind}_rows order by {order} limit {EXAMPLES}) as first_rows"
    )
    key = {pair.name for pair in comparison.key}
    found = []
    for base, branch, is_shown in connection.execute(query.encode()).fetchall():

        def of(side: list[str | None] | None, is_shown: Sequence[bool] = is_shown) -> dict[str, str | None] | None:
            return None if side is None else {names[i]: side[i] for i in every if is_shown[i] and names[i] not in key}

        some = base or branch
        found.append(
            Example(kind, {pair.name: some[names.index(pair.name)] for pair in comparison.key}, of(base), of(branch))
        )
    return found
