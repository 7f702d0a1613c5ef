"""Random changes of random rows of random tables are found, all of them and no others: against brute force."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

import pytest
from psycopg import sql

from harness.diff.results import ColumnChange, Rows
from tests.harness.diff.conftest import Databases

CASES = 60  # of each kind of key
Row = tuple[int, ...]  # of each column the place of its value in Type.values; that of NULL is -1
NULL = -1


@dataclass(frozen=True)
class Type:
    """A type on both sides, and values that are not equal to each other.

    Attributes:
        values: of each value the expressions that mean it, any in both tables, or those of base and branch.
        figures: of each value the number or time of which differences are; None if it has none.
    """

    base: str
    branch: str
    compared: str
    values: Sequence[Sequence[str]]
    figures: Sequence[Decimal | date | datetime | None] = ()


def of_numbers(base: str, branch: str, compared: str, *values: Sequence[str]) -> Type:
    """Return a type of numbers."""
    figures = [Decimal(expressions[0].strip("'")) for expressions in values]
    return Type(base, branch, compared, values, [figure if figure.is_finite() else None for figure in figures])


def same(type_: str, *values: str | Sequence[str]) -> Type:
    """Return a type that both sides have; a value alone is the only expression of itself."""
    return Type(type_, type_, type_, [[value] if isinstance(value, str) else value for value in values])


TIMESTAMP = "timestamp without time zone"
NOON, EVENING = datetime(2020, 1, 1, 12), datetime(2020, 2, 29, 18, 30, 0, 1)  # noqa: DTZ001 - in UTC
TYPES = [
    of_numbers("smallint", "smallint", "smallint", ["-32768"], ["0"], ["32767"]),
    of_numbers("integer", "integer", "integer", ["-2147483648"], ["-1"], ["0"], ["7"], ["2147483647"]),
    of_numbers(
        "bigint", "bigint", "bigint",
        ["-9223372036854775808"], ["-1"], ["0"], ["1"], ["4294967295"], ["4294967296"], ["9223372036854775807"],
    ),
    of_numbers(
        "numeric", "numeric", "numeric",
        ["1.5", "1.500"], ["-1.5"], ["0", "0.00"], ["15000"], ["'NaN'"], ["'Infinity'"], ["'-Infinity'"], ["1e-20"],
    ),
    of_numbers("numeric(10,2)", "numeric(18,6)", "numeric", ["1.25", "1.25"], ["-1.25", "-1.25"], ["3", "3.000000"]),
    of_numbers(
        "double precision", "double precision", "double precision", ["0", "'-0'"], ["0.1"], ["'NaN'"], ["-1e300"]
    ),
    of_numbers("real", "real", "real", ["0.5"], ["-0.5"], ["'Infinity'"]),
    of_numbers("integer", "bigint", "bigint", ["5"], ["-5"], ["0"]),
    of_numbers("integer", "numeric", "numeric", ["5", "5.0"], ["-5", "-5.00"], ["0", "0"]),
    of_numbers("numeric", "double precision", "numeric", ["0.1", "0.1"], ["-2", "-2"], ["'NaN'", "'NaN'"]),
    Type("integer", "text", "text", [["5", "'5'"], ["-5", "'-5'"]]),
    Type("varchar(9)", "text", "text", [["'a'", "'a'"], ["'a '", "'a '"], ["''", "''"]]),
    Type("date", "date", "date", [["'2020-01-01'"], ["'2020-02-29'"], ["'infinity'"]],
         [date(2020, 1, 1), date(2020, 2, 29), None]),
    Type(TIMESTAMP, TIMESTAMP, TIMESTAMP, [["'2020-01-01 12:00'"], ["'2020-02-29 18:30:00.000001'"], ["'-infinity'"]],
         [NOON, EVENING, None]),
    Type("timestamptz", "timestamptz", "timestamp with time zone",
         [["'2020-01-01 12:00+00'", "'2020-01-01 14:00+02'"], ["'2020-02-29 18:30:00.000001+00'"]], [NOON, EVENING]),
    Type(TIMESTAMP, "timestamptz", TIMESTAMP,
         [["'2020-01-01 12:00'", "'2020-01-01 14:00+02'"],
          ["'2020-02-29 18:30:00.000001'", "'2020-02-29 18:30:00.000001+00'"]], [NOON, EVENING]),
    Type("date", TIMESTAMP, TIMESTAMP, [["'2020-01-01'", "'2020-01-01 00:00'"], ["'2020-02-29'", "'2020-02-29 00:00'"]],
         [datetime(2020, 1, 1), datetime(2020, 2, 29)]),  # noqa: DTZ001
    same("boolean", "true", "false"),
    same("text", "''", "'a'", "'a '", "'A'", r"E'\u00e9'", r"E'e\u0301'", "repeat('long', 1000)"),
    Type("char(4)", "char(4)", "text", [["'ab'", "'ab  '"], ["' ab'"]]),
    same("jsonb",
         ["""'{"a": 1, "b": [2]}'""", """'{"b": [2.0], "a": 1}'"""],
         "'[]'", "'[[[]]]'", "'null'", "'[[1], 2]'", "'[[1, 2]]'"),
    Type("json", "json", "jsonb", [["""'{"a":1,"b":null}'""", """'{"b": null, "a": 1.0}'"""], ["""'{"a":1}'"""]]),
    same("integer[]", "'{1,2,3,4}'", "'{{1,2},{3,4}}'", "'[0:3]={1,2,3,4}'", "'{}'", "'{null}'"),
    same("numeric[]", ["'{1}'", "'{1.0}'"], "'{-1}'"),
    same("text[]", "'{a}'", "'{\"a \"}'", "'{null}'", "'{\"null\"}'"),
    same("interval", ["'1 day'", "'24:00'"], "'1 month'", "'-1 day'"),
    same("numrange", ["'[1,2)'", "'[1.0,2.00)'"], "'[-1,2)'", "'empty'"),
    same("int4range", ["'[1,2]'", "'[1,3)'"], "'[1,2)'"),
    same("bytea", r"'\x'", r"'\x00'", r"'\x0000'"),
    same("uuid", "'00000000-0000-0000-0000-00000000000a'", "'00000000-0000-0000-0000-00000000000b'"),
    Type("time", "time", "time without time zone", [["'00:00'"], ["'24:00'"]]),
    Type("point", "point", "text", [["'(1,2)'"], ["'(2,1)'"]]),
    Type("compared.mood", "compared.mood", "text", [["'sad'"], ["'ok'"]]),
    Type("compared.mood", "text", "text", [["'sad'", "'sad'"], ["'ok'", "'ok'"]]),
    of_numbers("compared.cents", "compared.cents", "integer", ["1"], ["-1"]),
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Two tables: the types of their columns, of which the first are the key, and the rows of each."""

    types: Sequence[Type]
    key: int
    base: Sequence[Row]
    branch: Sequence[Row]

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [f"column {i}" for i in range(len(self.types))]


