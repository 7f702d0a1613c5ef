"""A line of an events file becomes exactly this event, or is rejected for exactly this reason."""

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from itertools import groupby
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feeds.lines import MAX_LINE_BYTES, Dialect, Lines, Reject, raw_text
from harness.oracle.csv_rows import csv_row, fields
from harness.oracle.row_values import RejectedError
from harness.project.paths import SAMPLE
from tests.events_feed import COLUMNS, EVENTS

LINES = Lines(EVENTS, EVENTS.columns, Dialect(";", '"', ""))
MIDNIGHT = datetime(2020, 1, 31, tzinfo=UTC)
ACCOUNT = (7, "created_account", 8, MIDNIGHT, None)
PROPOSAL = (7, "proposed", 8, MIDNIGHT, "3_Tuin aanleg_Gardening_12.50")
NAMED = "-3_é_ü_-999999999999.999999"

Result = tuple[Any, ...]


def parse(line: bytes) -> Result:
    """Return the event in LINE, or the reason and the column for which it is rejected."""
    row = LINES.parse(line)
    if isinstance(row, Reject):
        return tuple(row)
    event_id, event_type, professional_id, created_at, meta_data = row.values
    assert row.moment == datetime.fromisoformat(str(created_at))
    return int(str(event_id)), event_type, int(str(professional_id)), row.moment, meta_data


def by_the_harness(line: bytes) -> Result:
    """Return LINE as the harness's reader reads it, which shares no code with `Lines`."""
    try:
        return tuple(csv_row(EVENTS, [column.header for column in EVENTS.columns], line).values())
    except RejectedError as error:
        return error.args


def at(**changes: int) -> Result:
    return (*ACCOUNT[:3], MIDNIGHT.replace(**changes), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("7;created_account;8;2020-01-31 00:00:00;", ACCOUNT),
        ("7;proposed;8;2020-01-31 00:00:00;3_Tuin aanleg_Gardening_12.50", PROPOSAL),
        # ids
        ("007;created_account;-0;2020-01-31 00:00:00;", (7, "created_account", 0, MIDNIGHT, None)),
        (f"{'0' * 5000}7;created_account;8;2020-01-31 00:00:00;", ACCOUNT),
        (f"{-(2**63)};created_account;8;2020-01-31 00:00:00;", (-(2**63), *ACCOUNT[1:])),
        (f"{2**63 - 1};created_account;8;2020-01-31 00:00:00;", (2**63 - 1, *ACCOUNT[1:])),
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
        ('7;proposed;8;2020-01-31 00:00:00;"3_a;b_""c""_1"', (*PROPOSAL[:4], '3_a;b_"c"_1')),
        # metadata
        (f"7;proposed;8;2020-01-31 00:00:00;{NAMED}", (*PROPOSAL[:4], NAMED)),
        ("7;proposed;8;2020-01-31 00:00:00;3_ _ _+1", (*PROPOSAL[:4], "3_ _ _+1")),
        ("7;proposed;8;2020-01-31 00:00:00;03_a_b_1.000000", (*PROPOSAL[:4], "03_a_b_1.000000")),
        *(
            (f"7;proposed;8;2020-01-31 00:00:00;{service}_a_b_1", (*PROPOSAL[:4], f"{service}_a_b_1"))
            for service in (2**63 - 1, -(2**63), "0" * 30 + "5", "-0", "1234567890123456789")
        ),
    ],
)
def test_a_valid_line_is_this_event(line: str, event: Result) -> None:
    assert parse(line.encode()) == by_the_harness(line.encode()) == event


