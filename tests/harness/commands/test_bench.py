"""A benchmark whose figures miss their targets fails, except on GitHub's shared machines, where it says so."""

import signal
from pathlib import Path

import pytest

from harness.commands.bench import __main__ as bench
from harness.commands.bench import diff
from harness.commands.bench.common import at_least
from harness.commands.interrupts import Interrupted
from harness.errors import ChecksFailedError
from harness.reporting.report import writing
from harness.warehouse.server import Server

MISSED = {"load": [at_least("the load beside pandas", 3.14, 10)], "dbt": []}


def test_missed_targets_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with pytest.raises(ChecksFailedError, match=r"^1 figures miss their targets, the first: the load beside pandas\."):
        bench.check(MISSED)


def test_on_github_missed_targets_are_reported_and_not_enforced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    bench.check(MISSED)
    assert capsys.readouterr().out == (
        "::warning title=bench::1 figures miss their targets, reported and not enforced: "
        "the load beside pandas: 3.14 x\n"
    )


def test_a_comparison_is_measured_and_its_result_checked(
    server: Server, passwords: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff, "make_passwords", lambda: passwords)  # the server's roles keep theirs
    figures = diff.measure(diff.DiffBench(server, tmp_path, tmp_path), events=2000, rounds=1)
    assert [(figure.name, figure.target) for figure in figures] == [
        ("both tables of 2,000 rows hashed by PostgreSQL", ""),
        ("one value changed: found", ""),
        ("against that hash", "≤ 3"),
        ("by a key of two columns that nothing enforces, against that hash", ""),
        ("all rows changed: found and described", ""),
    ]
    monkeypatch.setattr("harness.diff.rows.bucket_sums", lambda *_: {})
    with pytest.raises(ChecksFailedError, match=r"^A comparison finds 0 changed rows, .* where 1 have changed\."):
        diff.measure(diff.DiffBench(server, tmp_path, tmp_path), events=2000, rounds=1)


def test_an_interrupt_is_three_lines_and_has_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report" / "index.html"
    monkeypatch.setattr(writing, "PAGE", page)

    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGTERM, True)

    monkeypatch.setattr(bench, "add_clone", interrupted)
    assert bench.main(["load"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.splitlines()[::2] == [
        "✗ Interrupted by SIGTERM.",
        "  Run it again: nox -s bench -- load",
    ]
    assert "Interrupted by SIGTERM." in page.read_text(encoding="utf-8")
