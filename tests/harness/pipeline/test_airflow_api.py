"""What is said about a task that failed, from the lines of its log."""

from harness.pipeline.airflow_api import ERROR_MARK, explain, log_line, without_dumps


def test_an_error_that_the_pipeline_foresaw_is_said_as_it_is() -> None:
    errors = [
        {"exc_type": "SourceUnreadable", "exc_value": "what\nwhy\nnext"},
        {"exc_type": "EOFError", "exc_value": "its cause"},  # the log has the error first, then its causes
    ]
    entries = [{"event": "load 1"}, {"event": "Task failed", "error_detail": errors}, "::endgroup::"]
    assert explain([log_line(entry) for entry in entries]) == ("what", "why", "next", 19)


def test_dbts_first_failure_is_said() -> None:
    log = [
        "12:00:01  1 of 3 PASS not_null_dim_date_calendar_id ... [PASS in 0.08s]",
        "12:00:02  2 of 3 FAIL 2 unique_dim_date_calendar_id ... [FAIL 2 in 0.05s]",
        "12:00:02  3 of 3 SKIP relation dim.other ... [SKIP]",
        f"Task failed with exception {ERROR_MARK}RuntimeError: dbt ended with exit code 1; the lines above say why",
    ]
    what, why, next_step, exit_code = explain(log)
    assert what == "FAIL 2 unique_dim_date_calendar_id"
    assert why == "A change to a model, or events that it does not expect; dbt's log has the rows or the statement."
    assert next_step == "Read the task's whole log."
    assert exit_code == 44


def test_dbts_failure_in_a_pod_is_said_without_the_pod() -> None:
    log = ["[base] 07:59:35 29 of 35 FAIL 6305 a_b .......... [FAIL 6305 in 0.15s]"]
    assert explain(log)[0] == "FAIL 6305 a_b"


def test_what_is_shown_of_a_log_leaves_out_groups_and_the_rest_of_long_entries() -> None:
    error = log_line({"event": "Task failed", "error_detail": [{"exc_type": "A", "exc_value": "b\nc\nd\ne\nf"}]})
    log = ["::group::Log", "one", "", error, "::endgroup::"]
    assert without_dumps(log) == f"one\n\nTask failed {ERROR_MARK}A: b\nc\nd\ne"


def test_an_error_that_was_not_foreseen_is_said_with_the_place_of_the_rest() -> None:
    log = ["starting", f"Task failed with exception {ERROR_MARK}OSError: connection refused", "::endgroup::"]
    assert explain(log)[0] == "Task failed with exception OSError: connection refused"


def test_an_empty_log_is_said_to_be_empty() -> None:
    assert explain([])[0] == "its log is empty"
