"""A line becomes exactly this event, or is rejected for exactly this reason."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events.records import COLUMNS, EVENT_TYPES, MAX_LINE_BYTES, Event, Reject, is_header, parse, raw_text

MIDNIGHT = datetime(2020, 1, 31, tzinfo=UTC)
ACCOUNT = Event(7, "created_account", 8, MIDNIGHT, None)
PROPOSAL = Event(7, "proposed", 8, MIDNIGHT, "3_Tuin aanleg_Gardening_12.50")


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("7;created_account;8;2020-01-31 00:00:00;", ACCOUNT),
        ("7;proposed;8;2020-01-31 00:00:00;3_Tuin aanleg_Gardening_12.50", PROPOSAL),
        # ids
        ("007;created_account;-0;2020-01-31 00:00:00;", ACCOUNT._replace(professional_id_anonymized=0)),
        (f"{'0' * 5000}7;created_account;8;2020-01-31 00:00:00;", ACCOUNT),
        (f"{-(2**63)};created_account;8;2020-01-31 00:00:00;", ACCOUNT._replace(event_id=-(2**63))),
        (f"{2**63 - 1};created_account;8;2020-01-31 00:00:00;", ACCOUNT._replace(event_id=2**63 - 1)),
        # times
        ("7;created_account;8;2020-01-31T00:00:00Z;", ACCOUNT),
        ("7;created_account;8;2020-01-31 05:30:00+05:30;", ACCOUNT),
        ("7;created_account;8;2020-01-30 14:00:00-10:00;", ACCOUNT),
        (
            "7;created_account;8;2020-01-31 00:00:00.5;",
            ACCOUNT._replace(created_at=MIDNIGHT.replace(microsecond=500_000)),
        ),
        (
            "7;created_account;8;2020-01-31 00:00:00.000001Z;",
            ACCOUNT._replace(created_at=MIDNIGHT.replace(microsecond=1)),
        ),
        (
            "7;created_account;8;2020-02-29 23:59:59;",
            ACCOUNT._replace(created_at=datetime(2020, 2, 29, 23, 59, 59, tzinfo=UTC)),
        ),
        # quotes
        ('"7";"created_account";"8";"2020-01-31 00:00:00";""', ACCOUNT),
        ('7;proposed;8;2020-01-31 00:00:00;"3_a;b_""c""_1"', PROPOSAL._replace(meta_data='3_a;b_"c"_1')),
        # metadata
        (
            "7;proposed;8;2020-01-31 00:00:00;-3_é_ü_-999999999999.999999",
            PROPOSAL._replace(meta_data="-3_é_ü_-999999999999.999999"),
        ),
        ("7;proposed;8;2020-01-31 00:00:00;3_ _ _+1", PROPOSAL._replace(meta_data="3_ _ _+1")),
    ],
)
def test_valid_row(line: str, event: Event) -> None:
    assert parse(line.encode()) == event


@pytest.mark.parametrize("quoted", [False, True])
def test_a_line_may_have_one_mebibyte(quoted: bool) -> None:
    start, end = '7;proposed;8;2020-01-31 00:00:00;"3_'.replace('"', '"' * quoted), "_b_1" + '"' * quoted
    name = "x" * (MAX_LINE_BYTES - len(start) - len(end))
    assert isinstance(parse(f"{start}{name}{end}".encode()), Event)
    assert parse(f"{start}{name}x{end}".encode()) == Reject("too_long")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff" * (MAX_LINE_BYTES + 1), "too_long"),
        (b"7;created_account;8;2020-01-31 00:00:00;\xff", "not_utf8"),
        (b"\xed\xa0\x80;created_account;8;2020-01-31 00:00:00;", "not_utf8"),  # half a surrogate pair
        (b"7;created_account;8;2020-01-31 00:00:00;\0", "nul_byte"),
        (b'7;proposed;8;2020-01-31 00:00:00;"3_a_b_1', "quoting"),
        (b'7;proposed;8;2020-01-31 00:00:00;"3_a"_b_1', "quoting"),
        (b'7;proposed;8;2020-01-31 00:00:00;3_12" pijp_12" pipe_1', "quoting"),
        (b'7;proposed;8; "2020-01-31 00:00:00";3_a_b_1', "quoting"),
        (b"7;created_account;8;2020-01-31 00:00:00", "field_count"),
        (b"7;created_account;8;2020-01-31 00:00:00;;", "field_count"),
        (b"x", "field_count"),
        (b'7;proposed;8;2020-01-31 00:00:00;3_a_b_1;"c"', "field_count"),
    ],
)
def test_rejected_line(line: bytes, reason: str) -> None:
    assert parse(line) == Reject(reason)


FLAWS = {
    "event_id": [
        "",
        " 7",
        "+7",
        "7.0",
        "0x7",
        "\N{ARABIC-INDIC DIGIT SEVEN}",
        "-",
        str(2**63),
        "-9223372036854775809",
        "1" * 5000,
    ],
    "event_type": ["", "Proposed", "proposed ", "deleted_account"],
    "professional_id": ["", "8 ", "1e3", str(2**63)],
    "created_at": [
        *(
            "",
            "now",
            "2020-01-31",
            "2020-01-31 00:00",
            "31-01-2020 00:00:00",
            "2020-01-31  00:00:00",
            "2020-01-31t00:00:00",
        ),
        *(
            "2020-02-30 00:00:00",
            "2019-02-29 00:00:00",
            "2020-13-01 00:00:00",
            "0000-01-01 00:00:00",
            "10000-01-01 00:00:00",
        ),
        *("2020-01-31 24:00:00", "2020-01-31 00:60:00", "2020-01-31 23:59:60", "2020-01-31 00:00:00."),
        *("2020-01-31 00:00:00.0000001", "2020-01-31 00:00:00,5", "2020-01-31 00:00:00z", "2020-01-31 00:00:00+01"),
        *(
            "2020-01-31 00:00:00+0100",
            "2020-01-31 00:00:00+24:00",
            "2020-01-31 00:00:00+01:60",
            "2020-01-31 00:00:00 Z",
        ),
        *("0001-01-01 00:00:00+00:01", "9999-12-31 23:59:59-00:01", "202\N{FULLWIDTH DIGIT ZERO}-01-31 00:00:00"),
    ],
    "metadata_missing": [""],
    "metadata": ["3", "3_a_b", "3_a_b_1_", "3__b_1", "3_a__1", " "],
    "service_id": ["_a_b_1", "x_a_b_1", f"{2**63}_a_b_1"],
    "lead_fee": [
        f"3_a_b_{fee}" for fee in ("", "1.", ".5", "1,5", "1e3", "€1", " 1", "1234567890123", "1.1234567", "NaN")
    ],
}


@pytest.mark.parametrize(("reason", "value"), [(reason, value) for reason, values in FLAWS.items() for value in values])
def test_rejected_field(reason: str, value: str) -> None:
    row = dict(zip(COLUMNS, ("7", "proposed", "8", "2020-01-31 00:00:00", "3_a_b_1"), strict=True))
    assert isinstance(parse(";".join(row.values()).encode()), Event)
    column = {"professional_id": "professional_id_anonymized"}.get(reason, reason)
    row[column if column in row else "meta_data"] = value
    assert parse(";".join(row.values()).encode()) == Reject(reason)


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES - {"proposed"}))
@pytest.mark.parametrize("meta_data", ["3_a_b_1", " ", "null"])
def test_metadata_is_for_proposals_only(event_type: str, meta_data: str) -> None:
    assert parse(f"7;{event_type};8;2020-01-31 00:00:00;{meta_data}".encode()) == Reject("metadata_unexpected")


def test_the_first_flaw_in_the_documented_order_is_the_reason() -> None:
    """Mend the flaws of a row that has all of them, one after the other."""
    row = [b"x", b"x", b"x", b"x", b'"\xff\0"x', b""]
    seen = []

    def look() -> None:
        rejected = parse(b";".join(row))
        assert isinstance(rejected, Reject)
        seen.append(rejected.reason)

    look()
    for column, value in [
        *((4, b'"\0"x'), (4, b'""x'), (4, b"")),
        *((5, None), (0, b"7"), (1, b"proposed"), (2, b"8"), (3, b"2020-01-31 00:00:00")),
        *((4, b"x_x"), (4, b"x_a_b_x"), (4, b"3_a_b_x")),
    ]:
        if value is None:
            del row[column]
        else:
            row[column] = value
        look()
    assert seen == [
        *("not_utf8", "nul_byte", "quoting", "field_count", "event_id", "event_type", "professional_id", "created_at"),
        *("metadata_missing", "metadata", "service_id", "lead_fee"),
    ]


names = st.text(st.characters(exclude_characters="_\n\r\0", exclude_categories=["Cs"]), min_size=1)
bigints = st.integers(-(2**63), 2**63 - 1)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(
    event_id=bigints,
    professional_id=bigints,
    moment=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=offsets),  # noqa: DTZ001
    separator=st.sampled_from(" T"),
    meta_data=st.tuples(bigints.map(str), names, names, st.decimals(-999, 999, places=2).map(str)).map("_".join),
    quoted=st.tuples(*[st.booleans()] * 5),
)
def test_any_event_is_read_back(
    *, event_id: int, professional_id: int, moment: datetime, separator: str, meta_data: str, quoted: tuple[bool, ...]
) -> None:
    fields = [str(event_id), "proposed", str(professional_id), moment.isoformat(separator), meta_data]
    doubled = [
        '"' + field.replace('"', '""') + '"' if quote or set(field) & {'"', ";"} else field
        for field, quote in zip(fields, quoted, strict=True)
    ]
    assert parse(";".join(doubled).encode()) == (event_id, "proposed", professional_id, moment, meta_data)


fragments = st.sampled_from([b"7", b";", b'"', b"\0", b"\xff", b"_", b"proposed", b"2020-01-31 00:00:00", b"\r", b" "])


@given(st.lists(st.one_of(fragments, st.binary(max_size=3)), max_size=20).map(b"".join))
@example(b"\x80" * (MAX_LINE_BYTES + 1))
def test_any_bytes_are_an_event_or_a_reject_that_can_be_kept(line: bytes) -> None:
    assert isinstance(parse(line), Event | Reject)
    kept = raw_text(line)
    assert "\0" not in kept
    kept.encode()


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("é;\t".encode(), "é;\t"),
        (b"a\0b\xffc", "a\\x00b\\xffc"),
        (b"x" * (MAX_LINE_BYTES + 1), "x" * 1000 + "…"),
    ],
)
def test_raw_text(line: bytes, kept: str) -> None:
    assert raw_text(line) == kept


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"event_id;event_type;professional_id_anonymized;created_at;meta_data", True),
        (b'"event_id";event_type;"professional_id_anonymized";created_at;"meta_data"', True),
        (b"event_id,event_type,professional_id_anonymized,created_at,meta_data", False),
        (b"event_id;event_type;professional_id_anonymized;created_at", False),
        (b"event_id;event_type;professional_id_anonymized;created_at;meta_data;", False),
        (b"event_id;event_type;professional_id;created_at;meta_data", False),
        (b"event_type;event_id;professional_id_anonymized;created_at;meta_data", False),
        (b"EVENT_ID;event_type;professional_id_anonymized;created_at;meta_data", False),
        (b'"event_id;event_type;professional_id_anonymized;created_at;meta_data', False),
        (b"\xff\xfee\0v\0", False),
    ],
)
def test_header(line: Any, expected: bool) -> None:
    assert is_header(line) is expected
