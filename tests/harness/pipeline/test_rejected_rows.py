"""The rejected rows of a run are shown, a few of each reason, and kept in a file."""

import csv
from pathlib import Path

import psycopg
import pytest

from harness.pipeline import rejected_rows
from harness.pipeline.rejected_rows import RejectedRows, collect
from harness.warehouse.roles import Warehouse


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the path for the file; an earlier run has written it."""
    file = tmp_path / "reports" / "rejected_rows.csv"
    file.parent.mkdir()
    file.write_text("of an earlier run\n")
    return file


def reject(dsn: str, rows: list[tuple[int, str, str, str | None]]) -> None:
    """Insert rejected ROWS: the line, the text, the reason and the column."""
    with psycopg.connect(dsn) as connection:
        query = "insert into raw.loads (feed, source_uri, status) values ('events', 'a', 'failed') returning load_id"
        [(load_id,)] = connection.execute(query).fetchall()
        query = (
            "insert into raw.rejected_rows"
            " (feed, load_id, first_load_id, file_number, line_number, raw_text, reason, column_name)"
            " values ('events', %s, %s, 1, %s, %s, %s, %s)"
        )
        connection.cursor().executemany(query, [(load_id, load_id, *row) for row in rows])


def test_three_of_each_reason_are_shown_and_all_are_in_the_file(
    dsn: str, warehouse: Warehouse, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(number, f"{number};2", "field_count", None) for number in range(5, 1, -1)]
    reject(dsn, [(9, "\x1b[2J" + "x" * 200, "type", "event_id"), *rows])

    rejected = collect(warehouse, file)

    assert capsys.readouterr().out.splitlines() == [
        f"  5 rejected rows are in {file}",
        "    events: field_count 4",
        "      line 2: 2;2",
        "      line 3: 3;2",
        "      line 4: 4;2",
        "    events: event_id: type 1",
        f"      line 9: \\x1b[2J{'x' * 96}…",
    ]
    with file.open(newline="") as written:
        header, *found = csv.reader(written)
    assert header == ["feed", "load_id", "file_number", "line_number", "reason", "column_name", "raw_text"]
    assert [row[:1] + row[2:] for row in found] == [
        *(["events", "1", str(line), reason, "", text] for line, text, reason, _ in reversed(rows)),
        ["events", "1", "9", "type", "event_id", "\x1b[2J" + "x" * 200],
    ]
    [block] = rejected.markdown()
    assert "<summary>5 rejected rows, at most 3 of each reason</summary>" in block
    assert "| events: field_count | 2 | `2;2` |\n" in block


def test_the_file_is_bounded(
    dsn: str, warehouse: Warehouse, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rejected_rows, "MAX_ROWS", 2)
    reject(dsn, [(number, "1;2", "field_count", None) for number in range(2, 5)])
    collect(warehouse, file)
    assert f"  2 of 3 rejected rows are in {file}\n" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 3


@pytest.mark.usefixtures("dsn")
def test_without_rejected_rows_nothing_is_shown_and_no_file_is_left(
    warehouse: Warehouse, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect(warehouse, file) == RejectedRows()
    assert capsys.readouterr().out == ""
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_said(
    dsn: str, warehouse: Warehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reject(dsn, [(2, "1;2", "field_count", None)])
    (tmp_path / "reports").touch()
    assert collect(warehouse, tmp_path / "reports" / "rejected_rows.csv") == RejectedRows()
    assert capsys.readouterr().out.startswith("  the rejected rows cannot be kept: ")
