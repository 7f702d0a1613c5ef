"""What of a mart's definition only follows from a column that was renamed."""

from harness.diff.marts import without_renamed
from harness.diff.results import SchemaChange


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