# For each reason and column lines that are rejected for it; {} is an id that no valid row has.
TIMES = [
    "2020-01-01",
    "2020-02-30 00:00:00",
    "2019-02-29 00:00:00",
    "2020-13-01 00:00:00",
    "0000-01-01 00:00:00",
    "2020-01-01 24:00:00",
    "2020-01-01 23:59:60",
    "2020-01-01  00:00:00",
    "2020-01-01t00:00:00",
    "2020-01-01 00:00:00.",
    "2020-01-01 00:00:00.1234567",
    "2020-01-01 00:00:00z",
    "2020-01-01 00:00:00 Z",
    "2020-01-01 00:00:00+01",
    "2020-01-01 00:00:00+0100",
    "2020-01-01 00:00:00+24:00",
    "2020-01-01 00:00:00+01:60",
    "0001-01-01 00:00:00+00:01",
    "9999-12-31 23:59:59-00:01",
    "now",
    "31-01-2020 00:00:00",
    "10000-01-01 00:00:00",
    "2020-01-31 00:60:00",
    "2020-01-31 00:00:00,5",
    "202\uff10-01-31 00:00:00",
]
PROPOSED = b"{};proposed;1;2020-01-01 00:00:00;"
REJECTED: dict[str, list[bytes]] = {
    "too_long": [PROPOSED + b"x" * MAX_LINE_BYTES, b"\xff\0" * MAX_LINE_BYTES],
    "encoding": [PROPOSED + b"1_\xff_b_1", b"\xc0\x80\0", b"\xed\xa0\x80"],
    "nul_byte": [PROPOSED + b"1_\0_b_1", b"\0"],
    "quoting": [
        *(b'{};"created_account;1;2020-01-01 00:00:00;', b'{};"proposed"x;1;', b'{};created"_"account;1;;', b'"'),
        *(PROPOSED + end for end in (b'"3_a_b_1', b'"3_a"_b_1', b'3_12" pijp_12" pipe_1')),
    ],
    "field_count": [
        *(b"{};created_account;1;2020-01-01 00:00:00", b"{};created_account;1;2020-01-01 00:00:00;;", b"x"),
        PROPOSED + b'3_a_b_1;"c"',
    ],
    "event_id: required": [b";created_account;1;2020-01-01 00:00:00;", b'"";created_account;1;2020-01-01 00:00:00;'],
    "event_id: type": [
        f"{text};created_account;1;2020-01-01 00:00:00;".encode()
        for text in (" 1", "+1", "1.0", "-", 2**63, -(2**63) - 1, "\u0661", "0x7", "1" * 5000, "1_0")
    ],
    "event_type: required": [b"{};;x;;"],
    "event_type: value": [b"{};%s;x;;" % text for text in (b"Proposed", b"proposed ", b"deleted_account")],
    "professional_id_anonymized: required": [b"{};created_account;;2020-01-01 00:00:00;"],
    "professional_id_anonymized: type": [f"{{}};proposed;{text};never;".encode() for text in ("1e3", "8 ", 2**63)],
    "created_at: required": [b"{};created_account;1;;x"],
    "created_at: type": [f"{{}};created_account;1;{text};".encode() for text in TIMES],
    "meta_data: pattern": [
        *(PROPOSED + text.encode() for text in ["x", "1_a_1", "1__b_1", "1_a__1", "1_a_b_c_1", "3", "3_a_b_1_", " "]),
        *(PROPOSED + text + b"_a_b_1" for text in (b"", b"x", b"1e3", b"+1", b"1.5")),
        *(
            PROPOSED + b"1_a_b_" + fee.encode()
            for fee in ["", ".5", "1.", "1,5", "1e3", "NaN", "--1", "1.0000000", "1234567890123", "1 "]
        ),
        *(b"{};became_able_to_propose;1;2020-01-01 00:00:00;" + text for text in (b" ", b"null")),
    ],
}
# By rules over the columns of a row, which PostgreSQL checks.
AGAINST_RULES = {
    "only_proposals_have_metadata": [
        *(PROPOSED, PROPOSED + b'""', b"{};created_account;1;2020-01-01 00:00:00;1_a_b_1"),
        b"{};became_unable_to_propose;1;2020-01-01 00:00:00;1_a_b_1",
    ],
    "service_id_is_a_bigint": [PROPOSED + f"{number}_a_b_1".encode() for number in (2**63, -(2**63) - 1, "9" * 30)],
}


@pytest.mark.parametrize("reason", REJECTED)
def test_an_invalid_line_is_rejected_for_this_reason(reason: str) -> None:
    column, _, kind = reason.rpartition(": ")
    for line in (line.replace(b"{}", b"999") for line in REJECTED[reason]):
        assert parse(line) == by_the_harness(line) == (kind, column or None), line[:1000]


