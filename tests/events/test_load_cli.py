"""`python -m events`: what it prints, what it does, and how it ends."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from events.__main__ import main
from harness.warehouse.roles import Warehouse

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
ROWS = (
    "1;created_account;7;2020-01-01 09:00:00;",
    "2;became_able_to_propose;7;2020-01-02 10:00:00;",
    "3;created_account;8;2020-01-02 11:00:00;",
    "not an \x1b[31mevent",
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "events.csv"
    path.write_text("\n".join([HEADER, *ROWS]))
    return str(path)


@pytest.fixture
def dsn(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EVENTS_DSN", warehouse.loader_dsn)
    return warehouse.loader_dsn


def count(dsn: str, table: str) -> int:
    with psycopg.connect(dsn) as connection:
        return len(connection.execute(f"table raw.{table}".encode()).fetchall())


def test_a_load_from_the_shell(dsn: str, file: str) -> None:
    arguments = ("load", file, "--start", "2020-01-02", "--max-rejected", "0.5")
    command = [sys.executable, "-m", "events", *arguments]
    done = subprocess.run(command, env=os.environ | {"EVENTS_DSN": dsn}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "4 rows read, 1 of them outside the interval",
        "2 loaded, 0 replaced",
        "1 rejected: field_count 1",
    ]
    said = done.stderr.splitlines()
    assert said[0] == "load 1: rejected 1 rows: field_count 1"
    closing = f"load 1 of {file}, from 2020-01-02 00:00:00+00:00: read 4, loaded 2, rejected 1, outside 1, replaced 0"
    assert said[1].startswith(closing)
    assert (count(dsn, "events"), count(dsn, "rejected_events"), count(dsn, "loads")) == (2, 1, 1)


OVER_ITSELF = "\r\x1b[K"
SAY_EACH_BLOCK = """
import sys
from events import __main__
__main__._TERMINAL_EVERY_S = __main__._LINES_EVERY_S = 0  # however fast the machine is
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Give a file of several blocks."""
    path = tmp_path / "many.csv"
    rows = [f"{number};created_account;7;2020-01-01 09:00:00;" for number in range(30_000)]
    path.write_text("\n".join([HEADER, *rows, ROWS[-1]]))
    return path


def check_progress(texts: Sequence[str], path: Path) -> None:
    size = f"{path.stat().st_size / 1e6:.1f}"
    pattern = rf"read (\d\.\d) of {size} MB \((\d+)%\), ([\d,]+) rows, [\d,]+ rows/s, (\d+) s left"
    found = [match.groups() for text in texts if (match := re.fullmatch(pattern, text))]
    assert len(found) == len(texts) > 3
    rows_then = [int(rows.replace(",", "")) for _, _, rows, _ in found]
    assert rows_then == sorted(rows_then)
    assert found[-1] == (size, "100", "30,001", "0")


def test_a_terminal_shows_one_line_that_is_redrawn(dsn: str, many: Path) -> None:
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-c", SAY_EACH_BLOCK, "load", str(many)]
    with subprocess.Popen(
        command, env=os.environ | {"EVENTS_DSN": dsn}, stdout=subprocess.PIPE, stderr=its_end
    ) as process:
        os.close(its_end)
        shown = b""
        with suppress(OSError):  # what a terminal says when nobody has it any more
            while piece := os.read(terminal, 1 << 16):
                shown += piece
        os.close(terminal)
    assert process.returncode == 0
    progress, *lines = shown.decode().split("\r\n")
    before, *drawn, rejected = progress.split(OVER_ITSELF)
    assert before == ""
    check_progress(drawn, many)
    # What the log says takes the place of the line.
    assert rejected == "load 1: rejected 1 rows: field_count 1"
    closing = f"load 1 of {many}, whole file: read 30,001, loaded 30,000, rejected 1, outside 0"
    assert lines[0].startswith(f"{OVER_ITSELF}{closing}")
    assert lines[1:] == [OVER_ITSELF]


def test_without_a_terminal_progress_is_lines(dsn: str, many: Path) -> None:
    command = [sys.executable, "-c", SAY_EACH_BLOCK, "load", str(many)]
    done = subprocess.run(command, env=os.environ | {"EVENTS_DSN": dsn}, capture_output=True, check=True)
    *progress, rejected, closing = done.stderr.decode().splitlines()
    check_progress(progress, many)
    assert rejected == "load 1: rejected 1 rows: field_count 1"
    assert closing.startswith(f"load 1 of {many}, ")


def test_a_dry_run_leaves_no_trace(dsn: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", file, "--max-rejected", "0.5"]) == 0
    capsys.readouterr()
    assert main(["load", file, "--max-rejected", "0.5", "--end", "2020-01-02", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "4 rows read, 2 of them outside the interval",
        "1 would be loaded, 1 would be replaced",
        "1 would be rejected: field_count 1",
    ]
    assert (count(dsn, "events"), count(dsn, "rejected_events"), count(dsn, "loads")) == (3, 1, 1)


def test_a_dry_run_where_nothing_was_loaded_yet_leaves_no_table(dsn: str, file: str) -> None:
    assert main(["load", file, "--max-rejected", "0.5", "--dry-run"]) == 0
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select from pg_class where relnamespace = 'raw'::regnamespace").fetchall() == []


def test_the_ledger_and_the_quarantine_are_shown(dsn: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", file]) == 17
    assert capsys.readouterr().err.splitlines()[-3] == f"✗ 1 of 4 rows of {file} were rejected; at most 1% are allowed."
    assert main(["load", file, "--max-rejected", "0.5"]) == 0
    capsys.readouterr()
    assert main(["loads"]) == 0
    header, second, first = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["load_id", "status"]
    assert second.split()[:2] == ["2", "succeeded"]
    assert first.split()[:2] == ["1", "failed"]
    assert main(["rejects", "--load", "2"]) == 0
    _, reject = capsys.readouterr().out.splitlines()
    assert reject.split(maxsplit=3) == ["2", "5", "field_count", "not an \\x1b[31mevent"]
    assert count(dsn, "events") == 3


def test_a_warehouse_older_than_the_partitions_is_refused_and_keeps_what_it_has(
    warehouse: Warehouse, dsn: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "create table raw.loads (load_id bigint generated always as identity primary key, status text not null);"
            " create table raw.events (event_id bigint primary key, load_id bigint not null references raw.loads);"
            " insert into raw.loads (status) values ('succeeded'); insert into raw.events values (1, 1)"
        )
    with psycopg.connect(warehouse.transformer_dsn) as connection:  # as dbt has it
        connection.execute("create schema staging; create view staging.stg_events as select * from raw.events")
    refused = [
        "✗ raw.events has no partitions, and a load swaps partitions.",
        '✗ raw.loads is not as this project makes it: column "source_uri" does not exist.',
    ]
    for message in refused:
        assert main(["load", file]) == 25
        what, why, next_step = capsys.readouterr().err.splitlines()
        assert what == message
        assert why.endswith("it was not touched.")
        with psycopg.connect(dsn) as connection:
            connection.execute(next_step.partition(": ")[2].encode())
    assert main(["load", file, "--max-rejected", "0.5"]) == 0
    assert count(dsn, "events") == 3
    with psycopg.connect(warehouse.transformer_dsn) as connection:
        assert connection.execute("select event_id from staging.stg_events").fetchall() == [(1,)]


def test_a_warehouse_that_has_no_tables_yet_has_no_ledger(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTS_DSN", warehouse.loader_dsn)
    for command in ("loads", "rejects"):
        assert main([command]) == 25
        assert len(capsys.readouterr().err.splitlines()) == 3


def test_foreseen_errors_are_three_lines_and_an_exit_code(
    dsn: str, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dsn
    for arguments, code in (
        (["load", f"{file}.gone"], 10),
        (["load", file, "--start", "tomorrow"], 21),
        (["load", file, "--start", "2020-01-02", "--end", "2020-01-01"], 16),
    ):
        assert main(arguments) == code
        assert len(capsys.readouterr().err.splitlines()) == 3
    monkeypatch.setenv("EVENTS_DSN", "postgresql://nobody:secret@127.0.0.1:9/nowhere")
    assert main(["loads"]) == 23
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 3
    assert "secret" not in said
