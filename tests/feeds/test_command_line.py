"""`python -m feeds`: its output, effects and exit codes."""

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from feeds import ledger, settings
from feeds.__main__ import main
from feeds.contract import CONTRACTS
from harness.warehouse.roles import Warehouse
from tests.events_feed import create_tables
from tests.feeds.common import account, query, write

ROWS = (
    "1;created_account;7;2020-01-01 09:00:00;",
    "2;became_able_to_propose;7;2020-01-02 10:00:00;",
    "3;created_account;8;2020-01-02 11:00:00;",
    "not an \x1b[31mevent",
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "events.csv", ROWS)


@pytest.fixture
def bare_dsn(bare_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the DSN of a warehouse without tables, which EVENTS_DSN has too."""
    monkeypatch.setenv("EVENTS_DSN", bare_warehouse.loader_dsn)
    return bare_warehouse.loader_dsn


def counts(dsn: str) -> list[int]:
    """Return the number of events, rejected rows and loads."""
    return [len(query(dsn, f"table raw.{table}")) for table in ("events", "rejected_rows", "loads")]


def test_a_load_prints_its_result(bare_dsn: str, file: str) -> None:
    arguments = ("load", "events", file, "--start", "2020-01-02", "--max-rejected", "0.5")
    command = [sys.executable, "-m", "feeds", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "4 rows read, 1 of them outside the interval, 1 of these not in raw.events",
        "2 loaded, 0 replaced",
        "1 rejected: field_count 1",
    ]
    rejected, absent, closing = done.stderr.splitlines()
    assert rejected == "load 1: rejected 1 rows: field_count 1"
    assert absent.startswith("load 1: 1 row of 1 day is outside the interval and not in raw.events: 2020-01-01 (1 row)")
    figures = "read 4, loaded 2, rejected 1, outside 1, replaced 0, absent 1"
    assert closing.startswith(f"load 1 of {file}, from 2020-01-02 00:00:00+00:00: {figures}")
    assert counts(bare_dsn) == [2, 1, 1]


ERASE = "\r\x1b[K"
REPORT_EACH_BLOCK = """
import sys
from feeds import __main__
__main__._TERMINAL_EVERY_S = __main__._LINES_EVERY_S = 0  # however fast the machine is
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Give a file of several blocks."""
    path = tmp_path / "many.csv"
    write(path, [*map(account, range(30_000)), ROWS[-1]])
    return path


def check_progress(lines: Sequence[str], path: Path) -> None:
    size = f"{path.stat().st_size / 1e6:.1f}"
    pattern = rf"read (\d\.\d) of {size} MB \((\d+)%\), ([\d,]+) rows, [\d,]+ rows/s, (\d+) s left"
    found = [match.groups() for line in lines if (match := re.fullmatch(pattern, line))]
    assert len(found) == len(lines) > 3
    rows = [int(rows.replace(",", "")) for _, _, rows, _ in found]
    assert rows == sorted(rows)
    assert found[-1] == (size, "100", "30,001", "0")


def test_a_terminal_shows_progress_in_one_line(bare_dsn: str, many: Path) -> None:
    assert bare_dsn
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-c", REPORT_EACH_BLOCK, "load", "events", str(many)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its_end) as process:
        os.close(its_end)
        shown = b""
        with suppress(OSError):  # raised when the process has closed its end
            while piece := os.read(terminal, 1 << 16):
                shown += piece
        os.close(terminal)
    assert process.returncode == 0
    progress, *lines = shown.decode().split("\r\n")
    before, *drawn, rejected = progress.split(ERASE)
    assert before == ""
    check_progress(drawn, many)
    # Log lines replace the line of progress.
    assert rejected == "load 1: rejected 1 rows: field_count 1"
    closing = f"load 1 of {many}, whole file: read 30,001, loaded 30,000, rejected 1, outside 0"
    assert lines[0].startswith(f"{ERASE}{closing}")
    assert lines[1:] == [ERASE]


def test_without_a_terminal_each_report_is_a_line(bare_dsn: str, many: Path) -> None:
    assert bare_dsn
    command = [sys.executable, "-c", REPORT_EACH_BLOCK, "load", "events", str(many)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *progress, rejected, closing = done.stderr.splitlines()
    check_progress(progress, many)
    assert rejected == "load 1: rejected 1 rows: field_count 1"
    assert closing.startswith(f"load 1 of {many}, ")


def test_a_dry_run_prints_what_a_load_would_do(bare_dsn: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "events", file, "--max-rejected", "0.5"]) == 0
    capsys.readouterr()
    assert main(["load", "events", file, "--max-rejected", "0.5", "--end", "2020-01-02", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "4 rows read, 2 of them outside the interval",
        "1 would be loaded, 1 would be replaced",
        "1 would be rejected: field_count 1",
    ]
    assert counts(bare_dsn) == [3, 1, 1]


def test_a_dry_run_makes_no_tables(bare_dsn: str, file: str) -> None:
    assert main(["load", "events", file, "--max-rejected", "0.5", "--dry-run"]) == 0
    assert query(bare_dsn, "select from pg_class where relnamespace = 'raw'::regnamespace") == []


def test_loads_and_rejects_are_shown(bare_dsn: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "events", file]) == 17
    assert capsys.readouterr().err.splitlines()[-3] == f"✗ 1 of 4 rows of {file} were rejected; at most 1% are allowed."
    assert main(["load", "events", file, "--max-rejected", "0.5"]) == 0
    capsys.readouterr()
    assert main(["loads"]) == 0
    header, second, first = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["load_id", "feed", "status"]
    assert second.split()[:3] == ["2", "events", "succeeded"]
    assert first.split()[:3] == ["1", "events", "failed"]
    assert main(["rejects", "--load", "2"]) == 0
    header, reject = capsys.readouterr().out.splitlines()
    assert header.split() == ["feed", "load_id", "file", "line_number", "reason", "column", "raw_text"]
    assert reject.split(maxsplit=5) == ["events", "2", "events.csv", "5", "field_count", "not an \\x1b[31mevent"]
    assert counts(bare_dsn)[0] == 3


def test_a_killed_load_is_told_from_a_living_one(bare_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    create_tables(bare_dsn)
    started = "insert into raw.loads (feed, source_uri, status, started_at) values ('events', 'a', 'running', {})"
    with psycopg.connect(bare_dsn) as living:
        for started_at in ("now() - interval '1 hour'", "now() - interval '1 hour'", "clock_timestamp()"):
            living.execute(started.format(started_at))
        living.commit()
        ledger.lock(living, 2)
        assert main(["loads"]) == 0
    assert [line.split()[:3:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["3", "running"],  # between its first transaction and the one that locks it
        ["2", "running"],
        ["1", "killed"],
    ]


def test_a_terminal_without_utf_8_shows_other_characters_escaped(bare_dsn: str, tmp_path: Path) -> None:
    assert main(["load", "events", write(tmp_path / "events.csv", [*ROWS, "é"]), "--max-rejected", "1"]) == 0
    command = [sys.executable, "-m", "feeds", "rejects"]
    done = subprocess.run(command, capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.stdout.splitlines()[-1].split() == [b"events", b"1", b"events.csv", b"6", b"field_count", b"\\xe9"]
    assert counts(bare_dsn) == [3, 2, 1]


def test_a_warehouse_of_a_version_without_partitions_is_refused_and_keeps_its_tables(
    bare_warehouse: Warehouse, bare_dsn: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(bare_dsn) as connection:
        connection.execute(
            "create table raw.loads (load_id bigint generated always as identity primary key, status text not null);"
            " create table raw.events (event_id bigint primary key, load_id bigint not null references raw.loads);"
            " insert into raw.loads (status) values ('succeeded'); insert into raw.events values (1, 1)"
        )
    with psycopg.connect(bare_warehouse.transformer_dsn) as connection:  # as dbt has it
        connection.execute("create schema staging; create view staging.stg_events as select * from raw.events")
    for message in (
        "✗ raw.events has no partitions, and a load swaps partitions.",
        '✗ raw.loads has an unexpected structure: column "source_uri" does not exist.',
    ):
        assert main(["load", "events", file]) == 25
        what, why, next_step = capsys.readouterr().err.splitlines()
        assert what == message
        assert why.endswith("the load did not change it.")
        with psycopg.connect(bare_dsn) as connection:
            connection.execute(next_step.partition(": ")[2].encode())
    assert main(["load", "events", file, "--max-rejected", "0.5"]) == 0
    assert counts(bare_dsn)[0] == 3
    assert query(bare_warehouse.transformer_dsn, "select event_id from staging.stg_events") == [(1,)]


@pytest.mark.parametrize("command", ["loads", "rejects"])
def test_a_warehouse_without_tables_has_no_loads(
    bare_dsn: str, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert bare_dsn
    assert main([command]) == 25
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("{file}.gone",), 10),
        (("{file}", "--start", "tomorrow"), 21),
        (("{file}", "--start", "2020-01-02", "--end", "2020-01-01"), 16),
        (("{file}", "--max-rejected", "7"), 29),
        (("{file}", "--max-rejected", ""), 29),
        (("{file}", "--start", ""), 21),
        (("{file}", "--start=--"), 29),
        (("",), 29),
    ],
)
def test_a_foreseen_error_is_three_lines_and_an_exit_code(
    bare_dsn: str, file: str, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int
) -> None:
    assert bare_dsn
    assert main(["load", "events", *(argument.format(file=file) for argument in arguments)]) == code
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments", ["loads --limit -1", f"rejects --load {2**63}", "rejects --limit=", "loads --limit x"]
)
def test_a_number_that_postgresql_does_not_have_is_refused(capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    assert main(arguments.split(" ")) == 29
    what, why, _ = capsys.readouterr().err.splitlines()
    assert what.startswith("✗ --l")
    assert why == "  An option or its value is most likely misspelt, or in the wrong place."


def test_a_line_end_after_the_uri_in_the_environment_does_not_count(
    bare_dsn: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTS_URI", f"{file}\n")
    monkeypatch.setenv("EVENTS_DSN", f"{bare_dsn}\n")
    assert main(["load", "events", "--max-rejected", "0.5"]) == 0
    assert query(bare_dsn, "select source_uri from raw.loads") == [(file,)]


def test_a_reader_that_has_enough_ends_the_command_quietly(bare_dsn: str, file: str) -> None:
    assert bare_dsn
    assert main(["load", "events", file, "--max-rejected", "0.5"]) == 0
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "feeds", "loads"], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_interrupt_is_three_lines(
    bare_dsn: str, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("feeds.staging.Staging.add_keys", interrupted)
    assert main(["load", "events", file, "--max-rejected", "0.5"]) == 130
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "✗ Interrupted by SIGINT.",
        "  A load that had not ended has changed nothing.",
        "  See how it ended: python -m feeds loads",
    ]
    assert query(bare_dsn, "select status, failure from raw.loads") == [("failed", "KeyboardInterrupt")]


ORDERS = """
apiVersion: v3.1.0
kind: DataContract
id: orders
name: orders
version: 1.0.0
status: active
servers: [{{server: files, type: local, path: "{path}", format: csv}}]
customProperties:
  - {{property: timeColumn, value: day}}
  - {{property: maxRejected, value: 0.5}}
schema:
  - name: orders
    properties:
      - {{name: code, logicalType: string, primaryKey: true, logicalTypeOptions: {{pattern: '{pattern}'}}}}
      - {{name: day, logicalType: date, primaryKey: true}}
"""


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the contract of a second feed, with its file beside it."""
    (tmp_path / "orders.csv").write_text("code,day\na1,2020-01-01\na1,2020-01-02\nB2,2020-01-03\n")
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    shutil.copy(CONTRACTS / "events.yaml", contracts)
    contract = contracts / "orders.yaml"
    contract.write_text(ORDERS.format(path=tmp_path / "orders.csv", pattern="[a-z][0-9]"))
    monkeypatch.setattr(settings, "CONTRACTS", contracts)
    return contract


def test_each_feed_has_its_own_loads_rejects_and_variables(
    bare_dsn: str, file: str, orders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", "orders"]) == 0  # the contract's file and share of rejected rows
    assert capsys.readouterr().out.splitlines()[-1] == "1 rejected: code: pattern 1"
    monkeypatch.setenv("EVENTS_URI", file)
    monkeypatch.setenv("EVENTS_MAX_REJECTED", "0.5")
    assert main(["load", "events"]) == 0
    monkeypatch.setenv("ORDERS_MAX_REJECTED", "0.1\n")
    assert main(["load", "orders", "--force"]) == 17
    assert main(["load", "orders", "--force", "--max-rejected", "0.4"]) == 0
    monkeypatch.setenv("ORDERS_NOT_BEFORE", "2020-01-02")
    assert main(["load", "orders", "--max-rejected", "1"]) == 0
    assert query(bare_dsn, "select day::text from raw.orders") == [("2020-01-02",)]
    capsys.readouterr()
    assert main(["loads", "orders", "--limit", "2"]) == 0
    assert main(["rejects", "orders"]) == 0
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        ["load_id", "feed", "status"],
        *(["5", "orders", "succeeded"], ["4", "orders", "succeeded"]),
        ["feed", "load_id", "file"],
        *(["orders", "5", "orders.csv"], ["orders", "5", "orders.csv"]),
    ]
    assert main(["loads"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["orders"] * 3 + [
        "events",
        "orders",
    ]
    assert main(["rejects"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["orders"] * 2 + ["events"]
    assert orders.exists()


def test_rejected_rows_are_replayed(bare_dsn: str, orders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "orders"]) == 0
    orders.write_text(orders.read_text().replace("[a-z][0-9]", "[A-Za-z][0-9]"))
    capsys.readouterr()
    assert main(["replay-rejects", "orders"]) == 0
    assert main(["replay-rejects", "orders"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("1 rejected rows read, 0 of them replaced since or outside the load's interval", "1 loaded"),
        "0 still rejected",
        *("0 rejected rows read, 0 of them replaced since or outside the load's interval", "0 loaded"),
        "0 still rejected",
    ]
    assert query(bare_dsn, "select code from raw.orders order by day") == [("a1",), ("a1",), ("B2",)]


@pytest.mark.parametrize("command", ["load", "loads", "rejects", "replay-rejects"])
def test_an_unknown_feed_is_refused_with_the_names_of_those_there_are(
    orders: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, what in (
        ("order", "✗ There is no feed 'order'. Did you mean orders?"),
        ("../contracts/orders", "✗ There is no feed '../contracts/orders'."),
        ("", "✗ There is no feed ''."),
    ):
        assert main([command, name]) == 29
        assert capsys.readouterr().err.splitlines() == [
            what,
            "  A feed is a contract in airflow/feeds, and there are: events, orders",
            "  Name one of them, or make one of a file: nox -s feed -- new NAME --from FILE",
        ]
    orders.write_text("no contract")
    assert main([command, "orders"]) == 36
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("setting", ["ORDERS_URI=", "ORDERS_URI= \n", "ORDERS_MAX_REJECTED=all", "ORDERS_BEFORE=x"])
def test_an_unusable_variable_of_a_feed_is_named(
    bare_dsn: str, orders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    assert bare_dsn
    assert orders.exists()
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    assert main(["load", "orders"]) == 29
    assert name in capsys.readouterr().err
