"""The pattern of clean lines matches exactly the lines that it may, with their day, on each Python."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby, islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feeds.records import CLEAN, Event, is_header, parse
from feeds.staging import _AFTER_ID
from harness.pipeline.events_file import UnreadableError, split
from harness.project import pythons
from harness.project.paths import ROOT, SAMPLE

ACCOUNT = b"7;created_account;8;2020-01-31 00:00:00;"
PROPOSAL = b"7;proposed;8;2020-02-29T23:59:59.5Z;3_a b_c_-0.50"
PIECES = (
    *(b"7", b"0", b"-1", b"007", b"-0", b"9" * 18, b"9" * 19, b"-" + b"9" * 18, b";", b";;"),
    *(b'"', b"\\", b"\\N", b"\r", b"\n", b"\0", b" "),
    *(b"created_account", b"proposed", b"became_able_to_propose", b"became_unable_to_propose", b"Proposed"),
    *(b"2020-01-31 00:00:00", b"2020-02-29 12:00:00", b"2019-02-29 12:00:00", b"1900-02-29 12:00:00"),
    *(b"2000-02-29T00:00:00Z", b"2020-04-31 00:00:00", b"2020-01-31 24:00:00", b"0999-01-01 00:00:00"),
    *(b"0400-02-29 00:00:00", b"2020-01-31 00:00:00.123456", b"2020-01-31 00:00:00+01:00"),
    *(b"2020-01-31 00:00:00.", b"2020-01-31 23:59:60"),
    *(b"3_a_b_1", b"3__b_1", b"3_a_b_1.1234567", b"3_a_b_1.", b"-3_a_b_+1.5", b"_", b"3_\xc3\xa9_b_1"),
    *(b"x" * 4000, b"x" * 4001, b"9" * 12, b"9" * 13, b".123456", b".1234567"),
)
MAX_LINES = 1000

Run = tuple[int, bytes]  # its end, and the day


def is_clean(line: bytes) -> bool:
    """Return whether CLEAN may match LINE, by the parser and by what COPY reads in the same way."""
    if not isinstance(parse(line), Event) or any(special in line for special in (b'"', b"\\", b"\r")):
        return False
    event_id, _, professional_id, moment, meta_data = line.split(b";")
    ids = event_id, professional_id
    service_id, *names = meta_data.split(b"_")[:3]
    return (
        all(number == b"%d" % int(number) for number in ids)
        and all(len(number.lstrip(b"-")) <= 18 for number in (*ids, service_id))
        and moment >= b"1000"
        and b"+" not in moment
        and moment.count(b"-") == 2
        and all(len(name) <= 4000 for name in names)
    )


def runs_by_pattern(text: bytes) -> Iterator[Run]:
    """Yield the runs of clean lines in TEXT as a load finds them."""
    position = 0
    while position < len(text):
        if run := CLEAN.match(text, position):
            yield run.end(), run["day"]
        position = run.end() if run else text.index(b"\n", position) + 1


def runs_by_parser(text: bytes) -> Iterator[Run]:
    """Yield the runs of clean lines in TEXT, parsed line by line."""
    end = 0
    days = ((line, line.split(b";")[3][:10] if is_clean(line) else b"") for line in text.split(b"\n")[:-1])
    for day, lines in groupby(days, lambda pair: pair[1]):
        while part := list(islice(lines, MAX_LINES)):
            end += sum(len(line) + 1 for line, _ in part)
            if day:
                yield end, day


def damaged_lines() -> bytes:
    """Return lines with each piece in each place."""
    inserted = [
        line[:at] + piece + line[at + removed :]
        for line in (ACCOUNT, PROPOSAL)
        for at in range(len(line) + 1)
        for removed in range(4)
        for piece in PIECES
    ]
    replaced = [
        b";".join([*line.split(b";")[:field], piece, *line.split(b";")[field + 1 :]])
        for line in (ACCOUNT, PROPOSAL)
        for field in range(5)
        for piece in PIECES
    ]
    return b"".join(line + b"\n" for line in inserted + replaced)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SAMPLE.read_bytes().partition(b"\n")[2], id="the sample"),
        pytest.param(damaged_lines(), id="damaged lines"),
        pytest.param((ACCOUNT + b"\n") * (2 * MAX_LINES + 1) + PROPOSAL + b"\n", id="a run longer than one match"),
    ],
)
def test_runs_end_where_the_parser_finds_another_day_or_a_line_that_is_not_clean(text: bytes) -> None:
    assert list(runs_by_pattern(text)) == list(runs_by_parser(text))


pieces = st.sampled_from(PIECES)
fields = st.lists(pieces, min_size=5, max_size=5).map(b";".join)
mutated = st.tuples(st.sampled_from([ACCOUNT, PROPOSAL]), st.integers(0, 60), st.integers(0, 3), pieces).map(
    lambda m: m[0][: m[1]] + m[3] + m[0][m[1] + m[2] :]
)


@given(st.one_of(fields, mutated, st.lists(pieces, max_size=9).map(b"".join)))
@example(ACCOUNT)
@example(PROPOSAL)
def test_a_line_matches_if_it_is_clean_and_is_then_an_event_of_that_day(line: bytes) -> None:
    if b"\n" in line:
        return
    run = CLEAN.match(line + b"\n")
    assert bool(run) is is_clean(line)
    if run:
        event = parse(line)
        assert isinstance(event, Event)
        assert run.end() == len(line) + 1
        assert str(event.created_at.date()).encode() == run["day"]
        assert str(event.event_id).encode() == line.partition(b";")[0]


MANY = 1 << 17
START, NAMED = b"7;proposed;8;2020-01-31 00:00:00;", b"7;proposed;8;2020-01-31 00:00:00;3_"
HOSTILE = [
    *(byte * MANY for byte in (b"0", b"7", b"-", b";", b"_", b" ", b'"', b"\xff", b"\\")),
    *(START + byte * MANY for byte in (b"0", b"7", b"_", b'"', b"+")),
    *(NAMED + b"x" * MANY, NAMED + b"x_" * MANY, NAMED + b"x" * 4000 + b"_" + b"x" * MANY),
    *(NAMED + b"a_b_" + b"1" * MANY, NAMED + b"a_b_1." + b"1" * MANY),
    *(b"0" * MANY + b"x" + START, b"0" * MANY + b"1" * 20 + START, b"7;proposed;" + b"0" * MANY + b"x;;"),
    *(b'"' + b'""' * MANY, b'"' + b'x""' * MANY, b'"";' * MANY, b'"x";' * MANY + b'"', b'"' + b"x" * MANY),
    *(b";;;" + b"2020-01-31" * MANY, b"7" * MANY + b";;;2020-01-31"),
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: f"{line[:40]!r}-{len(line)}")
def test_no_line_takes_long(line: bytes) -> None:
    """If the time grew with the square of the length, these would take minutes."""
    started = time.process_time()
    assert not CLEAN.match(line + b"\n")
    assert CLEAN.match(ACCOUNT + b"\n" + line + b"\n")
    parse(line)
    is_header(line)
    _AFTER_ID.split(line + b"\n")
    with suppress(UnreadableError):
        split(line.decode(errors="replace"))
    assert time.process_time() - started < 3


CUT = """if True:
    import sys
    sys.path.append(sys.argv[1])
    from feeds.records import CLEAN
    text, position = sys.stdin.buffer.read(), 0
    while position < len(text):
        if run := CLEAN.match(text, position):
            print(run.end(), run["day"])
        position = run.end() if run else text.index(b"\\n", position) + 1
"""


def test_each_python_matches_the_same_runs() -> None:
    """`re` of Python 3.11.2, for one, matches some patterns differently (see tests/harness/test_patterns.py)."""
    lines = [ACCOUNT, PROPOSAL, *(PROPOSAL + end for end in (b"", b"1", b"12345", b".1", b";")), *HOSTILE, ACCOUNT]
    text = b"".join(line + b"\n" for line in lines)
    expected = "".join(f"{end} {day!r}\n" for end, day in runs_by_parser(text))
    for version, python in pythons.found().items():
        argv = [python, "-ISB", "-c", CUT, str(ROOT / "airflow" / "include")]
        done = subprocess.run(argv, input=text, capture_output=True, check=True, timeout=60)
        assert done.stdout.decode() == expected, version
