"""What a user gets wrong at `nox -s e2e`: three lines, no traceback, an exit code of its own, and nothing is left."""

import gzip
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.__main__ import PLACES, check_not_empty
from harness.errors import UsageError
from harness.project.paths import ROOT

HEADER = b"event_id;event_type;professional_id_anonymized;created_at;meta_data\n"


def e2e(*options: str, **env: str) -> tuple[int, list[str]]:
    """Run `python -m harness e2e` and return its exit code and the lines that it says on standard error."""
    argv = [sys.executable, "-m", "harness", "e2e", "--target", "embedded", *options]
    with tempfile.TemporaryDirectory() as directory:
        mine = {name: value for name, value in os.environ.items() if name != "NOX_PID"}
        env = mine | {"TMPDIR": directory} | env
        done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120, check=False)
        assert list(Path(env["TMPDIR"]).iterdir()) == []
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stderr.splitlines()


def check(outcome: tuple[int, list[str]], code: int, what: str) -> None:
    exit_code, lines = outcome
    assert exit_code == code, lines
    assert len(lines) == 3, lines
    assert lines[0].startswith(f"✗ {what}"), lines
    assert all(line.startswith("  ") and line.strip() for line in lines[1:])


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "missing.csv"
    check(e2e("--events", str(path)), 10, f"{path} does not exist.")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.touch()
    check(e2e("--events", str(path)), 11, f"{path} is empty.")


def test_a_wrong_header(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,type\n1,a\n")
    check(e2e("--events", str(path)), 12, f"{path} does not begin with the header of an events file: 'id,type'")


def test_a_directory(tmp_path: Path) -> None:
    check(e2e("--events", str(tmp_path)), 13, f"{tmp_path} is a directory.")


def test_a_damaged_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "events.csv.gz"
    path.write_bytes(gzip.compress(HEADER)[:12])
    check(e2e("--events", str(path)), 19, f"{path} cannot be read")


def test_a_scheme_whose_package_is_not_installed() -> None:
    check(e2e("--events", "abfs://bucket/events.csv"), 14, "abfs:// needs the package adlfs, which is not installed.")


def test_a_scheme_that_nobody_knows() -> None:
    check(e2e("--events", "nonsense://events.csv"), 15, "No file system is known for nonsense://")


def test_a_target_that_is_not_known() -> None:
    check(e2e("--target", "mainframe"), 2, "There is no target 'mainframe'.")


def test_what_is_said_is_told_in_the_summary(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    e2e("--target", "mainframe", GITHUB_STEP_SUMMARY=str(summary))
    e2e("--down", GITHUB_STEP_SUMMARY=str(summary))
    assert re.sub(r"[\d.]+ s\n", "TIME\n", summary.read_text()) == (
        "## ✗ e2e: TIME\n\n"
        "- **What happened:** There is no target 'mainframe'.\n"
        "- **Why, most likely:** The targets are: auto, embedded, kind, minikube, context.\n"
        "- **What to do:** Name one of them, or leave --target out: nox -s e2e\n\n"
        "## ✓ e2e: TIME\n\n"
    )


def test_what_is_empty() -> None:
    check(e2e("--start", "", EVENTS_URI="events.csv"), 2, "--start is empty.")
    check(e2e(EVENTS_URI=""), 2, "EVENTS_URI is empty.")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["e2e", "--events", ""], "--events"),
        (["e2e", "--end="], "--end"),
        (["e2e", "--target", " "], "--target"),
        (["e2e", "--values", "a.yaml", "--namespace", "\t"], "--namespace"),
        (["e2e", "--warehouse-dsn="], "--warehouse-dsn"),
        (["cluster", "down", "--storage-class", ""], "--storage-class"),
        (["cluster", "logs", "scheduler", ""], "An argument"),
        (["release", "--push", ""], "--push"),
        (["dbt", "--postgres", ""], "--postgres"),
        (["dbt", "build", "--select", ""], "--select"),
        (["dbt", "build", "-s", " "], "-s"),
    ],
)
def test_what_is_empty_is_refused_whatever_it_is(arguments: list[str], name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_not_empty(arguments)
    assert caught.value.what == f"{name} is empty."


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_is_empty_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_not_empty(["dbt", "build", "--select", "x", "--vars={}", "--", "-"])
    monkeypatch.setenv(name, "")
    with pytest.raises(UsageError, match=f"{name} is empty"):
        check_not_empty(["dbt"])


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "many"])
def test_a_share_of_rejects_that_is_none(share: str) -> None:
    check(e2e("--max-rejected", share), 2, "--max-rejected")


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_port_that_is_none(port: str) -> None:
    check(e2e("--ui-port", port), 2, "--ui-port")


def test_an_option_that_is_not_known() -> None:
    check(e2e("--evnts", "x"), 2, "nox -s e2e does not know --evnts x.")


def test_an_interval_that_is_upside_down() -> None:
    interval = ("--start", "2020-02-01", "--end", "2020-01-01")
    check(e2e(*interval), 16, "The interval [2020-02-01 00:00:00+00:00, 2020-01-01 00:00:00+00:00) has nothing in it")


def test_a_bound_of_the_interval_that_is_no_day() -> None:
    check(e2e("--start", "2020-02-30"), 21, "'2020-02-30' is not a time")


def test_a_home_that_there_is_not() -> None:
    check(e2e("--events", "~nosuchuser/events.csv"), 10, f"{ROOT.cwd()}/~nosuchuser/events.csv does not exist.")


def test_a_file_whose_name_looks_like_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(e2e("--events", "log:v2.csv"), 10, f"{tmp_path}/log:v2.csv does not exist.")
    check(e2e("--events", "file://log.csv"), 10, f"{tmp_path}/log.csv does not exist.")


@pytest.mark.needs("root")  # as an ordinary user PostgreSQL is of that user
def test_as_root_a_temporary_directory_that_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    exit_code, lines = e2e(TMPDIR=str(tmp_path))
    assert exit_code == 46
    assert lines[-3].startswith("✗ PostgreSQL cannot reach its directory: ")
    assert lines[-3].endswith(" is closed to other users.")


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        check(e2e("--ui-port", port), 41, f"Port {port} cannot be used: Address already in use.")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a file system of its own with 20 MB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.needs("mount")
def test_a_disk_without_room(small_disk: Path) -> None:
    check(e2e(TMPDIR=str(small_disk)), 42, f"{small_disk} has 21 MB free; the run needs ")


def test_down_without_anything_up(tmp_path: Path) -> None:
    assert e2e("--down", TMPDIR=str(tmp_path)) == (0, [])


def test_reuse_without_a_cluster() -> None:
    check(e2e("--reuse"), 2, "--reuse is for a cluster that is up")