def random_case(rng: random.Random, key: int, *, is_unique: bool) -> Case:
    """Return tables with a key of KEY columns; the branch's has the base's rows with random changes."""
    types = rng.choices(TYPES, k=rng.randint(max(key, 1), key + 4))

    def value(type_: Type) -> int:
        return rng.randrange(-1, len(type_.values))

    def row() -> Row:
        return tuple(value(type_) for type_ in types)

    base = [row() for _ in range(rng.choice([0, 1, 5, 12, 30]))]
    if is_unique:
        base = list({row[:key]: row for row in base}.values())
    branch = [each for each in base if rng.random() > rng.choice([0, 0.1])]
    for _ in range(rng.choice([0, 0, 1, 2, 12])):
        change = rng.choice(["value", "value", "row", "again", "swap"])
        if change == "row" or not branch:
            branch.append(row())
        elif change == "again":
            branch.append(rng.choice(branch))
        else:
            i, j, column = rng.randrange(len(branch)), rng.randrange(len(branch)), rng.randrange(len(types))
            new = value(types[column]) if change == "value" else branch[j][column]
            if change == "swap":
                branch[j] = (*branch[j][:column], branch[i][column], *branch[j][column + 1 :])
            branch[i] = (*branch[i][:column], new, *branch[i][column + 1 :])
    if is_unique:
        branch = list({row[:key]: row for row in branch}.values())
    rng.shuffle(branch)
    return Case(types, key, base, branch)


