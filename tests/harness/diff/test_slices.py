"""Where a difference is concentrated: a planted slice is found, and none where there is none."""

import random

import pytest

from harness.diff import slices
from harness.diff.results import Slice
from tests.harness.diff.conftest import Databases

ROWS = 6000
# The id grows with time, of 91 days.
TABLE = """
    create table compared.t as
    select
        i as id,
        timestamp '2020-01-01' + (i - 1) * interval '91 days' / {rows} as created_at,
        (i * 7919) % 50 as service_id,
        'service ' || (i * 7919) % 50 as service_name,
        case when i % 3 = 0 then 'in %' || i % 5 end as note,
        abs(hashint8(i)) % 40 / 4.0 as fee,
        i % 2 = 0 as is_weekday,
        null::integer as nothing
    from generate_series(1, {rows}) as i
"""


@pytest.fixture
def table(databases: Databases) -> Databases:
    """Give a table `t` of marketplace-like rows on both sides."""
    databases.both(TABLE.format(rows=ROWS))
    return databases


def found(databases: Databases, *statements: str, key: tuple[str, ...] = ("id",)) -> list[tuple[str, str]]:
    """Change the branch's rows by STATEMENTS and return the slices: of what, and the condition."""
    for statement in statements:
        databases.branch.execute(statement.encode())
    rows = databases.compare("t", key)
    for each in rows.slices:
        assert_counts(databases, each)
    return [(each.of, each.condition) for each in rows.slices]


def assert_counts(databases: Databases, found: Slice) -> None:
    """Check the numbers of a slice by a query that has its condition."""
    condition = in_sql(found.condition)
    in_branch = found.of == "added"
    connection = databases.branch if in_branch else databases.base
    [counted] = connection.execute(f"select count(*) filter (where {condition}), count(*) from compared.t".encode())  # noqa: S608
    assert (found.rows, found.table_rows) == counted
    assert found.inside <= min(found.rows, found.different)
    assert found.inside >= 0.8 * found.different


def in_sql(condition: str) -> str:
    """Return the CONDITION of a slice in SQL."""
    column, rest = condition.split(" ", 1)
    words = rest.removesuffix(" on").replace("the end of ", "").split(" ")
    if column != "created_at" or words[0] == "=":
        return condition if words[0] != "from" else f"{column} between {words[1]} and {words[3]}"
    edges = {"from": words[1:2], "until": words[1:2], "on": words[1:2]}[words[0]]
    start = edges[0] if words[0] != "until" else "-infinity"
    end = words[3] if len(words) > 3 else edges[0] if words[0] != "from" else "9999-12-30"
    return f"{column} >= '{start}' and {column} < date '{end}' + 1"


CHANGE = "update compared.t set fee = fee + 1 where {}"
SCATTERED = CHANGE.format("id % 97 = 0 and not ({})")
# What is changed, and the condition that says so.
PLANTED = [
    ("service_id = 27", "service_id = 27"),
    ("service_name = 'service 27'", "service_id = 27"),  # the same rows: the first column says it
    ("created_at >= '2020-02-01'", "created_at from 2020-02-01 on"),
    ("created_at >= '2020-02-01' and id % 7 = 0", "created_at from 2020-02-01 on"),
    ("created_at < '2020-02-01'", "created_at until the end of 2020-01-31"),
    ("created_at >= '2020-02-10' and created_at < '2020-02-11'", "created_at on 2020-02-10"),
    ("created_at >= '2020-02-10' and created_at < '2020-02-25'", "created_at from 2020-02-10 to 2020-02-24"),
    ("note is null", "note is null"),
    ("note = 'in %4'", "note = 'in %4'"),
    ("is_weekday", "is_weekday = true"),
    ("is_weekday and id % 7 < 3", "is_weekday = true"),
    ("service_id = 27 and created_at >= '2020-02-01'", "service_id = 27"),
    ("service_id < 5", "service_id <= 4"),
    ("service_id between 20 and 24", "service_id from 20 to 24"),
    ("service_id = 27 and id % 3 = 0", "service_id = 27"),
    ("fee = 2.5", "fee = 2.5"),
]


@pytest.mark.parametrize(("where", "condition"), PLANTED)
def test_a_planted_slice_is_found_with_a_few_other_changes_anywhere(
    table: Databases, where: str, condition: str
) -> None:
    [(rows,)] = table.base.execute(f"select count(*) from compared.t where {where}".encode())  # noqa: S608
    scattered = f"{SCATTERED.format(where)} and id < {97 * rows // 10}"
    assert found(table, CHANGE.format(where), scattered) == [("fee", condition)]


@pytest.mark.parametrize(("where", "condition"), PLANTED[:-1])
def test_a_planted_slice_of_removed_and_added_rows_is_found(table: Databases, where: str, condition: str) -> None:
    assert found(table, f"delete from compared.t where {where}") == [("removed", condition)]  # noqa: S608
    table.base.execute("create table compared.s as table compared.t")
    table.branch.execute("drop table compared.t")
    table.branch.execute(TABLE.format(rows=ROWS).encode())
    table.base.execute(f"delete from compared.t where {where}".encode())  # noqa: S608
    assert found(table) == [("added", condition)]


