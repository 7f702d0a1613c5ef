"""Find every row that two tables do not share, and how it differs.

Both tables are hashed once, by buckets of keys; only rows of buckets whose sums differ are looked at again, those of
the base's after they were copied beside the branch's. So two large tables with one difference cost little more than
hashing them, and what is reported was found by comparing values, not hashes.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import TypeVar

from psycopg import sql

from harness.diff.pairing import Comparison, Connection
from harness.diff.results import ColumnChange, DuplicateKeys, Example, Rows
from harness.diff.slices import find_slices
from harness.diff.values import difference, fingerprint, hashed

BUCKETS = 1 << 12  # with more, adding up takes longer; with fewer, more rows are looked at again
EXAMPLES = 5
ROWS_AT_ONCE = 1000  # that are copied
Result = TypeVar("Result")
Sums = dict[int, tuple[int, int]]  # by bucket: rows, and the sum of their hashes


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
