"""What a comparison has found, in sentences."""

from dataclasses import replace

import pytest

from harness.diff import sentences
from harness.diff.results import (
    Approval,
    ChangedNode,
    ColumnChange,
    Diff,
    Difference,
    Mart,
    Rows,
    SchemaChange,
    Slice,
    Verdict,
)
from tests.harness.diff import made

RIGHT, WRONG = Verdict(agrees=True), Verdict(agrees=False, text="3 days differ")


def of(*marts: Mart, unaffected: tuple[str, ...] = (), approval: Approval | None = None) -> Diff:
    return Diff(
        "main",
        "1234",
        "the samples",
        changed=[ChangedNode("x", ["SQL"])],
        marts=[*marts],
        unaffected=[*unaffected],
        approval=approval,
    )


def test_the_headline_names_the_mart_the_change_the_slice_the_right_side_and_the_approval() -> None:
    assert sentences.headline(of(made.fct_events(), made.same(), unaffected=("dim_services",))) == (
        "1 of 3 marts differs, fct_events: 120 rows removed, all with service_id = 27; "
        "34 rows changed in service_lead_fee, 91% with created_at from 2020-02-01 on; column currency added (text); "
        "column service_lead_fee retyped from numeric(18,6) to numeric(18,2); 1 description changed. "
        "By the independent computation the branch is wrong and the base right in fct_events. "
        "Nothing is approved: there is no dbt/expected_changes.yml."
    )


def test_the_headline_of_several_marts_says_less_of_each_but_the_first() -> None:
    assert sentences.headline(made.whole()) == (
        "4 of 7 marts differ: fct_events (120 rows removed, all with service_id = 27; "
        "34 rows changed in service_lead_fee, 91% with created_at from 2020-02-01 on; column currency added (text); "
        "column service_lead_fee retyped from numeric(18,6) to numeric(18,2); 1 description changed), "
        "availability_snapshot (only after an incremental run 3 rows changed in active_professionals), "
        "dim_services (its key is not unique in the branch; 3 rows added) and refunds_daily"
        " (new, only the branch has it). "
        "By the independent computation the branch is wrong and the base right in fct_events and availability_snapshot."
        " Not approved: fct_events: rows removed; approved, but not found: dim_date: rows added."
    )


def test_all_rows_are_said_to_be_all() -> None:
    assert sentences.row_phrases(Rows(9, 0, removed=9)) == ["all 9 rows removed"]
    assert sentences.row_phrases(Rows(9, 9, added=2, removed=2, changed=7)) == [
        "2 rows added",
        "2 rows removed",
        "7 rows changed",
    ]
    assert sentences.row_phrases(Rows(9, 9, changed=9)) == ["all 9 rows changed"]
    assert sentences.row_phrases(Rows(1, 1, changed=1)) == ["1 row changed"]


def test_a_hundred_marts_are_counted() -> None:
    marts = [replace(made.new(), name=f"mart_{i}") for i in range(100)]
    assert sentences.headline(of(*marts, approval=Approval())) == (
        "100 of 100 marts differ: mart_0 (new, only the branch has it), mart_1 (new, only the branch has it), "
        "mart_2 (new, only the branch has it) and 97 more."
    )


DESCRIBED = Mart(
    "m",
    "m.sql",
    ("id",),
    schema=[SchemaChange("description", "", "Old.", "New."), SchemaChange("test", "unique", None, "id")],
)


