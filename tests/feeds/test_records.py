"""A line becomes exactly this event, or is rejected for exactly this reason."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feeds.records import COLUMNS, EVENT_TYPES, MAX_LINE_BYTES, Event, Reject, is_header, parse, raw_text
from harness.pipeline import events_file
from tests.feeds.test_any_file import lines
from tests.harness.pipeline.test_events_file import REJECTED

MIDNIGHT = datetime(2020, 1, 31, tzinfo=UTC)
ACCOUNT = Event(7, "created_account", 8, MIDNIGHT, None)
PROPOSAL = Event(7, "proposed", 8, MIDNIGHT, "3_Tuin aanleg_Gardening_12.50")
LONG = "-3_é_ü_-999999999999.999999"


def at(**changes: int) -> Event:
    return ACCOUNT._replace(created_at=MIDNIGHT.replace(**changes))  # type: ignore[arg-type]


def by_the_harness(line: bytes) -> tuple[object, ...]:
    """Return LINE as the harness's reader reads it, which shares no code with `parse`."""
    try:
        return events_file.parse(None if len(line) > MAX_LINE_BYTES else line)
    except events_file.UnreadableError as error:
        return (str(error),)


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
        ("7;created_account;8;2020-01-31 00:00:00.5;", at(microsecond=500_000)),
        ("7;created_account;8;2020-01-31 00:00:00.000001Z;", at(microsecond=1)),
        ("7;created_account;8;2020-02-29 23:59:59;", at(month=2, day=29, hour=23, minute=59, second=59)),
        ("7;created_account;8;2020-01-31T00:00:00.5+00:01;", at(day=30, hour=23, minute=59, microsecond=500_000)),
        ("7;created_account;8;2020-01-31 23:58:59+23:58;", at(second=59)),
        # quotes
        ('"7";"created_account";"8";"2020-01-31 00:00:00";""', ACCOUNT),
        ('7;proposed;8;2020-01-31 00:00:00;"3_a;b_""c""_1"', PROPOSAL._replace(meta_data='3_a;b_"c"_1')),
        # metadata
        (f"7;proposed;8;2020-01-31 00:00:00;{LONG}", PROPOSAL._replace(meta_data=LONG)),
        ("7;proposed;8;2020-01-31 00:00:00;3_ _ _+1", PROPOSAL._replace(meta_data="3_ _ _+1")),
        ("7;proposed;8;2020-01-31 00:00:00;03_a_b_1.000000", PROPOSAL._replace(meta_data="03_a_b_1.000000")),
    ],
)
def test_a_valid_line_is_this_event(line: str, event: Event) -> None:
    assert parse(line.encode()) == by_the_harness(line.encode()) == event


@pytest.mark.parametrize("reason", REJECTED)
def test_an_invalid_line_is_rejected_for_this_reason(reason: str) -> None:
    for line in (line.replace(b"{}", b"999") for line in REJECTED[reason]):
        assert parse(line) == by_the_harness(line) == (reason,), line


FLAWS = {  # more of them, split at |
    "event_id": f"+7|0x7|{2**63}|{'1' * 5000}",
    "event_type": "|proposed |deleted_account",
    "professional_id": f"8 |{2**63}",
    "created_at": "now|31-01-2020 00:00:00|10000-01-01 00:00:00|2020-01-31 00:60:00|2020-01-31 00:00:00,5"
    "|202\N{FULLWIDTH DIGIT ZERO}-01-31 00:00:00",
    "metadata": "3|3_a_b_1_| ",
    "lead_fee": "3_a_b_€1|3_a_b_ 1",
    "quoting": '"3_a_b_1|"3_a"_b_1|3_12" pijp_12" pipe_1',
    "field_count": '3_a_b_1;"c"',
}


@pytest.mark.parametrize(("reason", "value"), [(why, value) for why in FLAWS for value in FLAWS[why].split("|")])
def test_an_invalid_field_is_rejected_for_this_reason(reason: str, value: str) -> None:
    row = dict(zip(COLUMNS, ("7", "proposed", "8", "2020-01-31 00:00:00", "3_a_b_1"), strict=True))
    column = {"professional_id": "professional_id_anonymized"}.get(reason, reason)
    row[column if column in row else "meta_data"] = value
    assert parse(";".join(row.values()).encode()) == Reject(reason)


@pytest.mark.parametrize("quoted", [False, True])
def test_a_line_may_have_one_mebibyte(quoted: bool) -> None:
    start, end = '7;proposed;8;2020-01-31 00:00:00;"3_'.replace('"', '"' * quoted), "_b_1" + '"' * quoted
    name = "x" * (MAX_LINE_BYTES - len(start) - len(end))
    assert isinstance(parse(f"{start}{name}{end}".encode()), Event)
    assert parse(f"{start}{name}x{end}".encode()) == Reject("too_long")


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES - {"proposed"}))
@pytest.mark.parametrize("meta_data", ["3_a_b_1", " ", "null"])
def test_only_proposals_have_metadata(event_type: str, meta_data: str) -> None:
    assert parse(f"7;{event_type};8;2020-01-31 00:00:00;{meta_data}".encode()) == Reject("metadata_unexpected")


def test_the_reason_is_the_first_in_the_documented_order() -> None:
    """Of a row that has all flaws, while they are fixed one by one."""
    row = [b"x", b"x", b"x", b"x", b'"\xff\0"x', b""]
    seen = [parse(b";".join(row))]
    for column, value in [
        *((4, b'"\0"x'), (4, b'""x'), (4, b"")),
        *((5, None), (0, b"7"), (1, b"proposed"), (2, b"8"), (3, b"2020-01-31 00:00:00")),
        *((4, b"x_x"), (4, b"x_a_b_x"), (4, b"3_a_b_x")),
    ]:
        row[column : column + 1] = [] if value is None else [value]
        seen.append(parse(b";".join(row)))
    reasons = "not_utf8 nul_byte quoting field_count event_id event_type professional_id created_at metadata_missing"
    assert seen == [Reject(reason) for reason in f"{reasons} metadata service_id lead_fee".split()]


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


@given(st.one_of(lines(), st.lists(st.one_of(fragments, st.binary(max_size=3)), max_size=20).map(b"".join)))
@example(b"\x80" * (MAX_LINE_BYTES + 1))
def test_any_line_is_read_as_by_the_harness_and_can_be_stored(line: bytes) -> None:
    assert parse(line) == by_the_harness(line)
    assert "\0" not in raw_text(line)
    raw_text(line).encode()


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("é;\t".encode(), "é;\t"),
        (b"a\0b\xffc", "a\\x00b\\xffc"),
        (b"x" * (MAX_LINE_BYTES + 1), "x" * 1000 + "…"),
    ],
)
def test_the_text_of_a_rejected_line(line: bytes, kept: str) -> None:
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
def test_a_header_has_these_columns(line: bytes, expected: bool) -> None:
    assert is_header(line) is expected
