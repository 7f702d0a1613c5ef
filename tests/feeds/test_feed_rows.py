"""Rows made from a contract alone: a load accepts all of them, except as many as were asked to be bad."""

import io
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import get_args

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import contract, formats
from feeds.contract import SQL_TYPES, Column, Csv, Feed, Format, Properties, Rule
from feeds.errors import SettingUnusable
from feeds.lines import Lines, Reject, Row
from feeds.source import text_source
from harness.contracts import new_feed
from harness.contracts.inference import Guess
from harness.project.paths import SAMPLE
from tests.events_feed import EVENTS

sys.path.insert(0, str(SAMPLE.parent))  # as for a script
import feed_files
import feed_rows
import generate
from feed_rows import Quirks

PATTERNS = ("[A-Z]{2}[0-9]{3,5}", "(?:a|bc)+x?", r"[^ ]\d+\.\w", "v[0-9]{2}", r"\S+ .{2,9}")
# A key has enough values, and is of any type.
KEYS = (
    Column("key", "Key", "integer", "bigint", is_required=True),
    Column("key", "Key", "string", "text", is_required=True, lengths=(12, 12)),
    Column("key", "Key", "uuid", "uuid", is_required=True),
    Column("key", "Key", "number", "numeric(12,2)", is_required=True, digits=(10, 2)),
    Column("key", "Key", "string", "text", is_required=True, pattern="[a-z]{5,9}"),
    Column("key", "Key", "timestamp", SQL_TYPES["timestamp"], is_required=True),
)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    type_ = draw(st.sampled_from(sorted(SQL_TYPES)))
    column = Column(name, f"{name} é;", type_, SQL_TYPES[type_], is_required=draw(st.booleans()))  # type: ignore[arg-type]
    if type_ == "string":
        shortest = draw(st.integers(0, 5))
        options = {"lengths": (shortest, draw(st.none() | st.integers(max(shortest, 1), 20)))}
        options = draw(
            st.sampled_from([options, {"pattern": draw(st.sampled_from(PATTERNS))}, {"values": ("a;", "b")}])
        )
        return replace(column, **options)  # type: ignore[arg-type]
    if type_ == "number" and draw(st.booleans()):
        digits = (draw(st.integers(0, 12)), draw(st.integers(0, 8)))
        if sum(digits):
            return replace(column, digits=digits, sql_type=f"numeric({sum(digits)},{digits[1]})")
    return column


@st.composite
def feeds(draw: st.DrawFn) -> Feed:
    own = [draw(columns(f"column_{number}")) for number in range(draw(st.integers(0, 4)))]
    at = Column("at", "at", "timestamp", SQL_TYPES["timestamp"], is_required=True)
    is_interval = draw(st.booleans())
    format_: Format = draw(st.sampled_from(get_args(Format)))
    csv = draw(
        st.builds(
            Csv,
            delimiter=st.sampled_from([",", ";", "|"]),
            null_text=st.sampled_from(["", "NA"]),
            encoding=st.sampled_from(["utf-8", "windows-1252"]),
        )
    )
    csv = csv.model_copy(update={"decimal": "," if csv.delimiter == ";" else "."})
    properties = Properties(csv=csv if format_ == "csv" else Csv(), timeColumn="at" if is_interval else None)
    return Feed("a", "1.0.0", (draw(st.sampled_from(KEYS)), *own, at), ("key",), "", format_, (), properties)


def made(feed: Feed, count: int, seed: int = 1, quirks: Quirks | None = None, bad: Fraction = Fraction(0)) -> bytes:
    file = io.BytesIO()
    feed_files.write_rows(feed, feed_rows.rows(feed, count, seed, quirks), file, bad)
    return file.getvalue()


def parsed(feed: Feed, content: bytes) -> Iterator[Row | Reject]:
    rows = formats.read(text_source("file", content), feed)
    lines = Lines(feed, rows.columns, rows.dialect)
    for block in rows.blocks:
        position = number = 0
        while position < len(block.lines):
            end = lines.end_of_record(block.lines, position)
            yield block.flaws.get(number) or lines.parse(block.record(position, end))
            number += block.lines.count(b"\n", position, end + 1)
            position = end + 1


@settings(max_examples=60, deadline=None)
@given(feed=feeds(), seed=st.integers(0, 9))
def test_rows_of_any_contract_are_valid_and_the_same_for_a_seed(feed: Feed, seed: int) -> None:
    content = made(feed, 30, seed)
    rows = list(parsed(feed, content))
    assert [row for row in rows if isinstance(row, Reject)] == []
    assert len({row.values[0] for row in rows if isinstance(row, Row)}) == 30
    assert content == made(feed, 30, seed) or feed.format == "parquet"


