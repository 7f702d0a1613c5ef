"""What of a mart counts as a difference, and what only follows from another one."""

import pytest

from harness.diff.marts import differences, without_renamed
from harness.diff.results import ColumnChange, Difference, Mart, Rows, SchemaChange


def test_only_what_a_renamed_column_does_not_explain_is_left() -> None:
    explained = [
        SchemaChange("key", "", "id, day", "service_id, day"),
        SchemaChange("constraint", "not null of id", "not null", None),
        SchemaChange("constraint", "not null of service_id", None, "not null"),
        SchemaChange("description", "id", "The service.", None),
        SchemaChange("description", "service_id", None, "The service."),
    ]
    others = [
        SchemaChange("constraint", "check (id > 0) of id", "check (id > 0)", None),
        SchemaChange("constraint", "not null of day", "not null", None),
        SchemaChange("description", "day", "The day.", "The day, in UTC."),
        SchemaChange("test", "the_key_is_unique", None, ""),
    ]
    assert without_renamed([*explained, *others], {"id": "service_id"}) == others
    assert without_renamed(explained, {}) == explained


@pytest.mark.parametrize(
    ("mart", "found"),
    [
        (Mart("m", "m.sql", (), in_base=False), {Difference("m", "model added")}),
        (Mart("m", "m.sql", (), in_branch=False), {Difference("m", "model removed")}),
        (Mart("m", "m.sql", (), rows=Rows(1, 1), incremental_rows=Rows(1, 1)), set()),
        (
            Mart(
                "m",
                "m.sql",
                (),
                schema=[SchemaChange("test", "t", None, ""), SchemaChange("column retyped", "a", "int", "bigint")],
                rows=Rows(9, 9, changed=2, columns=[ColumnChange("fee", "numeric", 2), ColumnChange("day", "date", 1)]),
                incremental_rows=Rows(9, 9, added=1, removed=1),
            ),
            {
                Difference("m", "column retyped", "a"),
                Difference("m", "values changed", "fee"),
                Difference("m", "values changed", "day"),
                Difference("m", "rows added"),
                Difference("m", "rows removed"),
            },
        ),
    ],
)
def test_differences_that_need_an_approval(mart: Mart, found: set[Difference]) -> None:
    assert differences(mart) == found