@pytest.mark.parametrize(
    ("diff", "headline"),
    [
        (Diff("a", "b", ""), "There are no marts to compare."),
        (
            Diff("a", "b", "", unaffected=["x", "y"]),
            "Nothing was changed in the dbt project, and so nothing in 2 marts.",
        ),
        (of(unaffected=("a", "b")), "What was changed can change no mart."),
        (
            of(made.same(), unaffected=("b",)),
            "No difference in 2 marts. Both sides agree with the independent computation.",
        ),
        (
            of(DESCRIBED, unaffected=("m", "b")),
            "The data of 2 marts is the same; the definition of 1 differs, m: 1 description and 1 test changed.",
        ),
        (
            of(made.new(), approval=Approval([Difference("a", "model added")])),
            "The only mart differs, refunds_daily: new, only the branch has it. All of it is approved.",
        ),
    ],
)
def test_without_a_difference_of_data_the_headline_says_why(diff: Diff, headline: str) -> None:
    assert sentences.headline(diff) == headline


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            Slice("added", "service_id = 27", inside=9, different=10, rows=12, table_rows=1_000),
            "9 of 10 added rows have service_id = 27; the branch has 12 such rows of 1,000.",
        ),
        (
            Slice("removed", "name is null", inside=10, different=10, rows=10, table_rows=1_000),
            "All 10 removed rows have name null; the base has no other such row.",
        ),
        (
            Slice("fee", "created_at on 2020-02-01", inside=1_999, different=2_000, rows=1_999, table_rows=9_000),
            "1,999 of 2,000 changed values of fee are in rows with created_at on 2020-02-01;"
            " the base has no other such row.",
        ),
    ],
)
def test_slices(found: Slice, sentence: str) -> None:
    assert sentences.slice_sentence(found) == sentence


def test_a_share_is_100_percent_only_if_it_is_all() -> None:
    found = Slice("fee", "a = 1", inside=1_999, different=2_000, rows=1_999, table_rows=9_000)
    assert sentences.slice_phrase(found) == ", 99% with a = 1"
    assert sentences.slice_phrase(replace(found, inside=2_000)) == ", all with a = 1"


@pytest.mark.parametrize(
    ("type_", "difference", "shown"),
    [
        ("numeric", "0.25", "+0.25"),
        ("numeric", "-0.25", "-0.25"),
        ("numeric", "0.00", "0.00"),
        ("numeric", "NaN", "NaN"),
        ("double precision", "1e-7", "+1e-7"),
        ("date", "1", "+1 day"),
        ("date", "-30", "-30 days"),
        ("timestamp without time zone", "1:00:00", "+1 h"),
        ("timestamp without time zone", "-1 day, 23:00:00", "-1 h"),
        ("timestamp without time zone", "2 days, 0:30:05.250000", "+2 d 30 min 5.25 s"),
        ("timestamp without time zone", "0:00:00.000001", "+1e-06 s"),
        ("timestamp without time zone", "0:00:00", "0 s"),
    ],
)
def test_differences_have_a_sign_and_a_unit(type_: str, difference: str, shown: str) -> None:
    assert sentences.signed(type_, difference) == shown


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (ColumnChange("fee", "numeric", 1, smallest="1", median="1", largest="1"), "fee: 1 value changed, by +1."),
        (
            ColumnChange(
                "at", "timestamp with time zone", 2, smallest="-1 day, 23:00:00", median="1:00:00", largest="1:00:00"
            ),
            "at: 2 values changed, by -1 h to +1 h, median +1 h.",
        ),
        (
            ColumnChange("name", "text", 3, became_null=2, was_null=1),
            "name: 3 values changed, 2 became null, 1 were null.",
        ),
    ],
)
def test_columns(change: ColumnChange, sentence: str) -> None:
    assert sentences.column_sentence(change) == sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (SchemaChange("column added", "fee", None, "numeric"), "column fee added (numeric)"),
        (SchemaChange("column removed", "fee", "numeric", None), "column fee removed (numeric)"),
        (SchemaChange("column renamed", "fee", "fee", "lead_fee"), "column fee renamed to lead_fee"),
        (SchemaChange("column retyped", "fee", "real", "numeric"), "column fee retyped from real to numeric"),
        (SchemaChange("constraint", "not null of fee", None, "not null"), "constraint not null of fee added"),
        (SchemaChange("constraint", "check of fee", "fee > 0", None), "constraint check of fee removed (fee > 0)"),
        (SchemaChange("constraint", "check", "a > 0", "a > 1"), "constraint check changed from a > 0 to a > 1"),
        (SchemaChange("test", "unique of fee", "fee", None), "test unique of fee removed (fee)"),
        (SchemaChange("description", "", "Old.", "New."), "description of the model changed from “Old.” to “New.”"),
        (SchemaChange("description", "fee", None, "New."), "description of fee added (“New.”)"),
        (SchemaChange("materialization", "", "table", "view"), "materialization changed from table to view"),
        (SchemaChange("key", "", "a", "a, b"), "key changed from a to a, b"),
    ],
)
def test_definitions(change: SchemaChange, sentence: str) -> None:
    assert sentences.schema_sentence(change) == sentence


