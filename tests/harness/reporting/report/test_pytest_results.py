"""The results of pytest that the report shows, from files that pytest has written."""

import subprocess
import sys
from pathlib import Path

from harness.reporting.report import pytest_results

TESTS = """
import pytest, time
def test_passes(): time.sleep(0.05)
def test_fails(): assert False
def test_skipped(): pytest.skip("no")
@pytest.fixture
def breaks(): yield; raise ValueError
def test_breaks(breaks): pass
@pytest.fixture
def broken(): raise ValueError
def test_broken(broken): pass
"""


def test_what_pytest_has_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=tests.xml", "test_a.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    (tmp_path / "damaged.xml").write_text("<testsuites>")
    (tmp_path / "other.xml").write_text("<html/>")
    for i, (began_at, seconds) in enumerate((("2026-01-01", "nan"), ("0001-01-01T00:00:00+14:00", "1"))):
        (tmp_path / f"other{i}.xml").write_text(f'<testsuite timestamp="{began_at}" time="{seconds}"/>')
    [run] = pytest_results.read(tmp_path)
    assert (run.session, run.passed, run.skipped) == ("tests", 1, 1)
    assert run.failed == ["test_a::test_fails", "test_a::test_breaks", "test_a::test_broken"]
    assert run.slowest[0][0] == "test_a::test_passes"
    assert run.slowest[0][1] <= run.seconds
    assert run.began_at.tzinfo is not None


def test_without_results_there_are_none(tmp_path: Path) -> None:
    assert list(pytest_results.read(tmp_path / "none")) == []
