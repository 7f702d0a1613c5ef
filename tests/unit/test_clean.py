"""The pattern of clean lines takes only what the parser takes, and knows the day of it."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events.records import CLEAN, Event, parse

ACCOUNT = b"7;created_account;8;2020-01-31 00:00:00;"
PROPOSAL = b"7;proposed;8;2020-02-29T23:59:59.5Z;3_a b_c-d_-0.50"

pieces = st.sampled_from(
    [
        *(b"7", b"0", b"-1", b"007", b"-0", b"9" * 18, b"9" * 19, b";", b";;"),
        *(b'"', b"\\", b"\\N", b"\r", b"\n", b"\0", b" "),
        *(b"created_account", b"proposed", b"became_able_to_propose", b"became_unable_to_propose", b"Proposed"),
        *(b"2020-01-31 00:00:00", b"2020-02-29 12:00:00", b"2019-02-29 12:00:00", b"1900-02-29 12:00:00"),
        *(b"2000-02-29T00:00:00Z", b"2020-04-31 00:00:00", b"2020-01-31 24:00:00", b"0999-01-01 00:00:00"),
        *(b"2020-01-31 00:00:00.123456", b"2020-01-31 00:00:00+01:00", b"3_a_b_1", b"3__b_1", b"3_a_b_1.1234567"),
        *(b"_", b"3_\xc3\xa9_b_1", b"x" * 4001),
    ]
)
fields = st.lists(pieces, min_size=5, max_size=5).map(b";".join)
mutated = st.tuples(st.sampled_from([ACCOUNT, PROPOSAL]), st.integers(0, 60), st.integers(0, 3), pieces).map(
    lambda m: m[0][: m[1]] + m[3] + m[0][m[1] + m[2] :]
)


@given(st.one_of(fields, mutated, st.lists(pieces, max_size=9).map(b"".join)))
@example(ACCOUNT)
@example(PROPOSAL)
def test_a_clean_line_is_an_event_of_that_day(line: bytes) -> None:
    if b"\n" not in line and (run := CLEAN.match(line + b"\n")):
        event = parse(line)
        assert isinstance(event, Event)
        assert run.end() == len(line) + 1
        assert str(event.created_at.date()).encode() == run["day"]
        assert str(event.event_id).encode() == line.partition(b";")[0]


@pytest.mark.parametrize("line", [ACCOUNT, PROPOSAL])
def test_what_is_usual_is_clean(line: bytes) -> None:
    assert re.fullmatch(CLEAN, line + b"\n")


def test_a_run_ends_before_another_day_and_before_a_line_that_is_not_clean() -> None:
    other_day = ACCOUNT.replace(b"-31", b"-30")
    for stranger in (other_day, b"", b'"' + ACCOUNT, b"-0" + ACCOUNT[1:], ACCOUNT + b"\r"):
        run = CLEAN.match(b"\n".join([ACCOUNT, ACCOUNT, stranger, ACCOUNT, b""]))
        assert run
        assert run.end() == 2 * (len(ACCOUNT) + 1)
