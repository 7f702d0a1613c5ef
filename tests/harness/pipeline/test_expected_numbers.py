"""The oracle against definitions spelt out more naively still, and each rule of the format by example."""

import gzip
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.pipeline.expected_numbers import Check, Expected, compare_days, compare_rows, compute

HEADER = b"event_id;event_type;professional_id_anonymized;created_at;meta_data"
ABLE, UNABLE = "became_able_to_propose", "became_unable_to_propose"
LONG = 1 << 20

# For each reason rows that are rejected for it; {} is an id that no valid row has.
REJECTED = {
    "too_long": [b"{};proposed;1;2020-01-01 00:00:00;" + b"x" * LONG, b"\xff\0" * LONG],
    "not_utf8": [b"{};proposed;1;2020-01-01 00:00:00;1_\xff_b_1", b"\xc0\x80\0", b"\xed\xa0\x80"],
    "nul_byte": [b"{};proposed;1;2020-01-01 00:00:00;1_\0_b_1", b"\0"],
    "quoting": [b'{};"created_account;1;2020-01-01 00:00:00;', b'{};"proposed"x;1;', b'{};created"_"account;1;;', b'"'],
    "field_count": [b"{};created_account;1;2020-01-01 00:00:00", b"{};created_account;1;2020-01-01 00:00:00;;", b"x"],
    "event_id": [
        b"%s;created_account;1;2020-01-01 00:00:00;" % text
        for text in (b"", b" 1", b"+1", b"1.0", b"-", b"9223372036854775808", b"-9223372036854775809", b"\xd9\xa1")
    ],
    "event_type": [b"{};Proposed;1;2020-01-01 00:00:00;", b"{};;x;;"],
    "professional_id": [b"{};created_account;;2020-01-01 00:00:00;", b"{};proposed;1e3;never;"],
    "created_at": [
        b"{};created_account;1;%s;" % text
        for text in (
            b"",
            b"2020-01-01",
            b"2020-02-30 00:00:00",
            b"2019-02-29 00:00:00",
            b"2020-13-01 00:00:00",
            b"0000-01-01 00:00:00",
            b"2020-01-01 24:00:00",
            b"2020-01-01 23:59:60",
            b"2020-01-01  00:00:00",
            b"2020-01-01t00:00:00",
            b"2020-01-01 00:00",
            b"2020-01-01 00:00:00.",
            b"2020-01-01 00:00:00.1234567",
            b"2020-01-01 00:00:00z",
            b"2020-01-01 00:00:00 Z",
            b"2020-01-01 00:00:00+01",
            b"2020-01-01 00:00:00+0100",
            b"2020-01-01 00:00:00+24:00",
            b"2020-01-01 00:00:00+01:60",
            b"0001-01-01 00:00:00+00:01",
            b"9999-12-31 23:59:59-00:01",
        )
    ],
    "metadata_missing": [b"{};proposed;1;2020-01-01 00:00:00;", b'{};proposed;1;2020-01-01 00:00:00;""'],
    "metadata_unexpected": [
        b"{};created_account;1;2020-01-01 00:00:00;1_a_b_1",
        b"{};became_able_to_propose;1;2020-01-01 00:00:00; ",
    ],
    "metadata": [
        b"{};proposed;1;2020-01-01 00:00:00;%s" % text
        for text in (b"x", b"1_a_1", b"1__b_1", b"1_a__1", b"1_a_b_c_1")
    ],
    "service_id": [
        b"{};proposed;1;2020-01-01 00:00:00;%s_a_b_free" % text
        for text in (b"", b"x", b"9223372036854775808")
    ],
    "lead_fee": [
        b"{};proposed;1;2020-01-01 00:00:00;1_a_b_%s" % text
        for text in (b"", b".5", b"1.", b"1,5", b"1e3", b"NaN", b"--1", b"1.0000000", b"1234567890123", b"1 ")
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A valid event, before it is written down."""

    id: int
    type: str
    professional: int
    at: datetime
    service: int
    cents: int


def write(path: Path, *lines: bytes) -> str:
    """Write an events file of LINES to PATH and return PATH."""
    path.write_bytes(b"\n".join([HEADER, *lines]))
    return str(path)


def spell(row: Row, style: int) -> bytes:
    """Write ROW down in one of the ways that the format allows: STYLE's bits choose."""
    offset, zone = [(0, ""), (0, "Z"), (120, "+02:00"), (-330, "-05:30")][style & 3]
    at = (row.at + timedelta(minutes=offset)).replace(tzinfo=None).isoformat(sep=" T"[style >> 2 & 1]) + zone
    metadata = f"{row.service}_naam; met_name_{row.cents / 100:.2f}" if row.type == "proposed" else ""
    fields = [str(row.id), row.type, str(row.professional), at, metadata]
    quoted = [style >> 3 + place & 1 or ";" in field for place, field in enumerate(fields)]
    return ";".join(f'"{field}"' if quote else field for field, quote in zip(fields, quoted, strict=True)).encode()


rows = st.builds(
    Row,
    id=st.integers(-9, 200),
    type=st.sampled_from(["created_account", ABLE, UNABLE, ABLE, UNABLE, "proposed"]),
    professional=st.integers(1, 4),
    at=st.builds(
        lambda day, second: datetime(2020, 2, 27, tzinfo=UTC) + timedelta(days=day, seconds=second),
        st.sampled_from([0, 1, 2, 2, 3, 9, 10]),
        st.sampled_from([0, 1, 1, 43_200, 86_399]),
    ),
    service=st.integers(-1, 3),
    cents=st.integers(0, 1_000),
)
others = st.one_of(
    st.sampled_from([(reason, line) for reason, lines in REJECTED.items() for line in lines if len(line) < LONG]),
    st.sampled_from([("", b""), ("", b" \t"), ("duplicate_event_id", b"")]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    valid=st.lists(rows, max_size=40, unique_by=lambda row: row.id),
    styles=st.lists(st.integers(0, 255), min_size=40, max_size=40),
    extras=st.lists(st.tuples(st.integers(0, 39), others), max_size=10),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=7, max_size=7),
    bom=st.booleans(),
    last_end=st.booleans(),
    zipped=st.booleans(),
)
def test_any_stream(
    *,
    tmp_path: Path,
    valid: list[Row],
    styles: list[int],
    extras: list[tuple[int, tuple[str, bytes]]],
    ends: list[bytes],
    bom: bool,
    last_end: bool,
    zipped: bool,
) -> None:
    """Whatever the events, their order, their spelling and what stands between them, the numbers are theirs."""
    lines, reasons = [HEADER], Counter[str]()
    for place in range(40):
        for reason, line in [extra for where, extra in extras if where == place]:
            if reason == "duplicate_event_id":
                if not valid[:place]:
                    continue
                lines.append(spell(valid[0], styles[place]))
            else:
                lines.append(line.replace(b"{}", b"999"))
            reasons.update([reason] if reason else [])
        lines += [spell(row, styles[place]) for row in valid[place : place + 1]]
    content = b"".join(line + ends[number % 7] for number, line in enumerate(lines))
    content = (b"\xef\xbb\xbf" if bom else b"") + (content if last_end else content.rstrip(b"\r\n"))
    path = tmp_path / "events"
    path.write_bytes(gzip.compress(content) if zipped else content)

    proposals = [row for row in valid if row.type == "proposed"]
    services = {row.service for row in proposals}
    professionals = {row.professional for row in valid}
    active = by_brute_force(valid)
    assert compute(str(path)) == Expected(
        read=len(valid) + reasons.total(),
        rejected=reasons.total(),
        rejected_by_reason=dict(reasons),
        rows={
            "raw.events": len(valid),
            "raw.rejected_events": reasons.total(),
            "staging.stg_events": len(valid),
            "dim.dim_date": len(active),
            "dim.dim_professionals": len(professionals),
            "dim.dim_services": len(services),
            "fact.fct_events": len(proposals),
            "analysis.availability_snapshot": len(active),
            "analysis.service_revenue_daily": len({(row.service, row.at.date()) for row in proposals}),
            "analysis.professional_funnel": len(professionals),
            "analysis.professional_productivity_daily": len(active),
        },
        lead_fees=Decimal(sum(row.cents for row in proposals)) / 100,
        active_professionals=active,
        services=len(services),
        professionals=len(professionals),
        content={
            "analysis.service_revenue_daily": {
                (service, day, *made(row for row in proposals if (row.service, row.at.date()) == (service, day)))
                for service, day in {(row.service, row.at.date()) for row in proposals}
            },
            "analysis.professional_funnel": {
                funnel([row for row in valid if row.professional == professional]) for professional in professionals
            },
            "analysis.professional_productivity_daily": {
                (day, count, *totals, *(round(total / count, 6) if count else None for total in totals))
                for day, count in active.items()
                for totals in [made(row for row in proposals if row.at.date() == day)]
            },
        },
    )


def made(proposals: Iterable[Row]) -> tuple[Decimal, Decimal]:
    """Return how many PROPOSALS there are and what their fees add up to."""
    cents = [row.cents for row in proposals]
    return Decimal(len(cents)), Decimal(sum(cents)) / 100


def funnel(rows: list[Row]) -> tuple[object, ...]:
    """Return the funnel's row of the one professional who has ROWS."""
    firsts = []
    for stage in ("created_account", ABLE, "proposed"):
        moments = sorted(row.at.replace(tzinfo=None) for row in rows if row.type == stage)
        firsts.append(moments[0] if moments else None)
    days = [
        (end.toordinal() - start.toordinal()) if start and end else None
        for start, end in ((firsts[0], firsts[1]), (firsts[1], firsts[2]), (firsts[0], firsts[2]))
    ]
    week = firsts[0].isocalendar() if firsts[0] else None
    return rows[0].professional, week.year * 100 + week.week if week else None, *firsts, *days


def by_brute_force(valid: list[Row]) -> dict[date, int]:
    """Return the active professionals of each day as the definition says it: look everybody up, every day anew."""
    active: dict[date, int] = {}
    if not valid:
        return active
    day = min(row.at for row in valid).date()
    while day <= max(row.at for row in valid).date():
        active[day] = 0
        for professional in {row.professional for row in valid}:
            past = [
                (row.at, row.id, row.type)
                for row in valid
                if row.professional == professional and row.type in (ABLE, UNABLE) and row.at.date() <= day
            ]
            if past and max(past)[2] == ABLE:
                active[day] += 1
        day += timedelta(days=1)
    return active


@pytest.mark.parametrize("reason", REJECTED)
def test_rejected_rows(tmp_path: Path, reason: str) -> None:
    """Each bad row is counted under its reason, and the rows around it are read."""
    good = b"%d;created_account;1;2020-01-01 00:00:00;"
    lines = REJECTED[reason]
    spelt = [line.replace(b"{}", b"999") for line in lines]
    expected = compute(write(tmp_path / "events", good % 1, *spelt, good % 2))
    assert expected.rejected_by_reason == {reason: len(lines)}
    assert (expected.read, expected.rejected, expected.rows["raw.events"]) == (len(lines) + 2, len(lines), 2)


@pytest.mark.parametrize(
    ("first", "second"),
    [(b"1", b"1"), (b"1", b"001"), (b"-0", b"0"), (b"-5", b"-05"), (b"9223372036854775807", b"09223372036854775807")],
)
def test_duplicates(tmp_path: Path, first: bytes, second: bytes) -> None:
    """An id is taken by the first valid row that has it, however it is written; rows rejected before do not take it."""
    row = b"%s;created_account;1;2020-01-01 00:00:00;"
    expected = compute(write(tmp_path / "events", row % first + b"x", row % first, row % second))
    assert expected.rejected_by_reason == {"duplicate_event_id": 1, "metadata_unexpected": 1}
    assert expected.rows["raw.events"] == 1


@pytest.mark.parametrize("metadata", [b"1_a_b_+1", b'"01_a""; b_c_1.000000"', b"-1_\xc3\xab_ _1.0"])
def test_accepted_metadata(tmp_path: Path, metadata: bytes) -> None:
    """Unusual metadata that the format allows."""
    expected = compute(write(tmp_path / "events", b"1;proposed;1;2020-01-01 00:00:00;" + metadata))
    assert (expected.rejected, expected.lead_fees, expected.services) == (0, Decimal(1), 1)


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        (b"2020-02-29T00:00:00.5+00:01", date(2020, 2, 28)),
        (b"2019-12-31 23:59:59.999999-00:01", date(2020, 1, 1)),
        (b"2019-12-31 23:59:59.999999Z", date(2019, 12, 31)),
        (b"2020-01-02 23:58:59+23:59", date(2020, 1, 1)),
    ],
)
def test_days_are_those_of_utc(tmp_path: Path, moment: bytes, day: date) -> None:
    """An offset moves an event to another day."""
    expected = compute(write(tmp_path / "events", b"1;%s;1;%s;" % (ABLE.encode(), moment)))
    assert expected.active_professionals == {day: 1}


