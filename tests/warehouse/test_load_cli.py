"""`python -m events`: what it prints, what it does, and how it ends."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from events.__main__ import main
from harness.warehouse import Warehouse

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
    closing = (
        f"load 1 of {file}, [2020-01-02 00:00:00+00:00, the end): read 4, loaded 2, rejected 1, outside 1, replaced 0"
    )
    assert said[1].startswith(closing)
    assert (count(dsn, "events"), count(dsn, "rejected_events"), count(dsn, "loads")) == (2, 1, 1)


def test_on_a_terminal_one_line_says_how_far_it_is(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    rows = (f"{number};created_account;7;2020-01-01 09:00:00;\n" for number in range(300_000))
    path.write_text(HEADER + "\n" + "".join(rows))
    often = (
        "import sys; from events import __main__ as it; it._TERMINAL_EVERY_S = 0.01; sys.exit(it.main(sys.argv[1:]))"
    )
    here, there = os.openpty()
    command = [sys.executable, "-c", often, "load", str(path)]
    with subprocess.Popen(
        command, env=os.environ | {"EVENTS_DSN": dsn}, stdout=subprocess.PIPE, stderr=there, text=True
    ) as process:
        os.close(there)
        said = b""
        with suppress(OSError):  # what Linux says when nobody has the terminal any more
            while block := os.read(here, 1 << 16):
                said += block
        os.close(here)
        assert process.stdout
        assert process.stdout.read().splitlines()[:2] == [
            "300,000 rows read, 0 of them outside the interval",
            "300,000 loaded, 0 replaced",
        ]
    first, *lines = said.decode().split("\r\x1b[K")
    assert first == ""
    *shown, closing, nothing = lines
    assert nothing == ""
    total = f"{path.stat().st_size / 1e6:,.1f}"
    line = rf"read [0-9.]+ of {re.escape(total)} MB \([0-9]+%\), [0-9,]+ rows, [0-9,]+ rows/s, [0-9,]+ s left"
    assert shown
    assert [text for text in shown if not re.fullmatch(line, text)] == []
    assert closing.startswith(f"load 1 of {path}, [the beginning, the end): read 300,000, loaded 300,000,")


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


def test_the_ledger_and_the_quarantine_are_shown(dsn: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", file]) == 17
    assert capsys.readouterr().err.splitlines()[-3] == f"✗ 1 of 4 rows of {file} were rejected; at most 1% may be."
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


def test_a_warehouse_older_than_the_partitions_is_refused_and_can_be_made_anew(
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
    assert main(["load", file]) == 25
    what, why, next_step = capsys.readouterr().err.splitlines()
    assert what == "✗ raw.events is a table without partitions, and loads put partitions in the place of others."
    assert why.startswith("  An earlier version made it;")
    assert count(dsn, "events") == 1
    with psycopg.connect(dsn) as connection:
        connection.execute(next_step.partition(": ")[2].encode())
    assert main(["load", file, "--max-rejected", "0.5"]) == 0
    assert count(dsn, "events") == 3


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