@pytest.mark.parametrize("quoted", [False, True])
def test_a_line_may_have_one_mebibyte(quoted: bool) -> None:
    start, end = '7;proposed;8;2020-01-31 00:00:00;"3_'.replace('"', '"' * quoted), "_b_1" + '"' * quoted
    name = "x" * (MAX_LINE_BYTES - len(start) - len(end))
    assert parse(f"{start}{name}{end}".encode())[0] == 7
    assert parse(f"{start}{name}x{end}".encode()) == ("too_long", None)


def test_the_reason_is_the_first_in_the_documented_order() -> None:
    """Of a row that has all flaws, while they are fixed one by one."""
    row = [b"x", b"x", b"x", b"x", b'"\xff\0"x', b""]
    seen = [parse(b";".join(row))]
    for column, value in [
        *((4, b'"\0"x'), (4, b'""x'), (4, b"x")),
        *((5, None), (0, b""), (0, b"7"), (1, b"proposed"), (2, b"8"), (3, b"2020-01-31 00:00:00")),
    ]:
        row[column : column + 1] = [] if value is None else [value]
        seen.append(parse(b";".join(row)))
    assert seen == [
        *((reason, None) for reason in ("encoding", "nul_byte", "quoting", "field_count")),
        *(("type", "event_id"), ("required", "event_id"), ("value", "event_type")),
        *(("type", "professional_id_anonymized"), ("type", "created_at"), ("pattern", "meta_data")),
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


FRAGMENTS = [b"7", b";", b'"', b"\0", b"\xff", b"_", b"proposed", b"2020-01-31 00:00:00", b"\r", b" "]
every = [line.replace(b"{}", b"9") for lines in REJECTED.values() for line in lines if len(line) < MAX_LINE_BYTES]
mixed = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=3)), max_size=20).map(b"".join)
damaged = st.tuples(st.sampled_from(every), st.integers(0, 60), st.sampled_from(FRAGMENTS)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
)


@given(st.one_of(mixed, damaged))
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


# Clean lines, which go to PostgreSQL as they are.
CLEAN_ACCOUNT = b"7;created_account;8;2020-01-31 00:00:00;"
CLEAN_PROPOSAL = b"7;proposed;8;2020-02-29T23:59:59.5Z;3_a b_c_-0.50"
PIECES = (
    *(b"7", b"0", b"-1", b"007", b"-0", b"9" * 18, b"9" * 19, b"-" + b"9" * 18, b";", b";;"),
    *(b'"', b"\\", b"\\N", b"\r", b"\n", b"\0", b" "),
    *(b"created_account", b"proposed", b"became_able_to_propose", b"became_unable_to_propose", b"Proposed"),
    *(b"2020-01-31 00:00:00", b"2020-02-29 12:00:00", b"2019-02-29 12:00:00", b"1900-02-29 12:00:00"),
    *(b"2000-02-29T00:00:00Z", b"2020-04-31 00:00:00", b"2020-01-31 24:00:00", b"0999-01-01 00:00:00"),
    *(b"0400-02-29 00:00:00", b"2020-01-31 00:00:00.123456", b"2020-01-31 00:00:00+01:00"),
    *(b"2020-01-31 00:00:00.", b"2020-01-31 23:59:60"),
    *(b"3_a_b_1", b"3__b_1", b"3_a_b_1.1234567", b"3_a_b_1.", b"-3_a_b_+1.5", b"_", b"3_\xc3\xa9_b_1"),
    *(b"x" * 4000, b"9" * 12, b"9" * 13, b".123456", b".1234567"),
)
Run = tuple[int, bytes]  # its end, and the day


def is_clean(line: bytes) -> bool:
    """Return whether LINE may go to PostgreSQL as it is: valid, and read by COPY in the same way."""
    if len(parse(line)) != len(COLUMNS) or any(special in line for special in (b'"', b"\\", b"\r")):
        return False
    event_id, _, professional_id, moment, _ = line.split(b";")
    ids = event_id, professional_id
    return (
        all(number == b"%d" % int(number) and len(number.lstrip(b"-")) <= 18 for number in ids)
        and moment >= b"1000"
        and b"+" not in moment
        and moment.count(b"-") == 2
    )