def test_fees_are_exact(tmp_path: Path) -> None:
    """The largest and the smallest fee add up without loss."""
    row = b"%d;proposed;1;2020-01-01 00:00:00;1_a_b_%s"
    expected = compute(
        write(tmp_path / "events", row % (1, b"999999999999.999999"), row % (2, b"-0.000001"), row % (3, b"0.1"))
    )
    assert expected.lead_fees == Decimal("1000000000000.099998")


def test_line_limit(tmp_path: Path) -> None:
    """A line of a mebibyte is read, one byte more is too long, line ends and the BOM not counted."""
    start = b"1;proposed;1;2020-01-01 00:00:00;1_"
    longest = start + b"x" * (LONG - len(start) - 4) + b"_b_1"
    assert len(longest) == LONG
    assert compute(write(tmp_path / "events", longest + b"\r", b"")).rejected == 0
    assert compute(write(tmp_path / "events", longest)).rejected == 0
    assert compute(write(tmp_path / "events", longest + b"1", b"x" * 3 * LONG, b"")).rejected_by_reason == {
        "too_long": 2
    }


def test_no_rows(tmp_path: Path) -> None:
    """A file of only a header expects empty tables."""
    expected = compute(write(tmp_path / "events"))
    assert (expected.read, expected.active_professionals, set(expected.rows.values())) == (0, {}, {0})


