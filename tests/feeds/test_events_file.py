"""Any file of valid and other rows is read as it should; tests/feeds/test_records.py has each rule by example."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.feeds.events_file import EVENT_TYPES, Event, read_events

HEADER = b"event_id;event_type;professional_id_anonymized;created_at;meta_data"
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


def read(path: Path, *lines: bytes) -> list[Event | str]:
    """Return what is read from PATH, where an events file of LINES is written first."""
    path.write_bytes(b"\n".join([HEADER, *lines]))
    return list(read_events(str(path)))


def spell(event: Event, style: int) -> bytes:
    """Write EVENT in one of the ways that the format allows: STYLE's bits choose."""
    offset, zone = [(0, ""), (0, "Z"), (120, "+02:00"), (-330, "-05:30")][style & 3]
    at = (event.created_at + timedelta(minutes=offset)).replace(tzinfo=None).isoformat(sep=" T"[style >> 2 & 1]) + zone
    fields = [str(event.event_id), event.event_type, str(event.professional_id), at, event.meta_data or ""]
    quoted = [style >> 3 + place & 1 or ";" in field for place, field in enumerate(fields)]
    return ";".join(f'"{field}"' if quote else field for field, quote in zip(fields, quoted, strict=True)).encode()


@st.composite
def events(draw: st.DrawFn) -> Event:
    event_type = draw(st.sampled_from(sorted(EVENT_TYPES)))
    at = datetime(2020, 2, 27, tzinfo=UTC) + timedelta(draw(st.integers(0, 9)), draw(st.integers(0, 86_399)))
    meta_data = f"{draw(st.integers(-1, 3))}_naam; met_name_{draw(st.integers(0, 1_000)) / 100:.2f}"
    proposed = event_type == "proposed"
    return Event(draw(st.integers(-9, 200)), event_type, draw(st.integers(1, 4)), at, meta_data if proposed else None)


others = st.one_of(
    st.sampled_from([(reason, line) for reason, lines in REJECTED.items() for line in lines if len(line) < LONG]),
    st.sampled_from([("", b""), ("", b" \t"), ("duplicate_event_id", b"")]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    valid=st.lists(events(), max_size=40, unique_by=lambda event: event.event_id),
    styles=st.lists(st.integers(0, 255), min_size=40, max_size=40),
    extras=st.lists(st.tuples(st.integers(0, 39), others), max_size=10),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=7, max_size=7),
    bom=st.booleans(),
    last_end=st.booleans(),
    zipped=st.booleans(),
)
def test_any_file(
    *,
    tmp_path: Path,
    valid: list[Event],
    styles: list[int],
    extras: list[tuple[int, tuple[str, bytes]]],
    ends: list[bytes],
    bom: bool,
    last_end: bool,
    zipped: bool,
) -> None:
    """Whatever the events' order and spelling and the rows between them, each row is read or rejected as it should."""
    lines: list[bytes] = [HEADER]
    wanted: list[Event | str] = []
    for place in range(40):
        for reason, line in [extra for where, extra in extras if where == place]:
            if reason == "duplicate_event_id":
                if not valid[:place]:
                    continue
                lines.append(spell(valid[0], styles[place]))
            else:
                lines.append(line.replace(b"{}", b"999"))
            wanted += [reason] if reason else []
        lines += [spell(event, styles[place]) for event in valid[place : place + 1]]
        wanted += valid[place : place + 1]
    content = b"".join(line + ends[number % 7] for number, line in enumerate(lines))
    content = (b"\xef\xbb\xbf" if bom else b"") + (content if last_end else content.rstrip(b"\r\n"))
    path = tmp_path / "events"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert list(read_events(str(path))) == wanted


@pytest.mark.parametrize(
    ("first", "second"),
    [(b"1", b"1"), (b"1", b"001"), (b"-0", b"0"), (b"-5", b"-05"), (b"9223372036854775807", b"09223372036854775807")],
)
def test_duplicates(tmp_path: Path, first: bytes, second: bytes) -> None:
    """The first valid row with an id takes it, however it is written; a rejected row does not."""
    row = b"%s;created_account;1;2020-01-01 00:00:00;"
    rejected, event, duplicate = read(tmp_path / "events", row % first + b"x", row % first, row % second)
    assert (rejected, event[0], duplicate) == ("metadata_unexpected", int(first), "duplicate_event_id")


def test_line_limit(tmp_path: Path) -> None:
    """A line of a mebibyte is read, one byte more is too long, line ends and the BOM not counted."""
    start = b"1;proposed;1;2020-01-01 00:00:00;1_"
    longest = start + b"x" * (LONG - len(start) - 4) + b"_b_1"
    assert len(longest) == LONG
    assert read(tmp_path / "events", longest + b"\r", b"")[0][0] == 1
    assert read(tmp_path / "events", longest)[0][0] == 1
    assert read(tmp_path / "events", longest + b"1", b"x" * 3 * LONG, b"") == ["too_long", "too_long"]


@pytest.mark.parametrize(
    "content", [b"", b"event_id;event_type\n", b"1;created_account;1;2020-01-01 00:00:00;\n", b"\xff"]
)
def test_wrong_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events").write_bytes(content)
    with pytest.raises(ValueError, match="does not start with the header event_id;event_type;"):
        list(read_events(str(tmp_path / "events")))


def test_quoted_header(tmp_path: Path) -> None:
    """Names in the header may be quoted, after a BOM too, and a URI does as well as a path."""
    header = b'\xef\xbb\xbf"event_id";event_type;"professional_id_anonymized";created_at;"meta_data"\r\n'
    (tmp_path / "events").write_bytes(header + b"1;created_account;1;2020-01-01 00:00:00;\r\n")
    assert len(list(read_events((tmp_path / "events").as_uri()))) == 1
