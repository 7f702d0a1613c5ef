"""What `nox -s e2e` refuses, each with an exit code of its own, before it starts anything."""

import gzip
import os
import re
import socket
from html import unescape
from pathlib import Path

import pytest

from harness.warehouse.ports import check_port
from tests.harness.commands.conftest import Session

HEADER = b"event_id;event_type;professional_id_anonymized;created_at;meta_data\n"
E2E = ("e2e", "--target", "embedded")


@pytest.mark.parametrize(
    "case",
    [
        ("missing.csv", None, 10, "{path} does not exist."),
        ("log:v2.csv", None, 10, "{path} does not exist."),  # it looks like a scheme
        ("empty.csv", b"", 11, "{path} is empty."),
        ("other.csv", b"id,type\n1,a\n", 12, "{path} does not begin with the header of events: 'id,type'"),
        (".", None, 13, "{path} is a directory."),
        ("events.csv.gz", gzip.compress(HEADER)[:12], 19, "{path} cannot be read"),
    ],
)
def test_an_unusable_events_file(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, bytes | None, int, str]
) -> None:
    name, content, exit_code, what = case
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    session(*E2E, "--events", name).is_error(exit_code, what.format(path=tmp_path / name))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "what"),
    [
        ("--events abfs://bucket/a.csv", 14, "abfs:// needs the package adlfs, which is not installed."),
        ("--events nonsense://a.csv", 15, "The scheme of nonsense://"),
        ("--start 2020-02-01 --end 2020-01-01", 16, "Invalid interval: start 2020-02-01 00:00:00+00:00 is after end "),
        ("--start 2020-02-30", 21, "'2020-02-30' is not a time"),
        ("--reuse", 2, "--reuse is for a cluster that is up"),
    ],
)
def test_unusable_arguments(session: Session, arguments: str, exit_code: int, what: str) -> None:
    session(*E2E, *arguments.split()).is_error(exit_code, what)


def test_a_port_in_use(session: Session, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = session(*E2E, "--ui-port", str(port))
    outcome.is_error(41, f"Port {port} cannot be used: Address already in use.")
    report = tmp_path / "report" / "index.html"
    assert outcome.output == ["target embedded (from --target)", f"  report: {report}"]  # no table of phases
    assert f"Port {port} cannot be used: Address already in use." in report.read_text(encoding="utf-8")
    check_port(port)  # free again


def test_a_disk_without_room(session: Session, tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_bytes(HEADER)
    os.truncate(events, 1 << 42)  # sparse: it takes no room itself
    session(*E2E, "--events", str(events)).is_error(42, f"{tmp_path}/temporary has ")


def test_down_without_a_kept_run(session: Session, tmp_path: Path) -> None:
    outcome = session("e2e", "--down")
    assert (outcome.exit_code, outcome.errors) == (0, [])
    assert outcome.output[0].startswith(f"no run of this clone is up in {tmp_path}/temporary; ")


def test_the_summary_has_each_result(session: Session, summary: Path) -> None:
    session("e2e", "--target", "mainframe")
    session("e2e", "--down")
    assert re.sub(r"[\d.]+ s\n", "TIME\n", summary.read_text()) == (
        "## ✗ e2e: TIME\n\n"
        "- **What happened:** There is no target 'mainframe'.\n"
        "- **Why, most likely:** The targets are: auto, embedded, kind, minikube, context.\n"
        "- **What to do:** Name one of them, or leave --target out: nox -s e2e\n\n"
        "## ✓ e2e: TIME\n\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "e2e --target mainframe",
        "replay --feed nothing",
        "dbt --keep --postgres host=x",
        "cluster up --events nothing.csv",
    ],
)
def test_a_command_that_fails_at_once_replaces_the_report_of_an_earlier_run(
    session: Session, tmp_path: Path, arguments: str
) -> None:
    report = tmp_path / "report" / "index.html"
    report.parent.mkdir()
    report.write_text("earlier")
    outcome = session(*arguments.split())
    assert outcome.exit_code
    assert outcome.errors[0].removeprefix("✗ ").rstrip(".") in unescape(report.read_text(encoding="utf-8"))