@pytest.mark.parametrize("format_", get_args(Format))
def test_quirks_have_their_shares(format_: Format) -> None:
    columns = (
        Column("id", "id", "integer", "bigint", is_required=True),
        Column("at", "at", "timestamp", SQL_TYPES["timestamp"], is_required=True),
        Column("note", "note", "string", "text"),
    )
    feed = Feed("a", "1.0.0", columns, ("id",), "", format_, (), Properties(timeColumn="at"))
    share = Fraction(1, 20)
    rows = list(parsed(feed, made(feed, 1000, quirks=Quirks(late=share, ties=share, duplicates=share))))
    valid = [row for row in rows if isinstance(row, Row)]
    assert len(valid) == 1000
    ids, times = [row.values[0] for row in valid], [row.moment for row in valid if row.moment]
    assert len(set(ids)) == 950
    assert len(set(times)) == 950
    assert 0 < sum(before > after for before, after in pairwise(times)) <= 100

    rejects = [row for row in parsed(feed, made(feed, 1000, bad=share)) if isinstance(row, Reject)]
    assert len(rejects) == 50
    assert len(Counter(rejects)) == {"csv": 4, "jsonl": 3, "parquet": 1}[format_]


def test_rules_are_asked_of_postgresql(db: psycopg.Connection) -> None:
    feed = replace(EVENTS, rules=(*EVENTS.rules, Rule(name="even", sql="event_id % 2 = 0")))
    rows = list(feed_rows.rows(feed, 300, 1, dsn=db.info.dsn + f" password={db.info.password}"))
    assert len(rows) == 300
    assert {int(row[0] or "") % 2 for row in rows} == {0}
    assert {(row[1] == "proposed") == (row[4] is not None) for row in rows} == {True}
    with pytest.raises(SettingUnusable, match="has rules, which are SQL"):
        next(feed_rows.rows(feed, 1, 1))
    never = replace(EVENTS, rules=(Rule(name="never", sql="event_id < 0"),))
    with pytest.raises(SettingUnusable, match="0 obey the rules"):
        next(feed_rows.rows(never, 10, 1, dsn=db.info.dsn + f" password={db.info.password}"))


def test_a_key_with_too_few_values_is_refused() -> None:
    key = Column("key", "key", "string", "text", is_required=True, values=("a", "b"))
    feed = Feed("a", "1.0.0", (key,), ("key",), "", "csv", (), Properties())
    assert len(list(islice(feed_rows.rows(feed, 2, 1), 2))) == 2
    with pytest.raises(SettingUnusable, match="no other key of a is found"):
        list(feed_rows.rows(feed, 3, 1))


@pytest.mark.parametrize("pattern", [r"\pL+", "a{3}"])
def test_a_pattern_without_a_text(pattern: str) -> None:
    columns = (KEYS[0], Column("a", "a", "string", "text", is_required=True, pattern=pattern, lengths=(9, None)))
    with pytest.raises(SettingUnusable, match="No text is found for the column a of a"):
        list(feed_rows.rows(Feed("a", "1.0.0", columns, ("key",), "", "csv", (), Properties()), 1, 1))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    key = Column("id", "id", "integer", "bigint", is_required=True)
    feed = Feed("orders", "1.0.0", (key,), ("id",), "", "jsonl", (), Properties())
    found = Guess(feed, {"key": "", "time": ""}, {}, rows=0, is_all=True, sample=[], header=b"")
    (tmp_path / "orders.yaml").write_text(new_feed.contract(found, "orders.jsonl"))
    monkeypatch.setattr(contract, "CONTRACTS", tmp_path)
    out = tmp_path / "orders.jsonl"
    generate.main(["--feed", "orders", "--rows", "20", "--seed", "3", "--duplicates", "0.1", "--out", str(out)])
    rows = list(parsed(feed, out.read_bytes()))
    assert len(rows) == 20
    assert len({row.values for row in rows if isinstance(row, Row)}) == 18

    with pytest.raises(SystemExit) as unknown:
        generate.main(["--feed", "nothing"])
    assert str(unknown.value).startswith("✗ There is no feed 'nothing'.")
    with pytest.raises(SystemExit):
        generate.main(["--feed", "events", "--late", "0.1"])
    assert "--feed events has its own quirks" in capsys.readouterr().err