def test_a_slice_that_starts_within_a_day_is_that_of_its_first_day(table: Databases) -> None:
    assert found(table, CHANGE.format("created_at >= '2020-02-01 13:37'")) == [("fee", "created_at from 2020-02-01 on")]


def test_slices_of_several_kinds_are_each_found(table: Databases) -> None:
    assert found(
        table,
        CHANGE.format("service_id = 27"),
        "update compared.t set note = 'changed' where created_at >= '2020-03-01'",
        "update compared.t set is_weekday = not is_weekday where id % 3 = 0",  # those with a note
        "delete from compared.t where created_at < '2020-01-11'",
        "insert into compared.t select 100000 + id, date '2020-02-03' + id * interval '10 s', service_id, service_name,"
        " note, fee, is_weekday from compared.t where id % 59 = 0",
    ) == [
        ("added", "created_at on 2020-02-03"),
        ("removed", "created_at until the end of 2020-01-10"),
        ("note", "created_at from 2020-03-01 on"),
        ("fee", "service_id = 27"),
    ]


@pytest.mark.parametrize("value", ["is null", "= 'in %4'"])
def test_the_value_that_was_changed_is_a_slice(table: Databases, value: str) -> None:
    assert found(table, f"update compared.t set note = 'none' where note {value} and id % 7 < 5") == [  # noqa: S608
        ("note", f"note {value}")
    ]


def test_new_rows_are_new_days_and_not_larger_ids(table: Databases) -> None:
    columns = "service_id, service_name, note, fee, is_weekday"
    statement = f"""insert into compared.t select id + 6000, created_at + interval '91 days', {columns}
        from compared.t where id < 500"""  # noqa: S608
    assert found(table, statement) == [("added", "created_at from 2020-04-01 on")]
    table.both("alter table compared.t drop column created_at")
    assert found(table) == [("added", "id >= 6001")]


@pytest.mark.parametrize("type_", ["date", "timestamptz", "timestamp"])
def test_days_of_any_type(databases: Databases, type_: str) -> None:
    made = f"""as select i as id, ('2020-01-01'::timestamp + i * interval '1 hour')::{type_} as created_at, {{}} as fee
        from generate_series(1, 2000) as i"""  # noqa: S608
    rows = databases.made(made.format("1"), made.format("1 + (i between 480 and 599)::integer"), ["id"])
    assert [(each.of, each.condition, each.inside, each.rows) for each in rows.slices] == [
        ("fee", "created_at from 2020-01-21 to 2020-01-25", 120, 120)
    ]
    rows = databases.made(made.format("1"), made.format("1 + (i < 480)::integer"))
    end = "2020-01-20" if type_ == "date" else "the end of 2020-01-20"
    assert [(each.of, each.condition) for each in rows.slices] == [
        ("added", "fee = 2"),
        ("removed", f"created_at until {end}"),
    ]


SPREAD = [
    "update compared.t set fee = fee + 1 where random() < {share}",
    "update compared.t set note = 'x' where random() < {share}",
    "update compared.t set created_at = created_at + interval '1 hour' where random() < {share}",
    "update compared.t set service_id = service_id + 1 where random() < {share}",
    "delete from compared.t where random() < {share}",
]


@pytest.mark.parametrize("number", range(8))
def test_a_change_that_is_spread_evenly_has_no_slice(table: Databases, number: int) -> None:
    rng = random.Random(number)  # noqa: S311
    for connection, seed in ((table.base, -number / 12), (table.branch, number / 12)):
        connection.execute(f"select setseed({seed})".encode())
    shares = [0.001, 0.01, 0.1, 0.5]
    statements = [statement.format(share=rng.choice(shares)) for statement in SPREAD]
    table.base.execute(SPREAD[-1].format(share=rng.choice(shares)).encode())
    assert found(table, *statements) == []


def test_ranges_of_the_largest_sum() -> None:
    rng = random.Random(1)  # noqa: S311
    for _ in range(500):
        gains = [rng.choice([-3, -1, 0, 1, 2]) for _ in range(rng.randint(1, 9))]
        sums = {(i, j): sum(gains[i : j + 1]) for i in range(len(gains)) for j in range(i, len(gains))}
        assert sums[slices.largest_range(gains)] == max(sums.values())
        tail = slices.largest_tail(gains)
        assert sum(gains[tail:]) == max(sum(gains[i:]) for i in range(len(gains)))


def test_a_range_with_all_values_there_are_is_not_null(table: Databases) -> None:
    table.both("alter table compared.t add column paid_on date, add column number integer")
    table.both("update compared.t set paid_on = date '2020-03-01' + id % 9, number = id % 9 where id % 3 = 0")
    assert found(table, CHANGE.format("id % 6 = 0")) == [("fee", "paid_on is not null")]


def test_that_a_changed_column_was_not_null_says_nothing(table: Databases) -> None:
    table.both("alter table compared.t add column paid_on date")
    table.both("update compared.t set paid_on = date '2020-03-01' + id % 9 where id % 3 = 0")
    assert found(table, "update compared.t set paid_on = paid_on + 1 where id % 21 = 0") == []
