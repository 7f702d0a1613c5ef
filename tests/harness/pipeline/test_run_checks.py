"""The checks of an end-to-end run, beside the numbers: XCom, the task's log, and the results for the summary."""

from typing import Any, cast

import psycopg
import pytest

from harness.errors import ChecksFailedError
from harness.oracle.checks import Check
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.run_checks import CheckResults, check_task_log, check_xcom
from harness.warehouse.roles import Warehouse

LOADED = {"load_id": 1, "read": 10, "loaded": 7, "rejected": 2, "outside": 1, "absent": 0}


class Api:
    """An Airflow whose task returned XCOM and logged LOG."""

    def __init__(self, xcom: Any = None, log: list[str] | None = None) -> None:
        self.returned, self.log = xcom, log or []

    def xcom(self, *_: str) -> Any:
        return self.returned

    def task_log(self, *_: str) -> list[str]:
        return self.log


def test_xcom_is_compared_with_the_ledger(dsn: str, warehouse: Warehouse) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "insert into raw.loads"
            " (feed, source_uri, status, run_id, rows_read, rows_loaded, rows_rejected, rows_outside,"
            " rows_absent) values ('events', 'a', 'succeeded', 'daily run', 10, 7, 2, 1, 0)"
        )
    api = cast(AirflowApi, Api(LOADED))
    assert check_xcom(api, warehouse, "events", "daily", "run") == "read 10, loaded 7, rejected 2, outside 1, absent 0"
    for other in (None, "text", {}, LOADED | {"loaded": 8}):
        with pytest.raises(ChecksFailedError, match="The XCom of daily's task load_events is "):
            check_xcom(cast(AirflowApi, Api(other)), warehouse, "events", "daily", "run")
    with pytest.raises(ChecksFailedError, match=r", and raw\.loads has \[\]"):
        check_xcom(api, warehouse, "events", "daily", "another run")


def test_a_task_log_must_have_dbts_output() -> None:
    assert check_task_log(cast(AirflowApi, Api(log=["begins", "Done. PASS=3"])), "daily", "run") == 2
    with pytest.raises(ChecksFailedError, match="The log of daily's task dbt_build has no line with 'Done"):
        check_task_log(cast(AirflowApi, Api(log=["begins"])), "daily", "run")


def test_the_results_as_markdown() -> None:
    results = CheckResults({"raw.events": 20000, "dim.dim_date": 105}, [Check("sum of lead fees", 1.5, 1.5, True)])
    results.passed("each task ran in its own pod")
    assert results.markdown() == [
        "| table | rows |\n| --- | ---: |\n| raw.events | 20,000 |\n| dim.dim_date | 105 |",
        "<details><summary>1 numbers match the feeds' files</summary>\n\n"
        "| number | value |\n| --- | --- |\n| sum of lead fees | 1.5 |\n\n</details>",
        "- each task ran in its own pod",
    ]
    assert CheckResults().markdown() == ["", "", ""]