def runs_by_pattern(text: bytes) -> Iterator[Run]:
    """Yield the runs of clean lines in TEXT as a load finds them."""
    position = 0
    while position < len(text):
        day = LINES.day(text, position)
        run = LINES.clean_of_day(day).match(text, position) if day else None
        if run and day:
            yield run.end(), day
        position = run.end() if run else text.index(b"\n", position) + 1


def runs_by_parser(text: bytes) -> Iterator[Run]:
    """Yield the runs of clean lines in TEXT, parsed line by line."""
    end = 0
    days = ((line, line.split(b";")[3][:10] if is_clean(line) else b"") for line in text.split(b"\n")[:-1])
    for day, lines in groupby(days, lambda pair: pair[1]):
        end += sum(len(line) + 1 for line, _ in lines)
        if day:
            yield end, day


def damaged_lines() -> bytes:
    """Return lines with each piece in each place."""
    inserted = [
        line[:at] + piece + line[at + removed :]
        for line in (CLEAN_ACCOUNT, CLEAN_PROPOSAL)
        for at in range(len(line) + 1)
        for removed in range(4)
        for piece in PIECES
    ]
    replaced = [
        b";".join([*line.split(b";")[:field], piece, *line.split(b";")[field + 1 :]])
        for line in (CLEAN_ACCOUNT, CLEAN_PROPOSAL)
        for field in range(5)
        for piece in PIECES
    ]
    return b"".join(line + b"\n" for line in inserted + replaced)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SAMPLE.read_bytes().partition(b"\n")[2], id="the sample"),
        pytest.param(damaged_lines(), id="damaged lines"),
    ],
)
def test_runs_end_where_the_parser_finds_another_day_or_a_line_that_is_not_clean(text: bytes) -> None:
    assert list(runs_by_pattern(text)) == list(runs_by_parser(text))


MANY = 1 << 17
START, WITH_ID = b"7;proposed;8;2020-01-31 00:00:00;", b"7;proposed;8;2020-01-31 00:00:00;3_"
HOSTILE = [
    *(byte * MANY for byte in (b"0", b"7", b"-", b";", b"_", b" ", b'"', b"\xff", b"\\")),
    *(START + byte * MANY for byte in (b"0", b"7", b"_", b'"', b"+")),
    *(WITH_ID + b"x" * MANY, WITH_ID + b"x_" * MANY, WITH_ID + b"x" * 4000 + b"_" + b"x" * MANY),
    *(WITH_ID + b"a_b_" + b"1" * MANY, WITH_ID + b"a_b_1." + b"1" * MANY),
    *(b"0" * MANY + b"x" + START, b"0" * MANY + b"1" * 20 + START, b"7;proposed;" + b"0" * MANY + b"x;;"),
    *(b'"' + b'""' * MANY, b'"' + b'x""' * MANY, b'"";' * MANY, b'"x";' * MANY + b'"', b'"' + b"x" * MANY),
    *(b";;;" + b"2020-01-31" * MANY, b"7" * MANY + b";;;2020-01-31"),
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: f"{line[:40]!r}-{len(line)}")
def test_no_line_takes_long(line: bytes) -> None:
    """If the time grew with the square of the length, these would take minutes."""
    started = time.process_time()
    block = CLEAN_ACCOUNT + b"\n" + line + b"\n"
    assert next(runs_by_pattern(block))[0] == len(CLEAN_ACCOUNT) + 1
    LINES.end_of_record(block, len(CLEAN_ACCOUNT) + 1)
    assert isinstance(LINES.parse(line), Reject)
    LINES.key_lines(line + b"\n")
    with suppress(RejectedError):
        fields(line.decode(errors="replace"), ";", '"')
    assert time.process_time() - started < 3


@pytest.mark.parametrize("lines", [b'"\n' * MANY, b'"x\n""\n' * MANY, b'"\n' + b"x\n" * MANY, b'";"\n"\n' * MANY])
def test_many_quotes_do_not_take_long(lines: bytes) -> None:
    started, position = time.process_time(), 0
    while position < len(lines):
        position = LINES.end_of_record(lines, position) + 1
    assert time.process_time() - started < 10