def make(databases: Databases, case: Case, rng: random.Random) -> None:
    """Make `t` of both databases; a value has any of its expressions."""
    names = [sql.Identifier(name).as_string() for name in case.names]
    for is_branch, rows in enumerate((case.base, case.branch)):
        declared = [type_.branch if is_branch else type_.base for type_ in case.types]

        def expression(type_: Type, value: int, is_branch: int = is_branch) -> str:
            if value == NULL:
                return "null"
            expressions = type_.values[value]
            is_same = type_.base == type_.branch
            return rng.choice(expressions) if is_same else expressions[min(is_branch, len(expressions) - 1)]

        columns = ", ".join(f"{name} {type_}" for name, type_ in zip(names, declared, strict=True))
        statement = f"drop table if exists compared.t; create table compared.t ({columns})"
        if rows:
            values = [
                f"({', '.join(expression(type_, value) for type_, value in zip(case.types, row, strict=True))})"
                for row in rows
            ]
            statement += f"; insert into compared.t values {', '.join(values)}"  # noqa: S608
        (databases.branch if is_branch else databases.base).execute(statement.encode())


def brute_force(case: Case) -> tuple[int, int, list[tuple[Row, Row]], bool]:
    """Return the number of rows added and removed, the changed rows, and whether it is clear which belong together."""
    base, branch = Counter(case.base), Counter(case.branch)
    rests = [list((base - branch).elements()), list((branch - base).elements())]
    if not case.key:
        return len(rests[1]), len(rests[0]), [], True
    by_key: dict[Row, tuple[list[Row], list[Row]]] = {}
    for side, rows in enumerate(rests):
        for row in rows:
            by_key.setdefault(row[: case.key], ([], []))[side].append(row)
    added = removed = 0
    changed: list[tuple[Row, Row]] = []
    for old, new in by_key.values():
        changed += zip(old, new, strict=False)
        added += max(len(new) - len(old), 0)
        removed += max(len(old) - len(new), 0)
    return added, removed, changed, all(max(len(old), len(new)) == 1 for old, new in by_key.values())


def expected_columns(case: Case, changed: Sequence[tuple[Row, Row]]) -> list[ColumnChange]:
    """Return how the values of CHANGED rows differ."""
    columns = []
    for i, (name, type_) in enumerate(zip(case.names, case.types, strict=True)):
        values = [(old[i], new[i]) for old, new in changed if old[i] != new[i]]
        if values:
            became_null, was_null = (sum(pair[side] == NULL for pair in values) for side in (1, 0))
            figures = differences(type_, values)
            columns.append(ColumnChange(name, type_.compared, len(values), became_null, was_null, *figures))
    return columns


