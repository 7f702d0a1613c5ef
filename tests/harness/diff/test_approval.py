"""`dbt/expected_changes.yml` approves exactly the differences that it names, and none that was merged before."""

from itertools import combinations
from pathlib import Path

import pytest

from harness.commands.diff import check
from harness.diff.approval import EXAMPLE, FILE, approved_differences, compare_with_approved
from harness.diff.results import Approval, ColumnChange, Diff, Difference, Mart, Rows, SchemaChange
from harness.errors import ApprovalError, DifferencesError

ENTRIES = """\
changes:
  - {model: fct_events, kind: values changed, columns: [fee, service_id], why: Fees are rounded}
  - {model: fct_events, kind: rows removed, why: Doubled events}
  - {model: sales, kind: model added, why: Asked for}
"""
APPROVED = [
    Difference("fct_events", "rows removed"),
    Difference("fct_events", "values changed", "fee"),
    Difference("fct_events", "values changed", "service_id"),
    Difference("sales", "model added"),
]


def write(root: Path, text: str | bytes) -> Path:
    """Write the file below ROOT, and return ROOT."""
    path = root / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return root


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


def test_without_a_file_nothing_is_approved_and_nothing_fails(tmp_path: Path, base: Path) -> None:
    write(base, ENTRIES)
    assert approved_differences(tmp_path, base) is None
    assert compare_with_approved(APPROVED, None) is None


@pytest.mark.parametrize("text", ["", "# none\n", "changes:\n", "changes: []\n", "{}\n"])
def test_a_file_without_entries_approves_nothing(tmp_path: Path, base: Path, text: str) -> None:
    assert approved_differences(write(tmp_path, text), base) == set()


def test_it_approves_exactly_what_it_names(tmp_path: Path, base: Path) -> None:
    approved = approved_differences(write(tmp_path, ENTRIES), base)
    assert approved == set(APPROVED)
    other = Difference("dim_date", "column removed", "day")
    everything = [*APPROVED, other]
    for number in range(len(everything) + 1):
        for found in combinations(everything, number):
            assert compare_with_approved([*found, *found], approved) == Approval(
                approved=[each for each in APPROVED if each in found],
                unapproved=[other] if other in found else [],
                absent=[each for each in APPROVED if each not in found],
            )


def test_what_the_bases_file_has_is_history(tmp_path: Path, base: Path) -> None:
    write(base, ENTRIES.replace("Asked for", "Wished for"))
    write(tmp_path, ENTRIES)
    assert approved_differences(tmp_path, base) == {
        Difference("sales", "model added")
    }  # another reason, so another one
    assert approved_differences(write(tmp_path, ENTRIES.replace("[fee, service_id]", "[fee]")), base) == {
        Difference("sales", "model added"),
        Difference("fct_events", "values changed", "fee"),
    }
    assert approved_differences(base, base) == set()


@pytest.mark.parametrize("text", ["changes: 1\n", "a: [\n", b"\xff", "changes:\n  - 1\n  - {kind: []}\n", "- 1\n"])
def test_a_file_of_the_base_that_is_not_valid_is_no_history(tmp_path: Path, base: Path, text: str | bytes) -> None:
    write(base, text)
    assert approved_differences(write(tmp_path, ENTRIES), base) == set(APPROVED)