@pytest.mark.parametrize(
    "content", [b"", b"event_id;event_type\n", b"1;created_account;1;2020-01-01 00:00:00;\n", b"\xff"]
)
def test_wrong_header(tmp_path: Path, content: bytes) -> None:
    """A file without the header is refused."""
    (tmp_path / "events").write_bytes(content)
    with pytest.raises(ValueError, match="does not start with the header event_id;event_type;"):
        compute(str(tmp_path / "events"))


def test_quoted_header(tmp_path: Path) -> None:
    """Names in the header may be quoted, after a BOM too, and a URI does as well as a path."""
    header = b'\xef\xbb\xbf"event_id";event_type;"professional_id_anonymized";created_at;"meta_data"\r\n'
    (tmp_path / "events").write_bytes(header + b"1;created_account;1;2020-01-01 00:00:00;\r\n")
    assert compute((tmp_path / "events").as_uri()).rows["raw.events"] == 1


def test_compare_rows() -> None:
    """The check of a table's rows names one that is missing, odd or twice."""
    name, rows = "content of a.b", {(1, "x"), (2, "y"), (3, None)}
    assert compare_rows("a.b", rows, list(rows)) == Check(name, "3 rows", "3 rows", True)
    assert compare_rows("a.b", rows, [(1, "x"), (2, "z"), (3, None)]) == Check(
        name, "3 rows, 1 of them else: 2, y", "3 rows, 1 of them else: 2, z", False
    )
    assert compare_rows("a.b", rows, [*rows, (1, "x")]) == Check(name, "3 rows", "4 rows", False)


def test_compare_days() -> None:
    """The check of the days names the first that differ, be it a number, a day too few, one too many or one twice."""
    first = date(2020, 1, 1)
    days = {first + timedelta(days=number): number for number in range(5)}
    name = "active professionals per day"
    assert compare_days(days, list(days.items())) == Check(name, "5 days", "5 days", True)
    late = {day + timedelta(days=1): number + 1 for day, number in days.items()}
    assert compare_days(days, list(late.items())) == Check(
        name, "2020-01-01: 0, 2020-01-06: no row", "2020-01-01: no row, 2020-01-06: 5", False
    )
    wrong = dict.fromkeys(days, 9)
    assert compare_days(days, list(wrong.items())) == Check(
        name,
        "2020-01-01: 0, 2020-01-02: 1, 2020-01-03: 2 and 2 more",
        "2020-01-01: 9, 2020-01-02: 9, 2020-01-03: 9 and 2 more",
        False,
    )
    assert compare_days(days, [*days.items(), (first, 0)]) == Check(name, "5 days", "6 rows for 5 days", False)
