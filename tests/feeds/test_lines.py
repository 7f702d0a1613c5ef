"""Lines of random feeds: what is valid by a definition of its own, and clean lines are those that COPY reads alike."""

from dataclasses import replace

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import patterns
from feeds.contract import Column, Csv, Feed, Properties
from feeds.formats import read
from feeds.lines import MAX_LINE_BYTES, Dialect, Lines, Reject, Row, has_long_line
from feeds.source import Source, text_source

SPECIAL = ';"\\\r\n\0'
PIECES = ["7", "-7", "007", "0", "9" * 18, "9" * 19, "1.5", "1.50", "-0", "0.0", "1.", ".5", "1e3", "+1", " 1", "NaN"]
PIECES += [
    "true",
    "TRUE",
    "0",
    "maybe",
    "2020-02-29",
    "2019-02-29",
    "2020-02-29 12:00:00",
    "2020-02-29T24:00:00",
    "0900-01-01",
]
PIECES += [
    "2020-02-29 12:00:00Z",
    "2020-02-29 12:00:00.123456+01:00",
    "0001-01-01 00:00:00+01:00",
    "é",
    "a b",
    'a"b',
    "a\\b",
]
PIECES += [
    "00000000-0000-0000-0000-00000000000a",
    "00000000-0000-0000-0000-00000000000A",
    '{"a": 1}',
    "x" * 11,
    "",
    "N",
    "A1",
]
COLUMNS = [
    Column("i", "i", "integer", "bigint"),
    Column("n", "n", "number", "numeric(5,2)", digits=(3, 2)),
    Column("m", "m", "number", "numeric"),
    Column("s", "s", "string", "text"),
    Column("short", "short", "string", "text", lengths=(1, 10)),
    Column("code", "code", "string", "text", pattern="[A-Z][0-9]|.*b"),
    Column("word", "word", "string", "text", values=("N", "a b", 'a"b')),
    Column("b", "b", "boolean", "boolean"),
    Column("d", "d", "date", "date"),
    Column("t", "t", "timestamp", "timestamp with time zone"),
    Column("u", "u", "uuid", "uuid"),
    Column("j", "j", "json", "jsonb"),
]


def feed(*columns: Column, time: str | None = None) -> Feed:
    properties = Properties(timeColumn=time, csv=Csv(delimiter=";"))
    return Feed("f", "1.0.0", columns, (columns[0].name,), "f.csv", "csv", (), properties)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Feed, bytes]:
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique_by=lambda column: column.name))
    times = [column.name for column in columns if column.type in ("date", "timestamp")]
    time = times[0] if draw(st.booleans()) and times else None
    required = {column.name for column in columns if column.name == time or draw(st.booleans())}
    columns = [replace(column, is_required=column.name in required) for column in columns]
    text = st.sampled_from(PIECES) | st.text(st.sampled_from('a1;".-é\\_'), max_size=4)
    lines = draw(st.lists(st.lists(text, min_size=len(columns), max_size=len(columns)), min_size=1, max_size=5))
    return feed(*columns, time=time), "".join(";".join(line) + "\n" for line in lines).encode()


@given(cases())
@settings(max_examples=400)
def test_a_clean_line_is_valid_and_copied_as_it_is(case: tuple[Feed, bytes]) -> None:
    one, block = case
    lines = Lines(one, one.columns, Dialect(";", '"', ""))
    if not lines.has_clean:
        return
    position = 0
    while position < len(block):
        day = lines.day(block, position)
        run = lines.clean_of_day(day).match(block, position) if day or lines.time is None else None
        end = run.end() if run else block.index(b"\n", position) + 1
        for line in block[position:end].split(b"\n")[:-1] if run else ():
            row = lines.parse(line)
            assert isinstance(row, Row)
            assert day is None or (row.moment and row.moment.date().isoformat().encode() == day)
            assert lines.copied(row).count(b";") == line.count(b";")
            for mine, text in zip(row.values, line.decode().split(";"), strict=True):
                assert (mine is None) == (text == "")
        position = end


