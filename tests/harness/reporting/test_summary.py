"""The sections that sessions write to the file that GITHUB_STEP_SUMMARY names."""

import time
from pathlib import Path

import pytest

from harness.errors import PostgresError
from harness.reporting import summary
from harness.reporting.console import Phases
from harness.reporting.summary import LIMIT_BYTES, Section, at_least, code, details, seconds, span, table, text


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    return file


def test_the_first_line_has_the_session_and_how_it_ended(file: Path) -> None:
    with Section("bench") as section:
        section.add("| a |\n| --- |\n", "", "more")
    with Section("lock", headline="3 versions changed"):
        pass
    assert file.read_text() == (
        "## ✓ bench: 0.0 s\n\n| a |\n| --- |\n\nmore\n\n"  # empty blocks are left out
        "## ✓ lock: 3 versions changed (0.0 s)\n\n"
    )


def test_an_expected_error_has_three_lines_and_its_evidence_before_the_rest(file: Path) -> None:
    error = PostgresError("No *PostgreSQL*.", "It is <off>.", "Start it.", ["| evidence |"])
    section = Section("dbt", started=time.monotonic() - 75)
    section.add("added before")
    with pytest.raises(PostgresError), section:
        raise error
    assert file.read_text() == (
        "## ✗ dbt: 1 min 15 s\n\n"
        "- **What happened:** No \\*PostgreSQL\\*.\n"
        "- **Why, most likely:** It is &lt;off&gt;.\n"
        "- **What to do:** Start it.\n\n"
        "| evidence |\n\nadded before\n\n"
    )


def test_an_unexpected_error_has_its_traceback(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), Section("dbt"):
        _ = 1 // 0
    written = file.read_text()
    assert written.startswith("## ✗ dbt: 0.0 s\n\n- **What happened:** ZeroDivisionError: ")
    assert "    _ = 1 // 0\n" in written


def test_help_is_no_failure_and_a_failure_is_written_once(file: Path) -> None:
    with pytest.raises(SystemExit), Section("e2e"):
        raise SystemExit(0)
    section = Section("lock")
    section.fail("What.", "Why.", "Next.")
    with pytest.raises(SystemExit), section:
        raise SystemExit(1)
    assert file.read_text() == (
        "## ✓ e2e: 0.0 s\n\n"
        "## ✗ lock: 0.0 s\n\n- **What happened:** What.\n- **Why, most likely:** Why.\n- **What to do:** Next.\n\n"
    )


def test_the_innermost_failed_phase_is_named(file: Path) -> None:
    phases = Phases()
    with phases.phase("PostgreSQL up"):
        pass
    with pytest.raises(KeyError), phases.phase("chart_ready"), phases.phase("Airflow's pods"):
        raise KeyError
    section = Section("e2e on kind", went_well=False)
    section.add_phases(phases)
    section.write()
    assert file.read_text() == (
        "## ✗ e2e on kind: 0.0 s\n\n"
        "It failed in the phase **Airflow's pods**.\n\n"
        "| phase | seconds |\n| --- | ---: |\n"
        "| PostgreSQL up | 0.0 |\n| Airflow's pods (not finished) | 0.0 |\n| chart_ready (not finished) | 0.0 |\n"
        "| total | 0.0 |\n\n"
    )
    before_the_first = Section("e2e")
    before_the_first.add_phases(Phases())
    assert before_the_first.blocks == []


