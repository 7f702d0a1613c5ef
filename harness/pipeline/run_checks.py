"""The checks of an end-to-end run, beside the comparisons of `harness.oracle.checks`; a failed one is an error."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from harness.errors import ChecksFailedError
from harness.oracle.checks import Check, compare, compare_files, fingerprint
from harness.oracle.expected_numbers import Expected
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.lineage import Found
from harness.pipeline.rejected_rows import RejectedRows
from harness.reporting.console import say
from harness.reporting.summary import details, table, text
from harness.warehouse.roles import Warehouse

DBT_CLOSING_LINE = "Done. PASS="
LOAD_FIGURES = ("load_id", "read", "loaded", "rejected", "outside", "absent")  # in XCom


@dataclass
class CheckResults:
    """The checks of a run so far: rows by table, the compared numbers, a line for each other check that has passed.

    Also what is expected, as far as it is computed, the rows that its loads have rejected, and the lineage events, once
    they are collected.
    """

    rows: dict[str, int] = field(default_factory=dict)
    numbers: Sequence[Check] = ()
    others: list[str] = field(default_factory=list)
    rejected: RejectedRows = field(default_factory=RejectedRows)
    expected: Expected | None = None
    lineage: Found | None = None

    def passed(self, line: str) -> None:
        """Add and print a check that has passed."""
        self.others.append(line)
        say(f"✓ {line}")

    @property
    def row_counts(self) -> list[tuple[str, str]]:
        """The tables and their rows, for people."""
        return [(name, f"{count:,}") for name, count in self.rows.items()]

    def markdown(self) -> list[str]:
        """Return the results as blocks of Markdown."""
        right = [check for check in self.numbers if check.passed]
        numbers = table(("number", "value"), [(check.name, check.expected) for check in right])
        return [
            table(("table", "rows"), self.row_counts, numbers=("rows",)) if self.rows else "",
            details(f"{len(right)} numbers match the feeds' files", numbers) if right else "",
            "\n".join(f"- {text(line)}" for line in self.others),
            *self.rejected.markdown(),
        ]


def check_numbers(expected: Expected, warehouse: Warehouse, *, are_samples: bool = False) -> list[Check]:
    """Compare as `compare_numbers` does; raise ChecksFailedError if a number differs."""
    return passed(compare_numbers(expected, warehouse, are_samples=are_samples))


def compare_numbers(expected: Expected, warehouse: Warehouse, *, are_samples: bool = False) -> list[Check]:
    """Compare the warehouse with the numbers expected of it.

    If the files ARE_SAMPLES, models that bring their expected rows must have them.
    """
    with psycopg.connect(warehouse.admin_dsn) as connection:
        checks = compare(expected, connection)
        return [*checks, *(compare_files(connection) if are_samples else [])]


def passed(checks: Sequence[Check]) -> list[Check]:
    """Return CHECKS; print those that failed and raise ChecksFailedError if there is one."""
    if wrong := [check for check in checks if not check.passed]:
        for check in wrong:
            say(f"✗ {check.name}: expected {check.expected}, found {check.actual}")
        raise ChecksFailedError(
            f"{len(wrong)} of {len(checks)} numbers do not match the feeds' files: {wrong[0].name}.",
            "A change to the load or to a model most likely changed these numbers.",
            "Compare the expected and the found numbers above; the models' own tests: nox -s dbt",
            [table(("number", "expected", "found"), [(check.name, check.expected, check.actual) for check in wrong])],
        )
    return list(checks)


def fingerprints(warehouse: Warehouse) -> dict[str, str]:
    """Return a hash of each table's content, by table."""
    with psycopg.connect(warehouse.admin_dsn) as connection:
        return fingerprint(connection)


def check_unchanged(before: dict[str, str], warehouse: Warehouse, dag_run: str) -> None:
    """Raise ChecksFailedError if DAG_RUN changed a table, whose fingerprint was BEFORE."""
    after = fingerprints(warehouse)
    if changed := [name for name in before if before[name] != after[name]]:
        raise ChecksFailedError(
            f"{dag_run} changed {', '.join(changed)}.",
            "The load or a model does not give the same result twice.",
            "Look for code that depends on the current time, the order of rows, or earlier runs.",
        )


def check_xcom(api: AirflowApi, warehouse: Warehouse, feed: str, dag_id: str, run_id: str) -> str:
    """Return the figures in the XCom of FEED's load; raise ChecksFailedError if the run has others in `raw.loads`."""
    with psycopg.connect(warehouse.admin_dsn) as connection:
        rows = connection.execute(
            "select load_id, rows_read, rows_loaded, rows_rejected, rows_outside, rows_absent"
            " from raw.loads where run_id = %s",
            (f"{dag_id} {run_id}",),
        ).fetchall()
    task_id = f"load_{feed}"
    xcom = api.xcom(dag_id, run_id, task_id)
    if not isinstance(xcom, dict) or [tuple(xcom.get(name) for name in LOAD_FIGURES)] != rows:
        raise ChecksFailedError(
            f"The XCom of {dag_id}'s task {task_id} is {xcom}, and raw.loads has {rows}.",
            "The task most likely returns, or the load records, something else since a change.",
            "Compare load() in airflow/dags/pipelines.py with airflow/include/feeds/ledger.py.",
        )
    return ", ".join(f"{name} {xcom[name]:,}" for name in LOAD_FIGURES[1:] if xcom[name] is not None)


def check_task_log(api: AirflowApi, dag_id: str, run_id: str) -> int:
    """Return how many lines dbt's task has in its log over the API; raise ChecksFailedError if dbt's are missing."""
    log = api.task_log(dag_id, run_id, "dbt_build")
    if not any(DBT_CLOSING_LINE in line for line in log):
        raise ChecksFailedError(
            f"The log of {dag_id}'s task dbt_build has no line with {DBT_CLOSING_LINE!r}.",
            "The log was lost with the task's pod, or does not get dbt's output.",
            "Look at the task's log in the UI, and at logs.persistence in cluster/values.",
        )
    return len(log)
