"""The pattern of clean lines takes just what it may, whatever Python runs it, and knows the day of it."""

import os
import re
import subprocess
import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events.records import CLEAN, Event, is_header, parse
from events.staging import _AFTER_ID
from harness.pipeline.events_file import UnreadableError, split
from harness.project import pythons
from harness.project.paths import ROOT, SAMPLE
from harness.project.settings import settings
from tests.events import clean_lines
from tests.events.clean_lines import ACCOUNT, PIECES, PROPOSAL, is_clean

pieces = st.sampled_from(PIECES)
fields = st.lists(pieces, min_size=5, max_size=5).map(b";".join)
mutated = st.tuples(st.sampled_from([ACCOUNT, PROPOSAL]), st.integers(0, 60), st.integers(0, 3), pieces).map(
    lambda m: m[0][: m[1]] + m[3] + m[0][m[1] + m[2] :]
)


@given(st.one_of(fields, mutated, st.lists(pieces, max_size=9).map(b"".join)))
@example(ACCOUNT)
@example(PROPOSAL)
def test_a_line_is_taken_if_it_is_clean_and_then_is_an_event_of_that_day(line: bytes) -> None:
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


@pytest.mark.parametrize("line", [ACCOUNT, PROPOSAL])
def test_what_is_usual_is_clean(line: bytes) -> None:
    assert re.fullmatch(CLEAN, line + b"\n")


def test_a_run_ends_before_another_day_and_before_a_line_that_is_not_clean() -> None:
    other_day = ACCOUNT.replace(b"-31", b"-30")
    for stranger in (other_day, b"", b'"' + ACCOUNT, b"-0" + ACCOUNT[1:], ACCOUNT + b"\r"):
        run = CLEAN.match(b"\n".join([ACCOUNT, ACCOUNT, stranger, ACCOUNT, b""]))
        assert run
        assert run.end() == 2 * (len(ACCOUNT) + 1)


VERSIONS = sorted({*pythons.found(), *(it for it in settings()["pythons"] if it.count(".") == 2)})


@pytest.mark.parametrize("version", [pytest.param(it, marks=pytest.mark.needs(f"python{it}")) for it in VERSIONS])
def test_each_python_cuts_lines_as_the_parser_does(version: str) -> None:
    argv = [pythons.found()[version], "-B", clean_lines.__file__, str(SAMPLE)]
    env = os.environ | {"PYTHONPATH": str(ROOT / "airflow" / "include")}
    told = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


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
    """Where the time grows with the square of the length these take minutes."""
    started = time.process_time()
    assert not CLEAN.match(line + b"\n")
    assert CLEAN.match(ACCOUNT + b"\n" + line + b"\n")
    parse(line)
    is_header(line)
    _AFTER_ID.split(line + b"\n")
    with suppress(UnreadableError):
        split(line.decode(errors="replace"))
    assert time.process_time() - started < 3