def differences(type_: Type, values: Iterable[tuple[int, int]]) -> Sequence[str | None]:
    """Return the smallest, the median and the largest difference of VALUES."""
    found: list[Any] = []
    for pair in values:
        if type_.figures and NULL not in pair:
            old, new = (type_.figures[value] for value in pair)
            if old is not None and new is not None:
                with localcontext(prec=1000):
                    found.append(new - old)  # type: ignore[operator]
    if not found:
        return None, None, None
    found.sort()
    return tuple(as_text(found[i], type_) for i in (0, (len(found) + 1) // 2 - 1, -1))


def as_text(difference: Decimal | timedelta, type_: Type) -> str:
    """Return DIFFERENCE as a comparison says it."""
    if isinstance(difference, timedelta):
        return str(difference.days if type_.compared == "date" else difference)
    text = f"{difference:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def check(case: Case, rows: Rows) -> None:
    """Check that ROWS are all the differences of CASE and no others."""
    added, removed, changed, is_clear = brute_force(case)
    assert (rows.base_rows, rows.branch_rows) == (len(case.base), len(case.branch))
    assert (rows.added, rows.removed, rows.changed) == (added, removed, len(changed))
    if is_clear:
        assert rows.columns == expected_columns(case, changed)
    kinds = Counter(example.kind for example in rows.examples)
    expected = {"added": added, "removed": removed, "changed": len(changed)}
    assert kinds == {kind: min(count, 5) for kind, count in expected.items() if count}
    for example in rows.examples:
        assert list(example.key) == case.names[: case.key]
        if example.kind == "changed":
            assert example.base is not None
            assert example.branch is not None
            assert list(example.base) == list(example.branch)
            assert all(example.base[name] != example.branch[name] for name in example.base)
    for side, table in (("base", case.base), ("branch", case.branch)):
        repeated = [count for count in Counter(row[: case.key] for row in table).values() if count > 1]
        if case.key and repeated:
            assert rows.duplicates[side].keys == len(repeated)
            assert rows.duplicates[side].rows in repeated
        else:
            assert side not in rows.duplicates


@pytest.mark.parametrize("buckets", [1, 1 << 12])
@pytest.mark.parametrize(("keys", "is_unique"), [((1, 2, 3), True), ((1, 2), False), ((0,), False)])
def test_all_changes_are_found_and_no_others(
    databases: Databases, keys: Sequence[int], buckets: int, is_unique: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.diff.rows.BUCKETS", buckets)
    databases.both("create type compared.mood as enum ('sad', 'ok'); create domain compared.cents as integer")
    different = 0
    for number in range(CASES):
        seed = f"{keys} {is_unique} {buckets} {number}"
        rng = random.Random(seed)  # noqa: S311
        case = random_case(rng, rng.choice(keys), is_unique=is_unique)
        make(databases, case, rng)
        rows = databases.compare("t", case.names[: case.key])
        try:
            check(case, rows)
        except AssertionError as error:
            error.add_note(f"{seed}: {case}\n{rows}")
            raise
        different += not rows.are_same
    assert CASES / 4 < different < CASES * 0.9


COLUMNS = [  # by how their values are spread; {r} is a random number from 0 to 1
    "'name ' || ({r} * 40)::integer",
    "({r} < 0.05)::text",
    "case when {r} < 0.1 then 'x' end",
    "({r})::text",
    "chr(97 + ({r} * 3)::integer)",
]


@pytest.mark.parametrize("number", range(12))
def test_renamed_columns_are_found_by_their_values(databases: Databases, number: int) -> None:
    rng = random.Random(number)  # noqa: S311
    base, branch, renamed = [], [], {}
    for i in range(rng.randint(1, 4)):
        values = rng.choice(COLUMNS).format(r=f"abs(hashint8(id * 100 + {i})) / 2147483648.0")  # the same on both sides
        base.append(f'{values} as "old {i}"')
        kind = rng.choice(["renamed", "renamed", "kept", "removed"])
        if kind == "renamed":
            renamed[f"old {i}"] = f"new {i}"
        if kind != "removed":
            name = renamed.get(f"old {i}", f"old {i}")
            branch.append(f"case when id % 20 = 0 then 'changed' else {values} end as \"{name}\"")
    # What has nothing to do with the base's, and one column of nothing but NULL on each side.
    branch += [f'{values.format(r="random()")} as "added {i}"' for i, values in enumerate(COLUMNS)]
    base.append("null::text as nothing")
    branch.append("null::text as none")
    rng.shuffle(branch)
    databases.made(
        f"as select id, {', '.join(base)} from generate_series(1, 1500) as id",  # noqa: S608
        f"as select id, {', '.join(branch)} from generate_series(31, 1520) as id",  # noqa: S608
    )
    assert databases.prepared("t", ["id"]).renamed == renamed


@pytest.mark.parametrize(("values", "is_renamed"), [("0", True), ("id", True), ("null::bigint", True), ("-id", False)])
def test_the_only_other_column_of_its_type_is_renamed_if_its_values_are_the_same(
    databases: Databases, values: str, is_renamed: bool
) -> None:
    table = "as select id, 'a' as kept, {} as {} from generate_series(1, 9) as id"
    base = values.replace("-", "")
    databases.made(table.format(base, "old"), table.format(values, "new"))
    assert databases.prepared("t", ["id"]).renamed == ({"old": "new"} if is_renamed else {})


def test_a_renamed_key_is_found_by_its_place(databases: Databases) -> None:
    rows = databases.made(
        "(id, day, value) as values (1, 5, 10), (2, 5, 20)", "(number, day, value) as values (1, 5, 10), (2, 5, 21)",
        ["id", "day"], ["number", "day"],
    )  # fmt: skip
    assert (rows.added, rows.removed, rows.changed) == (0, 0, 1)
    assert databases.prepared("t", ["id", "day"], ["number", "day"]).renamed == {"id": "number"}
    databases.branch.execute("alter table compared.t alter number type text")
    assert databases.prepared("t", ["id", "day"], ["number", "day"]).renamed == {}
