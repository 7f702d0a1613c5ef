"""Results of comparisons, made by hand."""

from datetime import date, timedelta

from harness.diff.results import (
    Approval,
    Build,
    ChangedNode,
    ColumnChange,
    Diff,
    Difference,
    DuplicateKeys,
    Example,
    Mart,
    Rows,
    SchemaChange,
    Series,
    Slice,
    Verdict,
)

FIRST_DAY = date(2020, 1, 1)
BOTH_RIGHT = {"base": Verdict(agrees=True), "branch": Verdict(agrees=True)}


def fct_events() -> Mart:
    """Return a mart that has lost rows and of which a column was rounded."""
    rows = Rows(
        base_rows=9_870,
        branch_rows=9_750,
        removed=120,
        changed=34,
        columns=[
            ColumnChange("service_lead_fee", "numeric", 34, became_null=2, smallest="-0.5", median="0.25", largest="1")
        ],
        examples=[
            Example("changed", {"event_id": "17"}, {"service_lead_fee": "12.345"}, {"service_lead_fee": "12.35"}),
            Example("changed", {"event_id": "18"}, {"service_lead_fee": "7"}, {"service_lead_fee": None}),
            Example(
                "removed",
                {"event_id": "4711"},
                {
                    "professional_id": "88",
                    "service_id": "27",
                    "created_at": "2020-02-02 10:00:00",
                    "service_lead_fee": "5",
                },
                None,
            ),
        ],
        slices=[
            Slice("removed", "service_id = 27", inside=120, different=120, rows=120, table_rows=9_870),
            Slice(
                "service_lead_fee",
                "created_at from 2020-02-01 on",
                inside=31,
                different=34,
                rows=4_000,
                table_rows=9_870,
            ),
        ],
        digests={"base": "a", "branch": "b"},
    )
    days = [FIRST_DAY + timedelta(i) for i in range(71)]
    return Mart(
        "fct_events",
        "dbt/models/marts/fact/fct_events.sql",
        ("event_id",),
        causes=["its SQL", "the macro lead_fee"],
        schema=[
            SchemaChange("column added", "currency", None, "text"),
            SchemaChange("column retyped", "service_lead_fee", "numeric(18,6)", "numeric(18,2)"),
            SchemaChange("description", "service_lead_fee", "In euro.", "In euro, rounded."),
        ],
        rows=rows,
        incremental_rows=rows,
        verdicts={"base": Verdict(agrees=True), "branch": Verdict(agrees=False, text="120 rows are missing")},
        exposures=["revenue_dashboard", "monthly_invoice"],
        builds={"base": Build(1.21, 19_012), "branch": Build(1.34, 38_024)},
        series=[
            Series(
                "rows by created_at",
                [(str(day), 140.0 + i % 7, 140.0 + i % 7 - 4 * (i >= 31)) for i, day in enumerate(days)],
            ),
            Series(
                "sum of service_lead_fee by created_at",
                [(str(day), 1_400.5 + i, 1_400.5 + i) for i, day in enumerate(days)],
            ),
        ],
    )


def availability_snapshot() -> Mart:
    """Return a mart that differs only after an incremental run."""
    after = Rows(
        70,
        70,
        changed=3,
        columns=[ColumnChange("active_professionals", "bigint", 3, smallest="1", median="1", largest="2")],
        examples=[
            Example("changed", {"date": "2020-03-09"}, {"active_professionals": "143"}, {"active_professionals": "145"})
        ],
        digests={"base": "a", "branch": "c"},
    )
    return Mart(
        "availability_snapshot",
        "dbt/models/marts/analysis/availability_snapshot.sql",
        ("date",),
        causes=["its configuration"],
        rows=Rows(70, 70, digests={"base": "a", "branch": "a"}),
        incremental_rows=after,
        verdicts=BOTH_RIGHT,
        incremental_verdicts={
            "base": Verdict(agrees=True),
            "branch": Verdict(agrees=False, text="3 of 70 days differ"),
        },
        builds={"base": Build(0.8), "branch": Build(0.7)},
    )


def doubled() -> Mart:
    """Return a mart whose key is doubled in the branch."""
    return Mart(
        "dim_services",
        "dbt/models/marts/dim/dim_services.sql",
        ("service_id",),
        rows=Rows(
            31,
            34,
            added=3,
            examples=[
                Example(
                    "added", {"service_id": "5"}, None, {"service_name_nl": "Schilder", "service_name_en": "Painter"}
                )
            ],
            duplicates={"branch": DuplicateKeys(3, 2, {"service_id": "5"})},
        ),
    )


def new() -> Mart:
    """Return a mart that only the branch has."""
    return Mart("refunds_daily", "dbt/models/marts/analysis/refunds_daily.sql", ("date",), in_base=False)


def same() -> Mart:
    """Return a mart that is the same on both sides."""
    return Mart(
        "dim_date", "dbt/models/marts/dim/dim_date.sql", ("calendar_id",), rows=Rows(91, 91), verdicts=BOTH_RIGHT
    )


def whole() -> Diff:
    """Return a comparison with a mart of each kind."""
    return Diff(
        base="the merge base with main, 37ed5c36",
        branch="f3286bc8 and uncommitted changes",
        data="the samples: 19,012 events",
        changed=[
            ChangedNode("fct_events", ["SQL", "the macro lead_fee"]),
            ChangedNode("availability_snapshot", ["configuration"]),
        ],
        built=["fct_events", "availability_snapshot", "dim_services", "dim_date"],
        unaffected=["dim_professionals", "professional_funnel"],
        marts=[fct_events(), availability_snapshot(), doubled(), new(), same()],
        notes=[["The working tree has uncommitted changes.", "They are compared as they are."]],
        approval=Approval(
            approved=[Difference("fct_events", "values changed", "service_lead_fee")],
            unapproved=[Difference("fct_events", "rows removed")],
            absent=[Difference("dim_date", "rows added")],
        ),
        seconds={"load": 3.2, "base": 8.4, "branch": 8.9, "compare": 1.7},
    )