EXPRESSIONS = [
    "a",
    "b;",
    ".",
    ".*",
    "[^a]",
    "[a-z;]",
    r"\d",
    r"\W",
    "(a|b)",
    "(?:a|;)",
    "a{2,3}",
    "x?",
    "[ -~]+",
    "$",
    "^",
]


@given(
    st.lists(st.sampled_from(EXPRESSIONS), min_size=1, max_size=4), st.text(st.sampled_from('ab1;"\n_é '), max_size=6)
)
@settings(max_examples=400)
def test_an_expression_without_characters_matches_the_same_texts_without_them(parts: list[str], text: str) -> None:
    pattern = "".join(parts)
    if (written := patterns.without(pattern, SPECIAL)) is None:
        return
    expected = bool(re2.fullmatch(pattern, text)) and not set(text) & set(SPECIAL)
    assert bool(re2.fullmatch(written, text)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"", Reject("required", "i")),
        (b"7", Row(("7",), None)),
        (b'"7"', Row(("7",), None)),
        (b'"7', Reject("quoting")),
        (b'7"', Reject("quoting")),
        (b"7;8", Reject("field_count")),
        (b"\xff", Reject("encoding")),
        (b"7\0", Reject("nul_byte")),
        (b"7" * (1 << 20) + b"7", Reject("too_long")),
        (b"x", Reject("type", "i")),
    ],
)
def test_the_reason_of_a_line(line: bytes, expected: Row | Reject) -> None:
    one = feed(Column("i", "i", "integer", "bigint", is_required=True))
    assert Lines(one, one.columns, Dialect(";", '"', "")).parse(line) == expected


PARTS = ["a,b", "\r", '"a\r', '"a', '"', 'x"', '"c,d",""', ",", "é", ""]


@given(st.lists(st.sampled_from(PARTS), max_size=12), st.integers(1, 12))
@settings(max_examples=500)
def test_records_of_several_lines_do_not_depend_on_where_blocks_end(parts: list[str], size: int) -> None:
    one = replace(feed(COLUMNS[3], COLUMNS[4]), properties=Properties())
    text = b"s,short\n" + "".join(f"{part}\n" for part in parts).encode()
    lines = text.splitlines(keepends=True)
    whole = text_source("file", text)
    pieces = (b"".join(lines[start : start + size]) for start in range(0, len(lines), size))
    cut = replace(whole, blocks=pieces)

    def records(source: Source) -> list[tuple[int, bytes]]:
        found, rows = [], read(source, one)
        for block in rows.blocks:
            start, number = 0, block.line_number
            while start < len(block.lines):
                end = rows.dialect.end_of_record(block.lines, start, 2)
                found.append((number, block.record(start, end)))
                number += block.lines.count(b"\n", start, end + 1)
                start = end + 1
        return found

    assert records(cut) == records(text_source("file", text))


def test_the_keys_of_clean_lines_have_the_columns_order_in_the_key() -> None:
    one = replace(feed(COLUMNS[0], COLUMNS[3], COLUMNS[8]), key=("d", "i"))
    lines = Lines(one, one.columns, Dialect(";", '"', ""))
    assert lines.key_lines(b"1;a;2020-01-01\n2;b;2020-01-02\n") == [b"2020-01-01;1", b"2020-01-02;2"]


@pytest.mark.parametrize("excess", [0, 1])
def test_a_clean_line_that_is_too_long_is_found(excess: int) -> None:
    line = b"1;" + b"x" * (MAX_LINE_BYTES - 2 + excess)
    assert has_long_line(b"2;a\n" * 3 + line + b"\n") == bool(excess)
    assert has_long_line(line + b"\n") == bool(excess)
    assert not has_long_line(b"2;a\n" * MAX_LINE_BYTES)