def test_a_session_that_writes_nothing_has_a_first_line(file: Path) -> None:
    with at_least("sample"):
        pass
    with at_least("lint"):
        summary.append("## ✓ lint: 1.0 s")
    with pytest.raises(RuntimeError), at_least("tests"):
        raise RuntimeError("Returned code -9")
    with pytest.raises(RuntimeError), at_least("dags"):
        raise RuntimeError("Returned code 3")
    with pytest.raises(KeyboardInterrupt), at_least("plan"):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit), at_least("types"), Section("types", went_well=False):
        raise SystemExit(1)
    assert file.read_text() == (
        "## ✓ sample\n\n"
        "## ✓ lint: 1.0 s\n\n"
        "## ✗ tests\n\n"
        "- **What happened:** Its command was ended by SIGKILL.\n"
        "- **Why, most likely:** It failed before it wrote a summary, or was killed.\n"
        "- **What to do:** Read the end of the log, or run it: nox -s tests\n\n"
        "## ✗ dags\n\n"
        "- **What happened:** Its command failed: Returned code 3.\n"
        "- **Why, most likely:** It failed before it wrote a summary, or was killed.\n"
        "- **What to do:** Read the end of the log, or run it: nox -s dags\n\n"
        "## ✗ plan\n\n"
        "- **What happened:** It was interrupted by SIGINT.\n"
        "- **Why, most likely:** It failed before it wrote a summary, or was killed.\n"
        "- **What to do:** Read the end of the log, or run it: nox -s plan\n\n"
        "## ✗ types: 0.0 s\n\n"
    )


def test_without_a_file_nothing_is_written_and_nothing_fails(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    with at_least("lint"), Section("lint"):
        pass
    assert not file.exists()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file / "no" / "such.md"))
    with at_least("lint"), Section("lint"):
        pass
    assert capsys.readouterr().err.startswith("The step's summary cannot be written: [Errno 2] ")


def test_a_summary_of_one_mebibyte_is_cut_between_blocks(file: Path) -> None:
    half = "é" * (LIMIT_BYTES // 4)  # of two bytes each
    with Section("tests") as section:
        section.add(half, half, "lost")
    written = file.read_text()
    cut = "_Here it was cut: GitHub takes 1 MiB of a step's summary. The rest is in the log._\n\n"
    assert written == f"## ✓ tests: 0.0 s\n\n{half}\n\n{cut}"

    summary.append("x" * (LIMIT_BYTES - file.stat().st_size - len(cut) - 2))  # leaves just the room of the line
    assert file.stat().st_size == LIMIT_BYTES - len(cut)
    summary.append("one more")
    assert file.stat().st_size == LIMIT_BYTES
    summary.append("and none after")
    assert file.stat().st_size == LIMIT_BYTES
    assert file.read_text().endswith(f"x\n\n{cut}")


def test_cells_are_escaped() -> None:
    written = table(
        ("name", "n"), [("a|b\nc `d` *e* __f__ g_h <i> & ~~j~~ \\", 1), (span("a|b"), None)], numbers=("n",)
    )
    assert written == (
        "| name | n |\n"
        "| --- | ---: |\n"
        "| a\\|b c \\`d\\` \\*e\\* \\_\\_f\\_\\_ g_h &lt;i&gt; &amp; \\~\\~j\\~\\~ \\\\ | 1 |\n"
        "| `a\\|b` | None |"
    )


def test_code_inline_and_in_blocks() -> None:
    spans = ["tests/a.py:3", "a `b` c", "`a`", "\x1b[31mred\x1b[0m\nline", ""]
    assert [span(plain) for plain in spans] == ["`tests/a.py:3`", "``a `b` c``", "`` `a` ``", "`red line`", ""]
    assert code("\n\n\x1b[1mbold\x1b[0m ```\n  x\n\n") == "````text\nbold ```\n  x\n````"


def test_a_long_code_block_is_cut() -> None:
    lines = "\n".join("abcd")
    assert code(lines, first=3) == "```text\na\nb\nc\n… 1 more lines\n```"
    assert code(lines, last=1) == "```text\n… 3 lines before\nd\n```"
    assert code(lines, first=4) == code(lines, last=4) == "```text\na\nb\nc\nd\n```"
    assert code("x" * 501) == f"```text\n{'x' * 500} …\n```"


def test_a_folded_title_is_escaped_and_text_takes_one_line() -> None:
    assert details("a <b> & c", "body") == "<details><summary>a &lt;b&gt; &amp; c</summary>\n\nbody\n\n</details>"
    assert text(" two\n lines ") == "two lines"


def test_durations() -> None:
    shown = {
        0.04: "0.0 s",
        59.4: "59.4 s",
        59.96: "1 min 0 s",
        60: "1 min 0 s",
        119.7: "2 min 0 s",
        252.4: "4 min 12 s",
    }
    assert {duration_s: seconds(duration_s) for duration_s in shown} == shown