@pytest.mark.parametrize(
    ("verdicts", "side", "sentence"),
    [
        ({}, "", ""),
        ({"base": RIGHT, "branch": RIGHT}, "both", "Both sides agree with the independent computation."),
        (
            {"base": RIGHT, "branch": WRONG},
            "base",
            "The base agrees with the independent computation, the branch does not: 3 days differ.",
        ),
        (
            {"base": Verdict(agrees=False), "branch": RIGHT},
            "branch",
            "The branch agrees with the independent computation, the base does not.",
        ),
        (
            {"base": WRONG, "branch": Verdict(agrees=False, text="rows are missing.")},
            "neither",
            "No side agrees with the independent computation: the base: 3 days differ; the branch: rows are missing.",
        ),
        ({"branch": RIGHT}, "branch", "The branch agrees with the independent computation."),
        ({"branch": WRONG}, "neither", "The branch does not agree with the independent computation: 3 days differ."),
    ],
)
def test_which_side_is_right(verdicts: dict[str, Verdict], side: str, sentence: str) -> None:
    assert sentences.verdict_sentence(verdicts) == sentence
    assert sentences.right_side(Mart("m", "m.sql", (), verdicts=verdicts)) == side


def test_a_side_that_is_wrong_after_an_incremental_run_is_wrong() -> None:
    assert sentences.right_side(made.availability_snapshot()) == "base"


def test_the_right_sides_of_all_marts() -> None:
    sides = {"a": (True, False), "b": (False, True), "c": (False, False), "d": (True, True)}
    marts = [
        Mart(name, "", (), verdicts={"base": Verdict(base), "branch": Verdict(branch)})
        for name, (base, branch) in sides.items()
    ]
    assert sentences.right_sides([*marts, Mart("e", "", ())]) == (
        "by the independent computation the branch is wrong and the base right in a, "
        "the branch is right and the base wrong in b, both sides are wrong in c"
    )
    assert sentences.right_sides(marts[:1]) == "by the independent computation the branch is wrong and the base right"
    assert sentences.right_sides([]) == ""


def test_a_mart_of_one_side_says_nothing_about_the_other() -> None:
    removed = Mart("a", "", (), in_branch=False, verdicts={"base": RIGHT})
    new = Mart("b", "", (), in_base=False, verdicts={"branch": RIGHT})
    assert [sentences.right_side(mart) for mart in (removed, new)] == ["", "branch"]
    assert sentences.right_sides([removed, new]) == ""


def test_a_second_build_that_failed_is_in_the_verdict() -> None:
    diff = replace(of(made.same()), failure=["The branch does not build again.", "dbt says: no.", "Mend it."])
    assert sentences.headline(diff) == (
        "No difference in 1 mart. The branch does not build again. Both sides agree with the independent computation."
    )


def test_what_differs_only_after_an_incremental_run_is_said_plainly() -> None:
    mart = made.availability_snapshot()
    assert sentences.incremental_sentences(mart) == [
        "It is wrong only after a second run, an incremental one; a full refresh hides it: "
        "3 rows changed in active_professionals.",
        "In the branch an incremental run leaves other rows than a full refresh.",
        "The base agrees with the independent computation, the branch does not: 3 of 70 days differ.",
    ]
    unknown = replace(mart, verdicts={}, incremental_verdicts={})
    assert sentences.incremental_sentences(unknown)[0].startswith("It differs only after a second run, ")


def test_an_incremental_run_with_the_same_result_is_not_mentioned() -> None:
    assert sentences.incremental_sentences(made.fct_events()) == []


