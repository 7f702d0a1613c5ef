"""Runs as they could have been, made by hand."""

from datetime import UTC, date, datetime, timedelta

from harness.reporting.figures import KeptRun
from harness.reporting.report.run import (
    Dataset,
    Day,
    Failure,
    Load,
    Node,
    Number,
    Pod,
    PytestRun,
    Reject,
    Run,
    Series,
    Step,
    Table,
)

BEGAN = datetime(2026, 3, 10, 8, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def began(title: str = "e2e on embedded") -> Run:
    run = Run(title, {"target": "embedded (it was named)", "commit": "0123abcd"})
    run.phases.started_at = BEGAN
    return run


def ended() -> Run:
    """Return a run that has ended well, slower than the ones before, with rejected rows and a warning."""
    run = began()
    run.phases.seconds = {"PostgreSQL up": 2, "Airflow healthy": 10, "events_pipeline_daily": 30, "taken down": 1}
    run.phases.starts = {"PostgreSQL up": 0, "Airflow healthy": 2, "events_pipeline_daily": 12, "taken down": 42}
    last = {"PostgreSQL up": 2.0, "Airflow healthy": 8.0, "events_pipeline_daily": 15.0, "total": 26.0}
    run.last = KeptRun("", last, {"events_pipeline_daily dbt_build": 10.0, "events_pipeline_daily events": 1.0})
    run.main = KeptRun("", {"total": 20.0, "Airflow healthy": 7.0}, {"model fct_events": 2.0}, is_main=True)
    run.history = [
        {"total": total, "events_pipeline_daily": daily, "PostgreSQL up": 2}
        for total, daily in ((25, 14), (26, 15), (24, 15), (40, 27), (41, 28), (43, 30))
    ]
    run.tasks = [
        Step("create_tables", "events_pipeline_daily", "success", at(12), at(13), at(14), "manual__1"),
        Step("load_events", "events_pipeline_daily", "success", at(14), at(16.5), at(20), "manual__1"),
        Step("dbt_build", "events_pipeline_daily", "success", at(20), at(23), at(41.5), "manual__1"),
    ]
    run.loads = [Load("events", "events_pipeline_daily manual__1", "succeeded", "", at(17), at(19), 110, 100, 7, 3, 0)]
    run.rejects = [
        Reject("events: field_count", 5, [(3, "1;2"), (9, "<b>;\u05e9\u05dc\u05d5\u05dd")]),
        Reject("events: event_id: type", 2, [(12, "x;proposed")]),
    ]
    run.rejects_file = "build/reports/rejected_rows.csv"
    run.numbers = [Number("rows of raw.events", "100", "100", True), Number("sum of lead fees", "12.50", "12.50", True)]
    run.series = [
        Series("Active professionals", "", [(date(2020, 3, day), 40.0 + day, 40.0 + day) for day in range(1, 12)]),
        Series("Revenue of lead fees by day", "euro", [(date(2020, 3, day), 12.5, 12.5) for day in range(1, 12)]),
    ]
    run.days = [Day("events", date(2020, 3, 2), 4, 1, 0), Day("events", date(2020, 3, 5), 0, 0, 2)]
    run.pods = [
        Pod("airflow-scheduler-1", at(1), at(3), at(4), at(9)),
        Pod("dbt-build-1", at(20), at(21), at(22), None),
    ]
    run.datasets = datasets()
    run.pytest = [PytestRun("tests", at(-3600), 3000, 2, 250.5, ["tests.a::test_b"], [("tests.c::test_d", 9.5)])]
    run.tables = [Table("raw.events", 100, 2_900_000), Table("raw.loads", None, 32_768)]
    run.nodes = [
        Node("fct_events", "model", "success", False, "SELECT 90", "dbt/models/fct_events.sql", 2.5, at(30)),
        Node("not_null_fct_events_id", "test", "pass", False, "", "dbt/fct_events.yml:9", 0.1, at(33), "fct_events"),
        Node(
            "proposals_are_by_able_professionals",
            "test",
            "warn",
            has_failed=False,
            message="Got 2 results, configured to warn if != 0",
            place="dbt/tests/proposals.sql:1",
            seconds=0.4,
            started_at=at(33.5),
            tested="stg_events",
            failing=2,
            header=["event_id", "professional_id"],
            rows=[["17", "4"], ["18", "null"]],
        ),
    ]
    run.lines = ["a second run changes nothing: every table has the same content as before"]
    return run


def datasets() -> list[Dataset]:
    """Return a file, a raw table, a view, two marts and who reads them."""
    columns = [("event_id", "bigint", "The event.", "events.csv: event_id"), ("load_id", "bigint", "", "")]
    return [
        Dataset("events.csv", "file", rows=110),
        Dataset("raw.events", "table", columns=columns, made_of=["events.csv"], rows=100, built_at=at(19)),
        Dataset(
            "staging.stg_events", "table", "One row per event of the log. Nothing is left out.", [], ["raw.events"]
        ),
        Dataset(
            "fact.fct_events",
            "table",
            "One row per `proposed` event.",
            [("event_id", "bigint", "The event.", "")],
            ["staging.stg_events"],
            90,
            at(32.5),
            "2026-03-01 0123abc Fees are exact",
        ),
        Dataset("dim.dim_date", "table", "One row per day.", [], ["fact.fct_events"], 11),
        Dataset("lead_fee_report", "exposure", "A dashboard of dbt.", [], ["dim.dim_date", "fact.fct_events"]),
    ]


def with_wrong_numbers() -> Run:
    """Return a run of which a mart has a wrong number on 10 March."""
    run = ended()
    run.failure = Failure(
        "1 of 2 numbers do not match the feeds' files: content of analysis.availability_snapshot.",
        "A change to the load or to a model most likely changed these numbers.",
        "Compare the expected and the found numbers above; the models' own tests: nox -s dbt",
    )
    run.numbers = [
        Number("rows of raw.events", "100", "100", True),
        Number("content of analysis.availability_snapshot", "11 rows, 1 different", "11 rows, 1 different", False),
    ]
    points = [(date(2020, 3, day), 40.0 + day, 40.0 + day - 3 * (day == 10)) for day in range(1, 12)]
    run.series[0] = Series("Active professionals", "", points)
    run.history = run.history[:3]
    return run


def failed_at_once() -> Run:
    """Return a run that failed before its first phase."""
    run = began()
    run.failure = Failure("Port 8080 cannot be used.", "Another program listens there.", "Leave --ui-port out.")
    return run


def interrupted() -> Run:
    """Return a run that was interrupted in a phase, with a task that had not ended and one that had not begun."""
    run = began()
    run.phases.seconds = {"PostgreSQL up": 2, "events_pipeline_daily (not finished)": 30}
    run.phases.starts = {"PostgreSQL up": 0, "events_pipeline_daily (not finished)": 2}
    run.phases.failed_in = "events_pipeline_daily"
    run.failure = Failure("Interrupted by SIGTERM.", "Everything was taken down.", "Run it again: nox -s e2e")
    run.tasks = [
        Step("create_tables", "events_pipeline_daily", "running", at(12), at(13), None),
        Step("load_events", "events_pipeline_daily", "queued", at(14), None, None),
        Step("dbt_build", "events_pipeline_daily", "none", None, None, None),
    ]
    run.loads = [Load("events", "", "running", "", at(17), None, None, None, None, None, None)]
    return run
