"""A failed task is explained by the lines of its log."""

import pytest

from harness.pipeline.task_failure import ERROR_MARK, explain, log_line, shortened, task_failed


def test_an_error_of_the_pipeline_keeps_its_lines_and_exit_code() -> None:
    errors = [
        {"exc_type": "SourceUnreadable", "exc_value": "what\nwhy\nnext"},
        {"exc_type": "EOFError", "exc_value": "its cause"},  # the log has the error first, then its causes
    ]
    entries = [{"event": "load 1"}, {"event": "Task failed", "error_detail": errors}, "::endgroup::"]
    error = task_failed("daily", "load_events", [log_line(entry) for entry in entries])
    assert str(error) == "daily failed in load_events: what\nwhy\nnext"
    assert (error.exit_code, error.task_id) == (19, "load_events")
    assert "load 1\nTask failed" in error.evidence[0]


def test_dbts_first_failure_is_the_explanation() -> None:
    log = [
        "12:00:01  1 of 3 PASS not_null_dim_date_calendar_id ... [PASS in 0.08s]",
        "12:00:02  2 of 3 FAIL 2 unique_dim_date_calendar_id ... [FAIL 2 in 0.05s]",
        "12:00:02  3 of 3 SKIP relation dim.other ... [SKIP]",
        f"Task failed with exception {ERROR_MARK}DbtFailedError: dbt ended with exit code 1 in its process",
    ]
    assert explain(log) == (
        "FAIL 2 unique_dim_date_calendar_id",
        "A changed model, or rows that a model does not expect; dbt's log has the rows or statement.",
        "Read the task's whole log.",
        44,
    )


@pytest.mark.parametrize(
    ("log", "what"),
    [
        (["[base] 07:59:35 29 of 35 FAIL 6305 a_b .......... [FAIL 6305 in 0.15s]"], "FAIL 6305 a_b"),  # dbt in a pod
        (["08:00:01  1 of 1 ERROR not_null_dim_date ...... [ERROR in 0.1s]"], "ERROR not_null_dim_date"),
        (["starting", f"Task failed {ERROR_MARK}OSError: refused", "::endgroup::"], "Task failed OSError: refused"),
        (["the only line"], "the only line"),
        ([], "its log is empty"),
    ],
)
def test_the_most_telling_line_is_the_explanation(log: list[str], what: str) -> None:
    assert explain(log).what == what


def test_a_shortened_log_has_no_groups_and_the_first_lines_of_long_entries() -> None:
    error = log_line({"event": "Task failed", "error_detail": [{"exc_type": "A", "exc_value": "b\nc\nd\ne\nf"}]})
    log = ["::group::Log", "one", "", error, "::endgroup::"]
    assert shortened(log) == f"one\n\nTask failed {ERROR_MARK}A: b\nc\nd\ne"


def test_a_stale_source_is_explained() -> None:
    assert explain(["08:00:01  1 of 1 ERROR STALE freshness of raw.loads ...... [ERROR STALE in 0.04s]"]) == (
        "ERROR STALE freshness of raw.loads",
        "No load has succeeded for longer than the limit in its yml in dbt/models/staging.",
        "Load newer files: run a pipeline, or see in its log why its last run failed.",
        44,
    )