def test_a_mart_that_depends_on_the_loads_is_the_same_after_either_run() -> None:
    place = SchemaChange("place", "", "analysis.feed_days", "reports.feed_days")
    rows, incremental_rows = (Rows(9, 9, digests={"base": digest, "branch": digest}) for digest in "12")
    mart = Mart("feed_days", "", (), schema=[place], rows=rows, incremental_rows=incremental_rows)
    assert sentences.ways(mart) == ["the same rows", "place changed"]
    assert sentences.incremental_sentences(mart) == [
        "In both sides an incremental run leaves other rows than a full refresh."
    ]


def test_another_difference_after_an_incremental_run_is_in_the_headline() -> None:
    mart = Mart("m", "", (), rows=Rows(9, 6, removed=3), incremental_rows=Rows(9, 5, removed=4))
    assert sentences.ways(mart) == ["3 rows removed", "after an incremental run 4 rows removed"]
    mart.incremental_rows = Rows(9, 9)
    assert sentences.ways(mart) == ["3 rows removed", "after an incremental run the same rows"]


def test_an_incremental_run_that_hides_the_difference() -> None:
    mart = made.availability_snapshot()
    assert mart.incremental_rows
    mart.rows, mart.incremental_rows = mart.incremental_rows, mart.rows
    mart.verdicts, mart.incremental_verdicts = mart.incremental_verdicts, mart.verdicts
    assert sentences.incremental_sentences(mart)[0] == (
        "After an incremental run both sides are the same; they differ only after a full refresh."
    )


def test_the_summary_of_a_mart() -> None:
    assert sentences.summary(made.doubled()) == [
        "3 rows added.",
        "The key is not unique in the branch: 3 keys occur more than once, service_id = 5 in 2 rows.",
    ]
    assert sentences.summary(made.fct_events()) == [
        "Causes: its SQL and the macro lead_fee.",
        "120 rows removed; 34 rows changed in service_lead_fee.",
        "All 120 removed rows have service_id = 27; the base has no other such row.",
        "31 of 34 changed values of service_lead_fee are in rows with created_at from 2020-02-01 on; "
        "the base has 4,000 such rows of 9,870.",
        "service_lead_fee: 34 values changed, by -0.5 to +1, median +0.25, 2 became null.",
        "The base agrees with the independent computation, the branch does not: 120 rows are missing.",
        "Column currency added (text).",
        "Column service_lead_fee retyped from numeric(18,6) to numeric(18,2).",
        "Description of service_lead_fee changed from “In euro.” to “In euro, rounded.”.",
        "Read by revenue_dashboard and monthly_invoice.",
    ]


def test_rows_without_a_key_are_said_to_be_a_multiset() -> None:
    mart = Mart("m", "m.sql", (), rows=Rows(1, 1, added=1, removed=1))
    assert sentences.summary(mart)[-1] == (
        "No key is declared: rows were compared as a multiset, so a changed row is one removed and one added."
    )


def test_build() -> None:
    assert sentences.build_sentence(made.fct_events()) == "base 1.2 s, 19,012 rows read; branch 1.3 s, 38,024 rows read"
    assert sentences.build_seconds(made.availability_snapshot()) == "0.8 s → 0.7 s"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, "null"),
        ("", "''"),
        ("null", "null"),
        ("a\nb\x1b[31m", "a\\nb\\u001b[31m"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("x" * 120, "x" * 120),
        ("x" * 1_000_000, f"{'x' * 120}… (1,000,000 characters)"),
        ("שלום 👩\u200d🔬", "שלום 👩\u200d🔬"),
    ],
)
def test_values(text: str | None, shown: str) -> None:
    assert sentences.value(text) == shown


@pytest.mark.parametrize(
    ("names", "sentence"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), ([*"abcd"], "a, b, c and d"), ([*"abcde"], "a, b, c and 2 more")],
)
def test_lists(names: list[str], sentence: str) -> None:
    assert sentences.listed(names) == sentence
