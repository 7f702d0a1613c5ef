"""Explain a failed task by its log."""

import re
from typing import Any, NamedTuple

from feeds.errors import FeedError
from harness.errors import DagRunFailedError
from harness.reporting.summary import code, details

SHOWN_LINES = 30  # the end of the task's log, in the summary
ENTRY_LINES = 4  # of one log entry: the project's own errors have three
ERROR_MARK = "\N{CROSS MARK} "  # between a log entry's text and its error

DBT_FAILURE = re.compile(r"\b(FAIL \d+|\d+ of \d+ ERROR|[A-Z]\w+ Error in|Failure in)\b")
# The pod's container, time, progress, dots.
DBT_DECORATION = re.compile(r"^(\[base\] )?\d\d:\d\d:\d\d +(\d+ of \d+ )?| \.{3,} \[.*\]$")


class Explanation(NamedTuple):
    """Why a task failed: the three lines of an error, and its exit code."""

    what: str
    why: str
    next_step: str
    exit_code: int = DagRunFailedError.exit_code


def task_failed(dag_id: str, task_id: str, log: list[str]) -> DagRunFailedError:
    """Return the error for a task that failed, from the lines of its LOG."""
    explanation = explain(log)
    return DagRunFailedError(
        f"{dag_id} failed in {task_id}: {explanation.what}",
        explanation.why,
        explanation.next_step,
        [details(f"The end of {task_id}'s log in {dag_id}", code(shortened(log), last=SHOWN_LINES))],
        exit_code=explanation.exit_code,
        task_id=task_id,
    )


def explain(log: list[str]) -> Explanation:
    """Return what a task's LOG says: the pipeline's own error, else dbt's first failure, else the first error."""
    exit_codes = {kind.__name__: kind.exit_code for kind in FeedError.__subclasses__()}
    for line in reversed(log):
        kind, _, text = line.partition(ERROR_MARK)[2].partition(": ")
        if kind in exit_codes and text.count("\n") == 2:
            what, why, next_step = text.split("\n")
            return Explanation(what, why, next_step, exit_codes[kind])
    from_dbt = [line for line in log if DBT_FAILURE.search(line)]
    if stale := [line for line in from_dbt if " ERROR STALE " in line]:
        return Explanation(
            DBT_DECORATION.sub("", stale[0])[:300],
            "No load has succeeded for longer than the limit in its yml in dbt/models/staging.",
            "Load newer files: run a pipeline, or see in its log why its last run failed.",
        )
    lines = from_dbt or [line for line in log if ERROR_MARK in line] or log or ["its log is empty"]
    return Explanation(
        DBT_DECORATION.sub("", lines[0]).replace(ERROR_MARK, "")[:300],
        "A changed model, or rows that a model does not expect; dbt's log has the rows or statement."
        if from_dbt
        else "It is not an error that the pipeline expects.",
        "Read the task's whole log.",
    )


def shortened(log: list[str]) -> str:
    """Return a log as text, with the first lines of long entries: one may be a failed pod's whole description."""
    entries = [entry.splitlines()[:ENTRY_LINES] for entry in log if not entry.startswith("::")]
    return "\n".join("\n".join(lines) for lines in entries)


def log_line(entry: Any) -> str:
    """Return an entry of a task's log, as the API has it, as text with its error, but not that error's causes."""
    if not isinstance(entry, dict):
        return str(entry)
    text, errors = str(entry.get("event", "")), entry.get("error_detail") or []
    return f"{text} {ERROR_MARK}{errors[0].get('exc_type')}: {errors[0].get('exc_value')}" if errors else text