A_ROW = "changes: [{model: m, kind: rows added, why: w"
KINDS = (
    "rows added, rows removed, model added, model removed, values changed, column added, column removed,"
    " column renamed, column retyped"
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("changes: [", "it is no YAML: while parsing a flow node expected the node content"),
        ("a: b: c", "it is no YAML: mapping values are not allowed here"),
        (b"\xff\xfe\x00", "it is no YAML: "),
        ("- 1", "it has no list named `changes`"),
        ("text", "it has no list named `changes`"),
        ("changes: {a: 1}", "it has no list named `changes`"),
        ("changes: []\nmore: 1", "it has no list named `changes`"),
        ("more: 1", "it has no list named `changes`"),
        ("changes: [1]", "an entry has other fields than columns, kind, model, why: 1"),
        (f"{A_ROW}, column: [a]}}]", "an entry has other fields than columns, kind, model, why: {'model': 'm', "),
        ("changes: [{model: m, why: w}]", f"None is no kind; the kinds are: {KINDS}"),
        ("changes: [{model: m, kind: [], why: w}]", f"[] is no kind; the kinds are: {KINDS}"),
        ("changes: [{model: m, kind: changed, why: w}]", f"'changed' is no kind; the kinds are: {KINDS}"),
        ("changes: [{kind: rows added, why: w}]", "an entry has no model, or does not say why: {'kind': "),
        ("changes: [{model: m, kind: rows added}]", "an entry has no model, or does not say why: {'model': "),
        ("changes: [{model: m, kind: rows added, why: ' '}]", "an entry has no model, or does not say why: "),
        ("changes: [{model: 1, kind: rows added, why: w}]", "an entry has no model, or does not say why: "),
        (f"{A_ROW}, columns: a}}]", "`columns` is no list of names: 'a'"),
        (f"{A_ROW}, columns: [no]}}]", "`columns` is no list of names: [False]"),
        (f"{A_ROW}, columns: [a]}}]", "rows added has no columns: {'model': "),
        ("changes: [{model: m, kind: values changed, why: w}]", "values changed needs columns: {'model': "),
        ("changes: [{model: m, kind: values changed, columns: [], why: w}]", "values changed needs columns: "),
    ],
)
def test_a_file_that_is_not_valid(tmp_path: Path, base: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(ApprovalError) as caught:
        approved_differences(write(tmp_path, text), base)
    error = caught.value
    assert error.what.startswith(f"dbt/expected_changes.yml is not valid: {problem}"), error.what
    assert "\n" not in error.what
    assert len(error.what) < 300
    assert error.why == "It names the differences that a branch means to make."
    assert error.next_step == f"Write entries as: {EXAMPLE}"
    assert error.exit_code == 73


def test_a_folder_in_its_place(tmp_path: Path, base: Path) -> None:
    (tmp_path / FILE).mkdir(parents=True)
    with pytest.raises(ApprovalError, match=r"^dbt/expected_changes\.yml is not valid: "):
        approved_differences(tmp_path, base)


def test_the_example_of_the_error_is_valid(tmp_path: Path, base: Path) -> None:
    text = f"changes:\n  - {EXAMPLE}\n"
    expected = {Difference("fct_events", "values changed", "service_lead_fee")}
    assert approved_differences(write(tmp_path, text), base) == expected


def mart(name: str = "m", **more: object) -> Mart:
    return Mart(name, f"dbt/models/{name}.sql", ("id",), **more)  # type: ignore[arg-type]


def test_the_differences_of_a_mart() -> None:
    changes = [
        SchemaChange("column added", "new", None, "integer"),
        SchemaChange("column renamed", "old", "old", "newer"),
        SchemaChange("constraint", "primary key of id", "primary key"),
        SchemaChange("description", "", "a", "b"),
        SchemaChange("test", "unique_m_id", None, "{}"),
    ]
    full = Rows(5, 6, added=1, changed=1, columns=[ColumnChange("fee", "numeric", 1)])
    incremental = Rows(5, 4, removed=1, changed=1, columns=[ColumnChange("fee", "numeric", 1)])
    assert mart(schema=changes, rows=full, incremental_rows=incremental).differences == {
        Difference("m", "column added", "new"),
        Difference("m", "column renamed", "old"),
        Difference("m", "rows added"),
        Difference("m", "rows removed"),
        Difference("m", "values changed", "fee"),
    }
    assert mart(rows=Rows(5, 5)).differences == set()
    assert mart(in_base=False).differences == {Difference("m", "model added")}
    assert mart(in_branch=False).differences == {Difference("m", "model removed")}


CHANGED = mart(rows=Rows(1, 2, added=1))


def diff(*marts: Mart, approval: Approval | None = None) -> Diff:
    return Diff("base", "branch", "rows", marts=list(marts), approval=approval)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "same", [diff(), diff(mart(rows=Rows(1, 1))), diff(CHANGED, approval=Approval([Difference("m", "rows added")]))]
)
def test_what_passes(same: Diff, *, strict: bool) -> None:
    check(same, strict=strict)


def test_differences_fail_only_if_asked_to() -> None:
    check(diff(CHANGED), strict=False)
    with pytest.raises(DifferencesError) as caught:
        check(diff(CHANGED, mart("same", rows=Rows(1, 1))), strict=True)
    assert str(caught.value) == (
        "m differs from the base, and --strict is set.\n"
        "They are described in build/diff/index.html.\n"
        "If they are meant, name them in dbt/expected_changes.yml: docs/diff.md shows how."
    )
    assert caught.value.exit_code == 72
    with pytest.raises(DifferencesError, match=r"^m and new differ from the base, and --strict is set\."):
        check(diff(CHANGED, mart("new", in_base=False)), strict=True)


@pytest.mark.parametrize("strict", [False, True])
def test_an_approval_that_does_not_fit(*, strict: bool) -> None:
    unapproved, absent = Difference("m", "rows added"), Difference("n", "values changed", "fee")
    for approval, said in {
        (unapproved,): "m: rows added is not approved.",
        (absent,): "n: values changed (fee) is approved, and does not happen.",
        (unapproved, absent): "m: rows added is not approved (and 1 more).",
    }.items():
        found = Approval(unapproved=[each for each in approval if each == unapproved])
        found.absent.extend(each for each in approval if each == absent)
        with pytest.raises(ApprovalError) as caught:
            check(diff(CHANGED, approval=found), strict=strict)
        assert str(caught.value) == (
            f"The differences are not those of dbt/expected_changes.yml: {said}\n"
            "They are described in build/diff/index.html.\n"
            "Change the models until they do what is meant, or the entries of dbt/expected_changes.yml."
        )
        assert caught.value.exit_code == 73
