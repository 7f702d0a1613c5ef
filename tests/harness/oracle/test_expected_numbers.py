"""The expected numbers by example; tests/dbt compares them with the models on random events."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from feeds.interval import ALWAYS, Interval
from harness.oracle.checks import Check, compare_rows
from harness.oracle.expected_numbers import ExpectedMarts, compute
from harness.oracle.raw_rows import RawRows
from harness.warehouse.server import Server
from tests.events_feed import EVENTS

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data\n"
ROWS = """\
1;created_account;7;2019-12-30 23:30:00;
2;became_unable_to_propose;7;2020-01-01 10:00:00;
3;became_able_to_propose;7;2020-01-01 10:00:00;
4;proposed;7;2020-01-01 11:00:00;4_dak_roof_999999999999.999999
5;proposed;7;2020-01-01 12:00:00;4_dak_the roof_-0.000001
6;became_able_to_propose;8;2020-01-02 09:00:00;
7;became_unable_to_propose;7;2020-01-02 08:00:00;
8;became_unable_to_propose;8;2020-01-02 09:30:00;
8;created_account;8;2020-01-02 09:30:00;
not an event
"""


def of_file(file: Path, text: str, server: Server, interval: Interval = ALWAYS) -> tuple[RawRows, ExpectedMarts]:
    """Return the numbers of a file of events with TEXT."""
    file.write_text(HEADER + text)
    expected = compute([(EVENTS, str(file))], interval, server.dsn)
    assert expected.marts
    assert expected.rows == {"raw.events": len(expected.feeds[EVENTS].rows)} | expected.marts.rows
    return expected.feeds[EVENTS], expected.marts


def test_the_numbers_of_a_file(server: Server, tmp_path: Path) -> None:
    interval = Interval(datetime(2019, 12, 30, tzinfo=UTC), datetime(2020, 1, 2, 9, tzinfo=UTC))
    raw, expected = of_file(tmp_path / "events.csv", ROWS, server, interval)

    assert (raw.read, len(raw.rows), raw.outside) == (10, 6, 2)
    assert raw.rejected == {("duplicate_key", None): 1, ("field_count", None): 1}
    assert expected.lead_fees == Decimal("999999999999.999998")
    assert expected.rows == {
        "staging.stg_events": 6,
        "dim.dim_date": 4,
        "dim.dim_professionals": 1,
        "dim.dim_services": 1,
        "fact.fct_events": 2,
        "analysis.availability_snapshot": 4,
        "analysis.service_revenue_daily": 1,
        "analysis.professional_funnel": 1,
        "analysis.professional_productivity_daily": 4,
    }
    written = ("2019-12-30 23:30", "2020-01-02 08:00", "2020-01-01 10:00", "2020-01-01 11:00")
    first, last, able, proposed = map(datetime.fromisoformat, written)
    days = [date(2019, 12, 30), date(2019, 12, 31), date(2020, 1, 1), date(2020, 1, 2)]
    calendar = expected.content.pop("dim.dim_date")
    assert [row[:3] for row in sorted(calendar)] == [
        (20191230, days[0], 2),
        (20191231, days[1], 3),
        (20200101, days[2], 4),
        (20200102, days[3], 5),
    ]
    months = [date(2019, 12, 1), date(2019, 12, 31), date(2019, 10, 1), date(2019, 12, 31)]
    assert sorted(calendar)[0][3:] == (*months, date(2019, 1, 1), date(2019, 12, 31), True, 201912, 202001)
    assert expected.content == {
        "dim.dim_professionals": {(7, first, first, last)},
        "dim.dim_services": {(4, "dak", "the roof")},
        "analysis.availability_snapshot": {(days[0], 0), (days[1], 0), (days[2], 1), (days[3], 0)},
        "analysis.service_revenue_daily": {(4, days[2], 2, Decimal("999999999999.999998"))},
        "analysis.professional_funnel": {(7, 202001, first, able, proposed, 2, 0, 2)},
        "analysis.professional_productivity_daily": {
            (days[0], 0, 0, 0, None, None),
            (days[1], 0, 0, 0, None, None),
            (days[2], 1, 2, Decimal("999999999999.999998"), 2, Decimal("999999999999.999998")),
            (days[3], 0, 0, 0, None, None),
        },
    }


def test_a_file_without_rows(server: Server, tmp_path: Path) -> None:
    raw, expected = of_file(tmp_path / "events.csv", "", server)

    assert (raw.read, expected.lead_fees, set(expected.rows.values())) == (0, Decimal(), {0})
    assert set(map(len, expected.content.values())) == {0}


def test_the_check_of_rows_shows_one_that_is_missing_different_or_duplicated() -> None:
    name, rows = "content of a.b", {(1, "x"), (2, "y"), (3, None)}
    assert compare_rows("a.b", rows, list(rows)) == Check(name, "3 rows", "3 rows", True)
    assert compare_rows("a.b", rows, [(1, "x"), (2, "z"), (3, None)]) == Check(
        name, "3 rows, 1 different: 2, y", "3 rows, 1 different: 2, z", False
    )
    assert compare_rows("a.b", rows, [*rows, (1, "x")]) == Check(name, "3 rows", "4 rows", False)
